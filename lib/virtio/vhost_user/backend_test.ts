/** A hostile front end against our back end. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { MIB, setLogLevel } from "../../base/mod.ts";
import {
  addSeals,
  dupFd,
  eventfd,
  type Fd,
  ftruncate,
  listOpenFds,
  memfdCreate,
  mmap,
  pipe,
  PollEvent,
  pollFd,
  Seal,
  signalEvent,
  socketPair,
  type UnixSocket,
} from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { DeviceMemory } from "../device_memory.ts";
import { VhostUserError } from "../errors.ts";
import { QUEUE_FEATURES } from "../features.ts";
import { packedInflightBytes, PackedInflightQueue } from "../packed_inflight.ts";
import { PACKED_BEGIN } from "../packed_ring.ts";
import { BLOCK_HEADER_BYTES, MemoryBlock } from "../testing/memory_block.ts";
import { MockDriver } from "../testing/mock_driver.ts";
import { MockPackedDriver } from "../testing/mock_packed_driver.ts";
import { VhostUserBackend } from "./backend.ts";
import { Channel } from "./channel.ts";
import { type Message, Payload, type RegionMessage } from "./message.ts";
import { MessageFlag, PROTOCOL_FEATURES, ProtocolFeature, Request } from "./protocol.ts";

setLogLevel("error");

const REPLY_ACK = ProtocolFeature.ReplyAck;

/** A front end of which each step is under control, and the back end, which moves when it is told to. */
class Rig implements Disposable {
  readonly device: MemoryBlock;
  readonly backend: VhostUserBackend;
  readonly socket: UnixSocket;
  readonly channel: Channel;

  constructor(options: { readonly packed?: boolean } = {}) {
    this.device = new MemoryBlock(new Uint8Array(MIB), options);
    const [near, far] = socketPair("stream", { nonblock: true });
    this.socket = near;
    this.channel = new Channel(near, "back end");
    this.backend = new VhostUserBackend(far, this.device);
  }

  /** Sends a message, and lets the back end handle it; the result is its answer. */
  ask(
    request: number,
    payload?: Uint8Array,
    fds: readonly Fd[] = [],
    flags = 0,
  ): Message | undefined {
    this.channel.send(request, payload, { fds, flags });
    this.backend.turn(0);
    return this.channel.receive();
  }

  /** The acknowledgement of a message. */
  acknowledge(request: number, payload?: Uint8Array, fds: readonly Fd[] = []): bigint {
    using answer = this.ask(request, payload, fds, MessageFlag.NeedReply);
    assert.ok(answer);
    return answer.u64();
  }

  /** What the back end throws when it handles a message. */
  refusal(request: number, payload?: Uint8Array, fds: readonly Fd[] = []): VhostUserError {
    let thrown: unknown;
    try {
      this.ask(request, payload, fds);
    } catch (error) {
      thrown = error;
    }
    assert.ok(thrown instanceof VhostUserError, String(thrown));
    assert.equal(this.backend.open, false);
    return thrown;
  }

  /** Features are chosen, and messages acknowledged. */
  begin(): this {
    this.ask(Request.SetOwner);
    this.ask(Request.SetProtocolFeatures, Payload.u64(REPLY_ACK | ProtocolFeature.Config));
    this.ask(
      Request.SetFeatures,
      Payload.u64(this.device.features | QUEUE_FEATURES | PROTOCOL_FEATURES),
    );
    return this;
  }

  [Symbol.dispose](): void {
    this.backend[Symbol.dispose]();
    this.channel[Symbol.dispose]();
  }
}

function region(fields: Partial<RegionMessage> = {}): RegionMessage {
  return { guestAddress: 0, sizeBytes: MIB, userAddress: 2 ** 40, fileOffset: 0, ...fields };
}

function memoryFile(sizeBytes = MIB): Fd {
  const fd = memfdCreate("test");
  ftruncate(fd, sizeBytes);
  return fd;
}

function payloadOf(...words: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(words).buffer);
}

Deno.test("messages come in any pieces", () => {
  using rig = new Rig();
  const bytes = new Uint8Array([...payloadOf(1, 1, 0), ...payloadOf(17, 1, 0)]);
  for (const byte of bytes) {
    rig.socket.sendMessage(Uint8Array.of(byte));
    rig.backend.turn(0);
  }
  using features = rig.channel.receive();
  assert.equal(features?.u64(), rig.device.features | QUEUE_FEATURES | PROTOCOL_FEATURES);
  using count = rig.channel.receive();
  assert.equal(count?.u64(), 1n);
  assert.equal(rig.channel.receive(), undefined);
});

