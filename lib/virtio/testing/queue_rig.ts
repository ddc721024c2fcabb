/**
 * Queues of either layout over memory of their own, with their drivers.
 *
 * @module
 */

import type { DescriptorChain, Pieces } from "../chain.ts";
import { PackedVirtqueue, type PackedVirtqueueSettings } from "../packed_virtqueue.ts";
import { SplitVirtqueue, type SplitVirtqueueSettings } from "../split_virtqueue.ts";
import { MockDriver } from "./mock_driver.ts";
import { MockPackedDriver } from "./mock_packed_driver.ts";
import { RingMemory } from "./ring_memory.ts";

/** Where the rings lie in the memory of a rig. */
export const RINGS = 0x1_0000;
/** Where there is room for indirect tables. */
export const TABLES = 0x3_0000;
/** Where there is room for buffers, up to the first area's end. */
export const DATA = 0x4_0000;
/** Where the first area ends and the second one begins, adjacent, but somewhere else in this process. */
export const BORDER = 0x8_0000;
/** Where the second area ends; there is nothing behind it. */
export const HOLE = 0x10_0000;
/** An area of 64 KiB. */
export const HIGH = 2 ** 32;

/** A split queue with its driver. */
export interface SplitRig {
  readonly ring: RingMemory;
  readonly driver: MockDriver;
  readonly queue: SplitVirtqueue;
}

/** A packed queue with its driver. */
export interface PackedRig {
  readonly ring: RingMemory;
  readonly driver: MockPackedDriver;
  readonly queue: PackedVirtqueue;
}

/** A split queue of 8, unless stated, whose indices begin at `start`. */
export function splitRig(
  options: { readonly start?: number } & Partial<SplitVirtqueueSettings> = {},
): SplitRig {
  const { size = 8, eventIdx = false, start = 0, ...more } = options;
  const ring = rigMemory();
  const driver = new MockDriver(ring.memory, { address: RINGS, size, eventIdx });
  driver.startAt(start);
  const own = { ...driver.addresses, size, eventIdx, indirect: true, availableIndex: start };
  return { ring, driver, queue: new SplitVirtqueue(ring.memory, { ...own, ...more }) };
}

/** A packed queue of 8, unless stated, that begins at the place `start`. */
export function packedRig(
  options:
    & { readonly start?: readonly [slot: number, wrap: number] }
    & Partial<PackedVirtqueueSettings> = {},
): PackedRig {
  const { size = 8, eventIdx = false, start, ...more } = options;
  const ring = rigMemory();
  const driver = new MockPackedDriver(ring.memory, { address: RINGS, size, eventIdx });
  if (start !== undefined) driver.startAt(...start);
  const own = { ...driver.addresses, size, eventIdx, indirect: true, base: driver.base };
  return { ring, driver, queue: new PackedVirtqueue(ring.memory, { ...own, ...more }) };
}

/** Lengths of a chain's pieces: of those to read, and of those to write. */
export function pieceLengths({ readable, writable }: DescriptorChain): [number[], number[]] {
  const lengths = (pieces: Pieces) =>
    Array.from({ length: pieces.count }, (_, index) => pieces.length(index));
  return [lengths(readable), lengths(writable)];
}

function rigMemory(): RingMemory {
  return new RingMemory([
    { guestAddress: 0, sizeBytes: BORDER },
    { guestAddress: BORDER, sizeBytes: HOLE - BORDER },
    { guestAddress: HIGH, sizeBytes: 0x1_0000 },
  ]);
}
