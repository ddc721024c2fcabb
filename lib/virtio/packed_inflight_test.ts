import assert from "node:assert/strict";
import fc from "fast-check";
import { DescriptorChain } from "./chain.ts";
import { VirtioError } from "./errors.ts";
import { packedInflightBytes, PackedInflightQueue } from "./packed_inflight.ts";
import { PackedVirtqueue } from "./packed_virtqueue.ts";
import { DATA, packedRig, pieceLengths, TABLES } from "./testing/queue_rig.ts";

const SIZE = 8;

/** A queue with a record, whose device may die. */
function rig(start: readonly [slot: number, wrap: number] = [0, 1]) {
  const record = new Uint8Array(packedInflightBytes(SIZE));
  const inflight = () => new PackedInflightQueue(record, SIZE);
  const { ring, driver, queue } = packedRig({ start, size: SIZE, inflight: inflight() });
  const settings = { ...driver.addresses, size: SIZE, eventIdx: false, indirect: true };
  /** The next device; a front end does not know where a dead one was. */
  const successor = (base?: number) =>
    new PackedVirtqueue(ring.memory, {
      ...settings,
      ...base === undefined ? {} : { base },
      inflight: inflight(),
    });
  return { record, driver, queue, successor };
}

Deno.test("packed: what a dead device held comes out again, oldest first", () => {
  const { driver, queue, successor } = rig();
  const buffers = (...lengths: number[]) => lengths.map((length) => ({ address: DATA, length }));
  const ids = [buffers(1), buffers(2, 3), buffers(4, 5, 6), buffers(7)].map((chain) =>
    driver.add(chain)
  );
  ids.push(driver.addIndirect(buffers(8, 9), TABLES));
  driver.publish();
  for (let count = 0; count < 4; count++) queue.pop(new DescriptorChain());
  // Its answer overwrites the descriptor of the first one, which is not answered yet.
  queue.push(ids[2]!, 0);
  const next = successor();
  const again = Array.from({ length: 4 }, () => next.pop(new DescriptorChain()));
  assert.deepEqual(again.map((chain) => chain?.head), [ids[0], ids[1], ids[3], ids[4]]);
  assert.deepEqual(again.map((chain) => pieceLengths(chain!)[0]), [[1], [2, 3], [7], [8, 9]]);
  assert.equal(next.pop(), undefined);
  assert.equal(next.fault, undefined);
  for (const chain of again) next.push(chain!.head, 0);
  const taken = Array.from({ length: 6 }, () => driver.takeUsed());
  assert.deepEqual(taken, [ids[2], ids[0], ids[1], ids[3], ids[4], -1]);
  assert.equal(next.base, driver.base);
});

Deno.test("packed: a queue that was stopped goes on where its front end says, whatever was recorded", () => {
  const { driver, queue, successor } = rig([5, 0]);
  for (let turn = 0; turn < 3; turn++) {
    const id = driver.add([{ address: DATA, length: 1 }, { address: DATA, length: 2 }]);
    driver.publish();
    assert.equal(queue.pop()?.head, id);
    queue.push(id, 0);
    assert.equal(driver.takeUsed(), id);
  }
  // One that dies has left where it was.
  assert.equal(successor().base, driver.base);
  queue.end();
  assert.equal(successor(0x8002_8002).base, 0x8002_8002);
});

Deno.test("packed: what was not taken again when the queue was stopped comes out behind that", () => {
  const { driver, queue, successor } = rig();
  const id = driver.add([{ address: DATA, length: 1 }]);
  driver.publish();
  assert.equal(queue.pop()?.head, id);
  const idle = successor();
  idle.end();
  const next = successor(idle.base);
  assert.equal(next.pop()?.head, id);
  next.unpop(id);
  assert.equal(next.pop()?.head, id);
  next.push(id, 0);
  assert.equal(driver.takeUsed(), id);
  next.end();
  assert.equal(successor(next.base).pop(), undefined);
});

class Death extends Error {}

