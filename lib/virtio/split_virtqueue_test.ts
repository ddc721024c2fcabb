import assert from "node:assert/strict";
import fc from "fast-check";
import { DescriptorChain } from "./chain.ts";
import { VirtioError } from "./errors.ts";
import { InflightQueue, inflightQueueBytes } from "./inflight.ts";
import type { QueueFaultReason } from "./queue_fault.ts";
import { DescriptorFlag } from "./ring.ts";
import { SplitVirtqueue, type SplitVirtqueueSettings } from "./split_virtqueue.ts";
import {
  type DriverBuffer,
  MockDriver,
  mockRingBytes,
  type RawDescriptor,
} from "./testing/mock_driver.ts";
import { DATA, pieceLengths, RINGS, type SplitRig, splitRig, TABLES } from "./testing/queue_rig.ts";
import { RingMemory } from "./testing/ring_memory.ts";

const { Next, Write, Indirect } = DescriptorFlag;

Deno.test("indirect chains, also behind direct descriptors", () => {
  const { driver, queue } = splitRig();
  driver.addIndirect(
    [{ address: DATA, length: 1 }, { address: DATA, length: 2, writable: true }],
    TABLES,
  );
  driver.publish();
  const chain = queue.pop();
  assert.ok(chain);
  assert.deepEqual(pieceLengths(chain), [[1], [2]]);
  driver.writeDescriptor(6, { address: DATA, length: 3, flags: Next, next: 7 });
  driver.writeDescriptor(7, { address: TABLES, length: 32, flags: Indirect | Write, next: 0 });
  driver.writeAvailable(1, 6);
  driver.setAvailableIndex(2);
  const mixed = queue.pop();
  assert.ok(mixed);
  assert.deepEqual(pieceLengths(mixed), [[3, 1], [2]]);
});

interface Malformed {
  readonly reason: QueueFaultReason;
  spoil(driver: MockDriver): void;
}

function oneDescriptor(fields: Partial<RawDescriptor>) {
  return (driver: MockDriver) => {
    driver.writeDescriptor(0, { address: DATA, length: 16, flags: 0, next: 0, ...fields });
    driver.writeAvailable(0, 0);
    driver.setAvailableIndex(1);
  };
}

/** A table of one entry that names `next`. */
function linkedTable(next: number) {
  return (driver: MockDriver) => {
    driver.writeDescriptor(4, { address: DATA, length: 1, flags: Next, next });
    oneDescriptor({ address: RINGS + 64, flags: Indirect })(driver);
  };
}

/** What only a driver of a split queue can do wrong. */
const MALFORMED: Readonly<Record<string, Malformed>> = {
  "an index that jumps": {
    reason: "available-index",
    spoil: (driver) => driver.setAvailableIndex(9),
  },
  "an index that goes back": {
    reason: "available-index",
    spoil: (driver) => driver.setAvailableIndex(-1),
  },
  "a head that does not exist": {
    reason: "head-out-of-range",
    spoil(driver) {
      driver.writeAvailable(0, 8);
      driver.setAvailableIndex(1);
    },
  },
  "a next that does not exist": {
    reason: "next-out-of-range",
    spoil: oneDescriptor({ flags: Next, next: 8 }),
  },
  "a loop": { reason: "chain-too-long", spoil: oneDescriptor({ flags: Next, next: 0 }) },
  "a loop in an indirect table": {
    reason: "chain-too-long",
    spoil: linkedTable(0),
  },
  "a next behind an indirect table's end": {
    reason: "next-out-of-range",
    spoil: linkedTable(1),
  },
  "a chain that is offered twice": {
    reason: "head-in-use",
    spoil(driver) {
      driver.writeAvailable(1, 0);
      oneDescriptor({})(driver);
      driver.setAvailableIndex(2);
    },
  },
};

for (const [what, { reason, spoil }] of Object.entries(MALFORMED)) {
  Deno.test(`${what} breaks the queue: ${reason}`, () => {
    const { ring, driver, queue } = splitRig();
    spoil(driver);
    const first = queue.pop();
    if (first !== undefined) assert.equal(queue.pop(new DescriptorChain()), undefined);
    assert.equal(queue.fault?.reason, reason, queue.fault?.message);
    // It stays broken, and what is held can be given back without effect.
    if (first !== undefined) queue.push(first.head, 0);
    assert.equal(queue.pop(), undefined);
    assert.equal(queue.needsNotification(), false);
    assert.equal(driver.takeUsed(), -1);
    assert.ok(ring.intact());
  });
}

