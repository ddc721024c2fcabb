/**
 * Malformed rings without end: random bytes over them, and valid ones with a few numbers changed. A
 * queue must neither throw nor hang, give out only pieces inside of guest memory, and write nothing
 * outside of it.
 *
 * Run it as a program for as many as one likes: `deno run -A ring_fuzz.ts [ROUNDS [SEED]]`.
 *
 * @module
 */

import { DescriptorChain, type Pieces } from "../chain.ts";
import type { DeviceMemory } from "../device_memory.ts";
import { VirtioError } from "../errors.ts";
import { PackedVirtqueue } from "../packed_virtqueue.ts";
import { DescriptorFlag } from "../ring.ts";
import { SplitVirtqueue } from "../split_virtqueue.ts";
import type { Virtqueue } from "../virtqueue.ts";
import { MockDriver } from "./mock_driver.ts";
import { MockPackedDriver } from "./mock_packed_driver.ts";
import { RingMemory } from "./ring_memory.ts";

const LOW_BYTES = 0x8000;
const HIGH_START = 2 ** 32;
const SIZE = 16;
const RINGS = 0x1000;
const TABLES = 0x2000;

/** What came of it. */
export interface FuzzResult {
  readonly rounds: number;
  /** Chains that came out. */
  readonly chains: number;
  /** How often each rule was broken. */
  readonly faults: Readonly<Record<string, number>>;
}

/** A queue over a ring that is malformed, and a driver that goes on spoiling it. */
interface Target {
  readonly queue: Virtqueue;
  /** More chains than come out. */
  readonly maxPops: number;
  /** Whether a ring can be such that they have no end, which is fine. */
  readonly endless: boolean;
  /** Fills the ring. */
  begin(): void;
  /** Changes a number of it. */
  meddle(): void;
}

/**
 * Feeds `rounds` malformed split rings to queues.
 *
 * @throws {VirtioError} where a queue misbehaves; the message names seed and round.
 */
export function fuzzRings(rounds: number, seed: number): FuzzResult {
  return fuzz(rounds, seed, (memory, random) => {
    const eventIdx = random(2) === 0;
    const driver = new MockDriver(memory, { address: RINGS, size: SIZE, eventIdx });
    const start = random(4) === 0 ? random(0x1_0000) : 0;
    driver.startAt(start);
    const queue = new SplitVirtqueue(memory, {
      ...driver.addresses,
      size: SIZE,
      indirect: random(4) !== 0,
      eventIdx,
      availableIndex: start,
    });
    return {
      queue,
      // No head comes twice while it is held, so there is an end.
      maxPops: 2 * SIZE,
      endless: false,
      begin() {
        if (random(3) === 0) scramble(driver, random);
        else mutate(driver, random);
      },
      meddle: () => mutateOnce(driver, random),
    };
  });
}

/**
 * As {@link fuzzRings}, for packed rings.
 *
 * @throws {VirtioError} where a queue misbehaves; the message names seed and round.
 */
export function fuzzPackedRings(rounds: number, seed: number): FuzzResult {
  return fuzz(rounds, seed, (memory, random) => {
    const eventIdx = random(2) === 0;
    const driver = new MockPackedDriver(memory, { address: RINGS, size: SIZE, eventIdx });
    driver.startAt(random(SIZE), random(2));
    const queue = new PackedVirtqueue(memory, {
      ...driver.addresses,
      size: SIZE,
      indirect: random(4) !== 0,
      eventIdx,
      base: driver.base,
    });
    const begin = queue.base & 0x7fff;
    return {
      queue,
      // Answers may be taken for offers, by a driver that scribbles: it gets what it asked for.
      maxPops: 4 * SIZE,
      endless: true,
      begin() {
        if (random(3) === 0) scramblePacked(driver, { random, begin });
        else {
          addChains(driver, random);
          for (let count = random(4); count > 0; count--) mutatePacked(driver, random);
        }
      },
      meddle: () => mutatePacked(driver, random),
    };
  });
}

function fuzz(
  rounds: number,
  seed: number,
  makeTarget: (memory: DeviceMemory, random: Random) => Target,
): FuzzResult {
  const random = xorshift(seed);
  const ring = fuzzMemory();
  const chain = new DescriptorChain();
  const faults: Record<string, number> = {};
  let chains = 0;
  for (let round = 0; round < rounds; round++) {
    const target = makeTarget(ring.memory, random);
    const { queue } = target;
    try {
      target.begin();
      let popped: DescriptorChain | undefined;
      for (let pops = 0; (popped = queue.pop(chain)) !== undefined; pops++) {
        if (pops >= target.maxPops) {
          if (target.endless) break;
          throw new VirtioError("chains without end");
        }
        chains++;
        checkPieces(popped.readable);
        checkPieces(popped.writable);
        popped.writable.copyFrom(PATTERN);
        if (random(2) === 0) queue.push(popped.head, popped.writable.lengthBytes);
        queue.needsNotification();
        if (queue.heldCount > SIZE) throw new VirtioError("more chains than descriptors");
        // The driver is at work meanwhile.
        if (random(4) === 0) target.meddle();
      }
      const reason = queue.fault?.reason;
      if (reason !== undefined) faults[reason] = (faults[reason] ?? 0) + 1;
      // Looking at the guard bytes takes longer than all the rest.
      if (round % 1024 === 0 && !ring.intact()) throw new VirtioError("wrote outside of memory");
    } catch (cause) {
      throw new VirtioError(`ring fuzzer: seed ${seed}, round ${round}`, { cause });
    }
  }
  if (!ring.intact()) throw new VirtioError(`ring fuzzer: seed ${seed}: wrote outside of memory`);
  return { rounds, chains, faults };
}

