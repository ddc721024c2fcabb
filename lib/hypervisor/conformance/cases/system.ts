/**
 * System registers, MSRs, CPUID, time, single stepping and breakpoints.
 *
 * @module
 */

import assert from "node:assert/strict";
import { at, ref } from "../asm/mod.ts";
import { assertFault, installFaultHandler64, Vector } from "../faults.ts";
import { cpuid } from "../features.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, GDT, IDT, Port, Selector, TSS } from "../layout.ts";
import { Control } from "../machine.ts";
import { wrmsr } from "../pc_hardware.ts";
import { GDT_SIZE_BYTES, result, writeDescriptor, writeGate64 } from "../tables.ts";

const TF = 0x100;

/** MSRs that a kernel writes, each with a value that it takes. */
const PLAIN_MSRS: readonly (readonly [number, bigint])[] = [
  [0x174, 0x10n],
  [0x175, 0xffff_8000_1234_5678n],
  [0x176, 0xffff_8000_8765_4320n],
  [0x277, 0x0007_0406_0007_0106n],
  [0xc000_0081, 0x0023_0010_0000_0000n],
  [0xc000_0082, 0xffff_ffff_8100_0000n],
  [0xc000_0083, 0xffff_ffff_8200_0000n],
  [0xc000_0084, 0x4_7700n],
  [0xc000_0100, 0x7fff_1234_5000n],
  [0xc000_0101, 0xffff_8880_0000_1000n],
  [0xc000_0102, 0x7fff_9999_0000n],
];

/** A #DB handler that reports RIP and DR6 and clears DR6. */
function loadDebugHandler(m: Parameters<GuestTest["run"]>[0]): void {
  m.load(64, (a) => {
    a.push("rax").mov("rax", at("rsp", { disp: 8 })).out(Port.Report, "eax").mov("rax", "dr6");
    a.out(Port.Report, "eax").mov("eax", 0xffff_0ff0).mov("dr6", "rax").pop("rax").iret();
  }, 0xe000);
  writeGate64(m.memory, Vector.DB, { offset: 0xe000 });
}

