import assert from "node:assert/strict";
import { Alarm } from "./alarm.ts";

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
