/**
 * Ring 3: what it may not do, and the ways in and out.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, ref } from "../asm/mod.ts";
import { assertFault, installFaultHandler64, PageFault, resumeAt, Vector } from "../faults.ts";
import type { Feature } from "../features.ts";
import type { GuestTest } from "../guest_case.ts";
import { DATA, FREE, Port, RING0_STACK, Selector, TSS, USER_STACK } from "../layout.ts";
import { Control, type TestMachine } from "../machine.ts";
import { eoi, Lapic, maskPics, setLapicReg, wrmsr } from "../pc_hardware.ts";
import { GDT_SIZE_BYTES, result, writeDescriptor, writeGate64 } from "../tables.ts";
import { enterUser, openToUser } from "../user_mode.ts";

const IOPL3 = 0x3000;
const PORT = 0x540;

const HOST_CR4 = "its ring 3 runs with the host's CR4";
const HOST_SELECTORS = "its ring 3 runs with the host's selectors";
const NO_INT = "its ring 3 has no INT n";
const NO_IOPL = "its ring 3 has no IOPL";
const NO_SYSCALL = "its ring 3 has no SYSCALL of the guest's";

interface UserCase {
  readonly name: string;
  readonly build: (a: Assembler) => void;
  /** Absent: it succeeds and runs into UD2 at `over`. */
  readonly vector?: number;
  readonly errorCode?: number;
  readonly flags?: number;
  readonly cr4?: bigint;
  readonly setup?: (m: TestMachine) => void;
  readonly features?: readonly Feature[];
  readonly notEmulated?: string;
}

const GP = { vector: Vector.GP };

/** Opens ports in the TSS's bitmap. */
function allowPorts(...ports: readonly number[]) {
  return (m: TestMachine): void => {
    for (const port of ports) {
      const address = TSS + 0x68 + (port >> 3);
      m.memory.writeU8(address, m.memory.readU8(address) & ~(1 << (port & 7)));
    }
  };
}

