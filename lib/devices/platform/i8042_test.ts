import { strict as assert } from "node:assert";
import { TestPlatform } from "./testing.ts";
import { PlatformRequest } from "./wiring.ts";

function command(t: TestPlatform, value: number, ...parameters: number[]): void {
  assert.equal(t.in(0x64) & 0x02, 0, "input buffer is empty");
  t.out(0x64, value);
  for (const parameter of parameters) t.out(0x60, parameter);
}

function answer(t: TestPlatform): number {
  assert.equal(t.in(0x64) & 0x21, 0x01, "a byte from the keyboard side");
  return t.in(0x60);
}

/** The order of Linux's i8042_controller_check, selftest, check_aux and of its keyboard probe. */
Deno.test("Linux's probe is answered without a timeout, with a keyboard and no mouse", () => {
  const t = new TestPlatform();
  assert.equal(t.in(0x64) & 0x01, 0, "nothing to flush");
  command(t, 0xaa);
  assert.equal(answer(t), 0x55);
  command(t, 0x20);
  const control = answer(t);
  assert.equal(control & 0x04, 0x04);
  command(t, 0x60, (control | 0x10) & ~0x01);
  command(t, 0x20);
  assert.equal(answer(t) & 0x11, 0x10);
  command(t, 0xd3, 0x5a); // The auxiliary loop: not from the auxiliary port, so there is none.
  assert.equal(answer(t), 0x5a);
  command(t, 0xa9);
  assert.notEqual(answer(t), 0);
  command(t, 0xab);
  assert.equal(answer(t), 0);
  command(t, 0x60, 0x45);
  t.out(0x60, 0xf2);
  assert.equal(t.line(1), true);
  assert.deepEqual([answer(t), answer(t), answer(t)], [0xfa, 0xab, 0x41]);
  assert.equal(t.edges.get(1), 3, "one edge a byte");
  assert.equal(t.line(1), false);
  t.out(0x60, 0xed);
  assert.equal(answer(t), 0xfa);
  t.out(0x60, 0x02);
  assert.equal(answer(t), 0xfa);
  t.out(0x60, 0xff);
  assert.deepEqual([answer(t), answer(t)], [0xfa, 0xaa]);
  t.out(0x60, 0x12);
  assert.equal(answer(t), 0xfe);
  assert.equal(t.in(0x60), 0xfe, "an empty buffer repeats its last byte");
});

Deno.test("pulsing the reset line resets, other lines do not", () => {
  const t = new TestPlatform();
  t.out(0x64, 0xff);
  assert.equal(t.platform.stopRequested, false);
  t.out(0x64, 0xfe);
  assert.equal(t.platform.requested, PlatformRequest.Reset);
  assert.equal(t.platform.stopRequested, true);
});

Deno.test("the A20 gate is one, by either way", () => {
  const t = new TestPlatform();
  assert.equal(t.in(0x92), 0x02);
  t.out(0x92, 0);
  command(t, 0xd0);
  assert.equal(answer(t) & 0x02, 0);
  command(t, 0xd1, 0xdf);
  assert.equal(t.in(0x92), 0x02);
  assert.equal(t.platform.stopRequested, false);
  t.out(0x92, 0x03);
  assert.equal(t.platform.requested, PlatformRequest.Reset);
});
