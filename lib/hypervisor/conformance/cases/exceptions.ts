/**
 * Exceptions: which, with which error code, from which instruction; gates, stacks and returns.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, ref } from "../asm/mod.ts";
import {
  assertFault,
  installFaultHandler32,
  installFaultHandler64,
  resumeAt,
  Vector,
} from "../faults.ts";
import { ExitReason } from "../../mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { CODE, FREE, IST1_STACK, IST2_STACK, Port, Selector, STACK } from "../layout.ts";
import { Control, type TestMachine } from "../machine.ts";
import { result, writeDescriptor, writeGate32, writeGate64 } from "../tables.ts";

interface FaultCase {
  readonly name: string;
  readonly vector: number;
  readonly errorCode?: number;
  /** The code; label `fault` is where RIP has to point. */
  readonly build: (a: Assembler) => void;
  readonly setup?: (m: TestMachine) => void;
  readonly notEmulated?: string;
}

const NON_CANONICAL = 0x8000_0000_0000n;
const NO_INTERPRETER = "it does not interpret the instruction";

/** A descriptor at {@link Selector.Spare}. */
function spare(access: number, more: { limit?: number; flags?: number } = {}) {
  return (m: TestMachine): void => {
    const { limit = 0xfff, flags = 4 } = more;
    writeDescriptor(m.memory, Selector.Spare, { base: FREE, limit, access, flags });
  };
}

