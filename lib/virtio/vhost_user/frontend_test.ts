import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import fc from "fast-check";
import { GIB, MIB, setLogLevel, setLogSink } from "../../base/mod.ts";
import {
  connectUnix,
  listOpenFds,
  PollEvent,
  Reactor,
  signalEvent,
  socketPair,
} from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { VhostUserError } from "../errors.ts";
import { DeviceStatus, Feature } from "../features.ts";
import { BlockClient } from "../testing/block_client.ts";
import { BlockRequest, MemoryBlock, type MemoryBlockOptions } from "../testing/memory_block.ts";
import { hasProgram, TestProgram } from "../testing/programs.ts";
import { VhostUserBackend } from "./backend.ts";
import { VhostUserFrontend, type VhostUserFrontendOptions } from "./frontend.ts";

// What back ends refuse, they also log.
setLogLevel("error");

type Callbacks = Pick<VhostUserFrontendOptions, "onClose" | "onConfigChange" | "onQueueError">;

/** Front end and back end in this thread. */
class Pair implements Disposable {
  readonly device: MemoryBlock;
  readonly backend: VhostUserBackend;
  readonly options: VhostUserFrontendOptions;
  readonly #watch: Disposable;

  constructor(reactor: Reactor, callbacks: Callbacks = {}, block: MemoryBlockOptions = {}) {
    const [near, far] = socketPair("stream");
    this.device = new MemoryBlock(new Uint8Array(MIB), block);
    this.backend = new VhostUserBackend(far, this.device);
    this.#watch = reactor.watch(this.backend.fd, PollEvent.In, () => {
      if (!this.backend.turn(0)) this[Symbol.dispose]();
    });
    this.options = { name: "test", socket: near, reactor, ...callbacks };
  }

  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
    this.backend[Symbol.dispose]();
  }
}

function newMemory(): GuestMemory {
  return GuestMemory.create({ sizeBytes: 8 * MIB, backing: "mmap" });
}