function fuzzMemory(): RingMemory {
  return new RingMemory([
    { guestAddress: 0, sizeBytes: LOW_BYTES },
    { guestAddress: LOW_BYTES, sizeBytes: 0x1000 },
    { guestAddress: HIGH_START, sizeBytes: 0x1000 },
  ]);
}

const PATTERN = new Uint8Array(256).fill(0x5a);

type Random = (below: number) => number;

function xorshift(seed: number): Random {
  let state = seed | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

function checkPieces(pieces: Pieces): void {
  let total = 0;
  for (let index = 0; index < pieces.count; index++) {
    const from = pieces.offset(index);
    const length = pieces.length(index);
    const inside = from >= 0 && length > 0 &&
      from + length <= pieces.span(index).bytes.byteLength;
    if (!inside) throw new VirtioError(`a piece of ${length} bytes at ${from}`);
    total += length;
  }
  if (total !== pieces.lengthBytes) throw new VirtioError("pieces do not add up");
}

/** Random bytes over the rings. */
function scramble(driver: MockDriver, random: Random): void {
  const bytes = driver.ringBytes;
  for (let at = 0; at < bytes.length; at++) bytes[at] = random(256);
  for (let count = random(4); count > 0; count--) mutateOnce(driver, random);
  // Most random indices are refused at once; let others be seen, too.
  if (random(8) !== 0) driver.setAvailableIndex(driver.availableIndex + random(SIZE + 1));
  for (let slot = 0; slot < SIZE; slot++) {
    if (random(8) !== 0) driver.writeAvailable(slot, random(SIZE + 1));
  }
}

/** Random bytes over a packed ring, most of whose descriptors are offered. */
function scramblePacked(
  driver: MockPackedDriver,
  { random, begin }: { readonly random: Random; readonly begin: number },
): void {
  const bytes = driver.ringBytes;
  for (let at = 0; at < bytes.length; at++) bytes[at] = random(256);
  for (let ahead = 0; ahead < SIZE; ahead++) {
    if (random(8) !== 0) writePacked(driver, { random, slot: (begin + ahead) % SIZE, ahead });
  }
}

function mutatePacked(driver: MockPackedDriver, random: Random): void {
  if (random(4) === 0) {
    const bytes = driver.ringBytes;
    bytes[random(bytes.length)] = random(256);
  } else writePacked(driver, { random, slot: random(SIZE), ahead: random(SIZE) });
}

function writePacked(
  driver: MockPackedDriver,
  { random, slot, ahead }: {
    readonly random: Random;
    readonly slot: number;
    readonly ahead: number;
  },
): void {
  driver.writeDescriptor(slot, {
    address: interestingAddress(random),
    length: interestingLength(random),
    id: random(4) === 0 ? random(0x1_0000) : random(SIZE),
    flags: random(8) | (random(8) === 0 ? random(0x1_0000) : driver.offering(ahead)),
  });
}

/** Valid chains, a few of whose numbers are changed. */
function mutate(driver: MockDriver, random: Random): void {
  addChains(driver, random);
  for (let count = random(4); count > 0; count--) mutateOnce(driver, random);
}

/** Valid chains. */
function addChains(driver: MockDriver | MockPackedDriver, random: Random): void {
  for (let count = 1 + random(4); count > 0; count--) {
    const readable = random(3);
    const buffers = Array.from({ length: 1 + readable + random(3) }, (_, index) => ({
      address: random(LOW_BYTES),
      length: 1 + random(0x800),
      writable: index >= readable,
    }));
    if (random(2) === 0) driver.add(buffers);
    else driver.addIndirect(buffers, TABLES + random(16) * 64);
  }
  driver.publish();
}

function mutateOnce(driver: MockDriver, random: Random): void {
  switch (random(5)) {
    case 0:
      driver.writeAvailable(random(SIZE), random(3) === 0 ? random(0x1_0000) : random(SIZE));
      return;
    case 1:
      driver.setAvailableIndex(random(2) === 0 ? random(0x1_0000) : driver.availableIndex + 1);
      return;
    case 2: {
      const bytes = driver.ringBytes;
      bytes[random(bytes.length)] = random(256);
      return;
    }
    default:
      driver.writeDescriptor(random(SIZE), {
        address: interestingAddress(random),
        length: interestingLength(random),
        flags: random(8),
        next: random(4) === 0 ? random(0x1_0000) : random(SIZE),
      });
  }
}

function interestingAddress(random: Random): bigint {
  const near = BigInt(random(64)) - 32n;
  const { Indirect } = DescriptorFlag;
  switch (random(7)) {
    case 0:
      return BigInt(LOW_BYTES) + near;
    case 1:
      return BigInt(HIGH_START) + near;
    case 2:
      return BigInt(HIGH_START + 0x1000) + near;
    case 3:
      return 2n ** 64n - BigInt(1 + random(64));
    case 4:
      return (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32));
    case 5:
      return BigInt(RINGS + random(SIZE) * 16 * Indirect);
    default:
      return BigInt(random(LOW_BYTES));
  }
}

function interestingLength(random: Random): number {
  switch (random(6)) {
    case 0:
      return 0;
    case 1:
      return 0xffff_ffff - random(32);
    case 2:
      return random(2 ** 32);
    case 3:
      return LOW_BYTES + random(0x2000);
    default:
      return 16 * random(40);
  }
}

if (import.meta.main) {
  const [rounds, seed] = Deno.args.map(Number);
  for (const fuzz of [fuzzRings, fuzzPackedRings]) {
    const result = fuzz(rounds ?? 1_000_000, seed ?? Date.now() & 0x7fff_ffff);
    console.log(JSON.stringify(result, undefined, 2));
  }
}