Deno.test("sizes and places that no queue can have are refused", () => {
  const { ring, driver } = splitRig();
  const make = (settings: Partial<SplitVirtqueueSettings>) => () =>
    new SplitVirtqueue(ring.memory, {
      ...driver.addresses,
      size: 8,
      eventIdx: false,
      indirect: false,
      ...settings,
    });
  for (const size of [0, 3, -8, 65536, NaN, 1.5]) assert.throws(make({ size }), VirtioError);
  assert.throws(make({ descriptorTable: RINGS + 8 }), VirtioError);
  assert.throws(make({ availableRing: RINGS + 1 }), VirtioError);
  assert.throws(make({ usedRing: RINGS + 2 }), VirtioError);
  assert.throws(make({ usedRing: 0x8_0000 - 16 }), VirtioError);
  assert.throws(make({ descriptorTable: 2 ** 64 }), VirtioError);
  assert.throws(make({ descriptorTable: NaN }), VirtioError);
});

Deno.test("kicks are asked for exactly when the queue ran empty", () => {
  for (const eventIdx of [false, true]) {
    const { driver, queue } = splitRig({ eventIdx, start: 0xfffe });
    const add = () => {
      driver.add([{ address: DATA, length: 1 }]);
      return driver.publish();
    };
    assert.equal(add(), true);
    const first = queue.pop();
    assert.ok(first);
    assert.equal(add(), false, "while it is at work");
    const second = queue.pop(new DescriptorChain());
    assert.ok(second);
    assert.equal(queue.pop(), undefined);
    assert.equal(add(), true, "after it ran empty");
    queue.setPolled(true);
    assert.ok(queue.pop());
    assert.equal(queue.pop(), undefined);
    assert.equal(add(), false, "when it is polled");
    const before = queue.offered;
    assert.ok(queue.pop());
    assert.equal(queue.offered, before, "nothing was added");
    assert.equal(add(), false);
    assert.notEqual(queue.offered, before);
    queue.setPolled(false);
    assert.ok(queue.pop());
  }
});

Deno.test("interrupts are given as the driver wants them", () => {
  const use = ({ driver, queue }: SplitRig) => {
    driver.add([{ address: DATA, length: 1 }]);
    driver.publish();
    queue.push(queue.pop()!.head, 0);
    return queue.needsNotification();
  };
  const plain = splitRig({ start: 5 });
  assert.equal(use(plain), true);
  plain.driver.wantInterrupts(false);
  assert.equal(use(plain), false);
  const indexed = splitRig({ eventIdx: true, start: 0xfff0, size: 64 });
  indexed.driver.wantInterruptAfter(3);
  assert.equal(use(indexed), true, "the first one always: a predecessor may have failed to");
  indexed.driver.wantInterruptAfter(20);
  const answers = Array.from({ length: 19 }, () => use(indexed));
  assert.deepEqual(answers, [...new Array(18).fill(false), true]);
});

Deno.test("what a dead device held comes out again, oldest first", () => {
  const record = new Uint8Array(inflightQueueBytes(8));
  const settings = () => ({ inflight: new InflightQueue(record, 8) });
  const { driver, queue, ring } = splitRig(settings());
  const heads = Array.from({ length: 5 }, () => driver.add([{ address: DATA, length: 1 }]));
  driver.publish();
  for (let count = 0; count < 4; count++) queue.pop(new DescriptorChain());
  queue.push(heads[2]!, 0);
  const next = new SplitVirtqueue(ring.memory, {
    ...driver.addresses,
    size: 8,
    eventIdx: false,
    indirect: true,
    availableIndex: 1,
    ...settings(),
  });
  const again = [0, 1, 2, 3].map(() => next.pop(new DescriptorChain())?.head);
  assert.deepEqual(again, [heads[0], heads[1], heads[3], heads[4]]);
  assert.equal(next.pop(), undefined);
  for (const head of again) next.push(head!, 0);
  const taken = Array.from({ length: 6 }, () => driver.takeUsed());
  assert.deepEqual(taken, [heads[2], ...again, -1]);
  assert.deepEqual(new InflightQueue(record, 8).recover(next.usedIndex), []);
});

