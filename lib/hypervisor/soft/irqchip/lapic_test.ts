import { strict as assert } from "node:assert";
import { EVENT_INIT, EVENT_NMI, EVENT_SIPI, MsrStatus } from "./lapic_layout.ts";
import { TestChip } from "./testing.ts";

const X2APIC = 0xfee0_0d00 | 0;

Deno.test("an MSI waits for its priority and its EOI", () => {
  const t = new TestChip();
  t.enableApics();
  t.chip.deliverMsi(0xfee0_0000, 0x4041);
  t.chip.deliverMsi(0xfee0_0000, 0x4061);
  assert.equal(t.woken(), true);
  assert.equal(t.chip.acknowledge(0), 0x61);
  assert.equal(t.chip.pendingVector(0), -1);
  assert.equal(t.apic(0xa0), 0x60, "PPR");
  t.setApic(0xb0, 0);
  t.chip.setTpr(0, 0x40);
  assert.equal(t.chip.pendingVector(0), -1, "class 4 is held back by TPR 4");
  t.woken();
  t.setApic(0x80, 0x30);
  assert.equal(t.woken(), true);
  assert.equal(t.chip.acknowledge(0), 0x41);
  assert.equal(t.chip.getTpr(0), 0x30);
});

Deno.test("messages beyond the local APICs' addresses, and to nobody, go nowhere", () => {
  const t = new TestChip();
  t.enableApics();
  t.chip.deliverMsi(0x1000, 0x41);
  t.chip.deliverMsi(0xfee0_5000, 0x41);
  assert.equal(t.chip.pendingVector(0), -1);
  t.chip.deliverMsi(0xfeef_f000, 0x41);
  assert.equal(t.chip.pendingVector(0), 0x41, "broadcast");
});

Deno.test("a level-triggered pin keeps its remote IRR until EOI and comes again", () => {
  const t = new TestChip();
  t.enableApics();
  t.setPin(9, 0x8000 | 0x59);
  t.chip.setIrqLine(9, true);
  assert.equal(t.ioApic(0x10 + 18), 0x8000 | 0x4000 | 0x59);
  assert.equal(t.chip.acknowledge(0), 0x59);
  assert.equal(t.apic(0x180 + 0x20) & (1 << 25), 1 << 25, "TMR");
  t.setApic(0xb0, 0);
  assert.equal(t.serve(), 0x59, "the line is still up");
  t.serve();
  t.chip.setIrqLine(9, false);
  t.serve();
  assert.equal(t.serve(), -1);
  assert.equal(t.ioApic(0x10 + 18), 0x8000 | 0x59);
});

Deno.test("an edge at a masked pin is lost, a level is not", () => {
  const t = new TestChip();
  t.enableApics();
  t.setPin(4, 0x1_0034);
  t.chip.setIrqLine(4, true);
  t.setPin(4, 0x34);
  assert.equal(t.serve(), -1);
  t.chip.setIrqLine(4, false);
  t.chip.setIrqLine(4, true);
  assert.equal(t.serve(), 0x34);
  t.setPin(10, 0x1_803a);
  t.chip.setIrqLine(10, true);
  assert.equal(t.serve(), -1);
  t.setPin(10, 0x803a);
  assert.equal(t.chip.acknowledge(0), 0x3a);
});

Deno.test("a pin set to edge triggering loses its remote IRR: the old way of an EOI", () => {
  const t = new TestChip();
  t.enableApics();
  t.setPin(9, 0x8059);
  t.chip.setIrqLine(9, true);
  t.setIoApic(0x10 + 18, 0x1_0059);
  assert.equal(t.ioApic(0x10 + 18), 0x1_0059);
});

Deno.test("the EOI register of the I/O APIC ends what a suppressed broadcast left", () => {
  const t = new TestChip();
  t.setApic(0xf0, 0x11ff);
  t.setApic(0x350, 0x1_0000);
  t.setPin(9, 0x8059);
  t.chip.setIrqLine(9, true);
  assert.equal(t.serve(), 0x59);
  assert.equal(t.serve(), -1, "no broadcast");
  const data = new DataView(new ArrayBuffer(4));
  data.setUint32(0, 0x59, true);
  t.chip.mmioWrite(0, 0xfec0_0040, 4, data);
  assert.equal(t.serve(), 0x59);
});

