import assert from "node:assert/strict";
import { DescriptorChain } from "./chain.ts";
import { DeviceMemory } from "./device_memory.ts";
import { VirtioError } from "./errors.ts";
import type { QueueFaultReason } from "./queue_fault.ts";
import { DescriptorFlag } from "./ring.ts";
import type { DriverBuffer, MockDriver } from "./testing/mock_driver.ts";
import type { MockPackedDriver } from "./testing/mock_packed_driver.ts";
import {
  BORDER,
  DATA,
  HIGH,
  HOLE,
  packedRig,
  pieceLengths,
  RINGS,
  splitRig,
  TABLES,
} from "./testing/queue_rig.ts";
import type { RingMemory } from "./testing/ring_memory.ts";
import type { Virtqueue } from "./virtqueue.ts";

const { Next, Write, Indirect } = DescriptorFlag;
/** Descriptor 4, where a table can lie as well as anywhere else. */
const TABLE = RINGS + 64;

/** A descriptor of either layout. */
interface Descriptor {
  readonly address?: number | bigint;
  readonly length?: number;
  readonly flags?: number;
}

/** A queue of either layout. */
interface AnyRig {
  readonly ring: RingMemory;
  readonly queue: Virtqueue;
  readonly driver: MockDriver | MockPackedDriver;
  /** Writes descriptors from the ring's first one on, and offers them as they are. */
  offerRaw(descriptors: readonly Descriptor[]): void;
  /** Writes an entry of the table at {@link TABLE}. */
  writeTable(entry: Descriptor): void;
}

/** Makes a chain and shows it to the device. */
function offer({ driver }: AnyRig, buffers: readonly DriverBuffer[]): number {
  const head = driver.add(buffers);
  driver.publish();
  return head;
}

interface RigOptions {
  readonly indirect?: boolean;
}

const LAYOUTS: Readonly<Record<string, (options?: RigOptions) => AnyRig>> = {
  split(options) {
    const { ring, driver, queue } = splitRig(options);
    const write = (index: number, descriptor: Descriptor) =>
      driver.writeDescriptor(index, {
        ...{ address: DATA, length: 16, flags: 0, next: index + 1 },
        ...descriptor,
      });
    return {
      ...{ ring, queue, driver },
      offerRaw(descriptors) {
        descriptors.forEach((descriptor, index) => write(index, descriptor));
        driver.writeAvailable(0, 0);
        driver.setAvailableIndex(1);
      },
      writeTable: (entry) => write(4, entry),
    };
  },
  packed(options) {
    const { ring, driver, queue } = packedRig(options);
    const write = (index: number, descriptor: Descriptor, flags = 0) =>
      driver.writeDescriptor(index, {
        ...{ address: DATA, length: 16, id: 0 },
        ...descriptor,
        flags: (descriptor.flags ?? 0) | flags,
      });
    return {
      ...{ ring, queue, driver },
      offerRaw(descriptors) {
        const flags = driver.offering();
        descriptors.forEach((descriptor, index) => write(index, descriptor, flags));
      },
      writeTable: (entry) => write(4, entry),
    };
  },
};

interface Malformed {
  readonly reason: QueueFaultReason;
  readonly chain: readonly Descriptor[];
  readonly table?: Descriptor;
  readonly options?: RigOptions;
}

/** What no driver may do, whatever the layout. */
const MALFORMED: Readonly<Record<string, Malformed>> = {
  "an address outside": {
    reason: "buffer-outside-memory",
    chain: [{ address: 0x20_0000 }],
  },
  "an address that wraps around": {
    reason: "buffer-outside-memory",
    chain: [{ address: 0xffff_ffff_ffff_fff8n }],
  },
  "a length that goes outside": {
    reason: "buffer-outside-memory",
    chain: [{ address: HIGH + 0xfff0, length: 17 }],
  },
  "a buffer over a hole": {
    reason: "buffer-outside-memory",
    chain: [{ address: HOLE - 10, length: 30 }],
  },
  "more than 4 GiB": {
    reason: "chain-too-large",
    chain: [{ flags: Next }, { length: 0xffff_ffff }],
  },
  "a buffer to read behind one to write": {
    reason: "readable-after-writable",
    chain: [{ flags: Next | Write }, {}],
  },
  "a nested indirect table": {
    reason: "indirect-nested",
    chain: [{ address: TABLE, flags: Indirect }],
    table: { flags: Indirect },
  },
  "an indirect table with a next": {
    reason: "indirect-with-next",
    chain: [{ flags: Indirect | Next }],
  },
  "an empty indirect table": {
    reason: "indirect-length",
    chain: [{ flags: Indirect, length: 0 }],
  },
  "an indirect table with a part of a descriptor": {
    reason: "indirect-length",
    chain: [{ flags: Indirect, length: 24 }],
  },
  "an indirect table outside": {
    reason: "indirect-outside-memory",
    chain: [{ flags: Indirect, address: 0x1000_0000 }],
  },
  "an indirect table that was not negotiated": {
    reason: "indirect-not-negotiated",
    chain: [{ address: TABLE, flags: Indirect }],
    table: {},
    options: { indirect: false },
  },
};

