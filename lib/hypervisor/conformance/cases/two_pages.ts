/**
 * Loops with an instruction that reaches over the end of a page: what it is, and where its second page lies,
 * counts at each turn; its faults come with the registers of that turn.
 *
 * @module
 */

import assert from "node:assert/strict";
import { at, type Reg } from "../asm/mod.ts";
import { assertFault, installFaultHandler64, resumeAt, Vector } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";
import type { TestMachine } from "../machine.ts";
import { type PageTables, result } from "../tables.ts";
import { sum, valueOf } from "./dwords.ts";

/** Where the code runs, and the page behind it. */
const LOW = 0x6000_0000_0000n;
const SECOND = LOW + 0x1000n;
/** Where the pages are: the second is not behind the first. */
const FIRST_PAGE = FREE;
const SECOND_PAGE = FREE + 0x5000;
const OTHER_PAGE = FREE + 0x6000;
/** Page offset of the loop's first instruction, and of the one in two pages. */
const LOOP = 0xff6;
const CROSSING = 0xffd;
/** A dword at each 256 bytes is read, in two pages. */
const DATA = LOW + 0x1_0000n;
const DATA_PAGE = FREE + 0x8000;
const TURNS = 31;

/** `add rbx, 0x100`, then the first bytes of `add eax, [rbx + disp]`. */
const FIRST = Uint8Array.of(0x48, 0x81, 0xc3, 0, 1, 0, 0, 0x03, 0x83, 0);
/** The last bytes of that with its displacement from 0x1000 on, `dec ecx`, `jne` to the loop, `ret`. */
const secondOf = (more: number) => Uint8Array.of(more, 0, 0, 0xff, 0xc9, 0x75, 0xef, 0xc3);

/** Maps the loop and its data. */
function prepare(m: TestMachine): PageTables {
  const tables = m.startLong();
  tables.map(LOW, FIRST_PAGE);
  tables.map(SECOND, SECOND_PAGE);
  tables.map(DATA, DATA_PAGE);
  tables.map(DATA + 0x1000n, DATA_PAGE + 0x1000);
  m.memory.writeFrom(FIRST_PAGE + LOOP, FIRST);
  m.memory.writeFrom(SECOND_PAGE, secondOf(0));
  m.memory.writeFrom(OTHER_PAGE, secondOf(1));
  for (let i = 0; i <= TURNS; i++) m.memory.writeU64(DATA_PAGE + 0x100 * i, valueOf(i));
  return tables;
}

const REGISTERS: readonly Reg[] = ["rax", "rbx", "rcx", "rsi", "rdi", "rbp", "r8", "r15"];
const ALL = sum(1, TURNS);
const SHIFTED = sum(1, TURNS, 1);

