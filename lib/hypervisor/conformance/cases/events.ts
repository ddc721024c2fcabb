/**
 * Event descriptors instead of exits: ioeventfd and irqfd; interrupt routes.
 *
 * @module
 */

import assert from "node:assert/strict";
import { eventfd, type Fd, takeEvent } from "../../../host/mod.ts";
import { at } from "../asm/mod.ts";
import { installFaultHandler64 } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { Port } from "../layout.ts";
import type { TestMachine } from "../machine.ts";
import { eoi, Lapic, maskPics, setIoapicPin, setLapicReg } from "../pc_hardware.ts";
import { result, writeGate64 } from "../tables.ts";

const PORT = 0x530;
const MMIO = 0xd000_0000;
const VECTOR = 0x60;
const FREE_GSI = 30;

function countVector(m: TestMachine, vector: number, counter: number, origin: number): void {
  m.load(64, (a) => {
    eoi(a.push("rdx").add(at(counter, { size: 8 }), 1)).pop("rdx").iret();
  }, origin);
  writeGate64(m.memory, vector, { offset: origin });
}

/** Sleeps until counter 0 is 1, with the note that somebody may interrupt now. */
function loadSleeper(m: TestMachine, pins: readonly { pin: number; low: number }[] = []): void {
  installFaultHandler64(m);
  countVector(m, VECTOR, result(0), 0xe000);
  m.load(64, (a) => {
    maskPics(a);
    setLapicReg(a, Lapic.Spurious, 0x1ff);
    for (const pin of pins) setIoapicPin(a, pin);
    a.mov("rbx", at(result(0))).add("rbx", 1).out(Port.Note, "al");
    a.label("sleep").op("cli").cmp(at(result(0)), "rbx").jcc("ae", "awake");
    a.op("sti").op("hlt").jmp("sleep").label("awake").out(Port.Done, "al");
  });
}

/** A device that is kicked by stores at `MMIO`, and answers by interrupt `VECTOR`. */
function connectDevice(m: TestMachine, kick: Fd, call: Fd): void {
  m.vm.setGsiRoutes(FREE_GSI, [{ type: "msi", address: 0xfee0_0000n, data: VECTOR }]);
  m.vm.registerIrqfd(call.raw, FREE_GSI);
  m.vm.registerIoeventfd({ space: "mmio", address: MMIO, length: 4 }, kick.raw);
}

