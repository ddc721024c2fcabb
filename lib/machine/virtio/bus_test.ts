import assert from "node:assert/strict";
import { Reactor } from "../../host/mod.ts";
import { VirtioBus } from "./bus.ts";

Deno.test("back ends are launched when the guest comes for them, or somebody waits for them", async () => {
  const ending = new AbortController();
  using reactor = new Reactor((error) => assert.fail(String(error)));
  const begin = (patienceMs = Infinity) => {
    const bus = new VirtioBus([], {
      reactor,
      signal: ending.signal,
      restart: false,
      onLost: (why) => assert.fail(why),
      patienceMs,
    });
    const words = new Int32Array(new SharedArrayBuffer(8));
    let launched = false;
    const launching = bus.launch({ words, index: 1 }).then(() => void (launched = true));
    return { bus, words, launching, launched: () => launched };
  };
  // Waiting for shared memory alone keeps nothing going.
  const keeper = setInterval(() => {}, 1000);
  try {
    const configured = begin();
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(configured.launched(), false);
    Atomics.store(configured.words, 1, 1);
    Atomics.notify(configured.words, 1);
    await configured.launching;

    const awaited = begin();
    await awaited.bus.whenLaunched();

    const left = begin(20);
    await left.launching;

    const ended = begin();
    ending.abort();
    const waiting = ended.bus.whenLaunched();
    await assert.rejects(ended.launching, { name: "AbortError" });
    await assert.rejects(waiting, { name: "AbortError" });
  } finally {
    clearInterval(keeper);
  }
});
