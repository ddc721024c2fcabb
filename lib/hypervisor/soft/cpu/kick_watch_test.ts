import assert from "node:assert/strict";
import * as fc from "fast-check";
import { KickWatch } from "./kick_watch.ts";

Deno.test("a watch gives all fuel, in slices at first, and ends when it sleeps", () => {
  fc.assert(
    fc.property(fc.integer({ min: -8, max: 12_000 }), fc.array(fc.nat(20)), (fuel, kicks) => {
      const watch = new KickWatch();
      assert.equal(watch.next(), 0);
      let given = 0;
      let left = watch.begin(fuel);
      // Kicks again after some looks, with nothing of the slice used.
      for (const looks of kicks) {
        for (let look = 0; look < looks; look++) {
          const more = watch.next();
          if (more === 0) break;
          given += left;
          left = more;
        }
        left = watch.begin(left);
      }
      let turns = 0;
      for (let more; (more = watch.next()) > 0; turns++) {
        given += left;
        left = more;
      }
      assert.equal(given + left, fuel);
      assert.ok(turns <= 8 && left <= Math.max(fuel, 400), `${turns} looks, ${left} left`);
      assert.equal(watch.next(), 0);
    }),
  );
  const watch = new KickWatch();
  assert.equal(watch.begin(6000), 400);
  assert.equal(watch.next(), 400);
  assert.equal(watch.end(), 5200);
  assert.equal(watch.next(), 0);
});

Deno.test("HLT looks again for a while after a kick, unless answers take longer than that", () => {
  const watch = new KickWatch();
  assert.equal(watch.spins(1000), false);
  watch.woken(2000, false);
  const answered = (from: number, after: number) => {
    watch.begin(1000);
    const spins = watch.spins(from);
    watch.spins(from + after);
    watch.woken(from + after, true);
    return spins;
  };
  assert.equal(answered(10_000, 20_000), true);
  watch.begin(1000);
  assert.deepEqual([100_000, 129_000, 130_001].map((now) => watch.spins(now)), [true, true, false]);
  watch.woken(900_000, true);
  // That was slow; the one behind it is watched, and quick.
  assert.equal(answered(1_000_000, 500_000), false);
  assert.equal(answered(2_000_000, 40_000), false);
  assert.equal(answered(3_000_000, 40_000), true);
  assert.equal(watch.spins(4_000_000), false);
});

/** How often another thread had the processor, as the host would say. */
let preemptions = 0;

/** What HLT does from `from` on until the answer comes: its looks, each of `stepNs`, and what they took. */
function halt(
  watch: KickWatch,
  how: { from: number; answer: number; stepNs: number; awayAt?: number; answered?: boolean },
): { lookedNs: number; now: number } {
  const { from, answer, stepNs, awayAt = Infinity, answered = true } = how;
  let now = from;
  while (now < answer && (watch.spins(now) || watch.polls(now))) {
    const goes = now <= awayAt && awayAt < now + stepNs;
    if (goes) preemptions++;
    now += goes ? 3_000_000 : stepNs;
  }
  const lookedNs = Math.min(now, Math.max(answer, from)) - from;
  now = Math.max(now, answer);
  watch.woken(now, answered);
  return { lookedNs, now };
}

