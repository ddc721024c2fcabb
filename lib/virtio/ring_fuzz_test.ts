import assert from "node:assert/strict";
import { DescriptorChain, type Pieces } from "./chain.ts";
import { MockDriver } from "./testing/mock_driver.ts";
import { fuzzPackedRings, fuzzRings } from "./testing/ring_fuzz.ts";
import { RingMemory } from "./testing/ring_memory.ts";
import type { ScribbleOrder } from "./testing/scribbler.ts";
import { Virtqueue } from "./virtqueue.ts";

const ROUNDS = 1_000_000;

Deno.test("a million malformed rings: no crash, no hang, nothing outside of guest memory", () => {
  const { chains, faults } = fuzzRings(ROUNDS, 0x2545_f491);
  // It is not always the same first check that refuses.
  assert.ok(chains > ROUNDS / 10, `${chains} chains`);
  const reasons = [
    "available-index",
    "buffer-outside-memory",
    "chain-too-long",
    "head-in-use",
    "head-out-of-range",
    "indirect-length",
    "indirect-nested",
    "indirect-not-negotiated",
    "indirect-outside-memory",
    "indirect-with-next",
    "next-out-of-range",
    "readable-after-writable",
  ];
  for (const reason of reasons) assert.ok((faults[reason] ?? 0) > 20, `${reason} was hardly met`);
});

Deno.test("half a million malformed packed rings: no crash, no hang, nothing outside of guest memory", () => {
  const { chains, faults } = fuzzPackedRings(ROUNDS / 2, 0x2545_f491);
  assert.ok(chains > ROUNDS / 20, `${chains} chains`);
  const reasons = [
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
  for (const reason of reasons) assert.ok((faults[reason] ?? 0) > 20, `${reason} was hardly met`);
});

Deno.test("rings that change while they are read: nothing outside of guest memory", async () => {
  const SIZE = 16;
  const sizeBytes = 0x4000;
  const ring = new RingMemory([{ guestAddress: 0, sizeBytes }], true);
  const { bytes } = ring.memory.areas[0]!;
  const scribbler = new Worker(new URL("./testing/scribbler.ts", import.meta.url), {
    type: "module",
  });
  const zeros = new Array<number>(200).fill(0);
  const order: ScribbleOrder = {
    buffer: bytes.buffer as SharedArrayBuffer,
    from: bytes.byteOffset,
    length: SIZE * 16,
    words: [
      // Address, mostly inside.
      [0, 0x1000, 0x2000, 0x3000, 0x3ff0, 0x3fff],
      [...zeros, 1],
      [...zeros, 1],
      [...zeros, 0xffff],
      // Length.
      [1, 2, 16, 32, 64, 256, 0x1000],
      [...zeros, 0xffff],
      // Flags: next, write, indirect.
      [0, 0, 1, 1, 1, 2, 2, 3, 4],
      // Next.
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    ],
  };
  const { promise: ready, resolve } = Promise.withResolvers<void>();
  scribbler.onmessage = () => resolve();
  scribbler.postMessage(order);
  await ready;
  const inside = (pieces: Pieces) => {
    for (let index = 0; index < pieces.count; index++) {
      const from = pieces.offset(index);
      const length = pieces.length(index);
      assert.ok(from >= 0 && length > 0 && from + length <= sizeBytes, `${length} at ${from}`);
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
      const driver = new MockDriver(ring.memory, { address: 0, size: SIZE, eventIdx: true });
      const queue = new Virtqueue(ring.memory, {
        ...driver.addresses,
        size: SIZE,
        eventIdx: true,
        indirect: true,
      });
      for (let head = 0; head < SIZE; head++) driver.offer(head);
      driver.publish();
      while (queue.pop(chain) !== undefined) {
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
});