/** The guests. */
export const EVENT_TESTS: readonly GuestTest[] = [
  {
    name: "ioeventfd on a port, of each width and of any",
    run(m) {
      using byte = eventfd(0, { nonblock: true });
      using word = eventfd(0, { nonblock: true });
      using long = eventfd(0, { nonblock: true });
      using any = eventfd(0, { nonblock: true });
      m.vm.registerIoeventfd({ space: "pio", address: PORT, length: 1 }, byte.raw);
      m.vm.registerIoeventfd({ space: "pio", address: PORT, length: 2 }, word.raw);
      m.vm.registerIoeventfd({ space: "pio", address: PORT + 4, length: 4 }, long.raw);
      m.vm.registerIoeventfd({ space: "pio", address: PORT + 8, length: 0 }, any.raw);
      m.load(32, (a) => {
        a.mov("eax", 0x01020304).mov("dx", PORT);
        a.out("dx", "al").out("dx", "al").out("dx", "ax").out("dx", "eax");
        a.mov("dx", PORT + 4).out("dx", "eax").out("dx", "al");
        a.mov("dx", PORT + 8).out("dx", "al").out("dx", "ax").out("dx", "eax").out(Port.Done, "al");
      });
      m.startProtected();
      m.run();
      assert.deepEqual([byte, word, long, any].map(takeEvent), [2, 1, 1, 3]);
      // What no ioeventfd takes leaves the guest as ever.
      assert.deepEqual(
        m.io.accesses.map(({ address, size }) => [address, size]),
        [[PORT, 4], [PORT + 4, 1]],
      );
    },
  },
  {
    name: "ioeventfd with a value to match",
    run(m) {
      using three = eventfd(0, { nonblock: true });
      using four = eventfd(0, { nonblock: true });
      const on = (datamatch: bigint) =>
        ({ space: "pio", address: PORT, length: 2, datamatch }) as const;
      m.vm.registerIoeventfd(on(3n), three.raw);
      m.vm.registerIoeventfd(on(4n), four.raw);
      m.load(32, (a) => {
        a.mov("dx", PORT);
        for (const value of [3, 4, 5, 4, 0x1_0003]) a.mov("eax", value).out("dx", "ax");
        a.out(Port.Done, "al");
      });
      m.startProtected();
      m.run();
      assert.deepEqual([takeEvent(three), takeEvent(four)], [2, 2]);
      assert.deepEqual(m.io.accesses.map(({ value }) => value), [5n]);
      m.vm.unregisterIoeventfd(on(4n), four.raw);
      m.vcpu.setRegs({ rip: 0xa000n });
      m.run();
      assert.deepEqual([takeEvent(three), takeEvent(four)], [2, 0]);
      assert.deepEqual(m.io.accesses.map(({ value }) => value), [5n, 4n, 5n, 4n]);
    },
  },
  {
    name: "ioeventfd on memory, of each width and with a value",
    run(m) {
      const lengths = [1, 2, 4, 8, 0] as const;
      const events = lengths.map(() => eventfd(0, { nonblock: true }));
      using matched = eventfd(0, { nonblock: true });
      lengths.forEach((length, index) => {
        const raw = events[index]?.raw ?? -1;
        m.vm.registerIoeventfd({ space: "mmio", address: MMIO + index * 16, length }, raw);
      });
      const datamatch = 0x1122334455667788n;
      const place = { space: "mmio", address: MMIO + 0x100, length: 8, datamatch } as const;
      m.vm.registerIoeventfd(place, matched.raw);
      m.load(64, (a) => {
        a.mov("rbx", MMIO).mov("rax", datamatch);
        a.mov(at("rbx"), "al").mov(at("rbx", { disp: 16 }), "ax");
        a.mov(at("rbx", { disp: 32 }), "eax").mov(at("rbx", { disp: 48 }), "rax");
        a.mov(at("rbx", { disp: 64 }), "al").mov(at("rbx", { disp: 64 }), "rax");
        a.mov(at("rbx", { disp: 0x100 }), "rax").add("rax", 1).mov(
          at("rbx", { disp: 0x100 }),
          "rax",
        );
        a.mov(at("rbx"), "eax").mov("al", at("rbx")).out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(events.map(takeEvent), [1, 1, 1, 1, 2]);
      assert.equal(takeEvent(matched), 1);
      const left = m.io.accesses.map(({ kind, address, size }) => [kind, address - MMIO, size]);
      assert.deepEqual(left, [["write", 0x100, 8], ["write", 0, 4], ["read", 0, 1]]);
      for (const event of events) event.close();
    },
  },
  {
    name: "HLT is woken by an irqfd that another thread signals",
    run(m) {
      using event = eventfd(0, { nonblock: true });
      m.vm.registerIrqfd(event.raw, 5);
      loadSleeper(m, [{ pin: 5, low: VECTOR }]);
      m.io.onNote = () => m.tell({ do: "event", fd: event.raw });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
      assert.equal(takeEvent(event), 0, "the engine took the event");
      m.vcpu.setRegs({ rip: 0xa000n });
      m.run();
      assert.equal(m.result(0), 2n, "each signal is an edge of its own");
    },
  },
  {
    name: "an irqfd through an MSI route, which can be changed and removed",
    run(m) {
      using event = eventfd(0, { nonblock: true });
      const route = (vector: number) =>
        ({ type: "msi", address: 0xfee0_0000n, data: vector }) as const;
      m.vm.setGsiRoutes(FREE_GSI, [route(0x70)]);
      m.vm.registerIrqfd(event.raw, FREE_GSI);
      loadSleeper(m);
      m.io.onNote = () => m.tell({ do: "event", fd: event.raw });
      m.vm.setGsiRoutes(FREE_GSI, [route(VECTOR)]);
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
      m.vm.unregisterIrqfd(event.raw, FREE_GSI);
      m.io.onNote = () => {
        m.tell({ do: "event", fd: event.raw });
        m.tell({ do: "msi", address: 0xfee0_0000n, data: VECTOR });
      };
      m.vcpu.setRegs({ rip: 0xa000n });
      m.run();
      assert.equal(m.result(0), 2n);
      assert.equal(takeEvent(event), 1, "nobody takes the event any more");
    },
  },
  {
    name: "a device that answers kicks by an irqfd, sooner or later, wakes HLT each time",
    run(m) {
      using kick = eventfd(0, { nonblock: true });
      using call = eventfd(0, { nonblock: true });
      connectDevice(m, kick, call);
      // About as often around each time at which an engine may go to sleep.
      const delaysUs = Array.from({ length: 400 }, (_, i) => (i & 32 ? 260 : 60) * Math.random());
      installFaultHandler64(m);
      countVector(m, VECTOR, result(0), 0xe000);
      m.load(64, (a) => {
        maskPics(a);
        setLapicReg(a, Lapic.Spurious, 0x1ff);
        a.mov("ebx", 0);
        a.label("next").add("rbx", 1).mov("ecx", MMIO).mov(at("rcx"), "eax");
        a.label("sleep").op("cli").cmp(at(result(0)), "rbx").jcc("ae", "awake");
        a.op("sti").op("hlt").jmp("sleep").label("awake");
        a.cmp("ebx", delaysUs.length).jcc("b", "next").out(Port.Done, "al");
      });
      m.tell({ do: "answer", kick: kick.raw, call: call.raw, delaysUs });
      m.startLong();
      m.run();
      assert.equal(m.result(0), BigInt(delaysUs.length));
      assert.deepEqual([kick, call].map(takeEvent), [0, 0]);
      m.vm.unregisterIrqfd(call.raw, FREE_GSI);
    },
  },
  {
    name: "an irqfd wakes HLT also where a timer is due within the millisecond",
    run(m) {
      using kick = eventfd(0, { nonblock: true });
      using call = eventfd(0, { nonblock: true });
      connectDevice(m, kick, call);
      const delaysUs = Array.from({ length: 100 }, () => 450);
      const [answers, times, firsts] = [result(0), result(1), result(2)];
      installFaultHandler64(m);
      countVector(m, VECTOR, answers, 0xe000);
      // Of two interrupts that wait it is the first.
      countVector(m, VECTOR + 0x10, times, 0xf000);
      m.load(64, (a) => {
        maskPics(a);
        setLapicReg(a, Lapic.Spurious, 0x1ff);
        setLapicReg(a, Lapic.TimerDivide, 0xb);
        setLapicReg(a, Lapic.LvtTimer, VECTOR + 0x10);
        a.mov("ebx", 0).mov("ebp", 0);
        a.label("next").add("rbx", 1);
        setLapicReg(a, Lapic.TimerInitial, 990_000);
        a.mov("ecx", MMIO).mov(at("rcx"), "eax");
        a.label("sleep").op("cli").cmp(at(answers), "rbx").jcc("ae", "awake");
        a.op("sti").op("hlt").jmp("sleep").label("awake");
        setLapicReg(a, Lapic.TimerInitial, 0);
        a.mov("rax", at(times)).cmp("rax", "rbp").mov("rbp", "rax").jcc("ne", "late");
        a.add(at(firsts, { size: 8 }), 1).label("late");
        a.cmp("ebx", delaysUs.length).jcc("b", "next").out(Port.Done, "al");
      });
      m.tell({ do: "answer", kick: kick.raw, call: call.raw, delaysUs });
      m.startLong();
      m.run();
      assert.equal(m.result(0), BigInt(delaysUs.length));
      const [late, first] = [m.result(1), m.result(2)];
      assert.ok(first > 0n, `the timer was first ${late} times, the device ${first}`);
      m.vm.unregisterIrqfd(call.raw, FREE_GSI);
    },
  },
  {
    name: "an irqfd of a level interrupt signals its end",
    notEmulated: "its local APIC notes no interrupt as in service",
    run(m) {
      using event = eventfd(0, { nonblock: true });
      using resample = eventfd(0, { nonblock: true });
      m.vm.registerIrqfd(event.raw, 11, resample.raw);
      loadSleeper(m, [{ pin: 11, low: VECTOR | 1 << 15 }]);
      m.io.onNote = () => m.tell({ do: "event", fd: event.raw });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
      assert.equal(takeEvent(resample), 1);
      m.vm.unregisterIrqfd(event.raw, 11);
    },
  },
  {
    name: "a route of a GSI to another pin",
    run(m) {
      m.vm.setGsiRoutes(4, [{ type: "irqchip", chip: "ioapic", pin: 20 }]);
      loadSleeper(m, [{ pin: 20, low: VECTOR }]);
      m.io.onNote = () => m.tell({ do: "irq", gsi: 4, level: true });
      m.startLong();
      m.run();
      assert.equal(m.result(0), 1n);
    },
  },
];