async function untilTrue(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

Deno.test("both ends in one process: start, requests, reset, start again", async () => {
  const before = listOpenFds();
  {
    using reactor = new Reactor();
    using pair = new Pair(reactor);
    using memory = newMemory();
    using frontend = await VhostUserFrontend.connect(pair.options);
    assert.equal(frontend.queueCount, 1);
    assert.notEqual(frontend.features & Feature.Version1, 0n);
    const config = await frontend.readConfig(0, 60);
    assert.equal(new DataView(config.buffer).getBigUint64(0, true), BigInt(MIB / 512));
    await assert.rejects(frontend.readConfig(250, 10), VhostUserError);
    await assert.rejects(frontend.writeConfig(250, new Uint8Array(10)), { kind: "refused" });
    const data = randomBytes(4096);
    for (const features of [frontend.features, frontend.features & ~Feature.RingEventIdx]) {
      const client = new BlockClient({ memory, reactor, features });
      const events = frontend.queueEvents(0);
      using _listening = client.listen(events);
      await frontend.activate({ features, memory, queues: [client.queue] });
      assert.equal(pair.device.context?.features, features);
      await client.write(events, 8, data);
      assert.deepEqual(await client.read(events, 8, 4096), new Uint8Array(data));
      const reads = Array.from({ length: 16 }, () => client.read(events, 9, 512));
      for (const read of await Promise.all(reads)) {
        assert.deepEqual(read, new Uint8Array(data.subarray(512, 1024)));
      }
      const outside = { type: BlockRequest.Read, sector: 1e9, length: 512 };
      assert.equal((await client.submit(events, outside)).status, 1);
      await frontend.reset();
      assert.equal(pair.device.context, undefined);
    }
  }
  // The reactor lets its descriptors go with the next turn of its thread.
  await untilTrue(() => listOpenFds().length <= before.length);
});

Deno.test("a queue stops and goes on where it was", async () => {
  using reactor = new Reactor();
  using pair = new Pair(reactor);
  using memory = newMemory();
  using frontend = await VhostUserFrontend.connect(pair.options);
  const { features } = frontend;
  const client = new BlockClient({ memory, reactor, features });
  const events = frontend.queueEvents(0);
  using _listening = client.listen(events);
  await frontend.activate({ features, memory, queues: [client.queue] });
  await client.read(events, 0, 512);
  const base = await frontend.stopQueue(0);
  assert.equal(base, 1);
  const late = client.read(events, 0, 512);
  await frontend.activate({ features, memory, queues: [{ ...client.queue, base }] });
  await late;
  await frontend.enableQueue(0, false);
  const later = client.read(events, 0, 512);
  const { requests } = pair.device;
  await frontend.readConfig(0, 8);
  assert.equal(pair.device.requests, requests);
  await frontend.enableQueue(0, true);
  await later;
});

Deno.test("rings and buffers above 4 GiB, and memory that is a wasm memory", async () => {
  const memories = [
    { sizeBytes: 6 * GIB, backing: "mmap", at: 5 * GIB },
    { sizeBytes: 16 * MIB, backing: "wasm", at: 0 },
  ] as const;
  for (const { sizeBytes, backing, at } of memories) {
    using reactor = new Reactor();
    using pair = new Pair(reactor);
    using memory = GuestMemory.create({ sizeBytes, backing });
    using frontend = await VhostUserFrontend.connect(pair.options);
    const { features } = frontend;
    const client = new BlockClient({ memory, reactor, features, address: at });
    const events = frontend.queueEvents(0);
    using _listening = client.listen(events);
    await frontend.activate({ features, memory, queues: [client.queue] });
    const data = randomBytes(4096);
    await client.write(events, 8, data);
    assert.deepEqual(await client.read(events, 8, 4096), new Uint8Array(data));
  }
});

Deno.test("a broken queue is told, and a reset mends it; so is a changed configuration", async () => {
  using reactor = new Reactor();
  const broken: number[] = [];
  let changes = 0;
  using pair = new Pair(reactor, {
    onQueueError: (index) => broken.push(index),
    onConfigChange: () => changes++,
  });
  using memory = newMemory();
  using frontend = await VhostUserFrontend.connect(pair.options);
  const { features } = frontend;
  const events = frontend.queueEvents(0);
  const client = new BlockClient({ memory, reactor, features });
  await frontend.activate({ features, memory, queues: [client.queue] });
  client.driver.writeAvailable(0, 0xffff);
  client.driver.setAvailableIndex(1);
  signalEvent(events.kick);
  await untilTrue(() => broken.length > 0);
  assert.deepEqual(broken, [0]);
  assert.notEqual(await frontend.status() & DeviceStatus.NeedsReset, 0);
  await frontend.reset();
  assert.equal(await frontend.status(), 0);
  const again = new BlockClient({ memory, reactor, features });
  using _listening = again.listen(events);
  await frontend.activate({ features, memory, queues: [again.queue] });
  await again.read(events, 0, 512);
  pair.device.configChanged?.();
  await untilTrue(() => changes > 0);
});

Deno.test("a driver that breaks queues over and over does not fill the log", async () => {
  using reactor = new Reactor();
  let broken = 0;
  using pair = new Pair(reactor, { onQueueError: () => broken++ });
  using memory = newMemory();
  using frontend = await VhostUserFrontend.connect(pair.options);
  const { features } = frontend;
  const events = frontend.queueEvents(0);
  const lines: string[] = [];
  setLogLevel("warn");
  setLogSink((line) => lines.push(line));
  try {
    for (let turn = 1; turn <= 30; turn++) {
      const client = new BlockClient({ memory, reactor, features });
      await frontend.activate({ features, memory, queues: [client.queue] });
      client.driver.writeAvailable(0, 0xffff);
      client.driver.setAvailableIndex(1);
      signalEvent(events.kick);
      await untilTrue(() => broken === turn);
      await frontend.reset();
    }
  } finally {
    setLogSink(undefined);
    setLogLevel("error");
  }
  assert.equal(lines.filter((line) => line.includes("is broken by its driver")).length, 10);
  assert.match(lines.at(-1)!, /no more of these are logged/);
  assert.equal(lines.length, 11);
});

Deno.test("what a back end refuses is an error of the front end, which goes on", async () => {
  using reactor = new Reactor();
  using pair = new Pair(reactor);
  using memory = newMemory();
  using frontend = await VhostUserFrontend.connect(pair.options);
  const { features } = frontend;
  const client = new BlockClient({ memory, reactor, features });
  const far = { ...client.queue, usedRing: 2 ** 40 };
  await assert.rejects(
    frontend.activate({ features, memory, queues: [far] }),
    /test: the back end refuses SetVringKick/,
  );
  await frontend.reset();
  await assert.rejects(
    frontend.activate({ features: 1n << 50n, memory, queues: [] }),
    /SetFeatures/,
  );
  const events = frontend.queueEvents(0);
  using _listening = client.listen(events);
  await frontend.activate({ features, memory, queues: [client.queue] });
  await client.read(events, 0, 512);
});

Deno.test("many requests at once to another process, compared with a model", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vmctl-vhost-user-" });
  try {
    const socket = join(folder, "socket");
    await using _program = await TestProgram.start("block_backend", [
      ...[socket, "--size-mib", "1", "--spin-us", "50"],
    ]);
    using reactor = new Reactor();
    using memory = newMemory();
    using frontend = await VhostUserFrontend.connect({ name: "disk", socket, reactor });
    const model = new Uint8Array(MIB);
    for (const features of [frontend.features, frontend.features & ~Feature.RingEventIdx]) {
      const client = new BlockClient({ memory, reactor, features });
      const events = frontend.queueEvents(0);
      using _listening = client.listen(events);
      await frontend.activate({ features, memory, queues: [client.queue] });
      // Each of them works on a part of the disk of its own.
      const work = async (part: number) => {
        for (let count = 0; count < 100; count++) {
          const sector = part * 128 + (count * 7) % 100;
          const data = randomBytes(512 * (1 + count % 8));
          model.set(data, sector * 512);
          await client.write(events, sector, data);
          const begin = part * 128;
          const read = await client.read(events, begin, 0x1_0000);
          assert.deepEqual(read, model.slice(begin * 512, (begin + 128) * 512));
        }
      };
      await Promise.all(Array.from({ length: 12 }, (_, part) => work(part)));
      await frontend.reset();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the successor of a back end that was killed answers what it held", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vmctl-vhost-user-" });
  try {
    const socket = join(folder, "socket");
    const disk = join(folder, "disk");
    await Deno.writeFile(disk, new Uint8Array(MIB).fill(7));
    using reactor = new Reactor();
    using memory = newMemory();
    let client: BlockClient;
    let held: Promise<Uint8Array>;
    let state;
    {
      await using program = await TestProgram.start("block_backend", [
        ...[socket, "--disk", disk, "--stuck-sector", "5"],
      ]);
      const { promise: closed, resolve: onClose } = Promise.withResolvers<VhostUserError>();
      const frontend = await VhostUserFrontend.connect({ name: "disk", socket, reactor, onClose });
      const { features } = frontend;
      client = new BlockClient({ memory, reactor, features });
      const events = frontend.queueEvents(0);
      using _listening = client.listen(events);
      await frontend.activate({ features, memory, queues: [client.queue] });
      await client.read(events, 0, 512);
      held = client.read(events, 5, 512);
      // The next one is answered out of order.
      await client.read(events, 6, 512);
      await program.kill();
      const reason = await closed;
      assert.equal(reason.kind, "closed");
      assert.match(reason.message, /^disk has closed the connection/);
      await assert.rejects(frontend.readConfig(0, 8), { kind: "closed" });
      state = frontend.takeState();
    }
    await Deno.remove(socket);
    await using _program = await TestProgram.start("block_backend", [socket, "--disk", disk]);
    using frontend = await VhostUserFrontend.connect({ name: "disk", socket, reactor, state });
    const events = frontend.queueEvents(0);
    using _listening = client.listen(events);
    const { features } = frontend;
    await frontend.activate({ features, memory, queues: [client.queue], resume: true });
    assert.deepEqual(await held, new Uint8Array(512).fill(7));
    assert.deepEqual(await client.read(events, 6, 512), new Uint8Array(512).fill(7));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a back end that says nothing, or nonsense, is given up", async () => {
  using reactor = new Reactor();
  for (const nonsense of [undefined, new Uint8Array(64).fill(0xff)]) {
    const [near, far] = socketPair("stream");
    using _far = far;
    if (nonsense !== undefined) far.sendMessage(nonsense);
    const options = { name: "mute", socket: near, reactor };
    const patience = nonsense === undefined ? { timeoutMs: 20 } : {};
    await assert.rejects(VhostUserFrontend.connect({ ...options, ...patience }), (error) => {
      assert.ok(error instanceof VhostUserError);
      assert.equal(error.kind, nonsense === undefined ? "timeout" : "violation");
      return true;
    });
  }
});

Deno.test("a back end that is gone right behind its last answer is not connected to", async () => {
  using reactor = new Reactor();
  const [near, far] = socketPair("stream");
  using socket = far;
  // GetFeatures: a device without features of the protocol, so nothing else is asked.
  socket.sendMessage(new Uint8Array(Uint32Array.of(1, 5, 8, 0, 1).buffer));
  socket.shutdown("write");
  const options = { name: "short", socket: near, reactor, onClose: () => assert.fail() };
  await assert.rejects(VhostUserFrontend.connect(options), { kind: "closed" });
});

Deno.test("whatever a back end answers, connecting to it ends", async () => {
  using reactor = new Reactor();
  const word = fc.oneof(fc.nat(3), fc.constantFrom(5, 8, 16, 20, 24, 2 ** 30, 2 ** 32 - 1));
  const answer = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.constantFrom(1, 15, 17, 21).map((request) => [request, 5, 8, 1, 0]),
    },
    fc.array(word, { maxLength: 8 }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(answer, { maxLength: 5 }),
      fc.bigInt(0n, 2n ** 64n - 1n),
      async (answers, features) => {
        const [near, far] = socketPair("stream");
        using socket = far;
        const first = [1, 5, 8, Number(features & 0xffff_ffffn), Number(features >> 32n)];
        for (const words of [first, ...answers]) {
          socket.sendMessage(new Uint8Array(Uint32Array.from(words).buffer));
        }
        socket.shutdown("write");
        let told = 0;
        const options = { name: "fuzz", socket: near, reactor, onClose: () => told++ };
        try {
          using frontend = await VhostUserFrontend.connect(options);
          assert.ok((frontend.queueCount ?? 0) <= 256);
        } catch (error) {
          assert.ok(error instanceof VhostUserError, String(error));
          assert.equal(told, 0);
        }
      },
    ),
    { numRuns: 300 },
  );
});