Deno.test("resampled pins fall at their EOI and are reported", () => {
  const t = new TestChip();
  t.enableApics();
  t.setPin(16, 0x8070);
  t.chip.watchEndOfInterrupt(16, true);
  t.chip.setIrqLine(16, true);
  assert.equal(t.serve(), 0x70);
  assert.equal(t.chip.takeEndedPins(), 1 << 16);
  assert.equal(t.chip.takeEndedPins(), 0);
  assert.equal(t.serve(), -1);
});

Deno.test("routes: pins can be replaced by messages", () => {
  const t = new TestChip();
  t.enableApics();
  t.setPin(5, 0x35);
  t.chip.setGsiRoutes(5, [{ type: "msi", address: 0xfee0_0000n, data: 0x77 }]);
  t.chip.setIrqLine(5, true);
  assert.equal(t.serve(), 0x77);
  t.chip.setGsiRoutes(40, [{ type: "irqchip", chip: "ioapic", pin: 5 }]);
  t.chip.setIrqLine(40, true);
  assert.equal(t.serve(), 0x35);
  assert.throws(() => t.chip.setGsiRoutes(40, [{ type: "irqchip", chip: "pic", pin: 16 }]));
  assert.throws(() => t.chip.setGsiRoutes(-1, []));
  t.chip.setIrqLine(100_000, true);
  t.chip.setIrqLine(-1, true);
});

Deno.test("logical destinations: flat, cluster, and lowest priority", () => {
  const t = new TestChip(4);
  t.enableApics();
  for (let cpu = 0; cpu < 4; cpu++) t.setApic(0xd0, 1 << (24 + cpu), cpu);
  t.setPin(4, 0x0834, 0b1010);
  t.chip.setIrqLine(4, true);
  assert.deepEqual([0, 1, 2, 3].map((cpu) => t.serve(cpu)), [-1, 0x34, -1, 0x34]);
  // Lowest priority: one of them, in turn, and not the one that is busy with more important work.
  t.chip.setTpr(1, 0xf0);
  const taken = [0, 0, 0, 0];
  for (let n = 0; n < 30; n++) {
    t.chip.deliverMsi(0xfee0_f004, 0x4134);
    for (let cpu = 0; cpu < 4; cpu++) if (t.serve(cpu) === 0x34) taken[cpu]!++;
  }
  assert.deepEqual(taken, [10, 0, 10, 10]);
  for (let cpu = 0; cpu < 4; cpu++) {
    t.setApic(0xe0, 0x0fff_ffff, cpu);
    t.setApic(0xd0, ((cpu >> 1) << 28) | (1 << (24 + (cpu & 1))), cpu);
  }
  t.chip.setTpr(1, 0);
  t.chip.deliverMsi(0xfee1_3004, 0x45); // Cluster 1, both members.
  assert.deepEqual([0, 1, 2, 3].map((cpu) => t.serve(cpu)), [-1, -1, 0x45, 0x45]);
});

Deno.test("interprocessor interrupts: fixed, shorthands, NMI, INIT and start-up", () => {
  const t = new TestChip(3);
  t.enableApics();
  const all = () => [0, 1, 2].map((cpu) => t.serve(cpu));
  t.setApic(0x310, 2 << 24);
  t.setApic(0x300, 0x4050);
  assert.deepEqual(all(), [-1, -1, 0x50]);
  t.setApic(0x300, 0x4_4051);
  assert.deepEqual(all(), [0x51, -1, -1]);
  t.setApic(0x300, 0x8_4052);
  assert.deepEqual(all(), [0x52, 0x52, 0x52]);
  t.setApic(0x300, 0xc_4053);
  assert.deepEqual(all(), [-1, 0x53, 0x53]);
  t.setApic(0x300, 0xc_4400);
  assert.deepEqual([0, 1, 2].map((cpu) => t.chip.takeEvents(cpu)), [0, EVENT_NMI, EVENT_NMI]);
  t.setApic(0x310, 1 << 24);
  t.setApic(0x300, 0x4500);
  t.setApic(0x300, 0x8500); // De-assert: nothing.
  t.setApic(0x300, 0x4609);
  t.woken(1);
  assert.equal(t.chip.takeEvents(1), EVENT_INIT);
  assert.equal(t.chip.takeEvents(1), EVENT_SIPI);
  assert.equal(t.chip.takeEvents(1), 0);
  assert.equal(t.chip.sipiVector(1), 9);
  assert.equal(t.apic(0xf0, 1), 0xff, "INIT reset the local APIC");
  assert.equal(t.apic(0x20, 1), 1 << 24);
});

