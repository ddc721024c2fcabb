/**
 * Memory mappings and views of memory by address.
 *
 * @module
 */

import { check, HostError, isHostError } from "./errno.ts";
import { type FdLike, rawFd } from "./fd.ts";
import { addressOf, bindLibc, lastErrno } from "./libc.ts";

// Safety: a mapping is made at an address that the kernel chooses, or over a buffer of ours whose bounds
// were checked; unmapping and advice are for ranges that this file mapped.
const libc = bindLibc({
  mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
  munmap: { parameters: ["pointer", "usize"], result: "i32" },
});
const libcAdvice = bindLibc({
  madvise: { parameters: ["pointer", "usize", "i32"], result: "i32" },
});

const PROT_NONE = 0;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_FIXED_NOREPLACE = 0x10_0000;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;

/** Advice of {@link madvise} (madvise(2)). */
export const Advice = {
  Normal: 0,
  WillNeed: 3,
  DontNeed: 4,
  Remove: 9,
  DontFork: 10,
  HugePage: 14,
  NoHugePage: 15,
  DontDump: 16,
  PopulateWrite: 23,
} as const;

/** Settings of {@link mmap}. */
export interface MmapOptions {
  /** The file; memory of its own where absent. */
  readonly fd?: FdLike;
  /** First byte in the file, a multiple of 4096. */
  readonly offset?: number;
  /** Whether writing is allowed (the default). */
  readonly writable?: boolean;
  /** Whether writes reach the file (the default where a file is given). */
  readonly shared?: boolean;
}

/** Mapped memory; unmapped when disposed, and its buffer is detached then. */
export class Mapping implements Disposable {
  /** Where it begins. */
  readonly address: bigint;
  /** Bytes. */
  readonly length: number;
  /** All of it. */
  readonly buffer: ArrayBuffer;
  /** All of it. */
  readonly view: DataView<ArrayBuffer>;
  /** All of it. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  #mapped = true;

  /** For {@link mmap}: takes over the mapping at `address`. */
  constructor(address: bigint, length: number) {
    this.address = address;
    this.length = length;
    this.buffer = viewMemory(address, length);
    this.view = new DataView(this.buffer);
    this.bytes = new Uint8Array(this.buffer);
  }

  [Symbol.dispose](): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    // A view that somebody kept must fail and not reach whatever is mapped there next.
    this.buffer.transfer(0);
    check(libc().munmap(Deno.UnsafePointer.create(this.address), BigInt(this.length)), "munmap");
  }
}