const noDaemon = hasProgram("qemu-storage-daemon") ? "" : " (skipped: no qemu-storage-daemon)";

Deno.test({
  name: `our front end uses qemu-storage-daemon's vhost-user-blk${noDaemon}`,
  ignore: noDaemon !== "",
  async fn() {
    const folder = await Deno.makeTempDir({ prefix: "vmctl-vhost-user-" });
    try {
      const disk = join(folder, "disk");
      const content = new Uint8Array(4 * MIB).map((_, index) => (index >>> 9) & 0xff);
      await Deno.writeFile(disk, content);
      const exported = join(folder, "export");
      const daemon = new Deno.Command("qemu-storage-daemon", {
        args: [
          ...["--blockdev", `driver=file,node-name=file,filename=${disk}`],
          ...["--blockdev", "driver=raw,node-name=disk,file=file"],
          "--export",
          "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=2," +
          `addr.type=unix,addr.path=${exported}`,
        ],
        stdin: "null",
        stdout: "null",
        stderr: "inherit",
      }).spawn();
      try {
        await untilTrue(() => {
          try {
            connectUnix(exported, "stream")[Symbol.dispose]();
            return true;
          } catch {
            return false;
          }
        });
        using reactor = new Reactor();
        using memory = newMemory();
        const { promise: closed, resolve: onClose } = Promise.withResolvers<VhostUserError>();
        const options = { name: "daemon", socket: exported, reactor, onClose };
        using frontend = await VhostUserFrontend.connect(options);
        assert.equal(frontend.queueCount, 2);
        const config = await frontend.readConfig(0, 8);
        assert.equal(new DataView(config.buffer).getBigUint64(0, true), BigInt(4 * MIB / 512));
        const events = frontend.queueEvents(0);
        for (let start = 0; start < 2; start++) {
          const known = Feature.Version1 | Feature.RingEventIdx | Feature.RingIndirectDesc;
          const features = frontend.features & known;
          const client = new BlockClient({ memory, reactor, features });
          using _listening = client.listen(events);
          await frontend.activate({ features, memory, queues: [client.queue] });
          const data = randomBytes(65536);
          await client.write(events, 100, data);
          content.set(data, 100 * 512);
          const sectors = [0, 99, 100, 163, 228, 8000];
          const reads = sectors.map((sector) => client.read(events, sector, 8192));
          (await Promise.all(reads)).forEach((read, index) => {
            const at = sectors[index]! * 512;
            assert.deepEqual(read, content.slice(at, at + 8192));
          });
          assert.equal(
            (await client.submit(events, { type: BlockRequest.Flush, sector: 0 })).status,
            0,
          );
          const outside = { type: BlockRequest.Read, sector: 1e9, length: 512 };
          assert.equal((await client.submit(events, outside)).status, 1);
          await frontend.reset();
        }
        assert.deepEqual(await Deno.readFile(disk), content);
        daemon.kill("SIGKILL");
        assert.equal((await closed).kind, "closed");
      } finally {
        try {
          daemon.kill("SIGKILL");
        } catch {
          // It is dead already.
        }
        await daemon.status;
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
