import { strict as assert } from "node:assert";
import { TestPlatform } from "./testing.ts";
import type { HammerOrder } from "./testing_worker.ts";

function reply(worker: Worker, expected: string): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => data === expected ? resolve() : reject(new Error(data));
    worker.onerror = (event) => reject(new Error(event.message));
  });
}

/** Longest that anything may take that ends at all, however busy the host. */
const PATIENCE_MS = 120_000;

Deno.test("two workers and the main thread at one UART lose nothing", async () => {
  const t = new TestPlatform();
  const counts = new Int32Array(new SharedArrayBuffer(4 * (4 + 256)));
  const times = 20_000;
  const expected = 2000;
  t.out(0x3fa, 1);
  t.out(0x3f9, 0x07);
  const workers = [0x41, 0x42].map((byte) => {
    const worker = new Worker(new URL("./testing_worker.ts", import.meta.url), { type: "module" });
    const order: HammerOrder = {
      platform: t.platform.handle(),
      counts,
      byte,
      times,
      expected,
    };
    worker.postMessage(order);
    return worker;
  });
  await Promise.all(workers.map((worker) => reply(worker, "ready")));
  const done = Promise.all(workers.map((worker) => reply(worker, "done")));
  Atomics.store(counts, 2, 1);
  Atomics.notify(counts, 2);
  const uart = t.platform.serial(1);
  const { words, index } = uart.roomEvent;
  const input = new Uint8Array(16).fill(0x78);
  for (let given = 0; given < expected;) {
    const seen = Atomics.load(words, index);
    const taken = uart.receive(input.subarray(0, Math.min(16, expected - given)));
    given += taken;
    if (taken > 0) continue;
    const wait = Atomics.waitAsync(words, index, seen, PATIENCE_MS);
    if (wait.async) assert.equal(await wait.value, "ok");
  }
  await done;
  assert.equal(counts[0], 2 * times);
  assert.equal(counts[4 + 0x41], times);
  assert.equal(counts[4 + 0x42], times);
  assert.equal(counts[1], expected);
});
