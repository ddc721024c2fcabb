import assert from "node:assert/strict";
import fc from "fast-check";
import { DescriptorChain } from "./chain.ts";
import { VirtioError } from "./errors.ts";
import { EventFlag, PACKED_BEGIN, PackedFlag } from "./packed_ring.ts";
import { PackedVirtqueue, type PackedVirtqueueSettings } from "./packed_virtqueue.ts";
import type { QueueFaultReason } from "./queue_fault.ts";
import { DescriptorFlag } from "./ring.ts";
import type { DriverBuffer } from "./testing/mock_driver.ts";
import type { MockPackedDriver, RawPackedDescriptor } from "./testing/mock_packed_driver.ts";
import { DATA, packedRig, pieceLengths, RINGS, TABLES } from "./testing/queue_rig.ts";

const { Next, Write, Indirect } = DescriptorFlag;

Deno.test("packed: indirect tables, also behind direct descriptors", () => {
  const { driver, queue } = packedRig();
  driver.addIndirect(
    [{ address: DATA, length: 1 }, { address: DATA, length: 2, writable: true }],
    TABLES,
  );
  driver.publish();
  const chain = queue.pop();
  assert.ok(chain);
  assert.deepEqual(pieceLengths(chain), [[1], [2]]);
  const flags = driver.offering();
  const first = { address: DATA, length: 3, id: 6, flags: flags | Next };
  const second = { address: TABLES, length: 32, id: 7, flags: flags | Indirect | Write };
  driver.writeDescriptor(2, second);
  driver.writeDescriptor(1, first);
  const mixed = queue.pop();
  assert.ok(mixed);
  assert.equal(mixed.head, 7);
  assert.deepEqual(pieceLengths(mixed), [[3, 1], [2]]);
});

interface Malformed {
  readonly reason: QueueFaultReason;
  spoil(driver: MockPackedDriver): void;
}

function oneDescriptor(fields: Partial<RawPackedDescriptor>) {
  return (driver: MockPackedDriver) => {
    const flags = driver.offering() | (fields.flags ?? 0);
    driver.writeDescriptor(0, { address: DATA, length: 16, id: 0, ...fields, flags });
  };
}

/** What only a driver of a packed queue can do wrong, or does in another way. */
const MALFORMED: Readonly<Record<string, Malformed>> = {
  "an id that does not exist": {
    reason: "head-out-of-range",
    spoil: oneDescriptor({ id: 8 }),
  },
  "a ring that is one chain": {
    reason: "chain-too-long",
    spoil(driver) {
      for (let slot = 0; slot < 8; slot++) {
        const flags = driver.offering() | Next;
        driver.writeDescriptor(slot, { address: DATA, length: 1, id: 0, flags });
      }
    },
  },
  "an indirect table without an end": {
    reason: "chain-too-long",
    spoil: oneDescriptor({ flags: Indirect, length: 16 * 1025 }),
  },
};

for (const [what, { reason, spoil }] of Object.entries(MALFORMED)) {
  Deno.test(`packed: ${what} breaks the queue: ${reason}`, () => {
    const { ring, driver, queue } = packedRig();
    spoil(driver);
    assert.equal(queue.pop(), undefined);
    assert.equal(queue.fault?.reason, reason);
    assert.equal(queue.needsNotification(), false);
    assert.ok(ring.intact());
  });
}

Deno.test("packed: what the device holds cannot be offered again", () => {
  const { driver, queue } = packedRig({ size: 4 });
  driver.add([{ address: DATA, length: 1 }]);
  driver.publish();
  assert.ok(queue.pop());
  driver.writeDescriptor(1, { address: DATA, length: 1, id: 0, flags: driver.offering() });
  assert.equal(queue.pop(), undefined);
  assert.equal(queue.fault?.reason, "head-in-use");

  const full = packedRig({ size: 2 });
  full.driver.add([{ address: DATA, length: 1 }]);
  full.driver.add([{ address: DATA, length: 1 }]);
  full.driver.publish();
  assert.ok(full.queue.pop(new DescriptorChain()));
  assert.ok(full.queue.pop(new DescriptorChain()));
  const offering = PackedFlag.Used;
  full.driver.writeDescriptor(0, { address: DATA, length: 1, id: 0, flags: offering });
  assert.equal(full.queue.pop(), undefined);
  assert.equal(full.queue.fault?.reason, "chain-too-long");
});