Deno.test("illegal vectors are errors in ESR and raise the error interrupt once", () => {
  const t = new TestChip();
  t.enableApics();
  t.setApic(0x370, 0xfe);
  t.setApic(0x300, 0x4005);
  assert.equal(t.serve(), 0xfe);
  assert.equal(t.apic(0x280), 0);
  t.setApic(0x280, 0);
  assert.equal(t.apic(0x280), 0x20);
  t.chip.deliverMsi(0xfee0_0000, 0x0f);
  t.setApic(0x280, 0);
  assert.equal(t.apic(0x280), 0x40);
  t.setApic(0x280, 0);
  assert.equal(t.apic(0x280), 0);
});

Deno.test("a disabled local APIC takes no fixed interrupts and masks its table", () => {
  const t = new TestChip();
  t.enableApics();
  t.setApic(0x320, 0x30);
  t.setApic(0xf0, 0xff);
  assert.equal(t.apic(0x320), 0x1_0030);
  t.setApic(0x320, 0x31);
  assert.equal(t.apic(0x320), 0x1_0031, "the mask cannot be cleared");
  t.chip.deliverMsi(0xfee0_0000, 0x41);
  t.setApic(0xf0, 0x1ff);
  assert.equal(t.serve(), -1);
});

Deno.test("the NMI line is LINT1", () => {
  const t = new TestChip(2);
  t.chip.signalNmi();
  assert.equal(t.chip.takeEvents(0), EVENT_NMI);
  t.setApic(0xf0, 0x1ff);
  t.setApic(0x360, 0x1_0400);
  t.chip.signalNmi();
  assert.equal(t.chip.takeEvents(0), 0);
});

Deno.test("the timer counts down once, or periodically, or to a TSC value", () => {
  const t = new TestChip();
  t.enableApics();
  t.setApic(0x3e0, 0xb); // Divide by 1: nanoseconds.
  t.setApic(0x320, 0xec);
  t.setApic(0x380, 1_000_000);
  assert.equal(t.chip.nextDeadlineNs(0), 1_000_000);
  t.nowNs = 400_000;
  assert.equal(t.apic(0x390), 600_000);
  t.advance(600_000);
  assert.equal(t.serve(), 0xec);
  assert.equal(t.apic(0x390), 0);
  assert.equal(t.chip.nextDeadlineNs(0), Infinity);

  t.setApic(0x3e0, 0x3); // Divide by 16.
  t.setApic(0x320, 0x2_00ec);
  t.setApic(0x380, 1000);
  for (let n = 0; n < 5; n++) {
    assert.equal(t.advance(16_000), 1);
    assert.equal(t.serve(), 0xec);
  }
  // A thousand periods late: one interrupt, and the rhythm is kept.
  t.nowNs += 16_000_000 + 500;
  t.chip.runTimers(t.nowNs);
  assert.equal(t.serve(), 0xec);
  t.chip.runTimers(t.nowNs);
  assert.equal(t.serve(), -1);
  assert.equal(t.chip.nextDeadlineNs(0), t.nowNs + 15_500);

  t.setApic(0x320, 0x4_00ec);
  assert.equal(t.chip.nextDeadlineNs(0), Infinity);
  assert.equal(t.chip.writeMsr(0, 0x6e0, t.nowNs + 5000, 0), MsrStatus.Ok);
  t.chip.readMsr(0, 0x6e0);
  assert.equal(t.chip.msrLow, t.nowNs + 5000);
  t.chip.setTscOffset(0, 1000);
  assert.equal(t.chip.nextDeadlineNs(0), t.nowNs + 4000);
  t.advance(4000);
  assert.equal(t.serve(), 0xec);
  t.chip.readMsr(0, 0x6e0);
  assert.equal(t.chip.msrLow, 0);
  t.chip.writeMsr(0, 0x6e0, 0, -1); // Ages from now.
  assert.equal(t.advance(1e9), 0);
  t.chip.writeMsr(0, 0x6e0, 1, 0); // Long ago.
  assert.equal(t.serve(), 0xec);
});

Deno.test("a masked timer counts but does not interrupt", () => {
  const t = new TestChip();
  t.enableApics();
  t.setApic(0x3e0, 0xb);
  t.setApic(0x320, 0x3_00ec);
  t.setApic(0x380, 1000);
  assert.equal(t.chip.nextDeadlineNs(0), Infinity);
  t.nowNs = 2300;
  assert.equal(t.apic(0x390), 700);
  t.setApic(0x320, 0x2_00ec);
  assert.equal(t.chip.nextDeadlineNs(0), 3000);
});

