/**
 * Typed arrays carved out of one `SharedArrayBuffer`, so that a component's state is one thing to post.
 *
 * @module
 */

import { alignUp } from "../base/mod.ts";
import { GuestMemoryError } from "./errors.ts";

const fenceWord = new Int32Array(new SharedArrayBuffer(4));

/**
 * Orders all earlier memory accesses before all later ones, as between publishing a ring index and
 * reading the other side's (a full barrier: an atomic read-modify-write on x86).
 */
export function memoryFence(): void {
  Atomics.or(fenceWord, 0, 0);
}

/**
 * Hands out pieces of a buffer in order. Two workers that carve in the same order over the same buffer
 * get the same pieces.
 *
 * @example
 * const carver = new SharedCarver(handle.buffer);
 * const lock = new SharedLock(carver.int32(1));
 * const fifo = carver.uint8(16);
 */
export class SharedCarver {
  /** The buffer. */
  readonly buffer: SharedArrayBuffer;
  #next = 0;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
  }

  /** Bytes handed out. */
  get usedBytes(): number {
    return this.#next;
  }

  /** `count` bytes. */
  uint8(count: number): Uint8Array<SharedArrayBuffer> {
    return new Uint8Array(this.buffer, this.#take(count, 1), count);
  }

  /** `count` signed 32-bit words. */
  int32(count: number): Int32Array<SharedArrayBuffer> {
    return new Int32Array(this.buffer, this.#take(count * 4, 4), count);
  }

  /** `count` unsigned 32-bit words. */
  uint32(count: number): Uint32Array<SharedArrayBuffer> {
    return new Uint32Array(this.buffer, this.#take(count * 4, 4), count);
  }

  /** `count` doubles. */
  float64(count: number): Float64Array<SharedArrayBuffer> {
    return new Float64Array(this.buffer, this.#take(count * 8, 8), count);
  }

  /** `count` signed 64-bit words. */
  bigInt64(count: number): BigInt64Array<SharedArrayBuffer> {
    return new BigInt64Array(this.buffer, this.#take(count * 8, 8), count);
  }

  /** A part of `byteLength` bytes that is carved by somebody else. */
  view(byteLength: number): DataView<SharedArrayBuffer> {
    return new DataView(this.buffer, this.#take(byteLength, 8), byteLength);
  }

  #take(byteLength: number, alignment: number): number {
    const at = alignUp(this.#next, alignment);
    if (at + byteLength > this.buffer.byteLength) {
      throw new GuestMemoryError(
        `shared state: ${at + byteLength} bytes wanted of ${this.buffer.byteLength}`,
      );
    }
    this.#next = at + byteLength;
    return at;
  }
}