Deno.test("a device that died between the used ring and its record does not repeat itself", () => {
  const record = new Uint8Array(inflightQueueBytes(8));
  const inflight = new InflightQueue(record, 8);
  inflight.recover(0);
  for (const head of [3, 1, 2]) inflight.take(head);
  inflight.batch(1);
  // The used ring's index is 1 already, what follows is missing.
  assert.deepEqual(new InflightQueue(record, 8).recover(1), [3, 2]);
  // The same before the index was stored: it is done again.
  inflight.batch(3);
  assert.deepEqual(new InflightQueue(record, 8).recover(1), [3, 2]);
});

Deno.test("any record is taken without a crash, and gives each chain once", () => {
  fc.assert(fc.property(
    fc.uint8Array({ minLength: inflightQueueBytes(8), maxLength: inflightQueueBytes(8) }),
    fc.nat(0xffff),
    (bytes, used) => {
      const record = new Uint8Array(bytes);
      record.set([1, 0, 8, 0], 8);
      const heads = new InflightQueue(record, 8).recover(used);
      assert.equal(new Set(heads).size, heads.length);
      assert.ok(heads.every((head) => head < 8));
    },
  ));
});

const buffers = fc.array(
  fc.record({
    address: fc.integer({ min: DATA, max: 0xf_0000 }),
    length: fc.integer({ min: 1, max: 0x1000 }),
  }),
  { minLength: 1, maxLength: 6 },
);

Deno.test("whatever a good driver does comes through, in any order of completion", () => {
  fc.assert(fc.property(
    fc.boolean(),
    fc.nat(0xffff),
    fc.array(fc.record({ read: buffers, written: fc.nat(3), indirect: fc.boolean() }), {
      maxLength: 60,
    }),
    fc.infiniteStream(fc.boolean()),
    (eventIdx, start, requests, late) => {
      const { ring, driver, queue } = splitRig({ eventIdx, start, size: 16 });
      const held: DescriptorChain[] = [];
      const open = new Map<number, readonly DriverBuffer[]>();
      let kicked = true;
      let done = 0;
      const serve = () => {
        for (let chain; (chain = queue.pop(new DescriptorChain())) !== undefined;) {
          const wanted = open.get(chain.head);
          assert.ok(wanted);
          const readable = wanted.filter(({ writable }) => !writable);
          const total = readable.reduce((sum, { length }) => sum + length, 0);
          assert.equal(chain.readable.lengthBytes, total);
          assert.equal(chain.writable.lengthBytes, (wanted.length - readable.length) * 8);
          held.push(chain);
        }
        while (held.length > 0 && (held.length > 4 || late.next().value)) {
          const chain = held.splice(held.length >> 1, 1)[0]!;
          queue.push(chain.head, chain.head);
        }
      };
      const collect = () => {
        for (let head; (head = driver.takeUsed()) >= 0; done++) {
          assert.equal(driver.usedLength, head);
          assert.ok(open.delete(head));
          driver.free(head);
        }
      };
      for (const [index, { read, written, indirect }] of requests.entries()) {
        const all: DriverBuffer[] = [...read];
        for (let count = 0; count < written; count++) {
          all.push({ address: DATA + count * 8, length: 8, writable: true });
        }
        let head: number;
        const table = 0x2_0000 + index * 256;
        while ((head = indirect ? driver.addIndirect(all, table) : driver.add(all)) < 0) {
          while (held.length > 0) queue.push(held[0]!.head, held.shift()!.head);
          collect();
          serve();
        }
        open.set(head, all);
        kicked = driver.publish() || kicked;
        if (kicked && late.next().value) {
          kicked = false;
          serve();
        }
        collect();
      }
      if (kicked) serve();
      for (const chain of held) queue.push(chain.head, chain.head);
      collect();
      assert.equal(open.size, 0);
      assert.equal(done, requests.length);
      assert.equal(queue.fault, undefined);
      assert.ok(ring.intact());
    },
  ));
});

Deno.test("the largest queue works to its last descriptor", () => {
  const size = 32768;
  const ring = new RingMemory([{ guestAddress: 0, sizeBytes: 0x20_0000 }]);
  assert.ok(mockRingBytes(size) < 0x18_0000);
  const driver = new MockDriver(ring.memory, { address: 0, size });
  const queue = new SplitVirtqueue(ring.memory, {
    ...driver.addresses,
    size,
    eventIdx: false,
    indirect: false,
  });
  driver.add(Array.from({ length: size }, () => ({ address: 0x1f_0000, length: 1 })));
  driver.publish();
  assert.equal(queue.pop()?.readable.count, size);
  assert.equal(queue.pop(), undefined);
  assert.equal(queue.fault, undefined);
});
