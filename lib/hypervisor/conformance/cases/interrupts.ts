/**
 * HLT and what wakes from it: PIC, I/O APIC, PIT, local APIC timer, MSI; masks and priorities.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at } from "../asm/mod.ts";
import { installFaultHandler64 } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { Port } from "../layout.ts";
import type { TestMachine } from "../machine.ts";
import { result, writeGate64 } from "../tables.ts";
import {
  eoi,
  getIoapicReg,
  getLapicReg,
  Ioapic,
  Lapic,
  maskPics,
  pit,
  programPics,
  setIoapicPin,
  setLapicReg,
  takeInterrupts,
  wrmsr,
} from "../pc_hardware.ts";

const VECTOR = 0x40;
const OTHER_VECTOR = 0x50;
const COUNT = result(0);
const NO_IN_SERVICE = "its local APIC notes no interrupt as in service";
const IA32_APIC_BASE = 0x1b;
const IA32_TSC_DEADLINE = 0x6e0;
const X2APIC = 0x800;

/** Puts a handler of `vector` behind the code: it counts, ends the interrupt, and returns. */
function countingHandler(
  m: TestMachine,
  vector: number,
  options: { origin?: number; counter?: number; end?: (a: Assembler) => void } = {},
): void {
  const { origin = 0xe000, counter = COUNT, end = eoi } = options;
  m.load(64, (a) => {
    a.push("rax").push("rdx").add(at(counter, { size: 8 }), 1);
    end(a);
    a.pop("rdx").pop("rax").iret();
  }, origin);
  writeGate64(m.memory, vector, { offset: origin });
}

/** STI and HLT until COUNT has reached `count`, then done. */
function sleepUntil(a: Assembler, count: number): void {
  a.label("sleep").op("cli").cmp(at(COUNT, { size: 8 }), count).jcc("ae", "awake");
  a.op("sti").op("hlt").jmp("sleep").label("awake").out(Port.Done, "al");
}

function enableLapic(a: Assembler): void {
  setLapicReg(a, Lapic.Spurious, 0x1ff);
}

const PIC_EOI = (a: Assembler) => a.mov("al", 0x20).out(0x20, "al");

