import assert from "node:assert/strict";
import fc from "fast-check";
import { GIB, MIB } from "../../base/mod.ts";
import { BalloonPolicy, largestBalloonBytes, type MemoryOnHand } from "./policy.ts";

const PLENTY: MemoryOnHand = { availableMib: 1 << 20, marginMib: 0 };
const unasked = () => assert.fail("asked what is on hand");

Deno.test("the largest balloon: all but 1 GiB, half, or none", () => {
  const cases: [number, number][] = [
    [256 * MIB, 0],
    [GIB / 2 - 1, 0],
    [GIB / 2, GIB / 4],
    [GIB, GIB / 2],
    [3 * GIB / 2 - 1, (3 * GIB / 2 - 2) / 2],
    [3 * GIB / 2, GIB / 2],
    [2 * GIB, GIB],
    [64 * GIB, 63 * GIB],
  ];
  for (const [memory, largest] of cases) assert.equal(largestBalloonBytes(memory), largest);
});

Deno.test("low memory: sixteenths, a second of quiet, and no more than the largest", () => {
  const policy = new BalloonPolicy({ memoryBytes: 2 * GIB, random: () => 0 });
  assert.equal(policy.stepBytes, 64 * MIB);
  assert.equal(policy.checkAtMs, Infinity);
  assert.equal(policy.lowMemory(0), true);
  assert.equal(policy.targetBytes, 64 * MIB);
  assert.equal(policy.lowMemory(999), false);
  assert.equal(policy.targetBytes, 64 * MIB);
  for (let second = 1; second < 40; second++) assert.equal(policy.lowMemory(second * 1000), true);
  assert.equal(policy.targetBytes, GIB);
  // The first check counts from the last event, whether that changed anything or not.
  assert.equal(policy.checkAtMs, 39_000 + 60_000);
});

Deno.test("free memory: back in sixteenths, only with twice the step to spare", () => {
  const policy = new BalloonPolicy({ memoryBytes: 2 * GIB, random: () => 0 });
  policy.lowMemory(0);
  policy.lowMemory(2000);
  policy.check(61_999, unasked);
  const short: MemoryOnHand = { availableMib: 400 + 127, marginMib: 400 };
  const enough: MemoryOnHand = { availableMib: 400 + 128, marginMib: 400 };
  policy.check(62_000, () => short);
  assert.equal(policy.targetBytes, 128 * MIB);
  policy.check(91_999, unasked);
  policy.check(92_000, () => enough);
  assert.equal(policy.targetBytes, 64 * MIB);
  policy.check(122_000, () => enough);
  assert.equal(policy.targetBytes, 0);
  // With nothing left to give, it is not looked any more.
  policy.check(152_000, unasked);
  assert.equal(policy.checkAtMs, Infinity);
});

Deno.test("free memory: a host that slept gets one step, not all that it missed", () => {
  const policy = new BalloonPolicy({ memoryBytes: 2 * GIB, random: () => 0 });
  policy.lowMemory(0);
  policy.lowMemory(2000);
  policy.check(10_000_000, () => PLENTY);
  assert.equal(policy.targetBytes, 64 * MIB);
  assert(policy.checkAtMs > 10_000_000 && policy.checkAtMs <= 10_030_000);
});

Deno.test("a size that somebody else has set is where it goes on", () => {
  const policy = new BalloonPolicy({ memoryBytes: 2 * GIB, random: () => 0 });
  policy.adjusted(512 * MIB);
  policy.lowMemory(0);
  assert.equal(policy.targetBytes, 576 * MIB);
  // Beyond the largest, low memory is no reason to make it smaller.
  policy.adjusted(3 * GIB / 2);
  policy.lowMemory(2000);
  assert.equal(policy.targetBytes, 3 * GIB / 2);
});

Deno.test("jitter: whole ms and s within their bounds", () => {
  fc.assert(fc.property(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (chance) => {
    const policy = new BalloonPolicy({ memoryBytes: GIB, random: () => chance });
    policy.lowMemory(0);
    const quiet = policy.quietUntilMs - 1000;
    assert(Number.isInteger(quiet) && quiet >= 0 && quiet < 200);
    const first = policy.checkAtMs / 1000 - 60;
    assert(Number.isInteger(first) && first >= 0 && first < 12);
    policy.check(policy.checkAtMs, () => ({ availableMib: 0, marginMib: 0 }));
    const interval = policy.checkAtMs / 1000 - 60 - first - 30;
    assert(Number.isInteger(interval) && interval >= 0 && interval < 6);
  }));
});

Deno.test("whatever happens, in whatever order: in bounds, by steps, and never too often", () => {
  const happening = fc.record({
    afterMs: fc.nat(50_000),
    low: fc.boolean(),
    availableMib: fc.nat(4096),
    marginMib: fc.nat(2048),
  });
  const memory = fc.integer({ min: 16, max: 16_384 }).map((mib) => mib * MIB);
  fc.assert(fc.property(
    memory,
    fc.array(happening, { maxLength: 80 }),
    fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 1 }),
    (memoryBytes, happenings, chances) => {
      let turn = 0;
      const random = () => chances[turn++ % chances.length]!;
      const policy = new BalloonPolicy({ memoryBytes, random });
      const { largestBytes, stepBytes } = policy;
      let nowMs = 0;
      let heardMs = -Infinity;
      let lastShrinkMs = -Infinity;
      for (const { afterMs, low, availableMib, marginMib } of happenings) {
        nowMs += afterMs;
        const before = policy.targetBytes;
        if (low) {
          const counted = policy.lowMemory(nowMs);
          const grown = policy.targetBytes - before;
          assert(grown >= 0 && grown <= stepBytes);
          if (counted) {
            assert(nowMs - heardMs >= 1000);
            heardMs = nowMs;
          } else {
            assert.equal(grown, 0);
            assert(nowMs - heardMs < 1200);
          }
        } else {
          policy.check(nowMs, () => ({ availableMib, marginMib }));
          const shrunk = before - policy.targetBytes;
          assert(shrunk >= 0 && shrunk <= stepBytes);
          if (shrunk > 0) {
            assert(availableMib >= marginMib + 2 * Math.floor(stepBytes / MIB));
            assert(nowMs - heardMs >= 60_000);
            assert(nowMs - lastShrinkMs > 0);
            lastShrinkMs = nowMs;
          }
        }
        assert(policy.targetBytes >= 0 && policy.targetBytes <= largestBytes);
        assert(largestBytes <= memoryBytes / 2 || memoryBytes - largestBytes >= GIB);
      }
    },
  ));
});
