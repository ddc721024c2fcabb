/**
 * Calls and returns between pages, again and again: what is mapped where and what code says may change
 * between any two of them.
 *
 * @module
 */

import assert from "node:assert/strict";
import { at } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";

const ALIAS = 0x7000_0000_0000n;
const OTHER_ALIAS = 0x7000_1000_0000n;
/** Often enough for any way to run code. */
const ROUNDS = 2_000;

/** `mov eax, imm32; ret` */
function movRet(value: number): Uint8Array {
  const bytes = Uint8Array.of(0xb8, 0, 0, 0, 0, 0xc3);
  new DataView(bytes.buffer).setUint32(1, value, true);
  return bytes;
}

/** Calls what begins with the next page, ECX times, and adds up what it returns in EDI. */
const CALLER = Uint8Array.of(
  ...[0xe8, 0xfb, 0x0f, 0x00, 0x00], // again: call next page
  ...[0x01, 0xc7], // add edi, eax
  ...[0xff, 0xc9], // dec ecx
  ...[0x75, 0xf5], // jnz again
  0xc3,
);

/** The guests. */
export const CALL_TESTS: readonly GuestTest[] = [
  {
    name: "calls into another page, which is mapped anew and written",
    run(m) {
      const tables = m.startLong();
      tables.map(ALIAS, FREE);
      tables.map(ALIAS + 0x1000n, FREE + 0x1000);
      const entry = tables.entryAddress(ALIAS + 0x1000n);
      m.memory.writeFrom(FREE, CALLER);
      m.memory.writeFrom(FREE + 0x1000, movRet(1));
      m.memory.writeFrom(FREE + 0x2000, movRet(2));
      m.load(64, (a) => {
        const sum = () => {
          a.mov("rbx", ALIAS).mov("ecx", ROUNDS).xor("edi", "edi").call("rbx");
          a.mov("eax", "edi").out(Port.Report, "eax");
        };
        sum();
        a.mov("rsi", entry).add(at("rsi", { size: 8 }), 0x1000);
        a.mov("rbx", ALIAS + 0x1000n).invlpg(at("rbx"));
        sum();
        a.mov("rsi", FREE + 0x2000).mov(at("rsi", { disp: 1, size: 4 }), 5);
        sum();
        a.mov("rsi", entry).sub(at("rsi", { size: 8 }), 0x1000).mov("rax", "cr3").mov("cr3", "rax");
        sum();
        a.out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [ROUNDS, 2 * ROUNDS, 5 * ROUNDS, ROUNDS]);
    },
  },
  {
    name: "calls into another page, of code that is mapped twice with different pages behind",
    run(m) {
      const tables = m.startLong();
      tables.map(ALIAS, FREE);
      tables.map(ALIAS + 0x1000n, FREE + 0x1000);
      tables.map(OTHER_ALIAS, FREE);
      tables.map(OTHER_ALIAS + 0x1000n, FREE + 0x2000);
      m.memory.writeFrom(FREE, CALLER);
      m.memory.writeFrom(FREE + 0x1000, movRet(1));
      m.memory.writeFrom(FREE + 0x2000, movRet(3));
      m.load(64, (a) => {
        a.mov("rbx", ALIAS).mov("rbp", OTHER_ALIAS).mov("esi", 20).xor("edi", "edi");
        a.label("again").mov("ecx", ROUNDS / 10).call("rbx");
        a.mov("ecx", ROUNDS / 10).call("rbp").dec("esi").jcc("ne", "again");
        a.mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [20 * 4 * ROUNDS / 10]);
    },
  },
  {
    name: "calls into another page, of a function that changes itself each time",
    run(m) {
      m.startLong();
      m.memory.writeFrom(FREE, CALLER);
      m.memory.writeFrom(
        FREE + 0x1000,
        Uint8Array.of(
          ...[0xb8, 0, 0, 0, 0], // mov eax, imm32
          ...[0x83, 0x05, 0xf5, 0xff, 0xff, 0xff, 3], // add dword [rip - 11], 3
          0xc3,
        ),
      );
      m.load(64, (a) => {
        a.mov("rbx", FREE).mov("ecx", 1000).xor("edi", "edi").call("rbx");
        a.mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [3 * 1000 * 999 / 2]);
    },
  },
  {
    name: "calls into another page, and returns to where no call was",
    run(m) {
      m.startLong();
      m.memory.writeFrom(FREE, CALLER);
      // Every other time it returns behind the addition.
      m.memory.writeFrom(
        FREE + 0x1000,
        Uint8Array.of(
          ...[0x89, 0xc8], // mov eax, ecx
          ...[0x83, 0xe0, 1], // and eax, 1
          ...[0xd1, 0xe0], // shl eax, 1
          ...[0x48, 0x01, 0x04, 0x24], // add [rsp], rax
          ...[0xb8, 1, 0, 0, 0], // mov eax, 1
          0xc3,
        ),
      );
      m.load(64, (a) => {
        a.mov("rbx", FREE).mov("ecx", ROUNDS).xor("edi", "edi").call("rbx");
        a.mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [ROUNDS / 2]);
    },
  },
  {
    name: "calls of a function by itself, over two pages, a hundred deep",
    run(m) {
      m.startLong();
      // The first page calls the second, which calls the first, until EAX is zero.
      m.memory.writeFrom(FREE, Uint8Array.of(0xe8, 0xfb, 0x0f, 0x00, 0x00, 0xff, 0xc7, 0xc3));
      m.memory.writeFrom(
        FREE + 0x1000,
        Uint8Array.of(
          ...[0xff, 0xc8], // dec eax
          ...[0x74, 0x05], // jz over
          ...[0xe8, 0xf7, 0xef, 0xff, 0xff], // call first page
          0xc3, // over: ret
        ),
      );
      m.load(64, (a) => {
        a.mov("rbx", FREE).mov("ebp", 100).xor("edi", "edi");
        a.label("again").mov("eax", 100).call("rbx").dec("ebp").jcc("ne", "again");
        a.mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [100 * 100]);
    },
  },
];
