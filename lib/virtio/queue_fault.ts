/**
 * How a driver can break its queue.
 *
 * @module
 */

/** Which rule a driver broke. */
export type QueueFaultReason =
  /** The available ring grew by more than the queue's size. */
  | "available-index"
  /** A chain begins at a descriptor, or has an id, that does not exist. */
  | "head-out-of-range"
  /** A chain begins at a descriptor, or has the id of one, that the device still holds. */
  | "head-in-use"
  /** A descriptor names one that does not exist as the next. */
  | "next-out-of-range"
  /** A chain is longer than it may be, so it may have no end. */
  | "chain-too-long"
  /** A chain has more than 4 GiB. */
  | "chain-too-large"
  /** A buffer is not (all) guest memory. */
  | "buffer-outside-memory"
  /** A buffer to read comes after one to write. */
  | "readable-after-writable"
  /** An indirect table without that feature. */
  | "indirect-not-negotiated"
  /** An indirect table inside of another one. */
  | "indirect-nested"
  /** A descriptor with an indirect table names a next one. */
  | "indirect-with-next"
  /** An indirect table that is empty, or not a whole number of descriptors. */
  | "indirect-length"
  /** An indirect table is not (all) guest memory. */
  | "indirect-outside-memory"
  /** The rings are not guest memory any more. */
  | "ring-outside-memory";

/** What a driver did. */
export interface QueueFault {
  readonly reason: QueueFaultReason;
  /** With the numbers, for the log. */
  readonly message: string;
}

/**
 * Most descriptors of a chain where the queue has fewer. The specification says the queue's size, but
 * Linux makes longer ones when they are indirect.
 */
export const MAX_CHAIN = 1024;
/** Most bytes of a chain (virtio 1.2, 2.7.5.2 and 2.8.6). */
export const MAX_CHAIN_BYTES: number = 2 ** 32;
