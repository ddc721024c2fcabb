import assert from "node:assert/strict";
import { join } from "node:path";
import { GIB, MIB } from "../../base/mod.ts";
import type { DeviceRequestName, RequestOf } from "../../devices/mod.ts";
import { openFile, OpenFlag, Reactor, writeAll } from "../../host/mod.ts";
import { BalloonKeeper, type KeeperClock } from "./keeper.ts";
import { cgroupMeter, hostMeter } from "./meters.ts";
import type { MemoryOnHand } from "./policy.ts";
import { type LowMemoryPlaces, type LowMemorySource, openLowMemorySource } from "./sources.ts";

/** Time that passes when it is told to. */
class SimulatedClock implements KeeperClock {
  #nowMs = 0;
  readonly #timers = new Set<{ readonly atMs: number; readonly callback: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, callback: () => void): Disposable {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.add(timer);
    return { [Symbol.dispose]: () => this.#timers.delete(timer) };
  }

  pass(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (;;) {
      const [next] = [...this.#timers].sort((a, b) => a.atMs - b.atMs);
      if (next === undefined || next.atMs > endMs) break;
      this.#timers.delete(next);
      this.#nowMs = next.atMs;
      next.callback();
    }
    this.#nowMs = endMs;
  }
}

class SimulatedSource implements LowMemorySource {
  readonly description = "a simulated host";
  onHand: MemoryOnHand = { availableMib: 0, marginMib: 400 };
  onLow: (() => void) | undefined;
  readonly meter = () => this.onHand;

  listen(onLow: () => void): void {
    this.onLow = onLow;
  }

  pause(): void {
    this.onLow = undefined;
  }

  [Symbol.dispose](): void {
    this.pause();
  }
}

/** A device that notes what it is told. */
class NotingClient {
  readonly targets: number[] = [];

