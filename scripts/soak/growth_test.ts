import assert from "node:assert/strict";
import fc from "fast-check";
import { judgeGrowth, type MemorySample } from "./growth.ts";

const MINUTES = 40;

function sampled(mib: (minute: number) => number): MemorySample[] {
  return Array.from({ length: MINUTES * 3 }, (_, i) => ({ minute: i / 3, mib: mib(i / 3) }));
}

Deno.test("a process that stays within its bounds passes, whenever it collects", () => {
  const saw = fc.record({
    level: fc.integer({ min: 30, max: 2000 }),
    // In minutes: a few of them in each third.
    period: fc.double({ min: 0.5, max: 3, noNaN: true }),
    amplitude: fc.double({ min: 0, max: 0.08, noNaN: true }),
    phase: fc.double({ min: 0, max: 1, noNaN: true }),
  });
  fc.assert(fc.property(saw, ({ level, period, amplitude, phase }) => {
    const samples = sampled((at) => level * (1 + amplitude * ((at / period + phase) % 1)));
    const { grew, text } = judgeGrowth(samples, MINUTES);
    assert.equal(grew, false, text);
    assert.match(text, /^passed: [0-9.]+ MiB in minutes 10 to 20, .* minutes 30 to 40 \(medians\)/);
  }));
});

Deno.test("a process that takes more and more has grown", () => {
  // As one build did: 563 MiB after 8 minutes, 766 MiB after 29.
  const { grew, text } = judgeGrowth(sampled((at) => 563 + (at - 8) * 203 / 21), MINUTES);
  assert.equal(grew, true);
  assert.match(text, /^grew: /);
});

Deno.test("what fills in the warm-up is no growth, and a peak is none", () => {
  const filling = sampled((at) => Math.min(100, 10 * at));
  assert.equal(judgeGrowth(filling, MINUTES).grew, false);
  const peak = sampled((at) => at > 35 && at < 37 ? 900 : 100);
  assert.equal(judgeGrowth(peak, MINUTES).grew, false);
});

Deno.test("too few samples are no judgement", () => {
  const { grew, text } = judgeGrowth(sampled(() => 1).slice(0, 60), MINUTES);
  assert.equal(grew, undefined);
  assert.match(text, /^not judged/);
});