const LONG_MODE: readonly FaultCase[] = [
  {
    name: "division by zero is #DE",
    vector: Vector.DE,
    build: (a) => a.mov("ecx", 0).label("fault").unary("div", "rcx"),
  },
  {
    name: "a quotient that does not fit is #DE",
    vector: Vector.DE,
    build: (a) => a.mov("eax", 0x1000).mov("cl", 1).label("fault").unary("div", "cl"),
  },
  {
    name: "the least number divided by -1 is #DE",
    vector: Vector.DE,
    build: (a) => {
      a.mov("eax", 0x8000_0000).mov("edx", -1).mov("ecx", -1).label("fault").unary("idiv", "ecx");
    },
  },
  { name: "UD2 is #UD", vector: Vector.UD, build: (a) => a.label("fault").op("ud2") },
  {
    name: "LOCK on an instruction that has none is #UD",
    vector: Vector.UD,
    build: (a) => a.label("fault").db(0xf0, 0x90),
  },
  {
    name: "LOCK on a register is #UD",
    vector: Vector.UD,
    build: (a) => a.label("fault").db(0xf0, 0x01, 0xc0),
  },
  {
    name: "an opcode that 64-bit mode took away is #UD",
    vector: Vector.UD,
    build: (a) => a.label("fault").db(0x0e),
  },
  {
    name: "MOV to CS is #UD",
    vector: Vector.UD,
    build: (a) => a.label("fault").db(0x8e, 0xc8),
  },
  {
    name: "MOV to a control register that is not there is #UD",
    vector: Vector.UD,
    build: (a) => a.label("fault").db(0x0f, 0x22, 0xc8),
  },
  {
    name: "an instruction of more than 15 bytes is #GP",
    vector: Vector.GP,
    build: (a) => a.label("fault").db(...Array<number>(15).fill(0x66), 0x90),
  },
  {
    name: "a non-canonical address is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("rbx", NON_CANONICAL).label("fault").mov("rax", at("rbx")),
  },
  {
    name: "a non-canonical address in the stack segment is #SS",
    vector: Vector.SS,
    build: (a) => a.mov("rbp", NON_CANONICAL).label("fault").mov("rax", at("rbp")),
  },
  {
    name: "a push to a non-canonical stack is #SS",
    vector: Vector.SS,
    // The handler needs a stack of its own.
    setup: (m) => installFaultHandler64(m, { ist: 1 }),
    build: (a) => a.mov("rsp", NON_CANONICAL + 8n).label("fault").push("rax"),
  },
  {
    name: "a jump to a non-canonical address is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("rbx", NON_CANONICAL).label("fault").jmp("rbx"),
  },
  {
    name: "an MSR that is not there is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("ecx", 0xdead_beef).label("fault").op("rdmsr"),
  },
  {
    name: "a non-canonical LSTAR is #GP",
    vector: Vector.GP,
    build: (a) => {
      a.mov("ecx", 0xc000_0082).xor("eax", "eax").mov("edx", 0x8000_0000).label("fault").op(
        "wrmsr",
      );
    },
  },
  {
    name: "a reserved bit in EFER is #GP",
    vector: Vector.GP,
    build: (a) => {
      a.mov("ecx", 0xc000_0080).op("rdmsr").or("eax", 1 << 9).label("fault").op("wrmsr");
    },
  },
  {
    name: "paging without protection is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("rax", 0x8000_0000n).label("fault").mov("cr0", "rax"),
  },
  {
    name: "a reserved bit in CR4 is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("rax", "cr4").or("eax", 1 << 31).label("fault").mov("cr4", "rax"),
  },
  {
    name: "PAE taken away in long mode is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("rax", "cr4").and("rax", ~0x20).label("fault").mov("cr4", "rax"),
  },
  {
    name: "a high bit in CR8 is #GP",
    vector: Vector.GP,
    build: (a) => a.mov("eax", 16).label("fault").mov("cr8", "rax"),
  },
  {
    name: "a selector beyond the GDT is #GP with the selector",
    vector: Vector.GP,
    errorCode: 0x100,
    build: (a) => a.mov("eax", 0x100).label("fault").mov("ds", "ax"),
  },
  {
    name: "a selector of an LDT that is not there is #GP with the selector",
    vector: Vector.GP,
    errorCode: 0x14,
    build: (a) => a.mov("eax", 0x14).label("fault").mov("es", "ax"),
  },
  {
    name: "a segment that is not present is #NP with the selector",
    vector: Vector.NP,
    errorCode: Selector.Spare,
    setup: spare(0x13),
    build: (a) => a.mov("eax", Selector.Spare).label("fault").mov("ds", "ax"),
  },
  {
    name: "a stack segment that is not present is #SS with the selector",
    vector: Vector.SS,
    errorCode: Selector.Spare,
    setup: spare(0x13),
    build: (a) => a.mov("eax", Selector.Spare).label("fault").mov("ss", "ax"),
  },
  {
    name: "a stack segment of another privilege is #GP with the selector",
    vector: Vector.GP,
    errorCode: Selector.UserData & ~3,
    build: (a) => a.mov("eax", Selector.UserData).label("fault").mov("ss", "ax"),
  },
  {
    name: "an execute-only segment cannot be loaded as data",
    vector: Vector.GP,
    errorCode: Selector.Spare,
    setup: spare(0x99),
    build: (a) => a.mov("eax", Selector.Spare).label("fault").mov("ds", "ax"),
  },
  {
    name: "a far jump to a data segment is #GP with the selector",
    vector: Vector.GP,
    errorCode: Selector.Data,
    build: (a) => {
      a.jmp("go").label("target").dd(0).dw(Selector.Data).label("go");
      a.label("fault").jmpFarIndirect(at("rip", { disp: ref("target") }), 4);
    },
  },
  {
    name: "a far return to a null selector is #GP",
    vector: Vector.GP,
    build: (a) => a.push(0).push(CODE).label("fault").retf(8),
  },
  {
    name: "IRET to a non-canonical address is #GP",
    vector: Vector.GP,
    build: (a) => {
      a.push(Selector.Data).push(STACK).push(2).push(Selector.Code64).mov("rax", NON_CANONICAL);
      a.push("rax").label("fault").iret();
    },
    notEmulated: "it loads RIP before it checks it",
  },
  {
    name: "IRET to a data segment is #GP with the selector",
    notEmulated: "it returns before it checks the segment",
    vector: Vector.GP,
    errorCode: Selector.Data,
    build: (a) => {
      a.push(Selector.Data).push(STACK).push(2).push(Selector.Data).push(CODE).label("fault")
        .iret();
    },
  },
  {
    name: "LTR of what is no TSS is #GP with the selector",
    vector: Vector.GP,
    errorCode: Selector.Data,
    build: (a) => a.mov("eax", Selector.Data).label("fault").selector("ltr", "ax"),
  },
  {
    name: "LTR of a busy TSS is #GP with the selector",
    vector: Vector.GP,
    errorCode: Selector.Tss,
    build: (a) => {
      a.mov("eax", Selector.Tss).selector("ltr", "ax").label("fault").selector("ltr", "ax");
    },
  },
  {
    name: "INT through a gate that is not present is #NP with the gate",
    vector: Vector.NP,
    errorCode: 0x50 * 8 + 2,
    setup: (m) => writeGate64(m.memory, 0x50, { offset: CODE, present: false }),
    build: (a) => a.label("fault").int(0x50),
    notEmulated: NO_INTERPRETER,
  },
  {
    name: "INT beyond the IDT is #GP with the gate",
    vector: Vector.GP,
    errorCode: 0x90 * 8 + 2,
    setup: (m) => m.vcpu.setSregs({ idt: { base: 0x2000n, limit: 0x8ff } }),
    build: (a) => a.label("fault").int(0x90),
    notEmulated: NO_INTERPRETER,
  },
  {
    name: "SSE with CR0.TS is #NM",
    vector: Vector.NM,
    build: (a) => {
      a.mov("rax", "cr0").or("rax", Number(Control.TS)).mov("cr0", "rax").mov("rbx", FREE);
      a.label("fault").movups("xmm0", at("rbx"));
    },
    notEmulated: "it does not interpret SSE",
  },
  {
    name: "SSE without CR4.OSFXSR is #UD",
    vector: Vector.UD,
    build: (a) => {
      a.mov("rax", "cr4").and("rax", ~Number(Control.OSFXSR)).mov("cr4", "rax").mov("rbx", FREE);
      a.label("fault").movups("xmm0", at("rbx"));
    },
    notEmulated: "it does not interpret SSE",
  },
  {
    name: "x87 with CR0.EM is #NM",
    vector: Vector.NM,
    build: (a) => {
      a.mov("rax", "cr0").or("rax", Number(Control.EM)).mov("cr0", "rax");
      a.label("fault").op("fninit");
    },
    notEmulated: "it does not interpret x87",
  },
];