/** The guests. */
export const SYSTEM_TESTS: readonly GuestTest[] = [
  {
    name: "CPUID: vendor, long mode, hypervisor, topology of one core",
    run(m) {
      const [maxLeaf, ...vendor] = cpuid(m, 0);
      assert.ok(maxLeaf >= 0xd, `largest leaf is ${maxLeaf}`);
      const text = new TextDecoder().decode(new Uint32Array([vendor[0], vendor[2], vendor[1]]));
      assert.match(text, /^[A-Za-z ]{12}$/);
      const [, ebx, ecx, edx] = cpuid(m, 1);
      assert.equal(ebx >>> 24, 0, "initial APIC id");
      assert.equal(ecx >>> 31, 1, "hypervisor");
      // FPU, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, PAT, FXSR, SSE, SSE2
      const needed = 0x0701_a171;
      assert.equal((edx & needed) >>> 0, needed);
      const [, , , extended] = cpuid(m, 0x8000_0001);
      assert.equal(extended >>> 29 & 1, 1, "long mode");
      assert.equal(extended >>> 11 & 1, 1, "SYSCALL");
      const [addressBits] = cpuid(m, 0x8000_0008);
      assert.ok((addressBits & 0xff) >= 36 && (addressBits >>> 8 & 0xff) >= 48);
      const [signature, ...name] = cpuid(m, 0x4000_0000);
      assert.ok(signature >= 0x4000_0000 && name.some((word) => word !== 0), "hypervisor leaf");
      if (maxLeaf >= 0xb) {
        assert.equal(cpuid(m, 0xb, 0)[1], 1, "threads of a core");
        assert.equal(cpuid(m, 0xb, 1)[1], 1, "cores of the package");
      }
    },
  },
  {
    name: "MSRs keep what is written to them",
    run(m) {
      m.load(64, (a) => {
        PLAIN_MSRS.forEach(([index, value], position) => {
          wrmsr(a, index, value).xor("eax", "eax").xor("edx", "edx").op("rdmsr");
          a.mov(at(result(position)), "eax").mov(at(result(position) + 4), "edx");
        });
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      PLAIN_MSRS.forEach(([index, value], position) => {
        assert.equal(m.result(position), value, `MSR 0x${index.toString(16)} in the guest`);
        assert.equal(m.vcpu.getMsr(index), value, `MSR 0x${index.toString(16)} from outside`);
      });
      assert.equal(m.vcpu.getSregs().fs.base, 0x7fff_1234_5000n);
    },
  },
  {
    name: "SWAPGS exchanges the bases",
    run(m) {
      m.memory.writeU64(FREE, 1n);
      m.memory.writeU64(FREE + 0x1000, 2n);
      m.load(64, (a) => {
        wrmsr(a, 0xc000_0101, FREE);
        wrmsr(a, 0xc000_0102, FREE + 0x1000);
        a.xor("ebx", "ebx").mov("rax", at("rbx", { segment: "gs" })).out(Port.Report, "eax");
        a.op("swapgs").mov("rax", at("rbx", { segment: "gs" })).out(Port.Report, "eax");
        a.op("swapgs").mov("rax", at("rbx", { segment: "gs" })).out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 1]);
    },
  },
  {
    name: "RDFSBASE, WRFSBASE, RDGSBASE, WRGSBASE",
    features: ["FSGSBASE"],
    notEmulated: "it does not interpret the instruction",
    run(m) {
      m.load(64, (a) => {
        a.mov("rax", "cr4").or("eax", 1 << 16).mov("cr4", "rax");
        a.mov("rax", 0x7123_4567_89abn).segmentBase("wrfs", "rax").segmentBase(
          "rdfs",
          "rbx",
        );
        a.mov(at(result(0)), "rbx").mov("rax", 0x1_2345_6789n).segmentBase("wrgs", "eax");
        a.segmentBase("rdgs", "rcx").mov(at(result(1)), "rcx").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 0x7123_4567_89abn);
      assert.equal(m.result(1), 0x2345_6789n);
    },
  },
  {
    name: "the time stamp counter goes up, and can be set",
    run(m) {
      m.load(64, (a) => {
        a.mov("ecx", 100).op("rdtsc").shl("rdx", 32).or("rax", "rdx").mov("rbx", "rax");
        a.label("loop").op("rdtsc").shl("rdx", 32).or("rax", "rdx").cmp("rax", "rbx");
        a.jcc("b", "wrong").mov("rbx", "rax").dec("ecx").jcc("ne", "loop");
        a.mov("eax", 1).out(Port.Report, "eax").label("wrong").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1]);
    },
  },
  {
    name: "RDTSCP gives TSC_AUX",
    features: ["RDTSCP"],
    notEmulated: "it does not interpret the instruction",
    run(m) {
      m.load(64, (a) => {
        wrmsr(a, 0xc000_0103, 0x1234).xor("ecx", "ecx").op("rdtscp").mov("eax", "ecx");
        a.out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [0x1234]);
    },
  },
  {
    name: "control registers read what they were set to",
    run(m) {
      m.load(64, (a) => {
        a.mov("rax", 0x1234_5000).mov("cr2", "rax").mov("rbx", "cr2").mov(at(result(0)), "rbx");
        a.mov("eax", 9).mov("cr8", "rax").mov("rbx", "cr8").mov(at(result(1)), "rbx");
        a.mov("rax", "cr0").or("rax", Number(Control.TS | Control.AM)).mov("cr0", "rax");
        a.mov("rbx", "cr0").mov(at(result(2)), "rbx").op("clts").smsw("ebx");
        a.mov(at(result(3)), "rbx").mov("rbx", "cr3").mov(at(result(4)), "rbx");
        a.mov("ax", 0xf).lmsw("ax").smsw("rbx").mov(at(result(5)), "rbx").out(Port.Done, "al");
      });
      m.startLong();
      const { cr0, cr3 } = m.vcpu.getSregs();
      m.run();
      const with_ = (bits: bigint) => cr0 | bits;
      assert.equal(m.result(0), 0x1234_5000n);
      assert.equal(m.result(1), 9n);
      assert.equal(m.result(2), with_(Control.TS | Control.AM));
      assert.equal(m.result(3) & 0xffffn, with_(Control.AM) & 0xffffn);
      assert.equal(m.result(4), cr3);
      assert.equal(m.result(5) & 0xfn, 0xfn);
      const sregs = m.vcpu.getSregs();
      assert.equal(sregs.cr8, 9n);
      assert.equal(sregs.cr0, with_(Control.AM | Control.TS | Control.EM));
    },
  },
  {
    name: "flags: those that can be changed, and those that cannot",
    run(m) {
      m.load(64, (a) => {
        a.push(0x7fffffff & ~TF & ~(1 << 16) & ~(1 << 17)).popf().pushf().pop("rbx");
        a.push(0).popf().pushf().pop("rcx").mov(at(result(0)), "rbx").mov(at(result(1)), "rcx");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      // CF, PF, AF, ZF, SF, IF, DF, OF, IOPL, NT, AC, ID; VIF and VIP only where CR4 has VME.
      assert.equal(m.result(0) & ~0x18_0000n, 0x24_7ed7n);
      assert.equal(m.result(1), 2n);
    },
  },
  {
    name: "SGDT, SIDT, STR and SLDT tell what LGDT, LIDT, LTR and LLDT loaded",
    run(m) {
      m.load(64, (a) => {
        a.table("lidt", at("rip", { disp: ref("idt") })).table("sidt", at(result(0)));
        a.table("lgdt", at("rip", { disp: ref("gdt") })).table("sgdt", at(result(2)));
        a.mov("eax", Selector.Tss).selector("ltr", "ax").selector("str", "eax");
        a.mov(at(result(4)), "eax").mov("eax", Selector.Spare).selector("lldt", "ax");
        a.selector("sldt", "eax").mov(at(result(5)), "eax").mov("eax", 0xc).mov("fs", "ax");
        a.mov("eax", "fs").mov(at(result(6)), "eax").out(Port.Done, "al");
        a.label("idt").dw(0x123).dq(IDT).label("gdt").dw(GDT_SIZE_BYTES - 1).dq(GDT);
      });
      m.startLong();
      writeDescriptor(m.memory, Selector.Spare, { base: FREE, limit: 0xf, access: 0x82 });
      m.memory.writeU64(GDT + Selector.Spare2, 0n);
      // Entry 1 of the LDT: a data segment.
      m.memory.writeU64(FREE + 8, 0x00cf_9200_0000_ffffn);
      m.run();
      assert.equal(m.memory.readU16(result(0)), 0x123);
      assert.equal(m.memory.readU64(result(0) + 2), BigInt(IDT));
      assert.equal(m.memory.readU16(result(2)), GDT_SIZE_BYTES - 1);
      assert.equal(m.memory.readU64(result(2) + 2), BigInt(GDT));
      const rest = [4, 5, 6].map((index) => m.result(index));
      assert.deepEqual(rest, [BigInt(Selector.Tss), BigInt(Selector.Spare), 0xcn]);
      const tr = m.vcpu.getSregs().tr;
      assert.deepEqual([tr.base, tr.type], [BigInt(TSS), 0xb]);
      assert.equal(m.memory.readU8(GDT + Selector.Tss + 5) & 0xf, 0xb, "the TSS is busy");
      assert.equal(m.memory.readU8(FREE + 8 + 5) & 1, 1, "the segment is accessed");
    },
  },
  {
    name: "LAR, LSL, VERR and VERW tell what a selector is good for",
    notEmulated: "it does not interpret the instructions",
    run(m) {
      m.load(64, (a) => {
        a.mov("ebx", Selector.Data).lar("eax", "ebx").setcc("e", "cl").mov(at(result(0)), "eax");
        a.lsl("eax", "ebx").mov(at(result(1)), "eax").mov(at(result(2)), "cl");
        a.selector("verr", "ebx").setcc("e", "cl").mov(at(result(3)), "cl");
        a.mov("ebx", Selector.Code64).selector("verw", "ebx").setcc("e", "cl");
        a.mov(at(result(4)), "cl").mov("ebx", 0x200).lar("eax", "ebx").setcc("e", "cl");
        a.mov(at(result(5)), "cl").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      const results = [0, 1, 2, 3, 4, 5].map((index) => m.result(index));
      // Bits 16 to 19 of what LAR gives are undefined.
      results[0] = (results[0] ?? 0n) & ~0xf_0000n;
      assert.deepEqual(results, [0xc0_9300n, 0xffff_ffffn, 1n, 1n, 0n, 0n]);
    },
  },
  {
    name: "single steps: a #DB behind each instruction, with DR6.BS",
    run(m) {
      m.startLong();
      installFaultHandler64(m);
      loadDebugHandler(m);
      const code = m.load(64, (a) => {
        a.pushf().or(at("rsp", { size: 4 }), TF).popf().label("one").op("nop").label("two");
        a.mov("eax", 5).label("three").jmp("far").op("ud2").label("far").pushf();
        a.label("four").and(at("rsp", { size: 4 }), ~TF).label("five").popf().label("six");
        a.op("nop").out(Port.Done, "al");
      });
      m.run();
      // The trap flag is looked at as the instruction begins: POPF that sets it is not stepped, the
      // one that clears it is.
      const stops = ["two", "three", "far", "four", "five", "six"].map((l) => code.addressOf(l));
      assert.deepEqual(m.io.reports.filter((_, index) => index % 2 === 0), stops);
      assert.ok(m.io.reports.every((value, index) => index % 2 === 0 || (value & 0x4000) !== 0));
    },
  },
  {
    name: "single steps: none in the handler that INT or SYSCALL enters",
    notEmulated: "it does not interpret SYSCALL",
    run(m) {
      m.startLong();
      installFaultHandler64(m);
      loadDebugHandler(m);
      m.load(64, (a) => a.op("nop").iret(), 0xd000);
      writeGate64(m.memory, 0x40, { offset: 0xd000 });
      m.load(64, (a) => a.op("nop").push("r11").popf().jmp("rcx"), 0xd800);
      const code = m.load(64, (a) => {
        wrmsr(a, 0xc000_0081, BigInt(Selector.Code64) << 32n);
        wrmsr(a, 0xc000_0082, 0xd800n);
        wrmsr(a, 0xc000_0084, BigInt(TF)).pushf().or(at("rsp", { size: 4 }), TF).popf();
        a.int(0x40).op("nop").label("one").op("syscall").label("two").pushf().label("three");
        a.and(at("rsp", { size: 4 }), ~TF).label("four").popf().label("five");
        a.op("nop").out(Port.Done, "al");
      });
      m.run();
      const stops = ["one", "two", "three", "four", "five"].map((l) => code.addressOf(l));
      assert.deepEqual(m.io.reports.filter((_, index) => index % 2 === 0), stops);
    },
  },
  {
    name: "single steps: each element of a string instruction",
    notEmulated: "it takes several elements in one step",
    run(m) {
      m.startLong();
      installFaultHandler64(m);
      loadDebugHandler(m);
      const code = m.load(64, (a) => {
        a.mov("rdi", FREE).mov("ecx", 3).mov("eax", 0x55).pushf().or(at("rsp", { size: 4 }), TF)
          .popf();
        a.label("string").rep().string("stos", 1).label("behind").pushf();
        a.and(at("rsp", { size: 4 }), ~TF).popf().out(Port.Done, "al");
      });
      m.run();
      const stops = m.io.reports.filter((_, index) => index % 2 === 0);
      const [string, behind] = [code.addressOf("string"), code.addressOf("behind")];
      assert.deepEqual(stops.slice(0, 3), [string, string, behind]);
      assert.equal(m.memory.readU32(FREE), 0x55_5555);
    },
  },
  {
    name: "an instruction breakpoint in DR0 is a fault before the instruction",
    notEmulated: "it does not look at the debug registers",
    run(m) {
      m.startLong();
      installFaultHandler64(m);
      const code = m.load(64, (a) => {
        a.mov("rax", ref("here")).mov("dr0", "rax").mov("eax", 0x402).mov("dr7", "rax");
        a.op("nop").label("here").mov("ebx", 7).op("ud2");
      });
      m.run();
      assertFault(m, { vector: Vector.DB, rip: code.addressOf("here") });
      assert.equal(m.vcpu.getRegs().rbx, 0n);
    },
  },
  {
    name: "a data breakpoint in DR1 is a trap behind the store",
    notEmulated: "it does not look at the debug registers",
    run(m) {
      m.startLong();
      installFaultHandler64(m);
      loadDebugHandler(m);
      const code = m.load(64, (a) => {
        a.mov("rbx", FREE + 8).mov("dr1", "rbx").mov("eax", 0xd0_0408).mov("dr7", "rax");
        a.mov(at("rbx", { disp: -4 }), "eax").mov(at("rbx"), "al").label("behind");
        a.mov("al", at("rbx")).out(Port.Done, "al");
      });
      m.run();
      assert.equal(m.io.reports[0], code.addressOf("behind"));
      assert.equal((m.io.reports[1] ?? 0) & 0xf, 2);
      assert.equal(m.io.reports.length, 2);
    },
  },
  {
    name: "debug registers keep what is written to them",
    run(m) {
      m.load(64, (a) => {
        ([0, 1, 2, 3] as const).forEach((number) => {
          a.mov("rax", 0x1000 + number).mov(`dr${number}`, "rax").mov("rbx", `dr${number}`);
          a.mov(at(result(number)), "rbx");
        });
        a.mov("rbx", "dr7").mov(at(result(4)), "rbx").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual([0, 1, 2, 3].map((index) => m.result(index)), [
        0x1000n,
        0x1001n,
        0x1002n,
        0x1003n,
      ]);
      assert.equal(m.result(4) & 0x400n, 0x400n, "bit 10 of DR7 is always set");
    },
  },
];
