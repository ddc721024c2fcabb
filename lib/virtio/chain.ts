/**
 * A descriptor chain as a device sees it: pieces of guest memory that it may read, and pieces that it
 * may write. All of them were checked to be inside of guest memory; what is in them is the guest's,
 * which may change it at any moment.
 *
 * @module
 */

import type { IoVector, MemorySpan } from "../host/mod.ts";
import type { DeviceMemory } from "./device_memory.ts";
import { VirtioError } from "./errors.ts";
import { MAX_CHAIN_BYTES, type QueueFaultReason } from "./queue_fault.ts";
import { DescriptorFlag } from "./ring.ts";

const INITIAL_PIECES = 8;
/** Up to so many bytes, a loop is faster than making a view for a bulk copy. */
const SMALL_COPY_BYTES = 64;
const TWO_32 = 2 ** 32;

/** Pieces of guest memory, one after the other. Made once and filled anew for each chain. */
export class Pieces {
  #spans: MemorySpan[] = [];
  #offsets = new Float64Array(INITIAL_PIECES);
  #lengths = new Float64Array(INITIAL_PIECES);
  #count = 0;
  #lengthBytes = 0;

  /** How many. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of all of them. */
  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** Memory that piece `index` is in. */
  span(index: number): MemorySpan {
    return this.#spans[this.#checked(index)]!;
  }

  /** Where piece `index` begins in its span. */
  offset(index: number): number {
    return this.#offsets[this.#checked(index)]!;
  }

  /** Bytes of piece `index`. */
  length(index: number): number {
    return this.#lengths[this.#checked(index)]!;
  }

  /** Takes all out. */
  clear(): void {
    this.#count = 0;
    this.#lengthBytes = 0;
  }

  /** Adds a piece, which the caller has checked to be inside of `span`. */
  add(span: MemorySpan, offset: number, lengthBytes: number): void {
    const at = this.#count;
    if (at === this.#offsets.length) this.#grow();
    this.#spans[at] = span;
    this.#offsets[at] = offset;
    this.#lengths[at] = lengthBytes;
    this.#count = at + 1;
    this.#lengthBytes += lengthBytes;
  }

  /**
   * Copies from the pieces, beginning `skip` bytes into them, until `into` is full or they end.
   *
   * @returns the bytes copied
   */
  copyTo(into: Uint8Array, skip = 0): number {
    let before = skip;
    let done = 0;
    const wanted = into.byteLength;
    for (let at = 0; at < this.#count && done < wanted; at++) {
      const length = this.#lengths[at]!;
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, wanted - done);
      const from = this.#offsets[at]! + before;
      const bytes = this.#spans[at]!.bytes;
      if (take <= SMALL_COPY_BYTES) {
        for (let byte = 0; byte < take; byte++) into[done + byte] = bytes[from + byte]!;
      } else {
        into.set(bytes.subarray(from, from + take), done);
      }
      before = 0;
      done += take;
    }
    return done;
  }