const PROTECTED_MODE: readonly FaultCase[] = [
  {
    name: "a load beyond a segment's limit is #GP",
    vector: Vector.GP,
    setup: spare(0x93),
    build: (a) => {
      a.mov("eax", Selector.Spare).mov("fs", "ax").mov("eax", at(0xffc, { segment: "fs" }));
      a.label("fault").mov("eax", at(0xffd, { segment: "fs" }));
    },
  },
  {
    name: "a store beyond the stack segment's limit is #SS",
    vector: Vector.SS,
    setup: (m) => {
      spare(0x93, { limit: 0x7fff })(m);
      writeDescriptor(m.memory, Selector.Spare, { base: 0, limit: 0x7fff, access: 0x93, flags: 4 });
    },
    build: (a) => {
      a.mov("eax", Selector.Spare).mov("ss", "ax").mov("esp", STACK - 64).mov("ebp", 0x7ffd);
      a.label("fault").mov(at("ebp"), "eax");
    },
  },
  {
    name: "an expand-down segment begins above its limit",
    vector: Vector.GP,
    setup: spare(0x97),
    build: (a) => {
      a.mov("eax", Selector.Spare).mov("fs", "ax").mov("eax", at(0x1000, { segment: "fs" }));
      a.label("fault").mov("eax", at(0xfff, { segment: "fs" }));
    },
  },
  {
    name: "a store to a read-only segment is #GP",
    vector: Vector.GP,
    setup: spare(0x91),
    build: (a) => {
      a.mov("eax", Selector.Spare).mov("fs", "ax").mov("eax", at(0, { segment: "fs" }));
      a.label("fault").mov(at(0, { segment: "fs" }), "eax");
    },
  },
  {
    name: "a store through CS is #GP",
    vector: Vector.GP,
    build: (a) => a.label("fault").mov(at(FREE, { segment: "cs" }), "eax"),
  },
  {
    name: "a load from an execute-only code segment is #GP",
    vector: Vector.GP,
    setup: (m) => {
      writeDescriptor(m.memory, Selector.Spare, {
        base: 0,
        limit: 0xf_ffff,
        access: 0x99,
        flags: 12,
      });
    },
    build: (a) => {
      a.jmpFar(Selector.Spare, ref("inside")).label("inside");
      a.label("fault").mov("eax", at(FREE, { segment: "cs" }));
    },
  },
  {
    name: "a load through a null selector is #GP",
    vector: Vector.GP,
    build: (a) => {
      a.xor("eax", "eax").mov("gs", "ax").label("fault").mov("eax", at(0, { segment: "gs" }));
    },
  },
  {
    name: "a null selector in SS is #GP",
    vector: Vector.GP,
    build: (a) => a.xor("eax", "eax").label("fault").mov("ss", "ax"),
  },
  {
    name: "a granular limit counts in pages",
    vector: Vector.GP,
    setup: spare(0x93, { limit: 1, flags: 12 }),
    build: (a) => {
      a.mov("eax", Selector.Spare).mov("fs", "ax").mov("al", at(0x1fff, { segment: "fs" }));
      a.label("fault").mov("al", at(0x2000, { segment: "fs" }));
    },
  },
  {
    name: "a jump beyond the code segment's limit is #GP",
    vector: Vector.GP,
    setup: (m) => {
      writeDescriptor(m.memory, Selector.Spare, { base: 0, limit: 0xdfff, access: 0x9b, flags: 4 });
    },
    build: (a) => {
      a.jmpFar(Selector.Spare, ref("inside")).label("inside").mov("eax", 0xe000);
      a.label("fault").jmp("eax");
    },
  },
  {
    name: "INTO with overflow is #OF",
    vector: Vector.OF,
    build: (a) => a.mov("al", 0x7f).add("al", 1).op("into").label("fault"),
    notEmulated: NO_INTERPRETER,
  },
  {
    name: "BOUND outside the bounds is #BR",
    vector: Vector.BR,
    build: (a) => {
      a.mov(at(FREE, { size: 4 }), 5).mov(at(FREE + 4, { size: 4 }), 10).mov("eax", 10);
      a.mov("ebx", FREE).db(0x62, 0x03).mov("eax", 11).label("fault").db(0x62, 0x03);
    },
    notEmulated: NO_INTERPRETER,
  },
  {
    name: "a far jump to a segment that is not present is #NP with the selector",
    vector: Vector.NP,
    errorCode: Selector.Spare,
    setup: spare(0x1b),
    build: (a) => a.label("fault").jmpFar(Selector.Spare, 0),
  },
];

