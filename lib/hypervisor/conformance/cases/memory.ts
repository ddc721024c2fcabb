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
import { Port } from "../layout.ts";
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