Deno.test("x2APIC registers are MSRs with their own rules", () => {
  const t = new TestChip(2);
  const read = (index: number, cpu = 0) => {
    assert.equal(t.chip.readMsr(cpu, index), MsrStatus.Ok, index.toString(16));
    return t.chip.msrLow >>> 0;
  };
  assert.equal(t.chip.readMsr(0, 0x802), MsrStatus.Fault, "not in x2APIC mode");
  assert.equal(t.chip.readMsr(0, 0x10), MsrStatus.NotMine);
  assert.equal(read(0x1b), 0xfee0_0900);
  assert.equal(t.chip.writeMsr(0, 0x1b, X2APIC, 0), MsrStatus.Ok);
  assert.equal(t.chip.writeMsr(1, 0x1b, X2APIC & ~0x100, 0), MsrStatus.Ok);
  assert.equal(t.chip.handlesMmio(0xfee0_0020), false, "the page is gone");
  assert.equal(t.chip.handlesMmio(0xfec0_0000), true);
  for (const cpu of [0, 1]) t.chip.writeMsr(cpu, 0x80f, 0x1ff, 0);
  assert.equal(read(0x802, 1), 1);
  assert.equal(read(0x803), 0x0105_0014);
  assert.equal(read(0x80d, 1), 2);
  assert.equal(t.chip.writeMsr(0, 0x830, 0x4055, 1), MsrStatus.Ok);
  assert.equal(t.chip.acknowledge(1), 0x55);
  assert.equal(t.chip.writeMsr(1, 0x80b, 0, 0), MsrStatus.Ok);
  assert.equal(t.chip.writeMsr(0, 0x830, 0x4855, 2), MsrStatus.Ok, "logical");
  assert.equal(t.chip.acknowledge(1), 0x55);
  assert.equal(t.chip.writeMsr(0, 0x83f, 0x66, 0), MsrStatus.Ok);
  assert.equal(t.chip.acknowledge(0), 0x66);
  for (
    const [index, low, high] of [
      [0x802, 0, 0], // Read-only.
      [0x80a, 0, 0],
      [0x80e, 0, 0], // Does not exist.
      [0x831, 0, 0],
      [0x80b, 1, 0], // Not zero.
      [0x828, 1, 0],
      [0x808, 0x100, 0], // Reserved bits.
      [0x808, 0, 1],
      [0x80f, 0x2000, 0],
      [0x832, 0x8_0000, 0],
      [0x830, 0x10_0000, 0],
      [0x83f, 0x100, 0],
      [0x840, 0, 0],
      [0x8ff, 0, 0],
    ] as const
  ) {
    assert.equal(t.chip.writeMsr(0, index, low, high), MsrStatus.Fault, index.toString(16));
  }
  for (const index of [0x80b, 0x83f, 0x809, 0x80c, 0x80e, 0x831, 0x840]) {
    assert.equal(t.chip.readMsr(0, index), MsrStatus.Fault, index.toString(16));
  }
});

Deno.test("IA32_APIC_BASE refuses illegal transitions and reserved bits", () => {
  const t = new TestChip();
  const write = (low: number, high = 0) => t.chip.writeMsr(0, 0x1b, low | 0, high);
  assert.equal(write(0xfee0_0901), MsrStatus.Fault);
  assert.equal(write(0xfee0_0900, 0x4000), MsrStatus.Fault, "beyond 46 bits");
  assert.equal(write(0xfee0_0500), MsrStatus.Fault, "x2APIC without enable");
  assert.equal(write(0xfee0_0d00), MsrStatus.Ok);
  assert.equal(write(0xfee0_0900), MsrStatus.Fault, "back to xAPIC");
  assert.equal(write(0xfee0_0100), MsrStatus.Ok);
  assert.equal(write(0xfee0_0d00), MsrStatus.Fault, "x2APIC from off");
  assert.equal(write(0xfee0_0900), MsrStatus.Ok);
  assert.equal(write(0xd000_0900), MsrStatus.Ok);
  assert.equal(t.chip.handlesMmio(0xd000_0030), true);
  assert.equal(t.chip.handlesMmio(0xfee0_0030), false);
});