  /**
   * Copies `from` over the pieces, beginning `skip` bytes into them, until it or they end.
   *
   * @returns the bytes copied
   */
  copyFrom(from: Uint8Array, skip = 0): number {
    let before = skip;
    let done = 0;
    const wanted = from.byteLength;
    for (let at = 0; at < this.#count && done < wanted; at++) {
      const length = this.#lengths[at]!;
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, wanted - done);
      const to = this.#offsets[at]! + before;
      const bytes = this.#spans[at]!.bytes;
      if (take <= SMALL_COPY_BYTES) {
        for (let byte = 0; byte < take; byte++) bytes[to + byte] = from[done + byte]!;
      } else {
        bytes.set(take === wanted ? from : from.subarray(done, done + take), to);
      }
      before = 0;
      done += take;
    }
    return done;
  }

  /** Appends `lengthBytes` of the pieces, beginning `skip` bytes into them, to `vector`. */
  appendTo(vector: IoVector, skip = 0, lengthBytes: number = this.#lengthBytes - skip): void {
    this.#require(skip, lengthBytes);
    let before = skip;
    let left = lengthBytes;
    for (let at = 0; at < this.#count && left > 0; at++) {
      const length = this.#lengths[at]!;
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, left);
      vector.push(this.#spans[at]!, this.#offsets[at]! + before, take);
      before = 0;
      left -= take;
    }
  }

  /** Reads 8 bits, `at` bytes into the pieces. */
  readU8(at: number): number {
    this.#require(at, 1);
    let before = at;
    for (let index = 0; index < this.#count; index++) {
      const length = this.#lengths[index]!;
      if (before < length) return this.#spans[index]!.bytes[this.#offsets[index]! + before]!;
      before -= length;
    }
    return 0;
  }

  /** Reads 16 bits, little-endian. */
  readU16(at: number): number {
    return this.readU8(at) | this.readU8(at + 1) << 8;
  }

  /** Reads 32 bits, little-endian. */
  readU32(at: number): number {
    const first = this.#lengths[0]!;
    if (this.#count > 0 && at >= 0 && at + 4 <= first) {
      const { bytes } = this.#spans[0]!;
      const from = this.#offsets[0]! + at;
      return (bytes[from]! | bytes[from + 1]! << 8 | bytes[from + 2]! << 16 |
        bytes[from + 3]! << 24) >>> 0;
    }
    return (this.readU16(at) | this.readU16(at + 2) << 16) >>> 0;
  }

  /** Reads 64 bits, little-endian; rounded above 2^53. */
  readU64AsNumber(at: number): number {
    return this.readU32(at) + this.readU32(at + 4) * TWO_32;
  }

  /** Writes 8 bits, `at` bytes into the pieces. */
  writeU8(at: number, value: number): void {
    this.#require(at, 1);
    let before = at;
    for (let index = 0; index < this.#count; index++) {
      const length = this.#lengths[index]!;
      if (before < length) {
        this.#spans[index]!.bytes[this.#offsets[index]! + before] = value;
        return;
      }
      before -= length;
    }
  }

  /** Writes 16 bits, little-endian. */
  writeU16(at: number, value: number): void {
    this.writeU8(at, value & 0xff);
    this.writeU8(at + 1, value >>> 8 & 0xff);
  }

  /** Writes 32 bits, little-endian. */
  writeU32(at: number, value: number): void {
    this.writeU16(at, value & 0xffff);
    this.writeU16(at + 2, value >>> 16);
  }

  #checked(index: number): number {
    if (index >= 0 && index < this.#count) return index;
    throw new VirtioError(`chain: expected one of ${this.#count} pieces, got ${index}`);
  }

  #require(at: number, lengthBytes: number): void {
    if (at >= 0 && lengthBytes >= 0 && at + lengthBytes <= this.#lengthBytes) return;
    throw new VirtioError(
      `chain: expected bytes of ${this.#lengthBytes}, got ${lengthBytes} at ${at}`,
    );
  }

  #grow(): void {
    const offsets = new Float64Array(this.#offsets.length * 2);
    offsets.set(this.#offsets);
    const lengths = new Float64Array(offsets.length);
    lengths.set(this.#lengths);
    this.#offsets = offsets;
    this.#lengths = lengths;
  }
}

/** One request of the driver. Filled by `Virtqueue.pop`, and valid until it is pushed. */
export class DescriptorChain {
  /** What the device may read; it comes first. */
  readonly readable: Pieces = new Pieces();
  /** What the device may write. */
  readonly writable: Pieces = new Pieces();
  /** Its first descriptor, by which it is given back. */
  head = 0;

  /**
   * Adds a buffer, in as many pieces as it has areas in `memory`.
   *
   * @param flags of its descriptor
   * @returns the rule that it breaks, if it does
   */
  append(
    memory: DeviceMemory,
    address: number,
    length: number,
    flags: number,
  ): QueueFaultReason | undefined {
    const { readable, writable } = this;
    const isWritable = (flags & DescriptorFlag.Write) !== 0;
    const pieces = isWritable ? writable : readable;
    if (!isWritable && writable.count > 0) return "readable-after-writable";
    if (readable.lengthBytes + writable.lengthBytes + length > MAX_CHAIN_BYTES) {
      return "chain-too-large";
    }
    let from = address;
    let left = length;
    while (left > 0) {
      const area = memory.find(from);
      if (area === undefined) return "buffer-outside-memory";
      const offset = from - area.guestAddress;
      const take = Math.min(left, area.sizeBytes - offset);
      pieces.add(area.span, offset, take);
      from += take;
      left -= take;
    }
    return undefined;
  }

  /** Empties it, for the chain that begins at `head`. */
  begin(head: number): void {
    this.head = head;
    this.readable.clear();
    this.writable.clear();
  }
}