Deno.test("a front end that leaves ends the back end without an error, whenever it leaves", () => {
  for (const begun of [new Uint8Array(0), payloadOf(1), payloadOf(2, 1, 8)]) {
    using rig = new Rig();
    if (begun.length > 0) rig.socket.sendMessage(begun);
    rig.backend.turn(0);
    rig.socket.shutdown("both");
    assert.equal(rig.backend.turn(0), false);
    assert.equal(rig.backend.turn(0), false);
  }
});

const VIOLATIONS: Readonly<Record<string, [number, Uint8Array?]>> = {
  "an unknown message": [999],
  "a message of a log, which was not offered": [Request.SetLogBase, new Uint8Array(8)],
  "a payload that is too short": [Request.SetFeatures, new Uint8Array(4)],
  "a payload where none belongs": [Request.GetFeatures, new Uint8Array(8)],
  "an empty memory table": [Request.SetMemTable, payloadOf(0, 0)],
  "a memory table of nine": [Request.SetMemTable, new Uint8Array(8 + 9 * 32).fill(9, 0, 1)],
  "a memory table of a wrong length": [Request.SetMemTable, payloadOf(1, 0, 0, 0)],
  "a memory table without files": [Request.SetMemTable, Payload.memoryTable([region()])],
  "a queue with a log": [Request.SetVringAddr, payloadOf(0, 1, 0, 0, 0, 0, 0, 0, 0, 0)],
  "addresses that no number holds": [
    Request.SetVringAddr,
    new Uint8Array(40).fill(0xff, 8),
  ],
  "a configuration that is too long": [Request.GetConfig, payloadOf(200, 100, 0)],
  "a configuration whose length is another": [Request.GetConfig, payloadOf(0, 8, 0)],
  "a configuration without a header": [Request.GetConfig, payloadOf(0)],
  "a kick without a descriptor": [Request.SetVringKick, Payload.u64(0)],
  "a descriptor channel without a descriptor": [Request.SetBackendReqFd],
  "protocol features that were not offered": [Request.SetProtocolFeatures, Payload.u64(2)],
  "an enabling with neither 0 nor 1": [Request.SetVringEnable, payloadOf(0, 2)],
  "an inflight record of a wrong length": [Request.GetInflightFd, payloadOf(0)],
};

for (const [what, [request, payload]] of Object.entries(VIOLATIONS)) {
  Deno.test(`${what} ends the connection`, () => {
    using rig = new Rig().begin();
    assert.equal(rig.refusal(request, payload).kind, "violation");
  });
}

Deno.test("a wrong version, a payload without end and descriptors without need end the connection", () => {
  for (const header of [payloadOf(1, 2, 0), payloadOf(1, 1, 2 ** 32 - 1)]) {
    using rig = new Rig();
    rig.socket.sendMessage(header);
    assert.throws(() => rig.backend.turn(0), { kind: "violation" });
  }
  using fd = eventfd();
  {
    using rig = new Rig();
    assert.match(rig.refusal(Request.GetFeatures, undefined, [fd]).message, /0 descriptors, got 1/);
  }
  using rig = new Rig();
  const many = Array.from({ length: 9 }, () => fd);
  assert.match(rig.refusal(Request.GetFeatures, undefined, many).message, /at most 8 descriptors/);
});

interface BadRegion {
  readonly regions: readonly RegionMessage[];
  file?(): Fd;
}

const BAD_REGIONS: Readonly<Record<string, BadRegion>> = {
  "longer than the file": { regions: [region({ sizeBytes: 2 * MIB })] },
  "that begin behind the file": { regions: [region({ fileOffset: MIB })] },
  "of no size": { regions: [region({ sizeBytes: 0 })] },
  "of broken pages": { regions: [region({ sizeBytes: 100 })] },
  "at broken pages of the file": { regions: [region({ sizeBytes: 4096, fileOffset: 8 })] },
  "at broken pages of the guest": { regions: [region({ sizeBytes: 4096, guestAddress: 8 })] },
  "that overlap": { regions: [region(), region({ guestAddress: 4096, userAddress: 2 ** 41 })] },
  "whose user addresses overlap": { regions: [region(), region({ guestAddress: MIB })] },
  "that end behind all numbers": { regions: [region({ guestAddress: 2 ** 53 - 4096 })] },
  "of a pipe": { regions: [region()], file: () => pipe().reader },
  "of an eventfd": { regions: [region()], file: () => eventfd() },
  "of a file that cannot be written": {
    regions: [region()],
    file() {
      const fd = memoryFile();
      addSeals(fd, Seal.Write);
      return fd;
    },
  },
};

