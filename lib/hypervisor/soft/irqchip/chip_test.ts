import { strict as assert } from "node:assert";
import * as fc from "fast-check";
import { SoftIrqChip } from "./chip.ts";
import { MsrStatus } from "./lapic_layout.ts";
import { TestChip } from "./testing.ts";

Deno.test("wide port accesses are split, foreign ports read all ones", () => {
  const t = new TestChip();
  const data = new DataView(new ArrayBuffer(8));
  t.out(0x21, 0xa5);
  assert.equal(t.chip.handlesPort(0x21), true);
  assert.equal(t.chip.handlesPort(0x22), false);
  assert.equal(t.chip.handlesPort(0xffff), false);
  t.chip.portIn(0x21, 2, data);
  assert.equal(data.getUint16(0, true), 0xffa5);
  data.setUint16(0, 0x5a00, true);
  t.chip.portOut(0x20, 2, data);
  assert.equal(t.in(0x21), 0x5a);
});

Deno.test("an attached chip is the same chip", () => {
  const t = new TestChip();
  const other = SoftIrqChip.attach(t.chip.handle());
  other.writePort(0x21, 0x77);
  assert.equal(t.in(0x21), 0x77);
  t.enableApics();
  t.woken();
  other.deliverMsi(0xfee0_0000, 0x41);
  assert.equal(t.woken(), true);
  assert.equal(t.chip.acknowledge(0), 0x41);
});

Deno.test("the timer reaches I/O APIC pin 0 and pin 2, so that either table of a PC is right", () => {
  for (const pin of [0, 2]) {
    const t = new TestChip();
    t.enableApics();
    t.setPin(pin, 0x30);
    t.out(0x43, 0x34);
    t.out(0x40, 0xa9, 0x04);
    t.advance(1.5e6);
    assert.equal(t.serve(), 0x30);
  }
});

Deno.test("a storm of random accesses never throws, leaves no lock held, and every wait ends", () => {
  const ports = [0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x61, 0xa0, 0xa1, 0x4d0, 0x4d1];
  const word = fc.oneof(fc.integer({ min: 0, max: 0xff }), fc.integer());
  const msr = fc.oneof(fc.constantFrom(0x1b, 0x6e0), fc.integer({ min: 0x800, max: 0x8ff }));
  const step = fc.oneof(
    fc.record({ kind: fc.constant("port"), at: fc.constantFrom(...ports), value: word }),
    fc.record({
      kind: fc.constant("ioapic"),
      at: fc.integer({ min: 0, max: 0x41 }),
      value: word,
    }),
    fc.record({
      kind: fc.constant("lapic"),
      at: fc.integer({ min: 0, max: 0x3f }).map((n) => n * 16),
      value: word,
    }),
    fc.record({ kind: fc.constant("line"), at: fc.integer({ min: -1, max: 300 }), value: word }),
    fc.record({ kind: fc.constant("msi"), at: word, value: word }),
    fc.record({ kind: fc.constant("msr"), at: msr, value: word }),
    fc.record({ kind: fc.constant("time"), at: fc.constant(0), value: fc.nat(1e9) }),
    fc.record({ kind: fc.constant("take"), at: fc.constant(0), value: word }),
  );
  const run = (t: TestChip, { kind, at, value }: { kind: string; at: number; value: number }) => {
    const cpu = value & 1;
    switch (kind) {
      case "port":
        t.out(at, value);
        t.in(at);
        break;
      case "ioapic":
        t.setIoApic(at, value);
        t.ioApic(at);
        break;
      case "lapic":
        t.setApic(at, value, cpu);
        t.apic(at, cpu);
        break;
      case "line":
        t.chip.setIrqLine(at, (value & 2) !== 0);
        break;
      case "msi":
        t.chip.deliverMsi(0xfee0_0000 + (at & 0xf_ffff), value);
        break;
      case "msr":
        assert.ok(t.chip.writeMsr(cpu, at, value, value >> 16) in MsrStatus);
        assert.ok(t.chip.readMsr(cpu, at) in MsrStatus);
        break;
      case "time":
        t.advance(value, 20);
        break;
      default: {
        t.chip.takeEvents(cpu);
        t.chip.nextDeadlineNs(cpu);
        const vector = t.chip.acknowledge(cpu);
        assert.ok(vector >= -1 && vector <= 0xff);
      }
    }
  };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const t = new TestChip(2);
      t.initPics();
      t.enableApics();
      for (const each of steps) run(t, each);
      // Whatever is pending can be taken and ended: no state repeats an interrupt without end.
      for (let gsi = 0; gsi < 24; gsi++) t.chip.setIrqLine(gsi, false);
      let served = 0;
      while (t.chip.acknowledge(0) >= 0 && served < 1000) {
        t.out(0xa0, 0x20);
        t.out(0x20, 0x20);
        t.setApic(0xb0, 0);
        t.chip.writeMsr(0, 0x80b, 0, 0);
        served++;
      }
      assert.ok(served < 1000);
    }),
    { numRuns: 200 },
  );
});
