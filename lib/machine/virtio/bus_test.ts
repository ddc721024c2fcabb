import assert from "node:assert/strict";
import { Reactor } from "../../host/mod.ts";
import { DeviceType } from "../../virtio/mod.ts";
import { VirtioBus } from "./bus.ts";
import type { VirtioDevice } from "./device.ts";

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

Deno.test("back ends that the guest boots without are launched, together, when one of them is wanted", async () => {
  using reactor = new Reactor((error) => assert.fail(String(error)));
  const begin = (latePatienceMs: number) => {
    const launched: string[] = [];
    const wanted = Promise.withResolvers<void>();
    const unwanted = Promise.withResolvers<void>();
    const device = (name: string, about: Partial<VirtioDevice>): VirtioDevice => ({
      name,
      deviceType: DeviceType.Entropy,
      isForeseen: true,
      queueCount: 1,
      launch: () => {
        launched.push(name);
        return launched.length < 3 ? new Promise(() => {}) : Promise.reject(new Error("all"));
      },
      ...about,
    });
    const late = [
      device("a", { wanted: unwanted.promise }),
      device("b", { wanted: wanted.promise }),
    ];
    const bus = new VirtioBus([...late, device("disk", {})], {
      reactor,
      signal: new AbortController().signal,
      restart: false,
      onLost: (why) => assert.fail(why),
      patienceMs: 20,
      latePatienceMs,
    });
    const words = new Int32Array(new SharedArrayBuffer(4));
    const launching = bus.launch({ words, index: 0 });
    return { bus, launched, wanted, launching };
  };
  // Waiting for shared memory alone keeps nothing going.
  const keeper = setInterval(() => {}, 1000);
  try {
    const hours = 10_000_000;
    const wanted = begin(hours);
    wanted.wanted.resolve();
    await assert.rejects(wanted.launching, /all/);
    assert.deepEqual(wanted.launched, ["a", "b", "disk"], "the guest did not come for the disk");

    const awaited = begin(hours);
    await assert.rejects(awaited.bus.whenLaunched(), /all/);
    assert.deepEqual(awaited.launched.toSorted(), ["a", "b", "disk"]);
    await assert.rejects(awaited.launching, /all/);

    const left = begin(1);
    await assert.rejects(left.launching, /all/);
    assert.deepEqual(left.launched.toSorted(), ["a", "b", "disk"]);
  } finally {
    clearInterval(keeper);
  }
});
