/**
 * Scatter/gather input and output: memory that stays in place, lists of pieces of it, and the system
 * calls that take such lists.
 *
 * @module
 */

import { check, Errno, HostError } from "./errno.ts";
import { type FdLike, rawFd } from "./fd.ts";
import { addressOf, bindLibc, lastErrno } from "./libc.ts";

// Safe: the list of pieces is an IoVector's, whose pieces lie inside of spans that it keeps alive.
const libc = bindLibc({
  preadv64: { parameters: ["i32", "buffer", "i32", "i64"], result: "i32" },
  preadv64v2: { parameters: ["i32", "buffer", "i32", "i64", "i32"], result: "i32" },
  pwritev64: { parameters: ["i32", "buffer", "i32", "i64"], result: "i32" },
});

/** Most pieces that one call takes (IOV_MAX of Linux). */
export const MAX_VECTOR_PIECES = 1024;

const RWF_NOWAIT = 8;
const TWO_32 = 2 ** 32;

/** Memory with a fixed address, such as a region of guest memory or a buffer. */
export class MemorySpan {
  /** All of it. */
  readonly bytes: Uint8Array;
  /** Address of the first byte; user addresses of x86-64 are exact as numbers. */
  readonly address: number;

  /** Over `bytes`, whose buffer must not be detached while the span is used. */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.address = bytes.byteLength === 0 ? 0 : Number(addressOf(bytes));
  }

  /** Over new memory of `lengthBytes` zeros. */
  static allocate(lengthBytes: number): MemorySpan {
    return new MemorySpan(new Uint8Array(lengthBytes));
  }
}

/**
 * A list of pieces of memory, in the form that the kernel takes (struct iovec). It is made once and
 * filled anew for each operation, without allocating.
 */
export class IoVector {
  /** Most pieces that it holds. */
  readonly capacity: number;
  readonly #list: Uint32Array<ArrayBuffer>;
  readonly #spans: (MemorySpan | undefined)[];
  readonly #offsets: Float64Array;
  #count = 0;
  #lengthBytes = 0;
  #address = 0;

  constructor(capacity: number = MAX_VECTOR_PIECES) {
    if (!Number.isInteger(capacity) || capacity < 1 || capacity > MAX_VECTOR_PIECES) {
      throw new HostError("I/O vector", Errno.EINVAL, {
        subject: `of ${capacity} pieces, expected 1 to ${MAX_VECTOR_PIECES}`,
      });
    }
    this.capacity = capacity;
    this.#list = new Uint32Array(new ArrayBuffer(capacity * 16));
    this.#spans = new Array<MemorySpan | undefined>(capacity).fill(undefined);
    this.#offsets = new Float64Array(capacity);
  }

  /** A list of one piece: all of `bytes`. */
  static of(bytes: Uint8Array): IoVector {
    const vector = new IoVector(1);
    vector.push(new MemorySpan(bytes), 0, bytes.byteLength);
    return vector;
  }

  /** Pieces that are in it. */
  get count(): number {
    return this.#count;
  }

  /** Bytes of all pieces. */
  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** Where the list (of struct iovec) lies, for the kernel; it does not move. */
  get address(): number {
    return this.#address ||= Number(addressOf(this.#list));
  }

  /** Takes all pieces out. */
  clear(): void {
    this.#count = 0;
    this.#lengthBytes = 0;
  }

  /**
   * Adds `lengthBytes` of `span` from `offset` on; an empty piece is left out.
   *
   * @throws {HostError} EFAULT when they are not all in the span, E2BIG when the list is full or would
   * hold 2 GiB or more.
   */
  push(span: MemorySpan, offset: number, lengthBytes: number): void {
    if (!(offset >= 0 && lengthBytes >= 0 && offset + lengthBytes <= span.bytes.byteLength)) {
      throw new HostError("I/O vector", Errno.EFAULT, {
        subject: `${lengthBytes} bytes at ${offset} of ${span.bytes.byteLength}`,
      });
    }
    if (lengthBytes === 0) return;
    const at = this.#count;
    if (at === this.capacity || this.#lengthBytes + lengthBytes > 0x7fff_f000) {
      throw new HostError("I/O vector", Errno.E2BIG, { subject: `${at} pieces` });
    }
    const address = span.address + offset;
    const word = at * 4;
    // Of a larger number, the lower 32 bits are stored.
    this.#list[word] = address;
    this.#list[word + 1] = address / TWO_32;
    this.#list[word + 2] = lengthBytes;
    this.#list[word + 3] = 0;
    this.#spans[at] = span;
    this.#offsets[at] = offset;
    this.#count = at + 1;
    this.#lengthBytes += lengthBytes;
  }