const USER_CASES: readonly UserCase[] = [
  { name: "CLI", build: (a) => a.op("cli"), ...GP },
  { name: "STI", build: (a) => a.op("sti"), ...GP },
  { name: "HLT", build: (a) => a.op("hlt"), ...GP },
  { name: "IN", build: (a) => a.mov("dx", PORT).label("fault").in("al", "dx"), ...GP },
  { name: "OUT", build: (a) => a.mov("dx", PORT).label("fault").out("dx", "eax"), ...GP },
  { name: "LGDT", build: (a) => a.table("lgdt", at("rsp")), ...GP },
  { name: "LIDT", build: (a) => a.table("lidt", at("rsp")), ...GP },
  { name: "LTR", build: (a) => a.selector("ltr", "ax"), ...GP },
  { name: "LLDT", build: (a) => a.selector("lldt", "ax"), ...GP },
  { name: "LMSW", build: (a) => a.lmsw("ax"), ...GP },
  { name: "CLTS", build: (a) => a.op("clts"), ...GP },
  { name: "INVLPG", build: (a) => a.invlpg(at("rsp")), ...GP },
  { name: "WBINVD", build: (a) => a.op("wbinvd"), ...GP },
  { name: "SWAPGS", build: (a) => a.op("swapgs"), ...GP },
  { name: "SYSRET", build: (a) => a.sysret(), ...GP },
  { name: "RDMSR", build: (a) => a.mov("ecx", 0x10).label("fault").op("rdmsr"), ...GP },
  { name: "WRMSR", build: (a) => a.mov("ecx", 0x10).label("fault").op("wrmsr"), ...GP },
  { name: "MOV from CR3", build: (a) => a.mov("rax", "cr3"), ...GP },
  { name: "MOV to CR0", build: (a) => a.mov("cr0", "rax"), ...GP },
  { name: "MOV from CR8", build: (a) => a.mov("rax", "cr8"), ...GP },
  { name: "MOV from DR7", build: (a) => a.mov("rax", "dr7"), ...GP },
  {
    name: "RDTSC with CR4.TSD",
    build: (a) => a.op("rdtsc"),
    cr4: 4n,
    ...GP,
    notEmulated: HOST_CR4,
  },
  {
    name: "SIDT with CR4.UMIP",
    build: (a) => a.table("sidt", at("rsp", { disp: -64 })),
    cr4: Control.UMIP,
    features: ["UMIP"],
    ...GP,
  },
  {
    name: "STR with CR4.UMIP",
    build: (a) => a.selector("str", "rax"),
    cr4: Control.UMIP,
    features: ["UMIP"],
    ...GP,
  },
  {
    name: "INT through a gate of ring 0",
    notEmulated: NO_INT,
    build: (a) => a.int(0x41),
    vector: Vector.GP,
    errorCode: 0x41 * 8 + 2,
    setup: (m) => writeGate64(m.memory, 0x41, { offset: 0xe000 }),
  },
  {
    name: "a data segment of ring 0",
    build: (a) => a.mov("eax", Selector.Data).label("fault").mov("ds", "ax"),
    vector: Vector.GP,
    errorCode: Selector.Data,
  },
  {
    name: "a far return to ring 0",
    build: (a) => a.push(Selector.Code64).push(0xa000).label("fault").retf(8),
    vector: Vector.GP,
    errorCode: Selector.Code64,
  },
  {
    name: "a misaligned load with CR0.AM and EFLAGS.AC",
    build: (a) => a.label("fault").mov("eax", at("rsp", { disp: -7 })),
    vector: Vector.AC,
    flags: 1 << 18,
  },
  {
    name: "an aligned load with EFLAGS.AC",
    build: (a) => a.mov("eax", at("rsp", { disp: -8 })),
    flags: 1 << 18,
  },
  { name: "RDTSC", build: (a) => a.op("rdtsc") },
  { name: "CPUID", build: (a) => a.op("cpuid") },
  {
    name: "CLI and STI with IOPL 3",
    build: (a) => a.op("cli").op("sti"),
    flags: IOPL3,
    notEmulated: NO_IOPL,
  },
  {
    name: "OUT with IOPL 3",
    build: (a) => a.mov("dx", PORT).out("dx", "al"),
    flags: IOPL3,
    notEmulated: NO_IOPL,
  },
  {
    name: "OUT to a port that the TSS allows",
    build: (a) => a.mov("dx", PORT + 7).out("dx", "al"),
    setup: allowPorts(PORT + 7),
  },
  {
    name: "OUT of two bytes of which the TSS allows the first",
    build: (a) => a.mov("dx", PORT + 7).label("fault").out("dx", "ax"),
    setup: allowPorts(PORT + 7),
    ...GP,
  },
  {
    name: "OUT of four bytes that the TSS allows",
    build: (a) => a.mov("dx", PORT + 6).out("dx", "eax"),
    setup: allowPorts(PORT + 6, PORT + 7, PORT + 8, PORT + 9),
  },
];

function userTest(c: UserCase): GuestTest {
  const fails = c.vector !== undefined;
  return {
    name: `ring 3: ${c.name} ${fails ? "faults" : "works"}`,
    ...(c.features === undefined ? {} : { features: c.features }),
    ...(c.notEmulated === undefined ? {} : { notEmulated: c.notEmulated }),
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables);
      c.setup?.(m);
      const { cr0, cr4 } = m.vcpu.getSregs();
      m.vcpu.setSregs({ cr0: cr0 | Control.AM, cr4: cr4 | (c.cr4 ?? 0n) });
      const code = m.load(64, (a) => {
        a.mov("eax", Selector.Tss).selector("ltr", "ax");
        enterUser(a, "user", { flags: 2 | (c.flags ?? 0) }).label("user");
        c.build(a);
        a.label("over").op("ud2");
      });
      m.run();
      const { vector, errorCode = 0 } = c;
      const cs = Selector.UserCode64;
      if (vector === undefined) {
        assertFault(m, { vector: Vector.UD, rip: code.addressOf("over"), cs });
        return;
      }
      let rip = code.addressOf("user");
      try {
        rip = code.addressOf("fault");
      } catch {
        // It is the first instruction.
      }
      assertFault(m, { vector, errorCode, rip, cs });
      assert.equal(m.fault("Ss"), BigInt(Selector.UserData));
    },
  };
}

function loadTss(a: Assembler): Assembler {
  return a.mov("eax", Selector.Tss).selector("ltr", "ax");
}