  request<Name extends DeviceRequestName>(_name: Name, data: RequestOf<Name>): Promise<never> {
    this.targets.push((data as RequestOf<"balloonAdjust">).targetBytes / MIB);
    return Promise.resolve(null as never);
  }
}

Deno.test("a host that runs short gets memory step by step, and gives it again", () => {
  const clock = new SimulatedClock();
  const source = new SimulatedSource();
  const client = new NotingClient();
  using keeper = new BalloonKeeper({
    client,
    memoryBytes: 2 * GIB,
    source,
    clock,
    random: () => 0.5,
  });
  assert(source.onLow !== undefined);
  for (let second = 0; second < 4; second++) {
    source.onLow?.();
    assert.equal(source.onLow, undefined, "nobody listens in the quiet time");
    clock.pass(1099);
    assert.equal(source.onLow, undefined);
    clock.pass(1);
    assert(source.onLow !== undefined);
  }
  assert.deepEqual(client.targets, [64, 128, 192, 256]);
  // 66 s after the last event, then every 33 s; not while less than twice the step is to spare.
  clock.pass(65_000);
  source.onHand = { availableMib: 527, marginMib: 400 };
  clock.pass(33_000);
  assert.equal(client.targets.length, 4);
  source.onHand = { availableMib: 528, marginMib: 400 };
  clock.pass(33_000);
  assert.deepEqual(client.targets.slice(4), [192]);
  clock.pass(10 * 33_000);
  assert.deepEqual(client.targets.slice(4), [192, 128, 64, 0]);
  assert.equal(keeper.targetBytes, 0);
});

Deno.test("a guest that is too small gives nothing by itself, but what a user says", async () => {
  const source = new SimulatedSource();
  const client = new NotingClient();
  using keeper = new BalloonKeeper({ client, memoryBytes: 256 * MIB, source });
  assert.equal(source.onLow, undefined);
  await keeper.adjust(64 * MIB, { wait: false });
  assert.deepEqual(client.targets, [64]);
  await assert.rejects(keeper.adjust(512 * MIB, { wait: false }), /at most the guest's 256/);
});

Deno.test("all who wait for a size share one request, and may stop waiting", async () => {
  const asked: { readonly mib: number; readonly done: PromiseWithResolvers<null> }[] = [];
  const client = {
    request<Name extends DeviceRequestName>(_name: Name, data: RequestOf<Name>): Promise<never> {
      const { targetBytes, wait } = data as RequestOf<"balloonAdjust">;
      if (!wait) return Promise.resolve(null as never);
      const done = Promise.withResolvers<null>();
      asked.push({ mib: targetBytes / MIB, done });
      return done.promise as Promise<never>;
    },
  };
  using keeper = new BalloonKeeper({ client, memoryBytes: GIB });
  const stop = new AbortController();
  const waits = Array.from(
    { length: 300 },
    () => keeper.adjust(64 * MIB, { wait: true, signal: stop.signal }),
  );
  const patient = keeper.adjust(64 * MIB, { wait: true });
  stop.abort(new Error("enough"));
  for (const wait of waits) await assert.rejects(wait, /enough/);
  await assert.rejects(keeper.adjust(64 * MIB, { wait: true, signal: stop.signal }), /enough/);
  assert.deepEqual(asked.map(({ mib }) => mib), [64]);
  asked[0]!.done.resolve(null);
  await patient;
  // What has been reached may have been left again, and another size is another request.
  const again = keeper.adjust(64 * MIB, { wait: true });
  await keeper.adjust(32 * MIB, { wait: false });
  const last = keeper.adjust(64 * MIB, { wait: true });
  assert.deepEqual(asked.map(({ mib }) => mib), [64, 64, 64]);
  asked[1]!.done.reject(new Error("another size"));
  await assert.rejects(again, /another size/);
  asked[2]!.done.resolve(null);
  await last;
  // Nobody waits any more: that the device refuses is no news, and no error of anybody's.
  const gone = { wait: true, signal: stop.signal };
  await assert.rejects(keeper.adjust(16 * MIB, gone), /enough/);
  asked[3]!.done.reject(new Error("another size"));
  await new Promise((resolve) => setTimeout(resolve));
});

class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync();

  file(name: string, text: string): string {
    const path = join(this.path, name);
    Deno.writeTextFileSync(path, text);
    return path;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

Deno.test("what the host and control groups of both versions have to spare", () => {
  using folder = new Folder();
  const kib = (mib: number) => mib * 1024;
  const info = folder.file(
    "meminfo",
    `MemTotal: ${kib(8000)} kB\nMemFree: 5 kB\nMemAvailable:   ${kib(3000)} kB\n`,
  );
  const host = hostMeter(info);
  assert.deepEqual(host(), { availableMib: 3000, marginMib: 400 });
  assert.throws(() => hostMeter(folder.file("empty", "")), /expected a number for MemTotal|MemAv/);

  const group = (name: string, files: Readonly<Record<string, string>>) => {
    Deno.mkdirSync(join(folder.path, name));
    for (const [file, text] of Object.entries(files)) folder.file(join(name, file), text);
    return cgroupMeter(join(folder.path, name), host)();
  };
  assert.deepEqual(
    group("two", {
      "memory.current": `${900 * MIB}\n`,
      "memory.max": `${1024 * MIB}\n`,
      "memory.stat": `anon 5\ninactive_file ${30 * MIB}\nactive_file 7\n`,
    }),
    { availableMib: 154, marginMib: 128 },
  );
  assert.deepEqual(
    group("unlimited", {
      "memory.current": "5\n",
      "memory.max": "max\n",
      "memory.stat": "inactive_file 0\n",
    }),
    host(),
  );
  assert.deepEqual(
    group("one", {
      "memory.usage_in_bytes": `${100 * MIB}\n`,
      "memory.stat": `inactive_file 9\nhierarchical_memory_limit ${128 * MIB}\n` +
        `total_inactive_file ${MIB}\n`,
    }),
    { availableMib: 29, marginMib: 64 },
  );
  assert.throws(() => cgroupMeter(folder.path, host), /expected a control group with memory/);
});

Deno.test("the device of ChromeOS is preferred, polled, and asked by its files", async () => {
  using folder = new Folder();
  folder.file("margin", "400 2000\n");
  folder.file("available", "1234\n");
  const device = join(folder.path, "low-mem");
  // A FIFO stands for the device: it is readable while memory is low.
  const made = await new Deno.Command("mkfifo", { args: [device] }).output();
  assert(made.success);
  const places: LowMemoryPlaces = {
    device,
    deviceFacts: folder.path,
    pressure: join(folder.path, "none"),
    memoryInfo: "/proc/meminfo",
  };
  using reactor = new Reactor();
  using source = openLowMemorySource({ reactor, choice: "auto", places });
  assert.equal(source.description, device);
  assert.deepEqual(source.meter(), { availableMib: 1234, marginMib: 400 });
  using writer = openFile(device, OpenFlag.WriteOnly | OpenFlag.NonBlock);
  writeAll(writer, new Uint8Array(1));
  for (let turn = 0; turn < 2; turn++) {
    await new Promise<void>((resolve) => source.listen(resolve));
    source.pause();
  }
});

Deno.test("without that device, pressure; without pressure, what is available", async () => {
  using folder = new Folder();
  const places: LowMemoryPlaces = {
    device: join(folder.path, "none"),
    deviceFacts: folder.path,
    pressure: join(folder.path, "none"),
    memoryInfo: folder.file("meminfo", "MemTotal: 1024000 kB\nMemAvailable: 1024 kB\n"),
  };
  using reactor = new Reactor();
  using available = openLowMemorySource({ reactor, choice: "auto", places });
  assert.match(available.description, /available memory/);
  await new Promise<void>((resolve) => available.listen(resolve));
  available.pause();
  for (const choice of ["device", "pressure"] as const) {
    assert.throws(() => openLowMemorySource({ reactor, choice, places }), /low-memory events/);
  }
  assert.throws(
    () => openLowMemorySource({ reactor, choice: "auto", places, cgroup: folder.path }),
    /expected a control group/,
  );
});

const canTrigger = pressureCanTrigger();

function pressureCanTrigger(): boolean {
  try {
    using reactor = new Reactor();
    openLowMemorySource({ reactor, choice: "pressure" })[Symbol.dispose]();
    return true;
  } catch {
    return false;
  }
}

/** Where control groups of version 2 are made, and what is limited in them. */
function cgroup2(): { readonly root: string; readonly controllers: readonly string[] } | string {
  const mounts = Deno.readTextFileSync("/proc/mounts").split("\n").map((line) => line.split(" "));
  const root = mounts.find(([, , type]) => type === "cgroup2")?.[1];
  if (root === undefined) return "no control groups of version 2 are mounted";
  const probe = join(root, `vmctl-probe-${Deno.pid}`);
  try {
    Deno.mkdirSync(probe);
    Deno.removeSync(probe);
    const file = join(root, "cgroup.subtree_control");
    return { root, controllers: Deno.readTextFileSync(file).trim().split(" ") };
  } catch {
    return `no group can be made in ${root}`;
  }
}

const groups = cgroup2();
const noMemory = typeof groups === "string"
  ? groups
  : groups.controllers.includes("memory")
  ? undefined
  : "memory is not theirs here: it belongs to those of version 1, or was not handed down";

/** Runs `body` with a new group of version 2. */
function inGroup(body: (folder: string) => void): void {
  assert(typeof groups === "object");
  const folder = join(groups.root, `vmctl-test-${Deno.pid}-${crypto.randomUUID().slice(0, 8)}`);
  Deno.mkdirSync(folder);
  try {
    body(folder);
  } finally {
    Deno.removeSync(folder);
  }
}

const skippedFor = (reason: string | undefined) =>
  reason === undefined ? "" : ` (skipped: ${reason})`;
const noGroups = typeof groups === "string" ? groups : undefined;

Deno.test({
  name: `the kernel takes the trigger of a control group of version 2${skippedFor(noGroups)}`,
  ignore: noGroups !== undefined,
  fn() {
    inGroup((folder) => {
      using reactor = new Reactor();
      const pressure = join(folder, "memory.pressure");
      const places: LowMemoryPlaces = {
        device: "/nowhere",
        deviceFacts: "/nowhere",
        pressure,
        memoryInfo: "/proc/meminfo",
      };
      using source = openLowMemorySource({ reactor, choice: "pressure", places });
      assert.equal(source.description, pressure);
      source.listen(() => {});
      source.pause();
    });
  },
});

Deno.test({
  name: `the memory of a control group of version 2 counts${skippedFor(noMemory)}`,
  ignore: noMemory !== undefined,
  fn() {
    inGroup((folder) => {
      using reactor = new Reactor();
      Deno.writeTextFileSync(join(folder, "memory.max"), String(64 * MIB));
      using source = openLowMemorySource({ reactor, choice: "auto", cgroup: folder });
      const { availableMib, marginMib } = source.meter();
      assert(availableMib > 0 && availableMib <= 64, `${availableMib} MiB`);
      assert(marginMib > 0 && marginMib < 64, `${marginMib} MiB`);
      Deno.writeTextFileSync(join(folder, "memory.max"), "max");
      assert(source.meter().availableMib > 64);
    });
  },
});

Deno.test({
  name: `the kernel takes the trigger of memory pressure${
    canTrigger ? "" : " (skipped: no /proc/pressure/memory that may be written)"
  }`,
  ignore: !canTrigger,
  fn() {
    using reactor = new Reactor();
    const places: LowMemoryPlaces = {
      device: "/nowhere",
      deviceFacts: "/nowhere",
      pressure: "/proc/pressure/memory",
      memoryInfo: "/proc/meminfo",
    };
    using source = openLowMemorySource({ reactor, choice: "auto", places });
    assert.equal(source.description, "/proc/pressure/memory");
    // Watched and left again; whether the host is short of memory now is its own affair.
    source.listen(() => {});
    source.pause();
    assert(source.meter().availableMib > 0);
  },
});
