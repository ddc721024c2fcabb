/**
 * A growing byte buffer with LEB128 writers.
 *
 * @module
 */

import { Op } from "./types.ts";

/** Appends bytes; grows by doubling. */
export class ByteWriter {
  #bytes: Uint8Array<ArrayBuffer>;
  #length = 0;
  /** A `local.set` that is the last thing written, where it begins and its local. */
  #set: { at: number; end: number; local: number } = { at: 0, end: -1, local: 0 };

  /** @param capacity Initial capacity in bytes. */
  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  /** Appends one byte. */
  u8(value: number): void {
    if (this.#length === this.#bytes.length) this.#grow(1);
    this.#bytes[this.#length++] = value;
  }

  /** Appends an unsigned LEB128 of up to 32 bits. */
  u32(value: number): void {
    value >>>= 0;
    while (value > 0x7f) {
      this.u8((value & 0x7f) | 0x80);
      value >>>= 7;
    }
    this.u8(value);
  }

  /** Appends a signed LEB128 of up to 32 bits. */
  s32(value: number): void {
    value |= 0;
    for (;;) {
      const low = value & 0x7f;
      value >>= 7;
      if ((value === 0 && (low & 0x40) === 0) || (value === -1 && (low & 0x40) !== 0)) {
        this.u8(low);
        return;
      }
      this.u8(low | 0x80);
    }
  }

  /** Appends a signed LEB128 of up to 64 bits. */
  s64(value: bigint): void {
    value = BigInt.asIntN(64, value);
    if (value >= -0x40000000n && value <= 0x3fffffffn) {
      this.s32(Number(value));
      return;
    }
    for (;;) {
      const low = Number(value & 0x7fn);
      value >>= 7n;
      if ((value === 0n && (low & 0x40) === 0) || (value === -1n && (low & 0x40) !== 0)) {
        this.u8(low);
        return;
      }
      this.u8(low | 0x80);
    }
  }

  /** Appends `local.set`. */
  localSet(local: number): void {
    this.#set.at = this.#length;
    this.u8(Op.local_set);
    this.u32(local);
    this.#set.end = this.#length;
    this.#set.local = local;
  }

  /** Appends `local.get`; what was just set is left on the stack instead. */
  localGet(local: number): void {
    if (this.#set.end === this.#length && this.#set.local === local) {
      this.#bytes[this.#set.at] = Op.local_tee;
      this.#set.end = -1;
      return;
    }
    this.u8(Op.local_get);
    this.u32(local);
  }

  /** Appends raw bytes. */
  raw(bytes: ArrayLike<number>): void {
    if (this.#length + bytes.length > this.#bytes.length) this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Appends another writer's bytes. */
  append(other: ByteWriter): void {
    this.raw(other.finish());
  }

  /** Appends a length-prefixed UTF-8 string. */
  name(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u32(bytes.length);
    this.raw(bytes);
  }

  /** The bytes written (a view, valid until the next write). */
  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }

  #grow(extra: number): void {
    const bigger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + extra));
    bigger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = bigger;
  }
}