for (const [what, { regions, file = memoryFile }] of Object.entries(BAD_REGIONS)) {
  Deno.test(`memory regions ${what} are refused, and what was mapped stays`, () => {
    using rig = new Rig().begin();
    using good = memoryFile();
    const first = [region({ guestAddress: 16 * MIB, userAddress: 2 ** 42 })];
    assert.equal(rig.acknowledge(Request.SetMemTable, Payload.memoryTable(first), [good]), 0n);
    using fd = file();
    const fds = regions.map(() => fd);
    assert.equal(rig.acknowledge(Request.SetMemTable, Payload.memoryTable(regions), fds), 1n);
    for (const one of regions.slice(-1)) {
      if (regions.length > 1) {
        rig.acknowledge(Request.AddMemReg, Payload.region(regions[0]!), [fd]);
      }
      assert.equal(rig.acknowledge(Request.AddMemReg, Payload.region(one), [fd]), 1n);
    }
    assert.equal(rig.acknowledge(Request.RemMemReg, Payload.region(first[0]!)), 0n);
    assert.equal(rig.acknowledge(Request.RemMemReg, Payload.region(first[0]!)), 1n);
  });
}

Deno.test("queues in wrong states and with wrong numbers are refused", () => {
  using rig = new Rig().begin();
  using fd = eventfd();
  using file = memoryFile();
  assert.equal(rig.acknowledge(Request.SetMemTable, Payload.memoryTable([region()]), [file]), 0n);
  const state = (index: number, num: number) => payloadOf(index, num);
  assert.equal(rig.acknowledge(Request.SetVringNum, state(0, 3)), 1n);
  assert.equal(rig.acknowledge(Request.SetVringNum, state(0, 2048)), 1n);
  assert.equal(rig.acknowledge(Request.SetVringNum, state(1, 64)), 1n);
  assert.equal(rig.acknowledge(Request.SetVringBase, state(0, 0x1_0000)), 1n);
  assert.equal(rig.acknowledge(Request.SetVringKick, Payload.u64(0), [fd]), 1n);
  assert.equal(rig.acknowledge(Request.SetVringKick, Payload.u64(0x100)), 1n);
  assert.equal(rig.acknowledge(Request.SetVringKick, Payload.u64(0), [file]), 1n);
  assert.equal(rig.acknowledge(Request.SetVringNum, state(0, 64)), 0n);
  const addresses = { index: 0, descriptorTable: 2 ** 40, availableRing: 0, usedRing: 0 };
  const place = (more: object) => Payload.vringAddresses({ ...addresses, ...more });
  assert.equal(rig.acknowledge(Request.SetVringAddr, place({})), 0n);
  assert.equal(rig.acknowledge(Request.SetVringKick, Payload.u64(0), [fd]), 1n);
  const good = { availableRing: 2 ** 40 + 4096, usedRing: 2 ** 40 + 8192 };
  assert.equal(
    rig.acknowledge(Request.SetVringAddr, place({ ...good, usedRing: 2 ** 40 + 2 })),
    0n,
  );
  assert.equal(rig.acknowledge(Request.SetVringKick, Payload.u64(0), [fd]), 1n);
  assert.equal(rig.acknowledge(Request.SetVringAddr, place(good)), 0n);
  assert.equal(rig.acknowledge(Request.SetVringKick, Payload.u64(0), [fd]), 0n);
  // It is started now.
  assert.equal(rig.acknowledge(Request.SetVringNum, state(0, 32)), 1n);
  assert.equal(rig.acknowledge(Request.SetVringBase, state(0, 1)), 1n);
  assert.equal(rig.acknowledge(Request.SetFeatures, Payload.u64(PROTOCOL_FEATURES)), 1n);
  const inflight = { sizeBytes: 4096, fileOffset: 0, queueCount: 1, queueSize: 64 };
  assert.equal(rig.acknowledge(Request.SetInflightFd, Payload.inflight(inflight), [file]), 1n);
  // Its memory goes: it is broken, not the back end.
  const far = region({ guestAddress: 64 * MIB });
  assert.equal(rig.acknowledge(Request.SetMemTable, Payload.memoryTable([far]), [file]), 0n);
  signalEvent(fd);
  assert.equal(rig.backend.turn(0), true);
  using base = rig.ask(Request.GetVringBase, state(0, 0));
  assert.deepEqual(base?.vringState(), { index: 0, num: 0 });
  assert.equal(rig.acknowledge(Request.SetInflightFd, Payload.inflight(inflight), [file]), 0n);
  const large = { ...inflight, sizeBytes: 2 ** 40, queueCount: 200, queueSize: 32768 };
  assert.equal(rig.acknowledge(Request.SetInflightFd, Payload.inflight(large), [file]), 1n);
});

