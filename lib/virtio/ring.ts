/**
 * The layout of a split virtqueue (virtio 1.2, 2.7), shared by device and driver side.
 *
 * @module
 */

/** Most descriptors of a queue. */
export const MAX_QUEUE_SIZE = 32768;
/** Bytes of a descriptor: address (64), length (32), flags (16), next (16). */
export const DESCRIPTOR_BYTES = 16;

/** Flags of a descriptor. */
export const DescriptorFlag = { Next: 1, Write: 2, Indirect: 4 } as const;

/** Flag of the available ring: no interrupt wanted. */
export const AVAIL_NO_INTERRUPT = 1;
/** Flag of the used ring: no kick wanted. */
export const USED_NO_NOTIFY = 1;

/** Where `idx` is, in 16-bit words behind the begin of either ring. */
export const RING_INDEX_WORD = 1;
/** Where the entries begin, in bytes behind the begin of either ring. */
export const RING_ENTRIES = 4;
/** Bytes of an entry of the used ring: id (32), length (32). */
export const USED_ENTRY_BYTES = 8;

/** Bytes of the descriptor table of a queue of `size`. */
export function descriptorTableBytes(size: number): number {
  return DESCRIPTOR_BYTES * size;
}

/** Bytes of the available ring of a queue of `size`: flags, index, entries, used_event. */
export function availableRingBytes(size: number): number {
  return 6 + 2 * size;
}

/** Bytes of the used ring of a queue of `size`: flags, index, entries, avail_event. */
export function usedRingBytes(size: number): number {
  return 6 + USED_ENTRY_BYTES * size;
}

/** Whether a queue can have `size` descriptors. */
export function isQueueSize(size: number): boolean {
  return Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0;
}

/**
 * Whether the other side, which asked for a notification behind index `event`, wants one when an index
 * moves from `before` to `now` (virtio 1.2, 2.7.7.1).
 */
export function passesEvent(event: number, now: number, before: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
}

/** Guest physical addresses of a queue's parts. */
export interface RingAddresses {
  /** The descriptor table, a multiple of 16. */
  readonly descriptorTable: number;
  /** The available ring ("driver area"), even. */
  readonly availableRing: number;
  /** The used ring ("device area"), a multiple of 4. */
  readonly usedRing: number;
}
