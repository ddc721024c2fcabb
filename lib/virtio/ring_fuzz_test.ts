import assert from "node:assert/strict";
import { DescriptorChain, type Pieces } from "./chain.ts";
import { PackedFlag } from "./packed_ring.ts";
import { PackedVirtqueue } from "./packed_virtqueue.ts";
import type { QueueFaultReason } from "./queue_fault.ts";
import { SplitVirtqueue } from "./split_virtqueue.ts";
import { MockDriver } from "./testing/mock_driver.ts";
import { MockPackedDriver } from "./testing/mock_packed_driver.ts";
import { fuzzPackedRings, type FuzzResult, fuzzRings } from "./testing/ring_fuzz.ts";
import { RingMemory } from "./testing/ring_memory.ts";
import type { ScribbleOrder } from "./testing/scribbler.ts";
import type { Virtqueue } from "./virtqueue.ts";

const ROUNDS = 1_000_000;
/** What a driver can do wrong, whatever the ring. */
const REASONS: readonly QueueFaultReason[] = [
  "buffer-outside-memory",
  "chain-too-long",
  "head-in-use",
  "head-out-of-range",
  "indirect-length",
  "indirect-nested",
  "indirect-not-negotiated",
  "indirect-outside-memory",
  "indirect-with-next",
  "readable-after-writable",
];

/** It is not always the same first check that refuses. */
function assertVaried({ rounds, chains, faults }: FuzzResult, reasons: readonly string[]): void {
  assert.ok(chains > rounds / 10, `${chains} chains`);
  for (const reason of reasons) assert.ok((faults[reason] ?? 0) > 20, `${reason} was hardly met`);
}

Deno.test("a million malformed rings: no crash, no hang, nothing outside of guest memory", () => {
  const result = fuzzRings(ROUNDS, 0x2545_f491);
  assertVaried(result, [...REASONS, "available-index", "next-out-of-range"]);
});

Deno.test("half a million malformed packed rings: no crash, no hang, nothing outside of guest memory", () => {
  assertVaried(fuzzPackedRings(ROUNDS / 2, 0x2545_f491), REASONS);
});

const SIZE = 16;
const SCRIBBLED_BYTES = 0x4000;
/** Mostly zeros. */
const ZEROS = new Array<number>(200).fill(0);
/** The first words of a descriptor, whatever the ring: address, mostly inside, and length. */
const BUFFER_WORDS: readonly (readonly number[])[] = [
  [0, 0x1000, 0x2000, 0x3000, 0x3ff0, 0x3fff],
  [...ZEROS, 1],
  [...ZEROS, 1],
  [...ZEROS, 0xffff],
  [1, 2, 16, 32, 64, 256, 0x1000],
  [...ZEROS, 0xffff],
];
const INDICES = Array.from({ length: SIZE }, (_, index) => index);

/** Lets queues over a ring work whose descriptors somebody writes to all the time. */
async function whileScribbled(
  lastWords: readonly (readonly number[])[],
  makeQueue: (ring: RingMemory) => Virtqueue,
): Promise<void> {
  const ring = new RingMemory([{ guestAddress: 0, sizeBytes: SCRIBBLED_BYTES }], true);
  const { bytes } = ring.memory.areas[0]!;
  const scribbler = new Worker(new URL("./testing/scribbler.ts", import.meta.url), {
    type: "module",
  });
  const order: ScribbleOrder = {
    buffer: bytes.buffer as SharedArrayBuffer,
    from: bytes.byteOffset,
    length: SIZE * 16,
    words: [...BUFFER_WORDS, ...lastWords],
  };
  const { promise: ready, resolve } = Promise.withResolvers<void>();
  scribbler.onmessage = () => resolve();
  scribbler.postMessage(order);
  await ready;
  const inside = (pieces: Pieces) => {
    for (let index = 0; index < pieces.count; index++) {
      const from = pieces.offset(index);
      const length = pieces.length(index);
      const isInside = from >= 0 && length > 0 && from + length <= SCRIBBLED_BYTES;
      assert.ok(isInside, `${length} at ${from}`);
    }
    return pieces.count;
  };
  const chain = new DescriptorChain();
  const pattern = new Uint8Array(64).fill(0x5a);
  let chains = 0;
  try {
    // On a busy host it takes longer until enough were looked at.
    const end = performance.now() + 1500;
    while (performance.now() < end || chains <= 1000) {
      const queue = makeQueue(ring);
      for (let left = 4 * SIZE; left > 0 && queue.pop(chain) !== undefined; left--) {
        chains++;
        if (inside(chain.readable) + inside(chain.writable) > 0) chain.writable.copyFrom(pattern);
        queue.push(chain.head, 1);
        queue.needsNotification();
      }
    }
  } finally {
    scribbler.terminate();
  }
  assert.ok(ring.intact());
}

Deno.test("rings that change while they are read: nothing outside of guest memory", async () => {
  // Flags: next, write, indirect; then the next one.
  await whileScribbled([[0, 0, 1, 1, 1, 2, 2, 3, 4], INDICES], ({ memory }) => {
    const driver = new MockDriver(memory, { address: 0, size: SIZE, eventIdx: true });
    for (let head = 0; head < SIZE; head++) driver.offer(head);
    driver.publish();
    const settings = { ...driver.addresses, size: SIZE, eventIdx: true, indirect: true };
    return new SplitVirtqueue(memory, settings);
  });
});

Deno.test("packed rings that change while they are read: nothing outside of guest memory", async () => {
  const { Available, Used } = PackedFlag;
  // Id, then flags as above, offered in one round or the other, or used.
  const flags = [0, 0, 1, 1, 1, 2, 2, 3, 4].flatMap((flag) => [
    ...[flag | Available, flag | Available, flag | Used],
    flag | Available | Used,
  ]);
  await whileScribbled([INDICES, flags], ({ memory }) => {
    const driver = new MockPackedDriver(memory, { address: 0, size: SIZE, eventIdx: true });
    for (const address of INDICES) driver.add([{ address: address * 256, length: 256 }]);
    driver.publish();
    const settings = { ...driver.addresses, size: SIZE, eventIdx: true, indirect: true };
    return new PackedVirtqueue(memory, settings);
  });
});
