/**
 * Guest RAM: its ends, the hole in it, and what lies above 4 GiB.
 *
 * @module
 */

import assert from "node:assert/strict";
import { GIB } from "../../../base/mod.ts";
import { ExitReason } from "../../mod.ts";
import { at } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { CODE, FREE, Port } from "../layout.ts";
import { result } from "../tables.ts";

const HOLE = 0xc000_0000;

/** The guests. */
export const MEMORY_TESTS: readonly GuestTest[] = [
  {
    name: "3 GiB of RAM end where the hole begins",
    memorySizeBytes: 3 * GIB,
    run(m) {
      m.memory.writeU64(HOLE - 8, 0x1122_3344_5566_7788n);
      m.load(64, (a) => {
        a.mov("ebx", HOLE - 8).mov("rax", at("rbx")).mov(at(result(0)), "rax");
        a.add(at("rbx", { size: 8 }), 1).mov("eax", at("rbx", { disp: 8 }));
        a.mov(at(result(1)), "rax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 0x1122_3344_5566_7788n);
      assert.equal(m.memory.readU64(HOLE - 8), 0x1122_3344_5566_7789n);
      assert.equal(m.result(1), 0xffff_ffffn);
      assert.deepEqual(m.io.accesses.map(({ kind, address }) => [kind, address]), [["read", HOLE]]);
    },
  },
  {
    name: "accesses over the end of a page, near others and on the stack, again and again",
    run(m) {
      // Neighbours for the guest, not in memory.
      const [page, first, second] = [0x4000_0000, 0x30_0000, 0x30_5000];
      m.memory.writeU64(first + 0xff8, 0x1111_1111_2222_2222n);
      m.memory.writeU64(second, 0x3333_3333_4444_4444n);
      m.memory.writeU64(second + 8, 0x5555_5555_6666_6666n);
      m.memory.writeU64(first + 0x1000, 0xbad_bad_bad0n);
      m.load(64, (a) => {
        a.mov("ebx", page + 0xffc).mov("ecx", 3000).xor("edi", "edi").xor("esi", "esi");
        a.mov("rbp", "rsp").label("loop");
        // In the second page, then over its begin.
        a.mov("rax", at("rbx", { disp: 12 })).mov("rdx", at("rbx")).add("rdi", "rdx");
        a.mov(at("rbx", { disp: 12 }), "rax").add(at("rbx", { size: 8 }), 1).mov(at("rbx"), "rdx");
        a.lea("rsp", at("rbx", { disp: 8 })).mov("r8", at("rsp", { disp: 8 }));
        a.mov("r9", at("rsp", { disp: -8 })).push("rdx").pop("r10").add("rsi", "r10");
        a.dec("ecx").jcc("ne", "loop").mov("rsp", "rbp");
        a.mov(at(result(0)), "rdi").mov(at(result(1)), "rsi").mov(at(result(2)), "r9");
        a.out(Port.Done, "al");
      });
      const tables = m.startLong();
      tables.map(page, first);
      tables.map(page + 0x1000, second);
      m.run();
      const value = 0x4444_4444_1111_1111n;
      assert.equal(m.result(0), BigInt.asUintN(64, 3000n * value));
      assert.equal(m.result(1), BigInt.asUintN(64, 3000n * value));
      assert.equal(m.result(2), value);
      assert.equal(m.memory.readU64(first + 0xff8), 0x1111_1111_2222_2222n);
      assert.equal(m.memory.readU64(first + 0x1000), 0xbad_bad_bad0n);
      assert.equal(m.memory.readU64(second), 0x3333_3333_4444_4444n);
    },
  },
  {
    name: "a loop over devices, memory and its own page: each access happens once, in order",
    run(m) {
      const [device, turns] = [0xd000_0000, 400];
      m.load(64, (a) => {
        a.mov("rbx", device).mov("rsi", FREE).mov("ecx", turns).xor("edi", "edi").label("loop");
        a.add("rdi", at("rbx")).add(at("rsi", { size: 8 }), 3).mov(at("rbx", { disp: 8 }), "rdi");
        // Code lies in this page, too, so stores to it are looked at.
        a.add(at(CODE + 0xff0, { size: 4 }), 5).add(at("rbx", { disp: 16, size: 4 }), 1);
        a.dec("ecx").jcc("ne", "loop").out(Port.Done, "al");
      });
      m.startLong();
      m.io.onMmioRead = (address, size) => size === 8 ? 2n : BigInt(address - device);
      m.run();
      assert.equal(m.memory.readU64(FREE), BigInt(3 * turns));
      assert.equal(m.memory.readU32(CODE + 0xff0), 5 * turns);
      assert.deepEqual(
        m.io.accesses.map(({ kind, address, value }) => [kind, address - device, value]),
        Array.from({ length: turns }, (_, turn) => [
          ["read", 0, 2n],
          ["write", 8, BigInt(2 * turn + 2)],
          ["read", 16, 16n],
          ["write", 16, 17n],
        ]).flat(),
      );
    },
  },
  {
    name: "code above 2 GiB that reaches over the end of a page and is changed",
    memorySizeBytes: 3 * GIB,
    run(m) {
      const function_ = 0x9000_0ffb;
      // mov eax, imm32, whose immediate's last byte lies in the next page; ret
      m.memory.writeFrom(function_ + 1, Uint8Array.of(0xb8, 0, 0, 0, 0, 0xc3));
      m.load(64, (a) => {
        a.mov("ebx", function_ + 1).mov("ecx", 400).xor("edi", "edi").label("loop").call("rbx");
        a.add("edi", "eax").add(at("rbx", { disp: 1, size: 4 }), 0x0100_0001).dec("ecx");
        a.jcc("ne", "loop").mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [Number(BigInt.asUintN(32, 0x0100_0001n * 79_800n))]);
    },
  },
  {
    name: "64 GiB of RAM, of which the last bytes are there",
    only: "kvm",
    memorySizeBytes: 64 * GIB,
    run(m) {
      const last = m.memory.endAddress - 8;
      assert.equal(last, 65 * GIB - 8);
      m.memory.writeU64(last, 41n);
      const tables = m.startLong();
      const base = m.memory.endAddress - 0x20_0000;
      tables.map(base, base, { size: 0x20_0000 });
      tables.map(4 * GIB, 4 * GIB);
      m.load(64, (a) => {
        a.mov("rbx", last).add(at("rbx", { size: 8 }), 1).mov("rbx", 4 * GIB);
        a.mov(at("rbx", { size: 4 }), 0x77).out(Port.Done, "al");
      });
      m.run();
      assert.equal(m.memory.readU64(last), 42n);
      assert.equal(m.memory.readU32(4 * GIB), 0x77);
    },
  },
  {
    name: "code outside RAM is an error of the engine, told with registers",
    only: "kvm",
    run(m) {
      m.load(64, (a) => a.mov("ebx", HOLE).jmp("rbx"));
      m.startLong();
      const exit = m.runToExit();
      assert.equal(ExitReason[exit.reason], "InternalError");
      assert.match(exit.detail, /^vCPU 0: KVM_EXIT_INTERNAL_ERROR: suberror 1, EMULATION/);
      assert.match(exit.detail, /rbx=0x00000000c0000000/);
      assert.match(exit.detail, /rip=0x00000000c0000000/);
    },
  },
];