Deno.test("packed: sizes, places and addresses that cannot be are refused", () => {
  const { ring, driver } = packedRig();
  const good = { ...driver.addresses, size: 8, indirect: true, eventIdx: true };
  const refused = (more: Partial<PackedVirtqueueSettings>) =>
    assert.throws(() => new PackedVirtqueue(ring.memory, { ...good, ...more }), VirtioError);
  for (const size of [0, 1.5, 32769, NaN]) refused({ size });
  refused({ base: 0x8000_8008 });
  refused({ base: 0x8008_8000 });
  refused({ descriptorTable: RINGS + 8 });
  refused({ descriptorTable: 0x8_0000 - 64 });
  refused({ availableRing: 2 });
  refused({ availableRing: 0x20_0000 });
  refused({ usedRing: 0x10_0000 - 2 });
  new PackedVirtqueue(ring.memory, good);
});

Deno.test("packed: kicks and interrupts are asked for by place, and one is not lost", () => {
  for (const eventIdx of [false, true]) {
    const { driver, queue } = packedRig({ eventIdx, start: [6, 0] });
    const buffers = [{ address: DATA, length: 1 }];
    driver.add(buffers);
    assert.equal(driver.publish(), true, "the device waits");
    assert.ok(queue.pop());
    driver.add(buffers);
    assert.equal(driver.publish(), false, "it is at work");
    queue.push(queue.pop(new DescriptorChain())!.head, 0);
    assert.equal(queue.pop(), undefined);
    driver.add(buffers);
    assert.equal(driver.publish(), true, "it waits again, in the next round");
    assert.equal(queue.needsNotification(), true);
    driver.takeUsed();
    driver.wantInterrupts(false);
    if (eventIdx) driver.wantInterruptAfter(2);
    queue.push(queue.pop(new DescriptorChain())!.head, 0);
    assert.equal(queue.needsNotification(), false);
    queue.push(0, 0);
    assert.equal(queue.needsNotification(), eventIdx, "two were asked for");
    queue.setPolled(true);
    assert.equal(queue.pop(), undefined);
    const before = queue.offered;
    assert.equal(queue.offered, before, "nothing was added");
    driver.takeUsed();
    driver.add(buffers);
    driver.publish();
    assert.notEqual(queue.offered, before);
    assert.ok(queue.pop());
  }
  // Places that do not exist are no reason to tell nobody.
  const { driver, queue } = packedRig({ eventIdx: true });
  driver.ringBytes.set([0xff, 0x7f, EventFlag.Descriptor, 0], 8 * 16);
  driver.add([{ address: DATA, length: 1 }]);
  driver.publish();
  queue.push(queue.pop()!.head, 0);
  assert.equal(queue.needsNotification(), true);
});

Deno.test("packed: a chain that is put back comes again, also over the ring's end", () => {
  const { driver, queue } = packedRig({ size: 4, start: [3, 1] });
  const id = driver.add([{ address: DATA, length: 1 }, { address: DATA, length: 2 }]);
  driver.publish();
  const { base } = queue;
  queue.unpop(queue.pop()!.head);
  assert.equal(queue.base, base);
  assert.equal(queue.heldCount, 0);
  assert.equal(queue.pop()?.head, id);
  assert.throws(() => queue.unpop(id + 1), /does not hold/);
});