function faultTest(mode: "long mode" | "protected mode", fault: FaultCase): GuestTest {
  return {
    name: `${mode}: ${fault.name}`,
    ...(fault.notEmulated === undefined ? {} : { notEmulated: fault.notEmulated }),
    run(m) {
      const code = m.load(mode === "long mode" ? 64 : 32, (a) => {
        fault.build(a);
        a.mov("eax", 0xbad).out(Port.Report, "eax").out(Port.Done, "al");
      });
      if (mode === "long mode") {
        m.startLong();
        installFaultHandler64(m);
      } else {
        m.startProtected();
        installFaultHandler32(m);
      }
      fault.setup?.(m);
      m.run();
      assert.deepEqual(m.io.reports, [], "there was no exception");
      const { vector, errorCode = 0 } = fault;
      assertFault(m, { vector, errorCode, rip: code.addressOf("fault") });
    },
  };
}

/** The guests. */
export const EXCEPTION_TESTS: readonly GuestTest[] = [
  ...LONG_MODE.map((fault) => faultTest("long mode", fault)),
  ...PROTECTED_MODE.map((fault) => faultTest("protected mode", fault)),
  {
    name: "long mode: what an exception pushes, and where IRET goes on",
    run(m) {
      const code = m.load(64, (a) => {
        a.mov("rsp", STACK - 4).op("stc").label("fault").op("ud2");
        a.label("resume").mov(at(result(0)), "rsp").pushf().pop("rax").mov(at(result(1)), "rax");
        a.out(Port.Done, "al");
      });
      m.startLong();
      installFaultHandler64(m);
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assertFault(m, { vector: Vector.UD, rip: code.addressOf("fault"), cs: Selector.Code64 });
      assert.equal(m.fault("Rsp"), BigInt(STACK - 4), "the stack is aligned, the frame has RSP");
      assert.equal(m.fault("Ss"), BigInt(Selector.Data));
      assert.equal(m.fault("Rflags") & 3n, 3n);
      assert.equal(m.result(0), BigInt(STACK - 4));
      assert.equal(m.result(1) & 1n, 1n);
    },
  },
  {
    name: "long mode: INT n and INT3 return behind the instruction",
    notEmulated: NO_INTERPRETER,
    run(m) {
      const code = m.load(64, (a) => {
        a.int(0x40).label("after").op("int3").label("last").out(Port.Done, "al");
      });
      m.load(64, (a) => {
        a.mov("rax", at("rsp")).out(Port.Report, "eax").pushf().pop("rax").shr("rax", 9);
        a.and("eax", 1).out(Port.Report, "eax").iret();
      }, 0xe000);
      m.startLong();
      installFaultHandler64(m);
      writeGate64(m.memory, 0x40, { offset: 0xe000 });
      writeGate64(m.memory, 3, { offset: 0xe000, type: 0xf });
      m.vcpu.setRegs({ rflags: 0x202n });
      m.run();
      const [after, last] = ["after", "last"].map((label) => code.addressOf(label));
      assert.deepEqual(m.io.reports, [after, 0, last, 1], "a trap gate leaves IF on");
    },
  },
  {
    name: "long mode: an interrupt stack table entry gives the handler its own stack",
    run(m) {
      const code = m.load(64, (a) => {
        a.mov("eax", Selector.Tss).selector("ltr", "ax").label("fault").op("ud2");
        a.label("resume").mov(at(result(1)), "rsp").out(Port.Done, "al");
      });
      m.load(64, (a) => {
        a.mov(at(result(0)), "rsp").mov("rax", ref("resume_at")).mov("rax", at("rax"));
        a.mov(at("rsp"), "rax").iret().label("resume_at").dq(code.addressOf("resume"));
      }, 0xe000);
      m.startLong();
      installFaultHandler64(m);
      writeGate64(m.memory, Vector.UD, { offset: 0xe000, ist: 1 });
      m.run();
      assert.equal(m.result(0), BigInt(IST1_STACK - 40));
      assert.equal(m.result(1), BigInt(STACK));
    },
  },
  {
    name: "long mode: a fault while a page fault is delivered is a double fault",
    run(m) {
      m.load(64, (a) => {
        a.mov("eax", Selector.Tss).selector("ltr", "ax").mov("rbx", 0x2_0000_0000n);
        a.label("fault").mov("rax", at("rbx")).out(Port.Done, "al");
      });
      m.load(64, (a) => {
        a.mov(at(result(1)), "rsp").pop("rax").mov(at(result(0)), "rax");
        a.mov("eax", 8).out(Port.Report, "eax").out(Port.Done, "al");
      }, 0xe000);
      m.startLong();
      installFaultHandler64(m);
      writeGate64(m.memory, Vector.PF, { offset: 0xf000, present: false });
      writeGate64(m.memory, Vector.DF, { offset: 0xe000, ist: 2 });
      m.run();
      assert.deepEqual(m.io.reports, [8]);
      assert.equal(m.result(0), 0n, "its error code is 0");
      assert.equal(m.result(1), BigInt(IST2_STACK - 48));
    },
  },
  {
    name: "long mode: a fault while a double fault is delivered is a shutdown",
    run(m) {
      m.load(64, (a) => a.op("ud2"));
      m.startLong();
      installFaultHandler64(m, { present: false });
      assert.equal(ExitReason[m.runToExit().reason], "Shutdown");
    },
  },
  {
    name: "protected mode: what an exception pushes, and where IRET goes on",
    notEmulated: "it does not interpret IRET in protected mode",
    run(m) {
      const code = m.load(32, (a) => {
        a.op("stc").label("fault").op("ud2").label("resume");
        a.mov(at(result(0)), "esp").pushf().pop("eax").mov(at(result(1)), "eax");
        a.out(Port.Done, "al");
      });
      m.startProtected();
      installFaultHandler32(m);
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assertFault(m, { vector: Vector.UD, rip: code.addressOf("fault"), cs: Selector.Code32 });
      assert.equal(m.result(0), BigInt(STACK));
      assert.equal(m.result(1) & 1n, 1n);
    },
  },
  {
    name: "protected mode: interrupts to 16-bit gates and back",
    notEmulated: NO_INTERPRETER,
    run(m) {
      m.load(32, (a) => {
        a.int(0x40).mov(at(result(1)), "esp").out(Port.Done, "al");
      });
      m.load(32, (a) => {
        a.mov(at(result(0)), "esp").iret(2);
      }, 0xe000);
      m.startProtected();
      installFaultHandler32(m);
      writeGate32(m.memory, 0x40, { offset: 0xe000, type: 6 });
      m.run();
      assert.equal(m.result(0), BigInt(STACK - 6));
      assert.equal(m.result(1), BigInt(STACK));
    },
  },
];