Deno.test("HLT awaits an answer without sleep where the last one came within 300 us", () => {
  const watch = new KickWatch(() => preemptions);
  let now = 1_000_000;
  type How = { kicked?: boolean; answered?: boolean; awayAt?: number };
  const looked = (after: number, { kicked = true, answered = true, awayAt }: How = {}) => {
    now += 1_000_000;
    if (kicked) watch.begin(1000);
    const waited = halt(watch, {
      ...{ from: now, answer: now + after * 1000, stepNs: 1000, answered },
      ...awayAt === undefined ? {} : { awayAt: now + awayAt * 1000 },
    });
    now = waited.now;
    return Math.round(waited.lookedNs / 10_000) * 10;
  };
  const timer = { kicked: false, answered: false };
  assert.deepEqual([looked(110, timer), looked(110, timer)], [0, 0], "no device is in use");
  assert.deepEqual([looked(110), looked(110), looked(250)], [30, 110, 250]);
  assert.equal(looked(110, { kicked: false }), 110, "the device looks for requests by itself");
  assert.equal(looked(900, { kicked: false }), 300, "in vain");
  assert.equal(looked(110, { kicked: false }), 0, "it does nothing any more");
  assert.equal(looked(900), 0, "as the one before");
  assert.deepEqual([looked(110), looked(110)], [0, 110]);
  assert.deepEqual([looked(900, timer), looked(110, timer), looked(110, timer)], [300, 0, 0]);
  const unasked = { kicked: false };
  assert.deepEqual([looked(110, unasked), looked(110, unasked), looked(110)], [0, 0, 110]);
  assert.equal(looked(4000, { awayAt: 50 }), 3050, "somebody had the processor for 3 ms");
  for (let turn = 0; turn < 8; turn++) assert.equal(looked(110), 0);
  now += 20_000_000;
  assert.equal(looked(110), 110);
});

Deno.test("HLT sleeps between timers that come soon when no device answers any more", () => {
  const watch = new KickWatch(() => preemptions);
  let now = 1_000_000;
  const looked = (answered: boolean) => {
    now += 10_000;
    const how = { from: now, answer: now + 150_000, stepNs: 1000, answered };
    const { lookedNs, now: later } = halt(watch, how);
    now = later;
    return lookedNs > 0;
  };
  watch.begin(1000);
  looked(true);
  const turns = Array.from({ length: 100 }, (_, turn) => looked(turn % 8 === 0));
  assert.ok(turns.every((is) => is), "an answer now and then");
  const idle = Array.from({ length: 100 }, () => looked(false));
  assert.ok(idle.slice(8).every((is) => !is), "timers alone");
});

Deno.test("HLT looks within bounds, whatever answers do, and never without a device in use", () => {
  const wait = fc.record({
    kicked: fc.boolean(),
    answered: fc.boolean(),
    after: fc.oneof(fc.nat(40), fc.nat(400), fc.nat(100_000)),
    before: fc.oneof(fc.nat(1000), fc.nat(1_000_000)),
    away: fc.option(fc.nat(300), { nil: undefined }),
  });
  // Also around the times at which 32 bits of microseconds begin anew.
  const start = fc.constantFrom(1e6, 2 ** 31 - 1e6, 2 ** 32 - 1e6);
  const steps = fc.integer({ min: 1, max: 40 });
  fc.assert(
    fc.property(fc.array(wait, { maxLength: 100 }), steps, start, (waits, step, startUs) => {
      const watch = new KickWatch(() => preemptions);
      const stepNs = step * 1000;
      let now = startUs * 1000;
      let [vainNs, goodNs, spins] = [0, 0, 0];
      let expected = 0;
      const begin = now;
      for (const { kicked, answered, after, before, away } of waits) {
        now += before * 1000;
        if (kicked) watch.begin(1000);
        if (kicked) expected = 8;
        const answer = now + after * 1000;
        const awayAt = away === undefined ? {} : { awayAt: now + away * 1000 };
        const how = { from: now, answer, stepNs, answered, ...awayAt };
        const { lookedNs, now: later } = halt(watch, how);
        if (expected === 0) assert.equal(lookedNs, 0);
        const isVain = lookedNs > 0 && lookedNs < after * 1000;
        if (!isVain) goodNs += lookedNs;
        if (away === undefined) assert.ok(lookedNs <= 330_000 + 2 * stepNs, `${lookedNs} ns`);
        if (away === undefined && isVain) vainNs += lookedNs;
        if (kicked) spins++;
        if (later - now >= 300_000) expected = 0;
        else expected = answered ? 8 : Math.max(expected - 1, 0);
        now = later;
      }
      // Beside the 30 us behind each kick.
      const perSpin = 30_000 + stepNs;
      const most = (now - begin) / 100 + goodNs / 4 + 17 * (300_000 + stepNs) + spins * perSpin;
      assert.ok(vainNs <= most, `${vainNs} ns in vain of ${now - begin}`);
    }),
  );
});