/** The guests. */
export const INTERRUPT_TESTS: readonly GuestTest[] = [
  {
    name: "HLT is woken by the PIT through the PIC",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, 0x20, { end: PIC_EOI });
      m.load(64, (a) => {
        programPics(a, { base: 0x20, mask: 0xfe });
        pit(a, { mode: 2, count: 1193 });
        sleepUntil(a, 3);
      });
      m.startLong();
      m.run();
      // One more may come before interrupts are off.
      assert.ok(m.result(0) >= 3n);
    },
  },
  {
    name: "HLT is woken by the PIT in real mode",
    run(m) {
      m.load(16, (a) => {
        a.mov(at(8 * 4, { size: 2 }), 0xe000).mov(at(8 * 4 + 2, { size: 2 }), 0);
        programPics(a, { base: 8, mask: 0xfe });
        pit(a, { mode: 2, count: 1193 });
        a.label("sleep").op("cli").cmp(at(COUNT, { size: 2 }), 2).jcc("ae", "awake");
        a.op("sti").op("hlt").jmp("sleep").label("awake").out(Port.Done, "al");
      });
      m.load(16, (a) => {
        a.push("ax").add(at(COUNT, { size: 2 }), 1).mov("al", 0x20).out(0x20, "al").pop("ax");
        a.iret();
      }, 0xe000);
      m.startReal();
      m.run();
      assert.ok(m.result(0) >= 2n);
    },
  },
  {
    name: "HLT is woken by the PIT through the I/O APIC",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setIoapicPin(a, { pin: 0, low: VECTOR });
        pit(a, { mode: 2, count: 1193 });
        sleepUntil(a, 3);
      });
      m.startLong();
      m.run();
      // One more may come before interrupts are off.
      assert.ok(m.result(0) >= 3n);
    },
  },
  {
    name: "the PIT's one-shot mode fires once",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, 0x20, { end: PIC_EOI });
      m.load(64, (a) => {
        programPics(a, { base: 0x20, mask: 0xfe });
        pit(a, { mode: 0, count: 2000 });
        sleepUntil(a, 1);
        // Channel 2 tells that much more time went by.
        a.in("al", 0x61).and("al", 0xfc).or("al", 1).out(0x61, "al");
        a.mov("al", 0xb0).out(0x43, "al").mov("al", 0).out(0x42, "al").mov("al", 0x20).out(
          0x42,
          "al",
        );
        a.op("sti").label("wait").in("al", 0x61).test("al", 0x20).jcc("e", "wait");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      m.run();
      assert.equal(m.result(0), 1n);
    },
  },
  {
    name: "HLT is woken by the local APIC timer, one-shot and periodic",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setLapicReg(a, Lapic.TimerDivide, 0xb);
        setLapicReg(a, Lapic.LvtTimer, VECTOR);
        setLapicReg(a, Lapic.TimerInitial, 1_000_000);
        sleepUntil(a, 1);
        setLapicReg(a, Lapic.LvtTimer, VECTOR | 1 << 17);
        setLapicReg(a, Lapic.TimerInitial, 1_000_000);
        a.label("again").op("cli").cmp(at(COUNT, { size: 8 }), 4).jcc("ae", "end");
        a.op("sti").op("hlt").jmp("again").label("end").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
      m.run();
      assert.ok(m.result(0) >= 4n);
    },
  },
  {
    name: "the local APIC timer's count goes down and stops at zero",
    run(m) {
      installFaultHandler64(m);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setLapicReg(a, Lapic.TimerDivide, 0xb);
        setLapicReg(a, Lapic.LvtTimer, VECTOR | 1 << 16);
        setLapicReg(a, Lapic.TimerInitial, 50_000_000);
        getLapicReg(a, Lapic.TimerCurrent).mov("ebx", "eax").mov(at(result(1)), "ebx");
        getLapicReg(a.label("wait"), Lapic.TimerCurrent).cmp("eax", "ebx");
        a.jcc("a", "wrong").mov("ebx", "eax").test("eax", "eax").jcc("ne", "wait");
        a.mov(at(result(2), { size: 4 }), 1).label("wrong").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.ok(m.result(1) > 0n && m.result(1) <= 50_000_000n);
      assert.equal(m.result(2), 1n);
    },
  },
  {
    name: "HLT is woken by the TSC-deadline timer",
    features: ["TSC-deadline timer"],
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setLapicReg(a, Lapic.LvtTimer, VECTOR | 2 << 17);
        a.op("mfence").op("rdtsc").add("eax", 5_000_000).alu("adc", "edx", 0);
        a.mov("ecx", IA32_TSC_DEADLINE).op("wrmsr").mov("ebx", "eax");
        a.label("sleep").op("cli").cmp(at(COUNT, { size: 8 }), 1).jcc("ae", "awake");
        a.op("sti").op("hlt").jmp("sleep").label("awake").op("rdtsc").sub("eax", "ebx");
        a.mov(at(result(1)), "eax").mov("ecx", IA32_TSC_DEADLINE).op("rdmsr");
        a.mov(at(result(2)), "eax").mov(at(result(3)), "edx").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
      assert.ok(m.result(1) < 0x8000_0000n, "the interrupt came before the deadline");
      assert.deepEqual([m.result(2), m.result(3)], [0n, 0n], "the deadline is cleared");
    },
  },
  {
    name: "x2APIC mode: identity, timer, self-IPI",
    features: ["x2APIC"],
    run(m) {
      installFaultHandler64(m);
      const end = (a: Assembler) => a.push("rcx") && wrmsr(a, X2APIC + 0xb, 0).pop("rcx");
      countingHandler(m, VECTOR, { end });
      countingHandler(m, OTHER_VECTOR, { end, origin: 0xe100, counter: result(1) });
      m.load(64, (a) => {
        maskPics(a);
        wrmsr(a, IA32_APIC_BASE, 0xfee0_0d00);
        wrmsr(a, X2APIC + 0xf, 0x1ff);
        a.mov("ecx", X2APIC + 2).op("rdmsr").mov(at(result(2)), "eax");
        wrmsr(a, X2APIC + 0x3e, 0xb);
        wrmsr(a, X2APIC + 0x32, VECTOR);
        wrmsr(a, X2APIC + 0x38, 500_000);
        wrmsr(a, X2APIC + 0x3f, OTHER_VECTOR);
        sleepUntil(a, 1);
      });
      m.startLong();
      m.run();
      assert.deepEqual([m.result(0), m.result(1), m.result(2)], [1n, 1n, 0n]);
    },
  },
  {
    name: "HLT is woken by an MSI from another thread",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        a.out(Port.Note, "al");
        sleepUntil(a, 1);
      });
      m.io.onNote = () => m.tell({ do: "msi", address: 0xfee0_0000n, data: VECTOR });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
    },
  },
  {
    name: "edge and level interrupts of the I/O APIC",
    notEmulated: NO_IN_SERVICE,
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      countingHandler(m, OTHER_VECTOR, {
        origin: 0xe100,
        counter: result(1),
        // The device lowers its line at the second interrupt.
        end: (a) => {
          a.cmp(at(result(1), { size: 8 }), 2).jcc("ne", "still").out(Port.Note, "al");
          eoi(a.label("still"));
        },
      });
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setIoapicPin(a, { pin: 5, low: VECTOR });
        setIoapicPin(a, { pin: 10, low: OTHER_VECTOR | 1 << 15 });
        takeInterrupts(takeInterrupts(a)).out(Port.Done, "al");
      });
      m.io.onNote = () => m.vm.setIrqLine(10, false);
      m.vm.setIrqLine(5, false);
      m.startLong();
      m.run();
      assert.deepEqual([m.result(0), m.result(1)], [0n, 0n]);
      m.vm.setIrqLine(5, true);
      m.vm.setIrqLine(10, true);
      m.vcpu.setRegs({ rip: 0xa000n });
      m.run();
      assert.equal(m.result(1), 2n, "a level interrupt comes until the line is low");
      assert.equal(m.result(0), 1n, "an edge interrupt comes once");
      m.vm.setIrqLine(5, true);
      m.vcpu.setRegs({ rip: 0xa000n });
      m.run();
      assert.equal(m.result(0), 1n, "a line that stays high is no edge");
      m.vm.setIrqLine(5, false);
      m.vm.setIrqLine(5, true);
      m.vcpu.setRegs({ rip: 0xa000n });
      m.run();
      assert.equal(m.result(0), 2n);
    },
  },
  {
    name: "an edge of the I/O APIC interrupts once, a line that stays high does not",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setIoapicPin(a, { pin: 5, low: VECTOR });
        a.label("again").out(Port.Note, "al");
        takeInterrupts(a).out(Port.Done, "al").jmp("again");
      });
      let levels: boolean[] = [];
      m.io.onNote = () => {
        for (const level of levels) m.vm.setIrqLine(5, level);
      };
      m.startLong();
      const steps: [boolean[], bigint][] = [[[], 0n], [[true], 1n], [[true], 1n], [[false], 1n]];
      for (const [next, count] of [...steps, [[true, false], 2n], [[], 2n]] as typeof steps) {
        levels = next;
        m.run();
        assert.equal(m.result(0), count);
      }
    },
  },
  {
    name: "the I/O APIC's registers, masks and remote IRR",
    run(m) {
      installFaultHandler64(m);
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setIoapicPin(a, { pin: 7, low: VECTOR | 1 << 15 | 1 << 16, high: 0 });
        getIoapicReg(a, Ioapic.Version).mov(at(result(1)), "eax");
        getIoapicReg(a, Ioapic.Redirection + 14).mov(at(result(2)), "eax");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.vm.setIrqLine(7, true);
      m.run();
      assert.equal(m.result(1) >> 16n & 0xffn, 23n, "24 pins");
      assert.equal(m.result(2) & 0xffffn, BigInt(VECTOR | 1 << 15));
      assert.equal(m.result(2) & 0x1_0000n, 0x1_0000n);
    },
  },
  {
    name: "STI delays interrupts by one instruction, CLI holds them back",
    notEmulated: "it takes interrupts only at exits",
    run(m) {
      installFaultHandler64(m);
      m.load(64, (a) => {
        a.mov("rax", at("rsp")).mov(at(result(2)), "rax").add(at(COUNT, { size: 8 }), 1);
        eoi(a).iret();
      }, 0xe000);
      writeGate64(m.memory, VECTOR, { offset: 0xe000 });
      const code = m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        a.out(Port.Note, "al").mov("rcx", at(COUNT)).mov(at(result(1)), "rcx");
        a.op("sti").label("shadow").op("nop").label("after").op("nop").op("cli").out(
          Port.Done,
          "al",
        );
      });
      m.io.onNote = () => m.vm.signalMsi(0xfee0_0000n, VECTOR);
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
      assert.equal(m.result(1), 0n, "not while interrupts are off");
      assert.equal(m.result(2), BigInt(code.addressOf("after")));
    },
  },
  {
    name: "the task priority holds lower interrupts back",
    run(m) {
      installFaultHandler64(m);
      countingHandler(m, VECTOR);
      countingHandler(m, 0x81, { origin: 0xe100, counter: result(1) });
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        takeInterrupts(a.mov("rax", 5).mov("cr8", "rax").out(Port.Note, "al"));
        a.mov("rax", at(result(0))).mov(at(result(2)), "rax");
        a.mov("rax", at(result(1))).mov(at(result(3)), "rax");
        getLapicReg(a, Lapic.Tpr).mov(at(result(4)), "eax");
        takeInterrupts(a.xor("eax", "eax").mov("cr8", "rax")).out(Port.Done, "al");
      });
      m.io.onNote = () => {
        m.vm.signalMsi(0xfee0_0000n, VECTOR);
        m.vm.signalMsi(0xfee0_0000n, 0x81);
      };
      m.startLong();
      m.run();
      const results = [2, 3, 4, 0, 1].map((index) => m.result(index));
      assert.deepEqual(results, [0n, 1n, 0x50n, 1n, 1n]);
    },
  },
  {
    name: "a higher interrupt nests in a lower one, not the other way round",
    notEmulated: NO_IN_SERVICE,
    run(m) {
      installFaultHandler64(m);
      // Each handler appends its number at entry and at exit.
      const handler = (origin: number, number: number, sends?: number) =>
        m.load(64, (a) => {
          a.push("rax").mov("eax", number).out(Port.Report, "eax");
          if (sends !== undefined) setLapicReg(a, Lapic.IcrLow, 0x4_0000 | sends);
          takeInterrupts(a).mov("eax", number + 0x100).out(Port.Report, "eax");
          eoi(a).pop("rax").iret();
        }, origin);
      handler(0xe000, 1, 0x81);
      handler(0xe200, 2, 0x41);
      handler(0xe400, 3);
      writeGate64(m.memory, 0x61, { offset: 0xe000 });
      writeGate64(m.memory, 0x81, { offset: 0xe200 });
      writeGate64(m.memory, 0x41, { offset: 0xe400 });
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        setLapicReg(a, Lapic.IcrLow, 0x4_0000 | 0x61);
        takeInterrupts(takeInterrupts(a)).out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 0x102, 0x101, 3, 0x103]);
    },
  },
  {
    name: "an NMI comes through CLI, and not into an NMI",
    run(m) {
      installFaultHandler64(m);
      m.load(64, (a) => {
        a.push("rax").mov("eax", 1).out(Port.Report, "eax");
        a.cmp(at(COUNT, { size: 8 }), 0).jcc("ne", "end").mov(at(COUNT, { size: 8 }), 1);
        setLapicReg(a, Lapic.IcrHigh, 0);
        setLapicReg(a, Lapic.IcrLow, 0x400);
        a.out(Port.Moment, "al").out(Port.Moment, "al").mov("eax", 2).out(Port.Report, "eax");
        a.label("end").pop("rax").iret();
      }, 0xe000);
      writeGate64(m.memory, 2, { offset: 0xe000 });
      m.load(64, (a) => {
        maskPics(a);
        enableLapic(a);
        a.op("cli").out(Port.Note, "al");
        for (let times = 0; times < 4; times++) a.out(Port.Moment, "al");
        a.out(Port.Done, "al");
      });
      m.io.onNote = () => m.vm.signalMsi(0xfee0_0000n, 0x400);
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 1]);
    },
  },
  {
    name: "the PIC's priorities, masks and in-service register",
    run(m) {
      installFaultHandler64(m);
      const handler = (origin: number, number: number) =>
        m.load(64, (a) => {
          a.push("rax").mov("eax", number).out(Port.Report, "eax").mov("al", 0xb).out(0x20, "al");
          a.in("al", 0x20).movzx("eax", "al").out(Port.Report, "eax");
          a.mov("al", 0x20).out(0x20, "al").pop("rax").iret();
        }, origin);
      handler(0xe000, 3);
      handler(0xe100, 5);
      writeGate64(m.memory, 0x23, { offset: 0xe000 });
      writeGate64(m.memory, 0x25, { offset: 0xe100 });
      m.load(64, (a) => {
        programPics(a, { base: 0x20, mask: 0x97 });
        takeInterrupts(a.out(Port.Note, "al")).mov("al", 0xa).out(0x20, "al").in("al", 0x20).movzx(
          "eax",
          "al",
        ).out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.io.onNote = () => {
        for (const gsi of [5, 3, 7]) m.vm.setIrqLine(gsi, true);
      };
      m.startLong();
      m.run();
      // IRQ 3 before 5; 7 is masked and stays requested.
      assert.deepEqual(m.io.reports, [3, 0x08, 5, 0x20, 0x80]);
    },
  },
  {
    name: "the local APIC's registers",
    run(m) {
      m.load(64, (a) => {
        getLapicReg(a, Lapic.Id).mov(at(result(0)), "eax");
        getLapicReg(a, Lapic.Version).mov(at(result(1)), "eax");
        getLapicReg(a, Lapic.Spurious).mov(at(result(2)), "eax");
        a.mov("ecx", IA32_APIC_BASE).op("rdmsr").mov(at(result(3)), "eax");
        getLapicReg(a, Lapic.LvtLint0).mov(at(result(4)), "eax");
        getLapicReg(a, Lapic.LvtLint1).mov(at(result(5)), "eax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 0n);
      const version = m.result(1);
      assert.ok((version & 0xf0n) === 0x10n && (version >> 16n & 0xffn) >= 4n, `${version}`);
      assert.equal(m.result(2), 0xffn, "software-disabled at reset");
      assert.equal(m.result(3), 0xfee0_0900n, "enabled, boot processor");
      assert.equal(m.result(4) & 0x700n, 0x700n, "LINT0 is ExtINT");
      assert.equal(m.result(5) & 0x700n, 0x400n, "LINT1 is NMI");
    },
  },
];