/** Has `action` die at the store number `store`, from 0 on; true where it came to its end before that. */
function dies(store: number, action: () => void): boolean {
  let left = store;
  const count = () => {
    if (left-- === 0) throw new Death();
  };
  const { setUint8, setUint16, setUint32 } = DataView.prototype;
  const { store: atomicStore } = Atomics;
  Object.assign(DataView.prototype, {
    setUint8(this: DataView, ...args: Parameters<typeof setUint8>) {
      count();
      setUint8.apply(this, args);
    },
    setUint16(this: DataView, ...args: Parameters<typeof setUint16>) {
      count();
      setUint16.apply(this, args);
    },
    setUint32(this: DataView, ...args: Parameters<typeof setUint32>) {
      count();
      setUint32.apply(this, args);
    },
  });
  Object.assign(Atomics, {
    store(...args: Parameters<typeof atomicStore>) {
      count();
      return atomicStore(...args);
    },
  });
  try {
    action();
    return false;
  } catch (error) {
    if (!(error instanceof Death)) throw error;
    return true;
  } finally {
    Object.assign(DataView.prototype, { setUint8, setUint16, setUint32 });
    Object.assign(Atomics, { store: atomicStore });
  }
}

Deno.test("packed: a device may die at any store, and each chain is answered once", () => {
  const turn = fc.record({
    lengths: fc.array(fc.integer({ min: 1, max: SIZE }), { maxLength: 4 }),
    pops: fc.nat(5),
    unpops: fc.boolean(),
    pushes: fc.array(fc.nat(SIZE), { maxLength: 4 }),
    deathAt: fc.option(fc.nat(90), { freq: 2 }),
    looks: fc.boolean(),
  });
  const place = fc.tuple(fc.nat(SIZE - 1), fc.nat(1));
  fc.assert(
    fc.property(place, fc.array(turn, { minLength: 1, maxLength: 25 }), (start, turns) => {
      const { driver, queue: first, successor } = rig(start);
      let queue = first;
      /** Per id, how long the first buffer of its chain is, which no other chain's is. */
      const offered = new Map<number, number>();
      let number = 0;
      let held: number[] = [];
      const takeUsed = () => {
        for (let id; (id = driver.takeUsed()) >= 0;) {
          assert.ok(offered.delete(id), `${id} was offered`);
        }
      };
      const pop = () => {
        const chain = queue.pop(new DescriptorChain());
        if (chain === undefined) return false;
        held.push(chain.head);
        assert.equal(chain.readable.length(0), offered.get(chain.head));
        return true;
      };
      const work = (
        { pops, unpops, pushes }: Pick<typeof turns[0], "pops" | "unpops" | "pushes">,
      ) => {
        for (let left = pops; left > 0 && pop(); left--);
        // Given back is only what came last.
        if (unpops && pops > 0 && pop()) queue.unpop(held.pop()!);
        for (const push of pushes) {
          if (held.length === 0) break;
          const [id] = held.splice(push % held.length, 1);
          queue.push(id!, 0);
        }
      };
      for (const { lengths, deathAt, looks, ...rest } of turns) {
        for (const count of lengths) {
          const length = ++number;
          const id = driver.add(
            Array.from(
              { length: count },
              (_, n) => ({ address: DATA, length: n === 0 ? length : 1 }),
            ),
          );
          if (id >= 0) offered.set(id, length);
        }
        driver.publish();
        if (dies(deathAt ?? Infinity, () => work(rest))) {
          if (looks) takeUsed();
          held = [];
          // It may die again while it finds out.
          if (dies(deathAt! % 30, () => successor())) takeUsed();
          queue = successor();
        } else takeUsed();
        assert.equal(queue.fault, undefined);
      }
      work({ pops: SIZE, unpops: false, pushes: Array(SIZE).fill(0) });
      takeUsed();
      assert.deepEqual([...offered], []);
      assert.equal(queue.base, driver.base);
    }),
    { numRuns: 3000 },
  );
});

Deno.test("packed: any record is taken or refused, and what comes of it stays in memory", () => {
  const bytes = packedInflightBytes(SIZE);
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: bytes, maxLength: bytes }),
      fc.boolean(),
      (content, calm) => {
        const { record, driver, successor } = rig();
        record.set(content);
        record.set([1, 0, SIZE, 0], 8);
        // Mostly a place that is one.
        if (calm) record.set([1, 0, 1, 0, 1, 1], 16);
        driver.add([{ address: DATA, length: 1 }]);
        driver.publish();
        let queue;
        try {
          queue = successor();
        } catch (error) {
          assert.ok(error instanceof VirtioError, String(error));
          return;
        }
        for (let chain; (chain = queue.pop(new DescriptorChain())) !== undefined;) {
          queue.push(chain.head, 0);
        }
      },
    ),
  );
});