/** Cases of instructions in two pages. */
export const TWO_PAGE_TESTS: readonly GuestTest[] = [
  {
    name: "two pages: a loop over their end, changed in either",
    run(m) {
      prepare(m);
      m.load(64, (a) => {
        const round = (): void => {
          a.mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax").call("rdx").out(
            Port.Report,
            "eax",
          );
        };
        a.mov("rdx", LOW + BigInt(LOOP)).mov("rsi", SECOND);
        round();
        round();
        // Its displacement becomes 1; then it becomes a subtraction.
        a.mov(at("rsi", { disp: -1, size: 1 }), 1);
        round();
        a.mov(at("rsi", { disp: -3, size: 1 }), 0x2b);
        round();
        // An addition again, for once with a displacement of 0x100: that byte lies behind the end.
        a.mov(at("rsi", { disp: -3, size: 1 }), 0x03).mov(at("rsi", { disp: -1, size: 1 }), 0);
        a.mov("rbx", DATA - 0x100n).mov(at("rsi", { size: 1 }), 1).mov("ecx", TURNS).xor(
          "eax",
          "eax",
        );
        a.call("rdx").out(Port.Report, "eax").mov(at("rsi", { size: 1 }), 0);
        round();
        a.out(Port.Done, "al");
      });
      m.run();
      const less = Number(BigInt.asUintN(32, -BigInt(SHIFTED)));
      assert.deepEqual(m.io.reports, [ALL, ALL, SHIFTED, less, ALL, ALL]);
    },
  },
  {
    name: "two pages: a loop over their end whose second page is another now and then",
    run(m) {
      const tables = prepare(m);
      // With the other page, 256 bytes further on are read.
      const entry = tables.entryAddress(SECOND);
      m.load(64, (a) => {
        a.mov("rdx", LOW + BigInt(LOOP)).mov("rsi", SECOND).mov("rdi", entry).mov("ebp", 6);
        a.label("round").mov("rbx", DATA - 0x100n).mov("ecx", TURNS).xor("eax", "eax");
        a.call("rdx").out(Port.Report, "eax");
        a.xor(at("rdi", { size: 4 }), SECOND_PAGE ^ OTHER_PAGE).invlpg(at("rsi"));
        a.dec("ebp").jcc("ne", "round").out(Port.Done, "al");
      });
      m.run();
      const [first, other] = [sum(0, TURNS - 1), ALL];
      assert.deepEqual(m.io.reports, [first, other, first, other, first, other]);
    },
  },
  {
    name: "two pages: a fault of data in the middle of such a loop",
    run(m) {
      const tables = prepare(m);
      installFaultHandler64(m);
      const entry = tables.entryAddress(DATA + 0x1000n);
      const code = m.load(64, (a) => {
        a.mov("rdx", LOW + BigInt(LOOP)).mov("rsi", entry).mov("rdi", 7).mov("rbp", 8);
        a.mov("r8", 9).mov("r15", 10).mov("r9", at("rsi")).mov("r10", DATA + 0x1000n);
        // Once with all of the data there.
        a.mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax").call("rdx").out(Port.Report, "eax");
        a.mov(at("rsi", { size: 8 }), 0).invlpg(at("r10"));
        a.mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax").call("rdx").out(Port.Report, "eax");
        a.out(Port.Done, "al").label("resume");
        REGISTERS.forEach((name, i) => a.mov(at(result(i)), name));
        a.pushf().pop("r11").mov(at(result(REGISTERS.length)), "r11");
        a.mov(at("rsi"), "r9").mov("r11", LOW + BigInt(CROSSING)).jmp("r11");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assertFault(m, {
        vector: Vector.PF,
        errorCode: 0,
        cr2: DATA + 0x1000n,
        rip: LOW + BigInt(CROSSING),
      });
      const found = REGISTERS.map((_, i) => m.result(i));
      const expected = [sum(1, 15), DATA + 0x1000n, TURNS - 15, entry, 7, 8, 9, 10].map(BigInt);
      assert.deepEqual(found, expected);
      // Those of the addition to RBX: none, but PF.
      assert.equal(m.result(REGISTERS.length) & 0x8d5n, 0x4n);
      assert.deepEqual(m.io.reports, [ALL, ALL]);
    },
  },
  {
    name: "two pages: such a loop whose second page is not there any more",
    run(m) {
      const tables = prepare(m);
      installFaultHandler64(m);
      const entry = tables.entryAddress(SECOND);
      const code = m.load(64, (a) => {
        a.mov("rdx", LOW + BigInt(LOOP)).mov("rsi", entry).mov("r9", at("rsi")).mov("r10", SECOND);
        a.mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax").call("rdx").out(Port.Report, "eax");
        a.mov(at("rsi", { size: 8 }), 0).invlpg(at("r10"));
        a.mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax").call("rdx").out(Port.Report, "eax");
        a.out(Port.Done, "al").label("resume");
        a.mov(at(result(0)), "rax").mov(at(result(1)), "rbx").mov(at(result(2)), "rcx");
        a.mov(at("rsi"), "r9").mov("r11", LOW + BigInt(CROSSING)).jmp("r11");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assertFault(m, {
        vector: Vector.PF,
        errorCode: 16,
        cr2: SECOND,
        rip: LOW + BigInt(CROSSING),
      });
      assert.deepEqual([0, 1, 2].map((i) => m.result(i)), [0n, DATA + 0x100n, BigInt(TURNS)]);
      assert.deepEqual(m.io.reports, [ALL, ALL]);
    },
  },
  {
    name: "two pages: a call, a jump and a conditional jump over their end",
    run(m) {
      const tables = m.startLong();
      for (let i = 0; i < 4; i++) tables.map(LOW + BigInt(0x1000 * i), FREE + 0x1000 * (7 - 2 * i));
      const write = (at: number, ...bytes: number[]): void => {
        const physical = (offset: number) =>
          FREE + 0x1000 * (7 - 2 * (offset >> 12)) + (offset & 0xfff);
        bytes.forEach((byte, i) => m.memory.writeFrom(physical(at + i), Uint8Array.of(byte)));
      };
      const rel = (to: number, next: number): number[] =>
        [0, 8, 16, 24].map((shift) => (to - next) >> shift & 0xff);
      // inc eax; call over the end; jmp
      write(0xffb, 0xff, 0xc0, 0xe8, ...rel(0x1800, 0x1002), 0xe9, ...rel(0x1ff9, 0x1007));
      write(0x1800, 0x83, 0xc0, 0x03, 0xc3);
      // dec ecx; nop; jne over the end; jmp to a jmp over the end, to a ret
      write(
        0x1ff9,
        0xff,
        0xc9,
        0x90,
        0x0f,
        0x85,
        ...rel(0xffb, 0x2002),
        0xe9,
        ...rel(0x2ffe, 0x2007),
      );
      write(0x2ffe, 0xe9, ...rel(0x3800, 0x3003));
      write(0x3800, 0xc3);
      m.load(64, (a) => {
        a.mov("rdx", LOW + 0xffbn).mov("ebp", 3).label("round");
        a.mov("ecx", 40).xor("eax", "eax").call("rdx").out(Port.Report, "eax");
        a.dec("ebp").jcc("ne", "round").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [160, 160, 160]);
    },
  },
];
