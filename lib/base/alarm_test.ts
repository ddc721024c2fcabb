import assert from "node:assert/strict";
import { Alarm, Ticker } from "./alarm.ts";

Deno.test("an alarm rings after its time, once, and not when it is disposed", async () => {
  const rung: string[] = [];
  const before = performance.now();
  const { promise, resolve } = Promise.withResolvers<void>();
  // An alarm alone keeps nothing going.
  const keeper = setInterval(() => {}, 1000);
  {
    using _never = new Alarm(1, () => rung.push("disposed"));
  }
  new Alarm(20, () => {
    rung.push("later");
    resolve();
  });
  new Alarm(0, () => rung.push("at once"));
  await promise;
  clearInterval(keeper);
  assert.ok(performance.now() - before >= 19);
  assert.deepEqual(rung, ["at once", "later"]);
});

Deno.test("a ticker goes on until it is disposed, which it may be from its own call", async () => {
  const before = performance.now();
  const keeper = setInterval(() => {}, 1000);
  const { promise, resolve } = Promise.withResolvers<void>();
  let ticks = 0;
  const ticker = new Ticker(10, () => {
    if (++ticks === 3) stop();
  });
  const stop = () => ticker[Symbol.dispose]();
  // Disposed, it would have ticked twice more until then.
  new Ticker(10, () => {
    if (ticks === 3 && performance.now() - before >= 59) resolve();
  });
  await promise;
  clearInterval(keeper);
  assert.equal(ticks, 3);
});
