import assert from "node:assert/strict";
import {
  microsBetween,
  monotonicMicros32,
  monotonicNs,
  sleepExactly,
  threadPreemptions,
} from "./clock.ts";

Deno.test("microseconds of 32 bits are those of the monotonic clock, also where they wrap around", () => {
  for (let round = 0; round < 100; round++) {
    const before = Math.floor(monotonicNs() / 1000);
    const micros = monotonicMicros32();
    const after = Math.floor(monotonicNs() / 1000);
    assert.equal(micros, micros | 0);
    const passed = microsBetween(Number(BigInt.asIntN(32, BigInt(before))), micros);
    assert.ok(passed <= after - before + 1, `${passed} of ${after - before} us`);
  }
  assert.equal(microsBetween(0x7fff_fff0, -0x8000_0000 + 4), 20);
  assert.equal(microsBetween(-10, 10), 20);
  assert.equal(microsBetween(7, 7), 0);
});

Deno.test("preemptions of the thread are those that the kernel counts for it", () => {
  const counted = () => {
    const status = Deno.readTextFileSync("/proc/thread-self/status");
    return Number(/^nonvoluntary_ctxt_switches:\t(\d+)$/m.exec(status)?.[1]);
  };
  for (let round = 0; round < 10; round++) {
    const before = counted();
    const now = threadPreemptions();
    const after = counted();
    assert.ok(before <= now && now <= after, `${before}, ${now}, ${after}`);
  }
});

Deno.test("a thread that asks for exact sleeps has no timer slack", () => {
  const thread = Deno.readLinkSync("/proc/thread-self").split("/").at(-1);
  sleepExactly();
  assert.equal(Deno.readTextFileSync(`/proc/${thread}/timerslack_ns`), "1\n");
});
