import { strict as assert } from "node:assert";
import { TestChip } from "./testing.ts";

Deno.test("the PIC delivers by priority through the virtual wire and waits for EOI", () => {
  const t = new TestChip();
  t.initPics();
  assert.equal(t.chip.pendingVector(0), -1);
  t.woken();
  t.chip.setIrqLine(4, true);
  assert.equal(t.woken(), true);
  t.chip.setIrqLine(3, true);
  assert.equal(t.chip.pendingVector(0), 0x23);
  assert.equal(t.chip.acknowledge(0), 0x23);
  assert.equal(t.chip.pendingVector(0), -1, "4 is of lower priority than 3 in service");
  t.out(0x20, 0x0b);
  assert.equal(t.in(0x20), 0x08, "ISR");
  t.out(0x20, 0x0a);
  assert.equal(t.in(0x20), 0x10, "IRR");
  t.out(0x20, 0x20);
  assert.equal(t.chip.acknowledge(0), 0x24);
});

Deno.test("an input of the slave is in service in both PICs", () => {
  const t = new TestChip();
  t.initPics();
  t.chip.setIrqLine(8, true);
  assert.equal(t.chip.acknowledge(0), 0x28);
  t.out(0x20, 0x0b);
  t.out(0xa0, 0x0b);
  assert.equal(t.in(0x20), 0x04);
  assert.equal(t.in(0xa0), 0x01);
  t.chip.setIrqLine(9, true);
  assert.equal(t.chip.pendingVector(0), -1);
  t.out(0xa0, 0x60);
  t.out(0x20, 0x62);
  assert.equal(t.chip.acknowledge(0), 0x29);
});

Deno.test("a masked request stays and comes when the mask goes", () => {
  const t = new TestChip();
  t.initPics();
  t.out(0x21, 0x10);
  t.chip.setIrqLine(4, true);
  t.chip.setIrqLine(4, false);
  assert.equal(t.chip.pendingVector(0), -1);
  t.out(0x21, 0);
  assert.equal(t.chip.acknowledge(0), 0x24);
  t.out(0x20, 0x20);
  assert.equal(t.chip.pendingVector(0), -1, "an edge is one interrupt");
});

Deno.test("a level-triggered input of the PIC repeats until it falls", () => {
  const t = new TestChip();
  t.initPics();
  t.out(0x4d0, 0xff);
  t.out(0x4d1, 0xff);
  assert.equal(t.in(0x4d0), 0xf8);
  assert.equal(t.in(0x4d1), 0xde);
  t.chip.setIrqLine(5, true);
  for (let n = 0; n < 3; n++) {
    assert.equal(t.chip.acknowledge(0), 0x25);
    t.out(0x20, 0x20);
  }
  t.chip.setIrqLine(5, false);
  assert.equal(t.chip.pendingVector(0), -1);
});

Deno.test("automatic EOI, with and without rotation", () => {
  const t = new TestChip();
  t.out(0x20, 0x13);
  t.out(0x21, 0x40, 0x03, 0x00);
  t.chip.setIrqLine(3, true);
  assert.equal(t.chip.acknowledge(0), 0x43);
  t.out(0x20, 0x0b);
  assert.equal(t.in(0x20), 0);
  t.out(0x20, 0x80); // Rotate in automatic EOI mode.
  t.chip.setIrqLine(5, true);
  assert.equal(t.chip.acknowledge(0), 0x45);
  for (const irq of [5, 6]) {
    t.chip.setIrqLine(irq, false);
    t.chip.setIrqLine(irq, true);
  }
  assert.equal(t.chip.acknowledge(0), 0x46, "5 now has the lowest priority");
});

Deno.test("special mask mode lets lower priorities through", () => {
  const t = new TestChip();
  t.initPics();
  t.chip.setIrqLine(3, true);
  assert.equal(t.chip.acknowledge(0), 0x23);
  t.chip.setIrqLine(6, true);
  assert.equal(t.chip.pendingVector(0), -1);
  t.out(0x21, 0x08);
  t.out(0x20, 0x68);
  assert.equal(t.chip.acknowledge(0), 0x26);
});

Deno.test("poll mode acknowledges without the processor", () => {
  const t = new TestChip();
  t.initPics();
  t.out(0x20, 0x0c);
  assert.equal(t.in(0x20), 0);
  t.chip.setIrqLine(6, true);
  t.out(0x20, 0x0c);
  assert.equal(t.in(0x20), 0x86);
  assert.equal(t.chip.pendingVector(0), -1);
});

Deno.test("priorities rotate on command", () => {
  const t = new TestChip();
  t.initPics();
  t.out(0x20, 0xc3); // 3 gets the lowest priority.
  t.chip.setIrqLine(3, true);
  t.chip.setIrqLine(4, true);
  assert.equal(t.chip.acknowledge(0), 0x24);
  t.out(0x20, 0xa0); // EOI with rotation: now 4 has the lowest.
  assert.equal(t.chip.acknowledge(0), 0x23);
});

Deno.test("the PIC reaches the processor only through an unmasked LINT0 in ExtINT mode", () => {
  const t = new TestChip();
  t.initPics();
  t.chip.setIrqLine(4, true);
  t.setApic(0xf0, 0x1ff);
  assert.equal(t.chip.pendingVector(0), 0x24);
  t.setApic(0x350, 0x1_0700);
  assert.equal(t.chip.pendingVector(0), -1);
  t.woken();
  t.setApic(0x350, 0x700);
  assert.equal(t.woken(), true);
  assert.equal(t.chip.pendingVector(0), 0x24);
  // Without a local APIC, the line goes to the processor itself.
  t.setApic(0x350, 0x1_0700);
  t.chip.writeMsr(0, 0x1b, 0xfee0_0100 | 0, 0);
  assert.equal(t.chip.acknowledge(0), 0x24);
});