/** A driver's and a device's turns, in any order. */
const turns = fc.array(
  fc.oneof(
    fc.record({
      do: fc.constant("add" as const),
      buffers: fc.array(
        fc.record({ length: fc.integer({ min: 1, max: 5000 }), writable: fc.boolean() }),
        { minLength: 1, maxLength: 5 },
      ),
      indirect: fc.boolean(),
    }),
    fc.record({ do: fc.constant("pop" as const) }),
    fc.record({ do: fc.constant("push" as const), which: fc.nat(20), written: fc.nat(2 ** 31) }),
    fc.record({ do: fc.constant("take" as const) }),
    fc.record({ do: fc.constant("suspend" as const) }),
  ),
  { maxLength: 120 },
);

Deno.test("packed: every chain comes out once, in order, and comes back as it was used", () => {
  fc.assert(
    fc.property(
      fc.record({
        // Other sizes than powers of two are sizes, too.
        size: fc.integer({ min: 1, max: 9 }),
        eventIdx: fc.boolean(),
        start: fc.tuple(fc.nat(8), fc.integer({ min: 0, max: 1 })),
      }),
      turns,
      ({ size, eventIdx, start: [slot, wrap] }, turns) => {
        const { ring, driver, queue: first } = packedRig({
          size,
          eventIdx,
          start: [slot % size, wrap],
        });
        let queue = first;
        const offered: { id: number; expected: [number[], number[]] }[] = [];
        const held: number[] = [];
        const used: { id: number; written: number }[] = [];
        let kicked = false;
        let interrupted = false;
        // The driver looks again only when it is told to.
        let waits = true;
        for (const turn of turns) {
          switch (turn.do) {
            case "add": {
              const sorted = turn.buffers.toSorted((a, b) => +a.writable - +b.writable);
              const buffers = sorted.map((buffer, index): DriverBuffer => ({
                ...buffer,
                address: DATA + index * 0x2000,
              }));
              // A table stays as it is until the device has seen it.
              const table = TABLES + driver.freeCount * 1024;
              const id = turn.indirect
                ? driver.addIndirect(buffers, table + offered.length * 128)
                : driver.add(buffers);
              if (id < 0) break;
              if (driver.publish()) kicked = true;
              const of = (wanted: boolean) =>
                sorted.filter(({ writable }) => writable === wanted).map(({ length }) => length);
              offered.push({ id, expected: [of(false), of(true)] });
              break;
            }
            case "pop": {
              const chain = queue.pop(new DescriptorChain());
              const next = offered.shift();
              assert.equal(chain?.head, next?.id);
              if (chain === undefined) {
                kicked = false;
                break;
              }
              assert.deepEqual(pieceLengths(chain), next!.expected);
              held.push(chain.head);
              break;
            }
            case "push": {
              const [id] = held.splice(turn.which % Math.max(held.length, 1), 1);
              if (id === undefined) break;
              queue.push(id, turn.written);
              used.push({ id, written: turn.written });
              if (queue.needsNotification()) interrupted = true;
              assert.ok(interrupted || !waits);
              break;
            }
            case "take": {
              const next = used.shift();
              assert.equal(driver.takeUsed(), next?.id ?? -1);
              if (next === undefined) {
                driver.wantInterrupts(true);
                interrupted = false;
              } else assert.equal(driver.usedLength, next.written);
              waits = next === undefined;
              break;
            }
            case "suspend":
              if (held.length > 0) break;
              queue = new PackedVirtqueue(ring.memory, {
                ...driver.addresses,
                ...{ size, eventIdx, indirect: true, base: queue.base },
              });
              kicked = true;
              if (queue.needsNotification()) interrupted = true;
          }
          assert.equal(queue.fault, undefined);
          assert.equal(queue.heldCount, held.length);
        }
        // Who waits for the other was told, or has not looked again since.
        if (offered.length > 0 && held.length === 0 && used.length === 0) {
          assert.ok(kicked || queue.pop() !== undefined);
        }
        assert.ok(ring.intact());
      },
    ),
    { numRuns: 300 },
  );
});

Deno.test("packed: a new queue begins where vhost-user says", () => {
  const { queue } = packedRig();
  assert.equal(queue.base, PACKED_BEGIN);
});
