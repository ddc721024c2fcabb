/**
 * The record of chains that a device holds, in memory that outlives it, so that its successor takes
 * them up again (QEMU's docs/interop/vhost-user.rst, "Inflight I/O tracking", split virtqueue).
 *
 * The memory comes back from a front end, so it is as hostile as a ring.
 *
 * @module
 */

import { alignUp } from "../base/mod.ts";
import { VirtioError } from "./errors.ts";

const HEADER_BYTES = 16;
const ENTRY_BYTES = 16;
const VERSION = 1;
const TWO_32 = 2 ** 32;

// Header: features (64), version (16), number of entries (16), head of the last batch (16), used index
// (16). Entry: inflight (8), padding (40), next of the batch (16), counter (64).
const VERSION_AT = 8;
const COUNT_AT = 10;
const LAST_BATCH_AT = 12;
const USED_AT = 14;
const NEXT_AT = 6;
const COUNTER_AT = 8;

/** Bytes of the record of a queue of `size`. */
export function inflightQueueBytes(size: number): number {
  return alignUp(HEADER_BYTES + ENTRY_BYTES * size, 64);
}

/** The record of one queue. */
export class InflightQueue {
  readonly #view: DataView;
  readonly #words16: Uint16Array;
  readonly #size: number;
  #counter = 0;

  /**
   * Over `inflightQueueBytes(size)` bytes of shared memory; zeros are a new record.
   *
   * @throws {VirtioError} where they are of another size or not aligned.
   */
  constructor(bytes: Uint8Array, size: number) {
    if (bytes.byteLength < inflightQueueBytes(size) || bytes.byteOffset % 8 !== 0) {
      throw new VirtioError(
        `inflight record of ${size} chains: expected ${inflightQueueBytes(size)} aligned bytes, ` +
          `got ${bytes.byteLength} at ${bytes.byteOffset}`,
      );
    }
    this.#size = size;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#words16 = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  }

  /**
   * Begins to record, or goes on with what a predecessor left.
   *
   * @param usedIndex that of the used ring
   * @returns the chains that it held, oldest first
   */
  recover(usedIndex: number): number[] {
    const view = this.#view;
    const size = this.#size;
    if (view.getUint16(VERSION_AT, true) !== VERSION || view.getUint16(COUNT_AT, true) !== size) {
      for (let at = 0; at < HEADER_BYTES + ENTRY_BYTES * size; at += 8) {
        view.setUint32(at, 0, true);
        view.setUint32(at + 4, 0, true);
      }
      view.setUint16(COUNT_AT, size, true);
      view.setUint16(USED_AT, usedIndex, true);
      this.#publish(VERSION_AT, VERSION);
      return [];
    }
    this.#forgetLastBatch(usedIndex);
    const held: { head: number; counter: number }[] = [];
    for (let head = 0; head < size; head++) {
      const at = HEADER_BYTES + head * ENTRY_BYTES;
      if (view.getUint8(at) !== 1) continue;
      const counter = view.getUint32(at + COUNTER_AT, true) +
        view.getUint32(at + COUNTER_AT + 4, true) * TWO_32;
      held.push({ head, counter });
      if (counter < Number.MAX_SAFE_INTEGER / 2) {
        this.#counter = Math.max(this.#counter, counter + 1);
      }
    }
    return held.sort((a, b) => a.counter - b.counter).map(({ head }) => head);
  }

  /** The device takes `head`. */
  take(head: number): void {
    const at = HEADER_BYTES + head * ENTRY_BYTES;
    const counter = this.#counter++;
    this.#view.setUint32(at + COUNTER_AT, counter % TWO_32, true);
    this.#view.setUint32(at + COUNTER_AT + 4, counter / TWO_32, true);
    this.#publish(at, 1);
  }

  /** The device takes `head` back to where it was. */
  drop(head: number): void {
    this.#publish(HEADER_BYTES + head * ENTRY_BYTES, 0);
  }

  /** The device is about to publish `head` in the used ring. */
  batch(head: number): void {
    const at = HEADER_BYTES + head * ENTRY_BYTES;
    this.#view.setUint16(at + NEXT_AT, this.#view.getUint16(LAST_BATCH_AT, true), true);
    this.#publish(LAST_BATCH_AT, head);
  }

  /** `head` was published, the used ring's index is `usedIndex` now. */
  finish(head: number, usedIndex: number): void {
    this.#publish(HEADER_BYTES + head * ENTRY_BYTES, 0);
    this.#publish(USED_AT, usedIndex);
  }

  /** The predecessor may have died between publishing what it had done and noting it down here. */
  #forgetLastBatch(usedIndex: number): void {
    const view = this.#view;
    const missed = (usedIndex - view.getUint16(USED_AT, true)) & 0xffff;
    let head = view.getUint16(LAST_BATCH_AT, true);
    for (let left = Math.min(missed, this.#size); left > 0 && head < this.#size; left--) {
      const at = HEADER_BYTES + head * ENTRY_BYTES;
      view.setUint8(at, 0);
      head = view.getUint16(at + NEXT_AT, true);
    }
    this.#publish(USED_AT, usedIndex);
  }

  // A death of this process leaves what it has stored, in the order of the program: only the compiler
  // could mix it up, and it does not move stores over atomics.
  #publish(at: number, value: number): void {
    Atomics.store(this.#words16, at / 2, value);
  }
}