Deno.test("a guest's memory may be mapped anew while its queue works, and unchanged parts stay", () => {
  using rig = new Rig().begin();
  using memory = GuestMemory.create({ sizeBytes: 2 * MIB, backing: "mmap" });
  const low = region({ userAddress: 0 });
  const high = region({ guestAddress: MIB, userAddress: MIB, fileOffset: MIB });
  using file = dupFd(memory.fd);
  rig.ask(Request.SetMemTable, Payload.memoryTable([low]), [file]);
  const driver = new MockDriver(DeviceMemory.of(memory), { address: 0, size: 16, eventIdx: true });
  using kick = eventfd(0, { nonblock: true });
  using call = eventfd(0, { nonblock: true });
  rig.ask(Request.SetVringNum, payloadOf(0, 16));
  rig.ask(Request.SetVringAddr, Payload.vringAddresses({ index: 0, ...driver.addresses }));
  rig.ask(Request.SetVringCall, Payload.u64(0), [call]);
  rig.ask(Request.SetVringEnable, payloadOf(0, 1));
  rig.ask(Request.SetVringKick, Payload.u64(0), [kick]);
  const request = (data: number) => {
    driver.add([
      { address: 0x1_0000, length: BLOCK_HEADER_BYTES },
      { address: data, length: 512, writable: true },
      { address: 0x2_0000, length: 1, writable: true },
    ]);
    if (driver.publish()) signalEvent(kick);
    rig.backend.turn(0);
    return driver.takeUsed() >= 0;
  };
  const bytes = rig.device.context!.memory.areas[0]!.bytes;
  assert.ok(request(0x3_0000));
  assert.equal(pollFd(call, PollEvent.In, 0), PollEvent.In);
  rig.ask(Request.SetMemTable, Payload.memoryTable([low, high]), [file, file]);
  assert.equal(rig.device.context!.memory.areas[0]!.bytes, bytes);
  assert.ok(request(MIB + 0x3_0000));
  // A buffer over the border of the two.
  assert.ok(request(MIB - 100));
  rig.ask(Request.RemMemReg, Payload.region(high));
  assert.ok(!request(MIB + 0x3_0000));
  assert.equal(rig.device.context!.queue(0)?.fault?.reason, "buffer-outside-memory");
});

