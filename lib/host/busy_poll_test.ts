import assert from "node:assert/strict";
import * as fc from "fast-check";
import { BusyPoll } from "./busy_poll.ts";

const WINDOW_US = 200;
const STEP_US = 5;

/** How often another thread had the processor, as the host would say. */
let preemptions = 0;
const pollOf = (windowUs: number) => new BusyPoll(windowUs, () => preemptions);

/**
 * A thread that looks every 5 us until there is work; when work came, and how often it had looked until then.
 * Once, from `awayAt` on, it does not run for `awayUs`.
 */
function waitFor(
  poll: BusyPoll,
  { from, work, awayAt = Infinity, awayUs = 3_000, preempts = 1 }: {
    from: number;
    work: number;
    awayAt?: number;
    awayUs?: number;
    preempts?: number;
  },
): { looked: number; now: number } {
  let now = from;
  let looked = 0;
  let isAway = false;
  if (poll.begin(now)) {
    do {
      looked++;
      if (now >= work) {
        poll.end(now);
        return { looked, now };
      }
      const goes: boolean = now >= awayAt && !isAway;
      if (goes) preemptions += preempts;
      isAway ||= goes;
      now += goes ? awayUs : STEP_US;
    } while (poll.goesOn(now));
  }
  now = Math.max(now, work);
  poll.end(now);
  return { looked, now };
}

Deno.test("busy poll: it is looked for work where work has come soon, and only then", () => {
  const poll = pollOf(WINDOW_US);
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
  const poll = pollOf(WINDOW_US);
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

Deno.test("busy poll: what looks in vain take is bounded, whatever comes when", () => {
  const gap = fc.oneof(fc.nat(WINDOW_US), fc.nat(3 * WINDOW_US), fc.nat(50_000));
  fc.assert(fc.property(fc.array(gap, { maxLength: 500 }), fc.nat(400), (gaps, workUs) => {
    const poll = pollOf(WINDOW_US);
    let [vainUs, goodUs, now] = [0, 0, 0];
    for (const gap of gaps) {
      const from = now;
      const { looked, now: later } = waitFor(poll, { from, work: from + gap });
      if (looked > 0 && gap < WINDOW_US) goodUs += later - from;
      else vainUs += looked * STEP_US;
      now = later + workUs;
    }
    const most = now / 100 + goodUs / 4 + 17 * WINDOW_US;
    assert.ok(vainUs <= most, `${vainUs} us in vain, of ${now}, ${goodUs} not in vain`);
  }));
});

Deno.test("busy poll: a load that is answered late now and then is looked for all the same", () => {
  const poll = pollOf(WINDOW_US);
  let [now, looks] = [0, 0];
  for (let turn = 0; turn < 4000; turn++) {
    const { looked, now: later } = waitFor(poll, {
      from: now,
      work: now + (turn % 40 === 0 ? 1_000 : 120),
    });
    if (looked > 0) looks++;
    now = later + 200;
  }
  assert.ok(looks > 3_700, `${looks} of 4000`);
});

Deno.test("busy poll: who has to share the processor sleeps at once, for some times as long", () => {
  const poll = pollOf(WINDOW_US);
  waitFor(poll, { from: 0, work: 10 });
  let now = 20;
  const { looked } = waitFor(poll, { from: now, work: now + 100, awayAt: now + 20 });
  assert.equal(looked, 5);
  now += 3_000;
  waitFor(poll, { from: now, work: now + 50 });
  for (now += 1_000; now < 26_000; now += 1_000) {
    assert.equal(waitFor(poll, { from: now, work: now + 50 }).looked, 0, `${now}`);
  }
  now += 2_000;
  assert.ok(waitFor(poll, { from: now, work: now + 50 }).looked > 0);
});

Deno.test("busy poll: a pause in which no other thread ran says nothing, however long it was", () => {
  const poll = pollOf(WINDOW_US);
  waitFor(poll, { from: 0, work: 10 });
  for (let now = 1_000; now < 100_000; now += 1_000) {
    const how = { awayAt: now + 20, awayUs: 80, preempts: 0 };
    assert.equal(waitFor(poll, { from: now, work: now + 150, ...how }).looked, 16);
  }
});

Deno.test("busy poll: it rests longer each time that it had to share, until it did not for long", () => {
  const poll = pollOf(WINDOW_US);
  let now = 0;
  /** How long it rests, as a multiple of how long it was away, when it is away once. */
  const rest = (awayUs: number): number => {
    for (let tries = 0; waitFor(poll, { from: now, work: now + 50 }).looked === 0; tries++) {
      assert.ok(tries < 10);
      now += 50;
    }
    now += 50;
    now = waitFor(poll, { from: now, work: now + 100, awayAt: now, awayUs }).now;
    const begin = now;
    while (waitFor(poll, { from: now, work: now + 50 }).looked === 0) now += 200;
    now += 50;
    return Math.round((now - begin) / awayUs);
  };
  assert.deepEqual(Array.from({ length: 7 }, () => rest(3_000)), [8, 16, 32, 64, 128, 256, 256]);
  assert.equal(rest(60_000) * 60_000, 1_620_000, "but not for ever");
  for (let good = 0; good < 400; good++) {
    now += 50;
    assert.ok(waitFor(poll, { from: now, work: now + 50 }).looked > 0);
    now += 50;
  }
  assert.equal(rest(3_000), 8);
});

Deno.test("busy poll: a wait in which it may not be looked is no success of looking", () => {
  let asked = 0;
  const poll = new BusyPoll(WINDOW_US, () => asked++);
  let [now, vain] = [0, 0];
  poll.begin(now, false);
  poll.end(now += 50);
  for (let turn = 0; turn < 1000; turn++) {
    if (poll.begin(now)) {
      for (vain++; poll.goesOn(now); now += STEP_US);
    }
    poll.end(now += 1);
    // As soon as can be, so that the next look is tried, and slept through.
    for (let wait = 0; wait < 2; wait++) {
      assert.equal(poll.begin(now, false), false);
      poll.end(now += WINDOW_US - 1);
    }
  }
  assert.equal(asked, vain, "nothing is asked where it is not looked");
  assert.ok(vain * WINDOW_US <= now / 100 + 17 * WINDOW_US, `${vain} looks in vain of ${now} us`);
});

Deno.test("busy poll: without a window it is never looked", () => {
  const poll = pollOf(0);
  assert.equal(poll.enabled, false);
  waitFor(poll, { from: 0, work: 0 });
  assert.equal(waitFor(poll, { from: 10, work: 10 }).looked, 0);
});
