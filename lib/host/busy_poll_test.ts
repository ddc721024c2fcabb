import assert from "node:assert/strict";
import { BusyPoll } from "./busy_poll.ts";

const WINDOW_US = 200;
const STEP_US = 5;

/** A thread that looks every 5 us until there is work; when work came, and whether it had slept until then. */
function waitFor(
  poll: BusyPoll,
  { from, work, awayAt = Infinity }: { from: number; work: number; awayAt?: number },
): { looked: number; now: number } {
  let now = from;
  let looked = 0;
  if (poll.begin(now)) {
    do {
      looked++;
      if (now >= work) {
        poll.end(now);
        return { looked, now };
      }
      now += now >= awayAt ? 3_000 : STEP_US;
    } while (poll.goesOn(now));
  }
  now = Math.max(now, work);
  poll.end(now);
  return { looked, now };
}

Deno.test("busy poll: it is looked for work where work has come soon, and only then", () => {
  const poll = new BusyPoll(WINDOW_US);
  assert.equal(poll.enabled, true);
  assert.deepEqual(waitFor(poll, { from: 0, work: 1e6 }), { looked: 0, now: 1e6 });
  assert.deepEqual(waitFor(poll, { from: 1e6, work: 1e6 + 50 }).looked, 0, "nobody knew");
  const begin = 2e6;
  assert.deepEqual(waitFor(poll, { from: begin, work: begin + 50 }), {
    looked: 11,
    now: begin + 50,
  });
  const vain = waitFor(poll, { from: 3e6, work: 3e6 + 400 });
  assert.equal(vain.looked, WINDOW_US / STEP_US);
  // What came late came without looking the next time, too.
  assert.equal(waitFor(poll, { from: 4e6, work: 4e6 + 50 }).looked, 0);
  assert.equal(waitFor(poll, { from: 5e6, work: 5e6 + 50 }).looked, 11);
});

Deno.test("busy poll: a guest that does little costs little", () => {
  const poll = new BusyPoll(WINDOW_US);
  let looks = 0;
  let now = 0;
  // Two requests in quick succession, each millisecond, for a second.
  for (let pair = 0; pair < 1000; pair++) {
    for (const gap of [50, 950]) {
      const { looked, now: later } = waitFor(poll, { from: now, work: now + gap });
      looks += looked;
      now = later;
    }
  }
  assert.ok(looks * STEP_US < 0.03 * now, `${looks * STEP_US} of ${now} us`);
  assert.ok(looks > 0);
});

Deno.test("busy poll: a thread that has to share its processor sleeps at once for a while", () => {
  const poll = new BusyPoll(WINDOW_US);
  waitFor(poll, { from: 0, work: 10 });
  let now = 20;
  const { looked } = waitFor(poll, { from: now, work: now + 100, awayAt: now + 20 });
  assert.equal(looked, 5);
  now += 5_000;
  waitFor(poll, { from: now, work: now + 50 });
  for (now += 1_000; now < 90_000; now += 1_000) {
    assert.equal(waitFor(poll, { from: now, work: now + 50 }).looked, 0, `${now}`);
  }
  now += 20_000;
  assert.ok(waitFor(poll, { from: now, work: now + 50 }).looked > 0);
});

Deno.test("busy poll: it rests longer each time that it had to share, until it did not for long", () => {
  let poll = new BusyPoll(WINDOW_US);
  let now = 0;
  /** How long it rests when it was away once. */
  const rest = (): number => {
    for (let tries = 0; waitFor(poll, { from: now, work: now + 50 }).looked === 0; tries++) {
      assert.ok(tries < 10);
      now += 50;
    }
    now += 50;
    const begin = now;
    now = waitFor(poll, { from: now, work: now + 100, awayAt: now }).now;
    while (waitFor(poll, { from: now, work: now + 50 }).looked === 0) now += 1_000;
    now += 50;
    return Math.round((now - begin) / 100_000) * 100;
  };
  assert.deepEqual(Array.from({ length: 6 }, rest), [100, 200, 400, 800, 1600, 1600]);
  for (let good = 0; good < 300; good++) {
    now += 50;
    assert.ok(waitFor(poll, { from: now, work: now + 50 }).looked > 0);
    now += 50;
  }
  assert.equal(rest(), 100);
  poll = new BusyPoll(WINDOW_US, 400_000);
  assert.deepEqual(Array.from({ length: 4 }, rest), [400, 800, 1600, 1600]);
});

Deno.test("busy poll: without a window it is never looked", () => {
  const poll = new BusyPoll(0);
  assert.equal(poll.enabled, false);
  waitFor(poll, { from: 0, work: 0 });
  assert.equal(waitFor(poll, { from: 10, work: 10 }).looked, 0);
});