Deno.test("packed queues go on where they were, or where the record of a dead back end says", () => {
  using rig = new Rig({ packed: true }).begin();
  using memory = GuestMemory.create({ sizeBytes: MIB, backing: "mmap" });
  using file = dupFd(memory.fd);
  rig.ask(Request.SetMemTable, Payload.memoryTable([region({ userAddress: 0 })]), [file]);
  const size = 8;
  const driver = new MockPackedDriver(DeviceMemory.of(memory), { address: 0, size });
  using kick = eventfd(0, { nonblock: true });
  const start = (base: number) => {
    assert.equal(rig.acknowledge(Request.SetVringNum, payloadOf(0, size)), 0n);
    assert.equal(rig.acknowledge(Request.SetVringBase, payloadOf(0, base)), 0n);
    const addresses = Payload.vringAddresses({ index: 0, ...driver.addresses });
    assert.equal(rig.acknowledge(Request.SetVringAddr, addresses), 0n);
    const result = rig.acknowledge(Request.SetVringKick, Payload.u64(0), [kick]);
    rig.ask(Request.SetVringEnable, payloadOf(0, 1));
    return result;
  };
  const serve = () => {
    const id = driver.add([
      { address: 0x1_0000, length: BLOCK_HEADER_BYTES },
      { address: 0x2_0000, length: 512, writable: true },
      { address: 0x3_0000, length: 1, writable: true },
    ]);
    driver.publish();
    signalEvent(kick);
    rig.backend.turn(0);
    assert.equal(driver.takeUsed(), id);
  };
  // No place of a ring of 8.
  assert.equal(start(0x8008_8000), 1n);
  assert.equal(start(PACKED_BEGIN), 0n);
  for (let round = 0; round < 5; round++) {
    for (let request = 0; request < 3; request++) serve();
    using stopped = rig.ask(Request.GetVringBase, payloadOf(0, 0));
    const { num } = stopped!.vringState();
    assert.equal(num, driver.base, "both sides have gone as far");
    // Some front ends tell only where the driver is.
    assert.equal(start(round % 2 === 0 ? num : num & 0xffff), 0n);
  }
  const wanted = { sizeBytes: 0, fileOffset: 0, queueCount: 1, queueSize: size };
  rig.ask(Request.GetVringBase, payloadOf(0, 0))?.[Symbol.dispose]();
  using record = rig.ask(Request.GetInflightFd, Payload.inflight(wanted));
  const message = record!.inflight();
  using recordFd = record!.takeFd();
  assert.ok(message.sizeBytes >= packedInflightBytes(size));
  const adopt = (sizeBytes: number) => {
    const payload = Payload.inflight({ ...message, sizeBytes });
    return rig.acknowledge(Request.SetInflightFd, payload, [recordFd]);
  };
  assert.equal(adopt(packedInflightBytes(size) - 1), 1n, "it has no room for the queue");
  assert.equal(adopt(message.sizeBytes), 0n);
  assert.equal(start(driver.base), 0n);
  serve();
  using stopped = rig.ask(Request.GetVringBase, payloadOf(0, 0));
  assert.equal(stopped!.vringState().num, driver.base);
  // As one leaves it that held nothing when it died, with the place of the next answer in the first round.
  using mapping = mmap(message.sizeBytes, { fd: recordFd });
  new PackedInflightQueue(mapping.bytes, size).begin(driver.base >>> 16);
  assert.equal(start(PACKED_BEGIN), 0n);
  serve();
});

Deno.test("no sequence of messages, however wrong, throws anything but the protocol's error", () => {
  const before = listOpenFds();
  const request = fc.oneof(fc.constantFrom(...Object.values(Request)), fc.nat(45));
  const word = fc.oneof(
    fc.nat(4),
    fc.constantFrom(16, 64, 512, 4096, MIB, 2 ** 32 - 1),
    fc.nat(2 ** 32 - 1),
  );
  const length = fc.constantFrom(0, 2, 2, 5, 6, 10, 10, 18);
  const message = fc.record({
    request,
    words: length.chain((count) => fc.array(word, { minLength: count, maxLength: count })),
    fds: fc.array(fc.constantFrom("event", "file", "pipe", "socket"), { maxLength: 2 }),
    flags: fc.constantFrom(1, 1, 1, 9, 9, 5, 0),
    length: fc.option(word, { freq: 30 }),
  });
  let kept = 0;
  fc.assert(
    fc.property(fc.boolean(), fc.boolean(), fc.array(message, { maxLength: 30 }), (...drawn) => {
      const [begin, packed, messages] = drawn;
      using rig = new Rig({ packed });
      using event = eventfd();
      using file = memoryFile();
      const pipes = pipe();
      using reader = pipes.reader;
      using writer = pipes.writer;
      const [left, right] = socketPair("stream");
      using _left = left;
      using _right = right;
      assert.ok(writer.raw >= 0);
      const known = { event, file, pipe: reader, socket: left.fd };
      if (begin) rig.begin();
      try {
        for (const { request, words, fds, flags, length } of messages) {
          const payload = payloadOf(...words);
          const header = payloadOf(request, flags, length ?? payload.length);
          rig.socket.sendMessage(
            new Uint8Array([...header, ...payload]),
            fds.map((name) => known[name as keyof typeof known]),
          );
          rig.backend.turn(0);
          rig.channel.receive()?.[Symbol.dispose]();
        }
        kept++;
      } catch (error) {
        assert.ok(error instanceof VhostUserError, `${error}\n${(error as Error).stack}`);
      }
    }),
    { numRuns: 2000 },
  );
  assert.ok(kept > 0);
  assert.deepEqual(listOpenFds(), before);
});
