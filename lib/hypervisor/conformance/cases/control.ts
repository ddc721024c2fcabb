/**
 * A vCPU under outside control: kicks, time that stands still, the dirty log, the end of a guest.
 *
 * @module
 */

import assert from "node:assert/strict";
import { monotonicNs } from "../../../host/mod.ts";
import { PAGE_SIZE } from "../../../memory/mod.ts";
import { at } from "../asm/mod.ts";
import { ExitReason } from "../../mod.ts";
import { installFaultHandler64 } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { CODE, FREE, Port } from "../layout.ts";
import type { TestMachine } from "../machine.ts";
import { Word } from "../protocol.ts";
import { pit, programPics } from "../pc_hardware.ts";
import { result, writeGate64 } from "../tables.ts";

function loadEndlessLoop(m: TestMachine): void {
  m.load(64, (a) => a.label("loop").add(at(result(0), { size: 8 }), 1).jmp("loop"));
  m.startLong();
}

const MMIO = 0xd000_0000;

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function setPages(log: Uint8Array): number[] {
  return [...log].flatMap((byte, index) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit & 1) !== 0).map((bit) => index * 8 + bit)
  );
}

/** The guests. */
export const CONTROL_TESTS: readonly GuestTest[] = [
  {
    name: "a kick from another thread ends a loop that never exits, and it goes on afterwards",
    run(m) {
      loadEndlessLoop(m);
      let before = 0n;
      for (let round = 0; round < 5; round++) {
        m.tell({ do: "kick-changed", id: 0, address: result(0), seen: before });
        const exit = m.runToExit();
        assert.equal(ExitReason[exit.reason], "Interrupted");
        const { rip } = m.vcpu.getRegs();
        assert.ok(rip >= BigInt(CODE) && rip < BigInt(CODE) + 32n, `rip is ${rip}`);
        assert.ok(m.result(0) > before, "the guest made progress");
        before = m.result(0);
      }
    },
  },
  {
    name: "a kick before the run makes it come back at once",
    run(m) {
      loadEndlessLoop(m);
      m.vm.kick(0);
      assert.equal(ExitReason[m.runToExit().reason], "Interrupted");
      const before = m.result(0);
      assert.ok(before <= 1n, "at most one instruction was executed");
      m.tell({ do: "kick-changed", id: 0, address: result(0), seen: before });
      assert.equal(ExitReason[m.runToExit().reason], "Interrupted");
      assert.ok(m.result(0) > before, "the first kick is used up");
    },
  },
  {
    name: "a kick wakes a vCPU that sleeps in HLT with interrupts off, and it sleeps again",
    run(m) {
      m.load(64, (a) => a.op("cli").op("hlt").mov(at(result(0), { size: 8 }), 1).op("hlt"));
      m.startLong();
      for (let round = 0; round < 2; round++) {
        m.tell({ do: "kick", id: 0, delayMs: 20 });
        assert.equal(ExitReason[m.runToExit().reason], "Interrupted");
        assert.equal(m.result(0), 0n);
      }
    },
  },
  {
    name: "a kick from an access handler ends the run behind the access",
    run(m) {
      m.load(64, (a) => {
        a.out(Port.Note, "al").mov(at(result(0), { size: 8 }), 1).out(Port.Done, "al");
      });
      m.io.onNote = () => m.vm.kick(0);
      m.startLong();
      assert.equal(ExitReason[m.runToExit().reason], "Interrupted");
      assert.equal(m.io.done, false);
      m.run();
      assert.equal(m.result(0), 1n);
    },
  },
  {
    name: "kicks in quick succession are neither lost nor left over",
    run(m) {
      loadEndlessLoop(m);
      for (let round = 0; round < 200; round++) {
        if (round % 2 === 0) m.vm.kick(0);
        else m.tell({ do: "kick", id: 0, delayMs: 0 });
        assert.equal(ExitReason[m.runToExit().reason], "Interrupted");
      }
    },
  },
  {
    name: "a storm of kicks neither loses nor repeats an access",
    run(m) {
      const count = 5000;
      m.load(64, (a) => {
        // The storm has to have begun.
        a.label("wait").cmp(at(result(1), { size: 4 }), 0).jcc("e", "wait");
        a.xor("ebx", "ebx").mov("rdi", FREE).mov("dx", 0x520);
        a.label("loop").inc("ebx").mov("eax", "ebx").out(Port.Report, "eax");
        a.ins(4).mov("rsi", MMIO).mov("rax", at("rsi")).add(at(result(0)), "rax");
        a.cmp("ebx", count).jcc("b", "loop").out(Port.Done, "al");
      });
      let next = 0n;
      m.io.onPortIn = () => next++;
      m.io.onMmioRead = () => 3n;
      m.tell({ do: "kick-often", id: 0 });
      m.startLong();
      let kicks = 0;
      const deadline = monotonicNs() + 300e9;
      while (!m.io.done) {
        assert.ok(monotonicNs() < deadline, "the guest makes no progress");
        const exit = m.vcpu.run(m.io);
        assert.equal(ExitReason[exit.reason], "Interrupted", exit.detail);
        if (++kicks === 10) m.memory.writeU32(result(1), 1);
      }
      Atomics.store(m.words, Word.Stop, 1);
      assert.deepEqual(m.io.reports, Array.from({ length: count }, (_, index) => index + 1));
      assert.equal(next, BigInt(count));
      assert.equal(m.memory.readU32(FREE + 4 * (count - 1)), count - 1);
      assert.equal(m.result(0), 3n * BigInt(count));
    },
  },
  {
    name: "guest time stands still while the clock is paused",
    notEmulated: "its guests read the host's TSC",
    run(m) {
      m.load(64, (a) => {
        a.op("rdtsc").mov(at(result(0)), "eax").mov(at(result(0) + 4), "edx").out(Port.Done, "al");
        a.op("rdtsc").mov(at(result(1)), "eax").mov(at(result(1) + 4), "edx").out(Port.Done, "al");
        a.op("rdtsc").mov(at(result(2)), "eax").mov(at(result(2) + 4), "edx").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      const ran = monotonicNs();
      sleep(100);
      const start = monotonicNs();
      // The ticks of at least this time, so the guest's clock goes at most that fast.
      const leastNs = start - ran;
      m.run();
      const ticksPerNs = Number(m.result(1) - m.result(0)) / leastNs;
      m.vm.pauseClock();
      const paused = monotonicNs();
      sleep(300);
      const resumed = monotonicNs();
      m.vm.resumeClock();
      m.run();
      const ns = Number(m.result(2) - m.result(1)) / ticksPerNs;
      // However long this thread had to wait for a processor before and after the pause.
      const mostNs = monotonicNs() - start - (resumed - paused);
      assert.ok(
        ns >= 0 && ns < mostNs + 1e6,
        `${ns} ns of guest time went by, with a pause of ${resumed - paused} ns in between`,
      );
    },
  },
  {
    name: "ticks of the PIT are not made up for after a pause",
    run(m) {
      installFaultHandler64(m);
      m.load(64, (a) => {
        a.push("rax").add(at(result(0), { size: 8 }), 1).mov("al", 0x20).out(0x20, "al");
        a.pop("rax").iret();
      }, 0xe000);
      writeGate64(m.memory, 0x20, { offset: 0xe000 });
      m.load(64, (a) => {
        programPics(a, { base: 0x20, mask: 0xfe });
        pit(a, { mode: 2, count: 1193 });
        a.label("next").mov("rbx", at(result(0))).add("rbx", 20);
        a.label("sleep").op("cli").cmp(at(result(0)), "rbx").jcc("ae", "awake");
        a.op("sti").op("hlt").jmp("sleep").label("awake").out(Port.Done, "al").jmp("next");
      });
      m.startLong();
      m.run();
      // A busy host makes ticks late, which are made up for: the pause must not add to them, which shows
      // in the best of a few tries.
      const elapsedNs = Array.from({ length: 4 }, () => {
        m.vm.pauseClock();
        m.vm.pauseClock();
        sleep(200);
        m.vm.resumeClock();
        m.vm.resumeClock();
        const start = monotonicNs();
        m.run();
        return monotonicNs() - start;
      });
      assert.ok(Math.max(...elapsedNs) > 15e6, `20 ticks of 1 ms came in ${elapsedNs} ns`);
    },
  },
  {
    name: "the dirty log has the pages that were written since it was taken",
    dirtyLog: true,
    run(m) {
      const page = FREE / PAGE_SIZE;
      m.load(64, (a) => {
        a.mov("rbx", FREE).mov(at("rbx", { disp: 0x1008 }), "rax");
        a.mov(at("rbx", { disp: 0x3ffc }), "rax").mov("rax", at("rbx", { disp: 0x8000 }));
        a.out(Port.Done, "al").mov(at("rbx", { disp: 0x6000 }), "al").out(Port.Done, "al");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.vm.setDirtyLog(0, true);
      m.run();
      // Descriptors and page tables are written, too, as the processor sets their accessed bits.
      const dirtyData = () => setPages(m.vm.takeDirtyLog(0)).filter((number) => number >= page);
      assert.deepEqual(dirtyData(), [page + 1, page + 3, page + 4]);
      m.run();
      assert.deepEqual(dirtyData(), [page + 6]);
      m.run();
      assert.deepEqual(dirtyData(), []);
      m.vm.setDirtyLog(0, false);
      assert.throws(() => m.vm.takeDirtyLog(7), /no memory region 7/);
    },
  },
  {
    name: "a triple fault is a shutdown",
    run(m) {
      m.load(64, (a) => a.op("ud2"));
      m.startLong();
      m.vcpu.setSregs({ idt: { base: 0n, limit: 0 } });
      const exit = m.runToExit();
      assert.equal(ExitReason[exit.reason], "Shutdown");
      assert.match(exit.detail, /triple fault/);
      assert.match(exit.detail, /rip=0x0*a000\b/);
    },
  },
  {
    name: "registers are what they were set to, each alone",
    run(m) {
      m.startLong();
      const before = m.vcpu.getRegs();
      m.vcpu.setRegs({ r11: 0x1234_5678_9abc_def0n, rflags: 0x246n });
      assert.deepEqual(m.vcpu.getRegs(), {
        ...before,
        r11: 0x1234_5678_9abc_def0n,
        rflags: 0x246n,
      });
      const sregs = m.vcpu.getSregs();
      m.vcpu.setSregs({ cr2: 0xdead_0000n, fs: { ...sregs.fs, base: 0x1234_0000_0000n } });
      const after = m.vcpu.getSregs();
      assert.equal(after.cr2, 0xdead_0000n);
      assert.equal(after.fs.base, 0x1234_0000_0000n);
      assert.deepEqual(after.cs, sregs.cs);
      m.vcpu.setMsr(0xc000_0102, 0xffff_8000_0000_1000n);
      assert.equal(m.vcpu.getMsr(0xc000_0102), 0xffff_8000_0000_1000n);
      assert.throws(() => m.vcpu.getMsr(0xdead_beef), /0xdeadbeef/);
      assert.equal(m.vcpu.getMpState(), "runnable");
    },
  },
  {
    name: "each vCPU is made once, and only those that there are",
    run(m) {
      assert.throws(() => m.vm.createVcpu(0), /vCPU 0/);
      assert.throws(() => m.vm.createVcpu(1), /vCPU.* 1$|vCPU 1/);
      assert.throws(() => m.vm.kick(5), /vCPU.* 5$|vCPU 5/);
    },
  },
];