/** Maps `length` bytes of a file or of new memory. Nothing is read or reserved before its use. */
export function mmap(length: number, options: MmapOptions = {}): Mapping {
  const { fd, offset = 0, writable = true, shared = fd !== undefined } = options;
  const flags = (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE |
    (fd === undefined ? MAP_ANONYMOUS : 0);
  const protection = PROT_READ | (writable ? PROT_WRITE : 0);
  const raw = fd === undefined ? -1 : rawFd(fd);
  const address = mapAt(null, length, { protection, flags, raw, offset });
  return new Mapping(address, length);
}

/** Takes `length` bytes of addresses, which cannot be accessed, until {@link munmap} of any of them. */
export function reserveAddresses(length: number): bigint {
  return mapAt(null, length, RESERVATION);
}

/** Takes the `length` bytes of addresses at `address` so; false where anything is mapped there. */
export function reserveAt(address: bigint, length: number): boolean {
  const flags = RESERVATION.flags | MAP_FIXED_NOREPLACE;
  try {
    const got = mapAt(address, length, { ...RESERVATION, flags });
    if (got === address) return true;
    // Kernels before 4.17 do not know the flag and take the address as a hint.
    munmap(got, length);
    return false;
  } catch (error) {
    if (isHostError(error, "EEXIST")) return false;
    throw error;
  }
}

const RESERVATION = {
  protection: PROT_NONE,
  flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
  raw: -1,
  offset: 0,
} as const;

/** Unmaps memory by address; for what was not mapped by {@link mmap} of this worker. */
export function munmap(address: bigint, length: number): void {
  check(libc().munmap(Deno.UnsafePointer.create(address), BigInt(length)), "munmap");
}

/** Advises the kernel about a range of mapped memory. */
export function madvise(address: bigint, length: number, advice: number): void {
  check(
    libcAdvice().madvise(Deno.UnsafePointer.create(address), BigInt(length), advice),
    "madvise",
  );
}

/**
 * Maps `length` bytes of `fd` from `fdOffset` on over those of `buffer` from `offset` on, shared. Made
 * for the buffer of a shared `WebAssembly.Memory`: its memory then is the file's, in every worker that
 * the memory was posted to. The buffer's own pages below are lost.
 *
 * @throws {HostError} EINVAL when a bound is not a multiple of the page size or outside the buffer.
 */
export function mmapFixedOver(
  buffer: ArrayBufferLike,
  offset: number,
  length: number,
  fd: FdLike,
  fdOffset: number,
): void {
  const address = addressInside(buffer, offset, length);
  mapAt(address, length, {
    protection: PROT_READ | PROT_WRITE,
    flags: MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
    raw: rawFd(fd),
    offset: fdOffset,
  });
}

/**
 * Undoes {@link mmapFixedOver}: fresh zeroed memory stands there again, and the file is no longer held.
 * The range stays accessible, so that a late access of another worker reads zeros and does not crash.
 */
export function unmapFixedOver(buffer: ArrayBufferLike, offset: number, length: number): void {
  mapAt(addressInside(buffer, offset, length), length, {
    protection: PROT_READ | PROT_WRITE,
    flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
    raw: -1,
    offset: 0,
  });
}

/**
 * Puts fresh zeroed memory over `length` bytes of `buffer` from `offset` on, of a kind of which a read takes
 * a page as a write does. Of private memory, which a read shows the one page of zeros in, the first write
 * behind that takes another fault, and a call to each processor that runs a thread of this process.
 *
 * @throws {HostError} EINVAL when a bound is not a multiple of the page size or outside the buffer.
 */
export function mmapReadWriteOver(buffer: ArrayBufferLike, offset: number, length: number): void {
  mapAt(addressInside(buffer, offset, length), length, {
    protection: PROT_READ | PROT_WRITE,
    flags: MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
    raw: -1,
    offset: 0,
  });
}

/** Address of the first byte of a buffer that lies outside the movable heap, such as a wasm memory's. */
export function bufferAddress(buffer: ArrayBufferLike): bigint {
  return addressOf(buffer);
}

/** A buffer over memory at `address`, which must stay mapped as long as the buffer is used. */
export function viewMemory(address: bigint, length: number): ArrayBuffer {
  const pointer = Deno.UnsafePointer.create(address);
  if (pointer === null) throw new HostError("view of memory at address 0", 14);
  return Deno.UnsafePointerView.getArrayBuffer(pointer, length);
}

function addressInside(buffer: ArrayBufferLike, offset: number, length: number): bigint {
  const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 &&
    length > 0 && offset + length <= buffer.byteLength && length % 4096 === 0;
  const address = valid ? addressOf(buffer) + BigInt(offset) : 1n;
  if (!valid || address % 4096n !== 0n) {
    throw new HostError("mmap", 22, {
      subject: `over ${length} bytes at ${offset} of a buffer of ${buffer.byteLength}`,
    });
  }
  return address;
}

function mapAt(
  at: bigint | null,
  length: number,
  how: { protection: number; flags: number; raw: number; offset: number },
): bigint {
  const hint = at === null ? null : Deno.UnsafePointer.create(at);
  const pointer = libc().mmap(
    hint,
    BigInt(length),
    how.protection,
    how.flags,
    how.raw,
    BigInt(how.offset),
  );
  const address = Deno.UnsafePointer.value(pointer);
  if (address === MAP_FAILED) throw new HostError("mmap", lastErrno());
  return address;
}
