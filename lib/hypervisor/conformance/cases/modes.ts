/**
 * Operating modes and the ways between them.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, ref } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { CODE, FREE, GDT, PAGE_TABLES, Port, Selector, STACK } from "../layout.ts";
import { Control } from "../machine.ts";
import { PageTables, result, writeDescriptor, writeGdt } from "../tables.ts";

/** A pseudo-descriptor of the GDT, for LGDT. */
const GDT_POINTER = 0x6f0;
const EFER = 0xc000_0080;

function report(a: Assembler, value: number): Assembler {
  return a.mov("eax", value).out(Port.Report, "eax");
}

/** The guests. */
export const MODE_TESTS: readonly GuestTest[] = [
  {
    name: "real mode: segments, far calls, the stack",
    run(m) {
      m.memory.writeU16(0x1_2345, 0xbeef);
      m.load(16, (a) => {
        a.mov("ax", 0x1234).mov("ds", "ax").mov("bx", 5).mov("ax", at("bx"));
        a.xor("dx", "dx").mov("ds", "dx").mov(at(result(0)), "ax");
        a.mov("ax", 0x800).mov("ss", "ax").mov("sp", 0x200).push(0x1111).push(0x2222);
        a.mov("ax", at(0x81fe)).mov(at(result(1)), "ax").mov("ax", at(0x81fc));
        a.mov(at(result(2)), "ax").mov(at(result(3)), "sp");
        a.callFar(0xa00, 0x100).mov(at(result(4)), "sp").out(Port.Done, "al");
        // The same place by another segment: 0x0a00:0x0100 is 0xa100.
        a.org(CODE + 0x100, 0x90).mov(at(result(5)), "cs").pop("cx").pop("bx").push("bx").push(
          "cx",
        );
        a.mov(at(result(6)), "bx").retf();
      });
      m.startReal();
      m.run();
      const results = [0, 1, 2, 3, 4, 5, 6].map((index) => Number(m.result(index)));
      assert.deepEqual(results, [0xbeef, 0x1111, 0x2222, 0x1fc, 0x1fc, 0xa00, 0]);
    },
  },
  {
    name: "real mode: interrupts through the vector table",
    run(m) {
      m.memory.writeU16(0x21 * 4, 0xb000);
      m.memory.writeU16(0x21 * 4 + 2, 0);
      const code = m.load(16, (a) => {
        a.op("stc").op("sti").int(0x21).label("after").pushf().pop("ax").mov(at(result(3)), "ax");
        a.op("cli").out(Port.Done, "al");
      });
      m.load(16, (a) => {
        a.pushf().pop("bx").mov(at(result(0)), "bx").mov("bp", "sp");
        a.mov("ax", at("bp")).mov(at(result(1)), "ax").mov("ax", at("bp", { disp: 4 }));
        a.mov(at(result(2)), "ax").iret();
      }, 0xb000);
      m.startReal();
      m.run();
      assert.equal(m.result(0) & 0x201n, 1n, "IF is clear in the handler, CF stays");
      assert.equal(m.result(1), BigInt(code.addressOf("after")));
      assert.equal(m.result(2) & 0x201n, 0x201n);
      assert.equal(m.result(3) & 0x201n, 0x201n, "IRET restores the flags");
    },
  },
  {
    name: "real mode: 32-bit operands and addresses",
    run(m) {
      m.memory.writeU32(FREE - 0xf_8000, 0x89ab_cdef);
      m.load(16, (a) => {
        a.mov("ebx", FREE - 0xf_8000).mov("eax", at("ebx")).shl("eax", 4).mov(at(result(0)), "eax");
        a.mov("ecx", 2).mov("eax", at("ebx", { index: "ecx", scale: 4, disp: -8 }));
        a.mov(at(result(1)), "eax").push("eax").pop("edx").mov(at(result(2)), "edx");
        a.mov(at(result(3)), "sp").out(Port.Done, "al");
      });
      m.startReal();
      m.run();
      const results = [0, 1, 2, 3].map((index) => Number(m.result(index)));
      assert.deepEqual(results, [0x9abc_def0, 0x89ab_cdef, 0x89ab_cdef, STACK]);
    },
  },
  {
    name: "protected mode: flat segments, and those with a base",
    run(m) {
      m.memory.writeU32(FREE + 0x10, 0x5566_7788);
      m.load(32, (a) => {
        a.mov("eax", Selector.Spare).mov("fs", "ax").mov("eax", at(0x10, { segment: "fs" }));
        a.mov(at(result(0)), "eax").mov("eax", at(FREE + 0x10)).mov(at(result(1)), "eax");
        a.push(0x1234).mov(at(result(2)), "esp").pop("ebx").mov(at(result(3)), "ebx");
        a.mov(at(0x20, { segment: "fs", size: 4 }), 0x99).out(Port.Done, "al");
      });
      m.startProtected();
      writeDescriptor(m.memory, Selector.Spare, {
        base: FREE,
        limit: 0xfff,
        access: 0x93,
        flags: 4,
      });
      m.run();
      const results = [0, 1, 2, 3].map((index) => Number(m.result(index)));
      assert.deepEqual(results, [0x5566_7788, 0x5566_7788, STACK - 4, 0x1234]);
      assert.equal(m.memory.readU32(FREE + 0x20), 0x99);
    },
  },
  {
    name: "protected mode: 16-bit code",
    run(m) {
      m.load(32, (a) => {
        a.jmpFar(Selector.Code16, ref("sixteen")).label("sixteen").bits(16);
        a.mov("ax", 0x8000).add("ax", "ax").setcc("b", "bl").movzx("eax", "bl");
        a.mov(at(result(0)), "eax").push(0x7).mov(at(result(1)), "sp").pop("ax");
        a.jmpFar(Selector.Code32, ref("back"), 4).label("back").bits(32);
        a.mov(at(result(2)), "esp").out(Port.Done, "al");
      });
      m.startProtected();
      m.run();
      const results = [0, 1, 2].map((index) => Number(m.result(index)));
      assert.deepEqual(results, [1, STACK - 2, STACK]);
    },
  },
  {
    name: "long mode: registers, addresses relative to RIP, FS and GS bases",
    run(m) {
      m.load(64, (a) => {
        a.mov("r8", 0x1122334455667788n).mov("r9d", "r8d").mov(at(result(0)), "r9");
        a.mov("rax", -1).mov("eax", "eax").mov(at(result(1)), "rax");
        a.mov("rax", at("rip", { disp: ref("data") })).mov(at(result(2)), "rax");
        a.mov("ecx", 0xc000_0100).mov("eax", FREE).xor("edx", "edx").op("wrmsr");
        a.mov("rax", at("rip", { disp: ref("data") })).mov("rbx", 8);
        a.mov(at("rbx", { segment: "fs" }), "rax").lea("rax", at("rbx", { segment: "fs" }));
        a.mov(at(result(3)), "rax").push("r8").pop("r15").mov(at(result(4)), "r15");
        a.mov("ax", 0x1234).mov(at(result(5)), "rax").mov("ah", 0x77).mov(at(result(6)), "rax");
        a.out(Port.Done, "al").label("data").dq(0x0102030405060708n);
      });
      m.startLong();
      m.run();
      assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map((index) => m.result(index)), [
        0x55667788n,
        0xffff_ffffn,
        0x0102030405060708n,
        8n,
        0x1122334455667788n,
        0x1234n,
        0x7734n,
      ]);
      assert.equal(m.memory.readU64(FREE + 8), 0x0102030405060708n);
    },
  },
  {
    name: "compatibility mode: 32-bit and 16-bit code inside long mode",
    run(m) {
      m.load(64, (a) => {
        a.mov("rax", 0x1_0000_0001n).jmpFarIndirect(at("rip", { disp: ref("to32") }), 4);
        a.label("to32").dd(ref("code32")).dw(Selector.Code32);
        a.label("code32").bits(32).mov(at(result(0)), "eax");
        // 0x40 to 0x4f are INC and DEC here, not REX.
        a.mov("eax", 5).db(0x40).mov(at(result(1)), "eax");
        a.push(0x55).mov(at(result(2)), "esp").pop("ecx");
        a.jmpFar(Selector.Code16, ref("code16")).label("code16").bits(16);
        a.mov("bx", 0xffff).add("bx", 2).mov(at(result(3)), "bx");
        a.jmpFar(Selector.Code64, ref("code64"), 4).label("code64").bits(64);
        a.mov(at(result(4)), "rsp").mov("r10", 7).mov(at(result(5)), "r10").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      const results = [0, 1, 2, 3, 4, 5].map((index) => Number(m.result(index)));
      assert.deepEqual(results, [1, 6, STACK - 4, 1, STACK, 7]);
    },
  },
  {
    name: "the way from real mode to protected, long and compatibility mode, and all the way back",
    run(m) {
      writeGdt(m.memory, 64);
      PageTables.identity(m.memory);
      m.memory.writeU16(GDT_POINTER, 0x67);
      m.memory.writeU32(GDT_POINTER + 2, GDT);
      m.load(16, (a) => {
        report(a.op("cli"), 1).table("lgdt", at(GDT_POINTER));
        a.mov("eax", "cr0").or("eax", 1).mov("cr0", "eax");
        a.jmpFar(Selector.Code32, ref("protected"), 4).label("protected").bits(32);
        a.mov("eax", Selector.Data).mov("ds", "ax").mov("es", "ax").mov("ss", "ax");
        report(a.mov("esp", STACK), 2);
        a.mov("eax", Number(Control.PAE)).mov("cr4", "eax");
        a.mov("eax", PAGE_TABLES).mov("cr3", "eax");
        a.mov("ecx", EFER).op("rdmsr").or("eax", Number(Control.LME)).op("wrmsr");
        a.mov("eax", "cr0").or("eax", 0x8000_0000).mov("cr0", "eax");
        // Long mode is on; this is compatibility mode.
        report(a, 3).mov("ecx", EFER).op("rdmsr").out(Port.Report, "eax");
        a.jmpFar(Selector.Code64, ref("long")).label("long").bits(64);
        report(a, 4).mov("rax", 0x1234_0000_0000n).shr("rax", 32).out(Port.Report, "eax");
        a.push(Selector.Code32).push(ref("compat")).retf(8).label("compat").bits(32);
        report(a, 5).mov("eax", "cr0").and("eax", 0x7fff_ffff).mov("cr0", "eax");
        a.mov("ecx", EFER).op("rdmsr").and("eax", ~Number(Control.LME)).op("wrmsr");
        report(a, 6).op("rdmsr").out(Port.Report, "eax");
        a.jmpFar(Selector.Code16, ref("sixteen")).label("sixteen").bits(16);
        a.mov("eax", Selector.Data16).mov("ds", "ax").mov("es", "ax").mov("ss", "ax");
        a.mov("eax", "cr0").and("eax", -2).mov("cr0", "eax");
        a.jmpFar(0, ref("real")).label("real").xor("ax", "ax").mov("ds", "ax").mov("ss", "ax");
        report(a, 7).mov("ax", 0x100).mov("ds", "ax").mov("eax", at(0)).out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.startReal();
      m.run();
      const efer = Number(Control.LME | Control.LMA);
      assert.deepEqual(m.io.reports, [
        1,
        2,
        3,
        efer,
        4,
        0x1234,
        5,
        6,
        0,
        7,
        m.memory.readU32(0x1000),
      ]);
    },
  },
  {
    name: "real mode keeps the limits that protected mode left behind",
    run(m) {
      writeGdt(m.memory, 32);
      m.memory.writeU16(GDT_POINTER, 0x67);
      m.memory.writeU32(GDT_POINTER + 2, GDT);
      m.memory.writeU32(FREE + 0x123, 0xcafe_babe);
      m.load(16, (a) => {
        a.op("cli").table("lgdt", at(GDT_POINTER));
        a.mov("eax", "cr0").or("al", 1).mov("cr0", "eax");
        a.mov("bx", Selector.Data).mov("fs", "bx").and("al", 0xfe).mov("cr0", "eax");
        a.xor("bx", "bx").mov("fs", "bx").mov("ebx", FREE);
        a.mov("eax", at("ebx", { segment: "fs", disp: 0x123 })).out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.startReal();
      m.run();
      assert.deepEqual(m.io.reports, [0xcafe_babe]);
    },
  },
];