for (const [layout, makeRig] of Object.entries(LAYOUTS)) {
  for (const [what, { reason, chain, table, options }] of Object.entries(MALFORMED)) {
    Deno.test(`${layout}: ${what} breaks the queue: ${reason}`, () => {
      const rig = makeRig(options);
      const { queue } = rig;
      if (table !== undefined) rig.writeTable(table);
      rig.offerRaw(chain);
      assert.equal(queue.pop(), undefined);
      assert.equal(queue.fault?.reason, reason, queue.fault?.message);
      assert.equal(queue.pop(), undefined);
      assert.equal(queue.needsNotification(), false);
      assert.equal(rig.driver.takeUsed(), -1);
      assert.ok(rig.ring.intact());
    });
  }

  Deno.test(`${layout}: a chain comes out as its pieces, and what is written reaches the driver`, () => {
    const { ring, driver, queue } = makeRig();
    ring.memory.areas[0]!.bytes.set([1, 2, 3, 4], DATA);
    const head = driver.add([
      { address: DATA, length: 4 },
      { address: DATA + 0x100, length: 100, writable: true },
      { address: DATA + 0x200, length: 1, writable: true },
    ]);
    assert.equal(queue.pop(), undefined, "it is not published");
    assert.equal(driver.publish(), true);
    const chain = queue.pop();
    assert.ok(chain);
    assert.deepEqual(pieceLengths(chain), [[4], [100, 1]]);
    assert.equal(chain.readable.readU32(0), 0x04030201);
    assert.equal(chain.readable.readU16(1), 0x0302);
    assert.throws(() => chain.readable.readU32(1), VirtioError);
    assert.equal(chain.writable.copyFrom(new Uint8Array(101).fill(9)), 101);
    assert.equal(queue.heldCount, 1);
    assert.equal(queue.pop(new DescriptorChain()), undefined);
    queue.push(chain.head, 101);
    assert.equal(queue.needsNotification(), true);
    assert.equal(queue.needsNotification(), false);
    assert.equal(driver.takeUsed(), head);
    assert.equal(driver.usedLength, 101);
    assert.equal(ring.memory.areas[0]!.bytes[DATA + 0x200], 9);
    assert.ok(ring.intact());
  });

  Deno.test(`${layout}: a buffer over the border of two areas is split`, () => {
    const rig = makeRig();
    const { queue } = rig;
    offer(rig, [{ address: BORDER - 10, length: 30 }]);
    const chain = queue.pop();
    assert.ok(chain);
    assert.deepEqual(pieceLengths(chain), [[10, 20], []]);
    chain.readable.span(1).bytes.set([7, 7, 7, 7], 0);
    const copy = new Uint8Array(20);
    assert.equal(chain.readable.copyTo(copy, 8), 20);
    assert.deepEqual([...copy.subarray(0, 7)], [0, 0, 7, 7, 7, 7, 0]);
  });

  Deno.test(`${layout}: a disabled queue gives nothing out and takes back`, () => {
    const rig = makeRig();
    const { queue, driver } = rig;
    offer(rig, [{ address: DATA, length: 1 }]);
    offer(rig, [{ address: DATA, length: 1 }]);
    const chain = queue.pop();
    assert.ok(chain);
    queue.setEnabled(false);
    assert.equal(queue.pop(), undefined);
    queue.push(chain.head, 0);
    assert.equal(driver.takeUsed(), chain.head);
    queue.setEnabled(true);
    assert.ok(queue.pop());
  });

  Deno.test(`${layout}: a turn ends after its share`, () => {
    const rig = makeRig();
    const { queue } = rig;
    for (let count = 0; count < 3; count++) offer(rig, [{ address: DATA, length: 1 }]);
    queue.beginTurn(2);
    const chains = [queue.pop(new DescriptorChain()), queue.pop(new DescriptorChain())];
    assert.ok(chains.every((chain) => chain !== undefined));
    assert.equal(queue.pop(), undefined);
    assert.equal(queue.turnExhausted, true);
    queue.endTurn();
    const last = queue.pop();
    assert.ok(last);
    queue.unpop(last.head);
    assert.equal(queue.heldCount, 2);
    assert.equal(queue.pop()?.head, last.head);
  });

  Deno.test(`${layout}: what is held is given back once, also to a broken queue, without effect`, () => {
    const rig = makeRig();
    const { queue, driver, ring } = rig;
    const head = offer(rig, [{ address: DATA, length: 1 }]);
    const held = offer(rig, [{ address: DATA, length: 1 }]);
    assert.ok(queue.pop());
    assert.ok(queue.pop());
    queue.push(head, 0);
    for (const other of [head, -1, 8, 1e9, NaN]) {
      assert.throws(() => queue.push(other, 0), /does not hold/);
      assert.throws(() => queue.unpop(other), /does not hold/);
    }
    assert.equal(driver.takeUsed(), head);
    queue.setMemory(new DeviceMemory([]));
    assert.equal(queue.fault?.reason, "ring-outside-memory");
    queue.push(held, 0);
    assert.equal(queue.heldCount, 0);
    assert.equal(queue.pop(), undefined);
    assert.equal(driver.takeUsed(), -1);
    assert.ok(ring.intact());
  });

  Deno.test(`${layout}: a queue goes on in other mappings of its memory`, () => {
    const rig = makeRig();
    const { queue, driver, ring } = rig;
    offer(rig, [{ address: TABLES, length: 1 }]);
    queue.push(queue.pop()!.head, 0);
    assert.ok(driver.takeUsed() >= 0);
    queue.setMemory(new DeviceMemory([...ring.memory.areas]));
    const head = offer(rig, [{ address: TABLES, length: 5 }]);
    assert.deepEqual(pieceLengths(queue.pop()!), [[5], []]);
    queue.push(head, 0);
    assert.equal(driver.takeUsed(), head);
  });
}