  /** Adds the pieces of `source` that hold its bytes from `skip` on, `lengthBytes` of them. */
  pushSlice(source: IoVector, skip: number, lengthBytes: number): void {
    let before = skip;
    let left = lengthBytes;
    for (let at = 0; at < source.#count && left > 0; at++) {
      const length = source.pieceLength(at);
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, left);
      this.push(source.#spans[at]!, source.#offsets[at]! + before, take);
      before = 0;
      left -= take;
    }
    if (left > 0) {
      throw new HostError("I/O vector", Errno.EFAULT, {
        subject: `${lengthBytes} bytes at ${skip} of ${source.#lengthBytes}`,
      });
    }
  }

  /** Bytes of piece `at`. */
  pieceLength(at: number): number {
    return at < this.#count ? this.#list[at * 4 + 2]! : 0;
  }

  /** Whether every piece's address and length is a multiple of `alignment`, a power of two. */
  isAligned(alignment: number): boolean {
    const mask = alignment - 1;
    for (let at = 0; at < this.#count; at++) {
      if (((this.#list[at * 4]! | this.#list[at * 4 + 2]!) & mask) !== 0) return false;
    }
    return true;
  }

  /** Copies from the pieces, beginning `skip` bytes into them, until `into` is full or they end. */
  copyTo(into: Uint8Array, skip = 0): number {
    let before = skip;
    let done = 0;
    for (let at = 0; at < this.#count && done < into.byteLength; at++) {
      const length = this.pieceLength(at);
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, into.byteLength - done);
      const from = this.#offsets[at]! + before;
      into.set(this.#spans[at]!.bytes.subarray(from, from + take), done);
      before = 0;
      done += take;
    }
    return done;
  }

  /** Copies `from` over the pieces, beginning `skip` bytes into them. */
  copyFrom(from: Uint8Array, skip = 0): number {
    let before = skip;
    let done = 0;
    for (let at = 0; at < this.#count && done < from.byteLength; at++) {
      const length = this.pieceLength(at);
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, from.byteLength - done);
      this.#spans[at]!.bytes.set(
        from.subarray(done, done + take),
        this.#offsets[at]! + before,
      );
      before = 0;
      done += take;
    }
    return done;
  }

  /** Writes `lengthBytes` zeros over the pieces, beginning `skip` bytes into them. */
  fillZero(skip = 0, lengthBytes: number = this.#lengthBytes - skip): void {
    let before = skip;
    let left = lengthBytes;
    for (let at = 0; at < this.#count && left > 0; at++) {
      const length = this.pieceLength(at);
      if (before >= length) {
        before -= length;
        continue;
      }
      const take = Math.min(length - before, left);
      const from = this.#offsets[at]! + before;
      this.#spans[at]!.bytes.fill(0, from, from + take);
      before = 0;
      left -= take;
    }
  }

  /** For the calls below. */
  static list(vector: IoVector): Uint32Array<ArrayBuffer> {
    return vector.#list;
  }
}

/** Reads once at `offset` into the pieces; 0 is the end of the file. */
export function preadv(fd: FdLike, vector: IoVector, offset: number): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libc().preadv64(raw, IoVector.list(vector), vector.count, BigInt(offset));
    if (count >= 0) return count;
    if (lastErrno() !== Errno.EINTR) return check(count, "preadv");
  }
}

/**
 * Reads once at `offset` into the pieces what is in memory already (preadv2(2), RWF_NOWAIT).
 *
 * @returns bytes, or a negated error number: `EAGAIN` where it would wait, `EOPNOTSUPP` where the file
 * cannot tell
 */
export function preadvNoWait(fd: FdLike, vector: IoVector, offset: number): number {
  const raw = rawFd(fd);
  const list = IoVector.list(vector);
  const count = libc().preadv64v2(raw, list, vector.count, BigInt(offset), RWF_NOWAIT);
  return count >= 0 ? count : -lastErrno();
}

/** Writes the pieces once at `offset`; returns how much was taken. */
export function pwritev(fd: FdLike, vector: IoVector, offset: number): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libc().pwritev64(raw, IoVector.list(vector), vector.count, BigInt(offset));
    if (count >= 0) return count;
    if (lastErrno() !== Errno.EINTR) return check(count, "pwritev");
  }
}
