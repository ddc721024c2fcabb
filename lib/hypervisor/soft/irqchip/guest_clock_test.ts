import { strict as assert } from "node:assert";
import { GuestClock } from "./guest_clock.ts";

Deno.test("guest time starts at 0, stands in a pause and goes on from there", () => {
  let host = 5e15;
  const hostNow = () => host;
  const clock = GuestClock.create({ hostNow });
  const other = new GuestClock(clock.handle(), hostNow);
  assert.equal(clock.nowNs(), 0);
  host += 1000;
  assert.equal(other.nowNs(), 1000);
  assert.equal(clock.hostNs(1500), host + 500);
  other.pause();
  other.pause();
  host += 1e9;
  assert.equal(clock.paused, true);
  assert.equal(clock.nowNs(), 1000);
  clock.resume();
  clock.resume();
  host += 5;
  assert.equal(other.nowNs(), 1005);
});

Deno.test("guest time follows the host's clock and never goes back", () => {
  const clock = GuestClock.create();
  let last = clock.nowNs();
  for (let n = 0; n < 1000; n++) {
    if (n % 100 === 50) clock.pause();
    if (n % 100 === 60) clock.resume();
    const now = clock.nowNs();
    assert.ok(now >= last);
    last = now;
  }
});