/** SYSCALL goes to `entry`. Clobbers rax, rcx, rdx. */
function setUpSyscall(a: Assembler, entry: number): Assembler {
  wrmsr(a, 0xc000_0081, BigInt((Selector.UserCode32 & ~3) << 16 | Selector.Code64) << 32n);
  wrmsr(a, 0xc000_0082, entry);
  return wrmsr(a, 0xc000_0084, 0x4_0600);
}

/** The guests. */
export const PROTECTION_TESTS: readonly GuestTest[] = [
  ...USER_CASES.map(userTest),
  {
    name: "ring 3: an exception comes to the stack of the TSS and goes back",
    notEmulated: HOST_SELECTORS,
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables, [DATA]);
      m.load(64, (a) => {
        a.mov(at(result(0)), "rsp").add(at("rsp", { size: 8 }), 2).iret();
      }, 0xe000);
      writeGate64(m.memory, Vector.UD, { offset: 0xe000 });
      m.load(64, (a) => {
        enterUser(loadTss(a), "user", { flags: 3 | IOPL3 }).label("user").op("ud2");
        a.mov(at(result(1)), "rsp").mov("rax", "cs").mov(at(result(2)), "rax");
        a.pushf().pop("rax").mov(at(result(3)), "rax").mov("eax", "ss").mov(at(result(4)), "rax");
        a.out(Port.Done, "al");
      });
      m.run();
      assert.equal(m.result(0), BigInt(RING0_STACK - 40));
      assert.equal(m.result(1), BigInt(USER_STACK));
      assert.equal(m.result(2) & 0xffffn, BigInt(Selector.UserCode64));
      assert.equal(m.result(3) & 3n, 3n);
      assert.equal(m.result(4) & 0xffffn, BigInt(Selector.UserData));
    },
  },
  {
    name: "ring 3: INT through a gate of ring 3",
    notEmulated: NO_INT,
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables);
      m.load(64, (a) => {
        a.mov("rcx", "cs").mov(at(result(0)), "rcx").mov("rcx", at("rsp"));
        a.mov(at(result(1)), "rcx").mov(at(result(2)), "rax").mov("eax", 0x77).iret();
      }, 0xe000);
      writeGate64(m.memory, 0x80, { offset: 0xe000, dpl: 3 });
      const code = m.load(64, (a) => {
        enterUser(loadTss(a), "user").label("user").mov("eax", 5).int(0x80).label("after");
        a.op("ud2");
      });
      m.run();
      assert.equal(m.result(0) & 0xffffn, BigInt(Selector.Code64));
      assert.equal(m.result(1), BigInt(code.addressOf("after")));
      assert.equal(m.result(2), 5n);
      assertFault(m, { vector: Vector.UD, rip: code.addressOf("after") });
      assert.equal(m.vcpu.getRegs().rax & 0xffn, 0n, "the fault handler's");
    },
  },
  {
    name: "ring 3: SYSCALL and SYSRET",
    notEmulated: NO_SYSCALL,
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables);
      const code = m.load(64, (a) => {
        setUpSyscall(loadTss(a), 0xe000);
        enterUser(a, "user", { flags: 0x203 | 1 << 10 }).label("user").mov("rax", 7).op("syscall");
        a.label("after").mov("ebx", "eax").mov("esi", "cs").mov("edi", "ss").pushf().pop("rdx");
        a.label("end").op("ud2");
      });
      m.load(64, (a) => {
        a.mov(at(result(0)), "rcx").mov(at(result(1)), "r11").mov(at(result(2)), "rsp");
        a.mov("ebp", "cs").mov(at(result(3)), "rbp").mov("ebp", "ss").mov(at(result(4)), "rbp");
        a.mov("rbp", "rsp").mov("esp", RING0_STACK).pushf().pop("r8").mov(at(result(5)), "r8");
        a.mov("rsp", "rbp").add("eax", 1).sysret();
      }, 0xe000);
      m.run();
      assert.equal(m.result(0), BigInt(code.addressOf("after")));
      assert.equal(m.result(1) & 0x603n, 0x603n, "R11 has the flags");
      assert.equal(m.result(2), BigInt(USER_STACK), "the stack is not switched");
      assert.equal(m.result(3), BigInt(Selector.Code64));
      assert.equal(m.result(4), BigInt(Selector.Data));
      assert.equal(m.result(5) & 0x601n, 1n, "SFMASK cleared IF and DF");
      assertFault(m, {
        vector: Vector.UD,
        rip: code.addressOf("end"),
        cs: Selector.UserCode64,
      });
      const { rbx, rsi, rdi, rdx } = m.vcpu.getRegs();
      assert.deepEqual([rbx, rsi & 0xffffn, rdi & 0xffffn, rdx & 0x603n], [
        8n,
        BigInt(Selector.UserCode64),
        BigInt(Selector.UserData),
        0x603n,
      ]);
    },
  },
  {
    name: "ring 3: 32-bit code, reached by SYSRET and by IRET",
    notEmulated: NO_SYSCALL,
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables, [DATA]);
      const code = m.load(64, (a) => {
        setUpSyscall(loadTss(a), 0xe000);
        a.mov("rcx", ref("compat")).mov("r11d", 2).mov("rsp", USER_STACK).sysret(4);
        a.label("compat").bits(32).mov("ebx", "cs").mov(at(result(0)), "ebx");
        a.mov("eax", 1).db(0x40).mov(at(result(1)), "eax").push("eax").mov(at(result(2)), "esp");
        a.label("fault").op("ud2").bits(64);
        // IRET to ring 3 would empty a DS of ring 0.
        a.label("resume").mov("rsp", RING0_STACK).mov("eax", Selector.UserData).mov("ds", "ax");
        enterUser(a, "again", { selector: Selector.UserCode32 }).label("again").bits(32);
        a.mov("ebx", "cs").mov(at(result(3)), "ebx").label("end").op("ud2");
      });
      // The handler's IRET would return to ring 3: leave it by a jump.
      m.load(64, (a) => {
        a.mov("rax", at("rsp")).mov(at(result(4)), "rax").mov("rax", code.addressOf("resume"));
        a.cmp(at(result(3), { size: 4 }), 0).jcc("ne", "done").jmp("rax");
        a.label("done").out(Port.Done, "al");
      }, 0xe800);
      writeGate64(m.memory, Vector.UD, { offset: 0xe800 });
      m.run();
      const results = [0, 1, 2, 3, 4].map((index) => m.result(index));
      assert.equal(results[0], BigInt(Selector.UserCode32));
      assert.equal(results[1], 2n, "0x40 is INC in 32-bit code");
      assert.equal(results[2], BigInt(USER_STACK - 4));
      assert.equal(results[3], BigInt(Selector.UserCode32));
      assert.equal(results[4], BigInt(code.addressOf("end")));
    },
  },
  {
    name: "ring 3: a call gate leads to ring 0 and back",
    notEmulated: "it does not interpret call gates",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables);
      // A 64-bit call gate of ring 3 in two entries (SDM vol. 3, 5.8.3.1).
      writeDescriptor(m.memory, Selector.Spare, {
        base: Selector.Code64,
        limit: 0xe000,
        access: 0xec,
      });
      m.memory.writeU64(0x1000 + Selector.Spare2, 0n);
      const code = m.load(64, (a) => {
        enterUser(loadTss(a), "user").label("user").mov("rbx", "rsp");
        a.callFarIndirect(at("rip", { disp: ref("gate") }), 4).label("after").op("ud2");
        a.label("gate").dd(0).dw(Selector.Spare | 3);
      });
      m.load(64, (a) => {
        a.mov(at(result(0)), "rsp").mov("rax", at("rsp")).mov(at(result(1)), "rax");
        a.mov("rax", at("rsp", { disp: 8 })).mov(at(result(2)), "rax");
        a.mov("rax", at("rsp", { disp: 16 })).mov(at(result(3)), "rax").retf(8);
      }, 0xe000);
      m.run();
      assert.equal(m.result(0), BigInt(RING0_STACK - 32));
      assert.equal(m.result(1), BigInt(code.addressOf("after")));
      assert.equal(m.result(2), BigInt(Selector.UserCode64));
      assert.equal(m.result(3), BigInt(USER_STACK));
      assertFault(m, {
        vector: Vector.UD,
        rip: code.addressOf("after"),
        cs: Selector.UserCode64,
      });
      assert.equal(m.fault("Rsp"), BigInt(USER_STACK));
    },
  },
  {
    name: "ring 3: a return to it takes segments of ring 0 away",
    notEmulated: HOST_SELECTORS,
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables);
      m.load(64, (a) => {
        loadTss(a).mov("eax", Selector.UserData).mov("es", "ax").mov("eax", Selector.Data);
        a.mov("ds", "ax");
        enterUser(a, "user").label("user").mov("ebx", "ds").mov("esi", "es").op("ud2");
      });
      m.run();
      const { rbx, rsi } = m.vcpu.getRegs();
      assert.deepEqual([rbx, rsi], [0n, BigInt(Selector.UserData)]);
    },
  },
  {
    name: "ring 3: POPF changes neither IF nor IOPL",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables);
      m.load(64, (a) => {
        enterUser(loadTss(a), "user", { flags: 0x202 }).label("user").push(0x3003).popf();
        a.pushf().pop("rbx").op("ud2");
      });
      m.run();
      assert.equal(m.vcpu.getRegs().rbx & 0x3203n, 0x203n);
    },
  },
  {
    name: "ring 3: a loop is interrupted by the local APIC timer",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables, [DATA]);
      m.load(64, (a) => {
        a.push("rdx").mov(at(result(0), { size: 8 }), 1).mov("rdx", at("rsp", { disp: 16 }));
        a.mov(at(result(1)), "rdx");
        eoi(a).pop("rdx").iret();
      }, 0xe000);
      writeGate64(m.memory, 0x40, { offset: 0xe000 });
      m.load(64, (a) => {
        maskPics(loadTss(a));
        setLapicReg(a, Lapic.Spurious, 0x1ff);
        setLapicReg(a, Lapic.TimerDivide, 0xb);
        setLapicReg(a, Lapic.LvtTimer, 0x40);
        setLapicReg(a, Lapic.TimerInitial, 2_000_000);
        enterUser(a, "user", { flags: 0x202 }).label("user").mov("ebx", 0x5a5a);
        a.label("loop").cmp(at(result(0), { size: 4 }), 0).jcc("e", "loop").op("ud2");
      });
      m.run();
      assertFault(m, { vector: Vector.UD });
      assert.equal(m.result(1), BigInt(Selector.UserCode64), "it was in ring 3");
      assert.equal(m.vcpu.getRegs().rbx, 0x5a5an);
    },
  },
  {
    name: "ring 3: page faults with its own addresses, and going on behind them",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      openToUser(m, tables, [DATA]);
      const virtual = 0x5000_0000_0000n;
      const entry = tables.entryAddress(virtual);
      m.load(64, (a) => {
        // Demand paging: the handler maps the page and the instruction is tried again.
        a.push("rax").push("rbx").mov("rax", FREE + 7).mov("rbx", entry).mov(at("rbx"), "rax");
        a.add(at(result(0), { size: 8 }), 1).mov("rax", "cr2").mov(at(result(1)), "rax");
        a.mov("rax", at("rsp", { disp: 16 })).mov(at(result(2)), "rax");
        a.pop("rbx").pop("rax").add("rsp", 8).iret();
      }, 0xe000);
      writeGate64(m.memory, Vector.PF, { offset: 0xe000 });
      m.memory.writeU64(FREE + 0x18, 41n);
      m.load(64, (a) => {
        enterUser(loadTss(a), "user").label("user").mov("rbx", virtual);
        a.add(at("rbx", { disp: 0x18, size: 8 }), 1).mov("rcx", at("rbx", { disp: 0x18 })).op(
          "ud2",
        );
      });
      m.run();
      assertFault(m, { vector: Vector.UD });
      assert.deepEqual([0, 1].map((index) => m.result(index)), [1n, virtual + 0x18n]);
      assert.equal(m.result(2), BigInt(PageFault.Write | PageFault.User));
      assert.equal(m.vcpu.getRegs().rcx, 42n);
      assert.equal(m.memory.readU64(FREE + 0x18), 42n);
    },
  },
  {
    name: "the GDT's limit counts",
    run(m) {
      m.startLong();
      installFaultHandler64(m);
      m.vcpu.setSregs({ gdt: { base: 0x1000n, limit: Selector.Spare - 1 } });
      assert.ok(GDT_SIZE_BYTES > Selector.Spare);
      const code = m.load(64, (a) => {
        a.mov("eax", Selector.Spare).label("fault").mov("fs", "ax").label("resume");
        a.out(Port.Done, "al");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      const rip = code.addressOf("fault");
      assertFault(m, { vector: Vector.GP, errorCode: Selector.Spare, rip });
    },
  },
];
