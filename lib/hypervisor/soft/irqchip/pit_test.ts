import { strict as assert } from "node:assert";
import { PIT_HZ } from "./guest_clock.ts";
import { TestChip } from "./testing.ts";

const TICK = 1e9 / PIT_HZ;

function count(t: TestChip, channel: number): number {
  t.out(0x43, channel << 6);
  return t.in(0x40 + channel) | (t.in(0x40 + channel) << 8);
}

function program(
  t: TestChip,
  channel: number,
  how: { mode: number; count: number; bcd?: boolean },
) {
  t.out(0x43, (channel << 6) | 0x30 | (how.mode << 1) | (how.bcd ? 1 : 0));
  t.out(0x40 + channel, how.count & 0xff, how.count >> 8);
}

Deno.test("the rate generator interrupts once a period", () => {
  const t = new TestChip();
  t.initPics();
  program(t, 0, { mode: 2, count: 1193 });
  let ticks = 0;
  for (let ms = 0; ms < 100; ms++) {
    t.advance(1e6);
    if (t.chip.pendingVector(0) === 0x20) {
      t.chip.acknowledge(0);
      t.out(0x20, 0x20);
      ticks++;
    }
  }
  assert.ok(ticks >= 99 && ticks <= 101, `${ticks} ticks in 100 ms`);
});

Deno.test("late ticks are made up for, a bounded number of them", () => {
  const t = new TestChip();
  t.initPics();
  program(t, 0, { mode: 2, count: 1193 });
  const served = () => {
    if (t.chip.acknowledge(0) !== 0x20) return 0;
    t.out(0x20, 0x20);
    return 1;
  };
  t.nowNs = 8e6 + 1; // Eight ticks late, as on a busy host.
  t.chip.runTimers(t.nowNs);
  let ticks = served();
  for (let n = 0; n < 40; n++) {
    t.advance(0.25e6);
    ticks += served();
  }
  assert.ok(ticks >= 17 && ticks <= 19, `${ticks} ticks in 18 ms`);
  t.nowNs += 3600e9; // An hour is not made up for.
  t.chip.runTimers(t.nowNs);
  ticks = served();
  for (let n = 0; n < 400; n++) {
    t.advance(0.25e6);
    ticks += served();
  }
  assert.ok(ticks >= 100 && ticks <= 120, `${ticks} ticks`);
});

Deno.test("the one-shot counter interrupts once and goes on counting", () => {
  const t = new TestChip();
  t.initPics();
  program(t, 0, { mode: 0, count: 1000 });
  assert.equal(t.advance(999 * TICK), 0);
  assert.equal(t.advance(2 * TICK), 1);
  assert.equal(t.chip.acknowledge(0), 0x20);
  assert.equal(t.chip.nextDeadlineNs(0), Infinity);
  t.nowNs = 1010 * TICK;
  assert.equal(count(t, 0), 0x1_0000 - 10);
});

Deno.test("CPU 0, which has its timer run, hears of an earlier edge: another CPU may have set it", () => {
  const t = new TestChip(2);
  t.initPics();
  t.woken();
  program(t, 0, { mode: 0, count: 1000 });
  assert.equal(t.woken(), true);
  assert.equal(t.woken(1), false);
  program(t, 2, { mode: 0, count: 10 });
  assert.equal(t.woken(), false);
  t.advance(500 * TICK);
  program(t, 0, { mode: 0, count: 100 });
  assert.equal(t.woken(), true);
});

Deno.test("counters read as their modes say", () => {
  const t = new TestChip();
  program(t, 1, { mode: 2, count: 100 });
  t.nowNs = 30.5 * TICK;
  assert.equal(count(t, 1), 70);
  t.nowNs = 230.5 * TICK;
  assert.equal(count(t, 1), 70);
  program(t, 1, { mode: 3, count: 100 });
  t.nowNs += 10.5 * TICK;
  assert.equal(count(t, 1), 80);
  program(t, 1, { mode: 4, count: 0x1000, bcd: true });
  t.nowNs += 1.5 * TICK;
  assert.equal(count(t, 1), 0x0999);
});

Deno.test("a latched count stays until it is read, and one-byte access reads one byte", () => {
  const t = new TestChip();
  program(t, 1, { mode: 2, count: 0x8000 });
  t.nowNs = (0x10).valueOf() * TICK + 1;
  t.out(0x43, 0x40);
  t.nowNs += 1e6;
  t.out(0x43, 0x40); // Ignored: one is latched.
  assert.equal(t.in(0x41) | (t.in(0x41) << 8), 0x7ff0);
  t.out(0x43, 0x54); // Low byte only, mode 2.
  t.out(0x41, 0x80);
  t.nowNs += 1.5 * TICK;
  assert.equal(t.in(0x41), 0x7f);
  assert.equal(t.in(0x41), 0x7f);
});

Deno.test("read-back latches status before count", () => {
  const t = new TestChip();
  t.out(0x43, 0xb4);
  t.out(0x43, 0xe8); // Status of counter 2.
  assert.equal(t.in(0x42), 0x80 | 0x40 | 0x34, "no count yet, output high");
  t.out(0x61, 1);
  t.out(0x42, 0x00, 0x10);
  t.nowNs = 16.5 * TICK;
  t.out(0x43, 0xc8); // Both.
  assert.equal(t.in(0x42), 0x80 | 0x34);
  assert.equal(t.in(0x42) | (t.in(0x42) << 8), 0x0ff0);
});

Deno.test("Linux's quick calibration sees counter 2 fall through its gate", () => {
  const t = new TestChip();
  t.out(0x61, (t.in(0x61) & ~2) | 1);
  t.out(0x43, 0xb0);
  t.out(0x42, 0xff, 0xff);
  t.in(0x42);
  let expected = 0xff;
  t.in(0x42);
  while (expected > 0xf0) {
    t.in(0x42);
    const high = t.in(0x42);
    assert.ok(high === expected || high === expected - 1, `${high} of ${expected}`);
    expected = high;
    t.nowNs += 50_000;
  }
  assert.equal(t.in(0x61) & 0x20, 0);
  t.nowNs += 60e6;
  assert.equal(t.in(0x61) & 0x20, 0x20);
});

Deno.test("the gate holds counter 2 and restarts the periodic modes", () => {
  const t = new TestChip();
  t.out(0x61, 1);
  program(t, 2, { mode: 0, count: 1000 });
  t.nowNs = 10.5 * TICK;
  t.out(0x61, 0);
  t.nowNs += 1e9;
  assert.equal(count(t, 2), 990);
  t.out(0x61, 1);
  t.nowNs += 10 * TICK;
  assert.equal(count(t, 2), 980);
  program(t, 2, { mode: 2, count: 1000 });
  t.nowNs += 100.5 * TICK;
  t.out(0x61, 0);
  t.out(0x61, 1);
  assert.equal(count(t, 2), 1000);
  program(t, 2, { mode: 1, count: 50 });
  t.nowNs += 1e6;
  assert.equal(t.in(0x61) & 0x20, 0x20, "not triggered");
  t.out(0x61, 0);
  t.out(0x61, 1);
  assert.equal(t.in(0x61) & 0x20, 0);
  t.nowNs += 51 * TICK;
  assert.equal(t.in(0x61) & 0x20, 0x20);
});

Deno.test("a count written during a period takes effect at its end", () => {
  const t = new TestChip();
  program(t, 1, { mode: 2, count: 100 });
  t.nowNs = 50.5 * TICK;
  t.out(0x41, 200, 0);
  assert.equal(count(t, 1), 50);
  t.nowNs = 110.5 * TICK;
  assert.equal(count(t, 1), 190);
});
