/**
 * The guest's RAM: one sealed memfd, mapped shared, and accesses to it that are checked against its
 * bounds. Addresses come from the guest and are hostile: whatever they are, an access is inside or throws
 * {@link GuestMemoryError}.
 *
 * @module
 */

import {
  addSeals,
  bufferAddress,
  Fd,
  fstat,
  ftruncate,
  type Mapping,
  memfdCreate,
  MemfdFlag,
  mmap,
  mmapFixedOver,
  punchHole,
  pwriteAside,
  Seal,
  unmapFixedOver,
  viewMemory,
} from "../host/mod.ts";
import { GuestMemoryError, outside } from "./errors.ts";
import { createGuardedMemory } from "./guarded_memory.ts";
import {
  HIGH_RAM_START,
  lowMemoryBytes,
  type MemoryBacking,
  type MemoryRegion,
  PAGE_SIZE,
  validateMemorySize,
  WASM_PAGE_SIZE,
} from "./layout.ts";

/** Settings of {@link GuestMemory.create}. */
export interface GuestMemoryOptions {
  /** Bytes of RAM, a multiple of 4096 (64 KiB with `wasm`). */
  readonly sizeBytes: number;
  /** Where it lies. */
  readonly backing: MemoryBacking;
}

/** For {@link GuestMemory.attach}; can be posted to workers of this process. */
export interface GuestMemoryHandle {
  readonly sizeBytes: number;
  readonly rawFd: number;
  readonly address: bigint;
  readonly wasmMemory: WebAssembly.Memory | undefined;
}

/** Guest RAM. The one that {@link create} made owns it: it outlives all attached ones. */
export class GuestMemory implements Disposable {
  /** Bytes of RAM. */
  readonly sizeBytes: number;
  /** The regions by ascending guest address. */
  readonly regions: readonly MemoryRegion[];
  /** The memory itself, where the backing is `wasm`; offsets in it are those in the memfd. */
  readonly wasmMemory: WebAssembly.Memory | undefined;

  readonly #rawFd: number;
  readonly #owned: DisposableStack | undefined;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  // Bytes below and above the PCI hole; -1 once disposed, so that every access is outside.
  #low: number;
  #high: number;
  #disposed = false;

  private constructor(handle: GuestMemoryHandle, buffer: ArrayBufferLike, owned?: DisposableStack) {
    this.sizeBytes = handle.sizeBytes;
    this.#low = lowMemoryBytes(handle.sizeBytes);
    this.#high = handle.sizeBytes - this.#low;
    this.wasmMemory = handle.wasmMemory;
    this.#rawFd = handle.rawFd;
    this.#owned = owned;
    this.#view = new DataView(buffer);
    this.#bytes = new Uint8Array(buffer);
    const low = { guestAddress: 0, sizeBytes: this.#low, fileOffset: 0 };
    const high = {
      guestAddress: HIGH_RAM_START,
      sizeBytes: this.#high,
      fileOffset: this.#low,
    };
    this.regions = (this.#high === 0 ? [low] : [low, high]).map((region) => ({
      ...region,
      hostAddress: handle.address + BigInt(region.fileOffset),
    }));
  }

  /**
   * Makes RAM of zeros. Nothing of it is taken from the host before it is used.
   *
   * @throws {GuestMemoryError} when the size is not possible.
   * @throws {HostError} when the host refuses.
   */
  static create(options: GuestMemoryOptions): GuestMemory {
    const { sizeBytes, backing } = options;
    validateMemorySize(sizeBytes, backing);
    using stack = new DisposableStack();
    const fd = stack.use(memfdCreate("vmctl guest memory", MemfdFlag.AllowSealing));
    ftruncate(fd, sizeBytes);
    // Whoever gets the descriptor may rely on the size: no mapping of it can be cut short.
    addSeals(fd, Seal.Shrink | Seal.Grow | Seal.Seal);
    const mapped = backing === "wasm"
      ? mapIntoWasm(fd, sizeBytes, stack)
      : mapAlone(stack.use(mmap(sizeBytes, { fd })));
    const { address, wasmMemory, buffer } = mapped;
    const handle = { sizeBytes, rawFd: fd.raw, address, wasmMemory };
    return new GuestMemory(handle, buffer, stack.move());
  }

  /** The same memory in another worker, or once more in this one; it does not own it. */
  static attach(handle: GuestMemoryHandle): GuestMemory {
    return new GuestMemory(handle, bufferOf(handle));
  }

  /** For {@link attach}. */
  handle(): GuestMemoryHandle {
    this.#alive();
    return {
      sizeBytes: this.sizeBytes,
      rawFd: this.#rawFd,
      address: this.regions[0]?.hostAddress ?? 0n,
      wasmMemory: this.wasmMemory,
    };
  }

  /** Number of the memfd; it stays this object's. */
  get fd(): number {
    this.#alive();
    return this.#rawFd;
  }

  /** Where it lies. */
  get backing(): MemoryBacking {
    return this.wasmMemory === undefined ? "mmap" : "wasm";
  }

  /** Bytes of RAM that begin at guest address 0. */
  get lowBytes(): number {
    return this.#low;
  }

  /** Bytes of RAM that begin at 4 GiB. */
  get highBytes(): number {
    return this.#high;
  }

  /** First address behind the last byte of RAM. */
  get endAddress(): number {
    return this.#high > 0 ? HIGH_RAM_START + this.#high : this.#low;
  }

  /** Whether `length` bytes at `gpa` are RAM and in one region. */
  contains(gpa: number, length: number): boolean {
    if (!(length >= 0)) return false;
    if (gpa >= 0 && gpa + length <= this.#low) return true;
    return gpa >= HIGH_RAM_START && gpa - HIGH_RAM_START + length <= this.#high;
  }

  /** Offset in the memfd (and in {@link wasmMemory}) of `length` bytes at `gpa`. */
  fileOffset(gpa: number, length: number): number {
    return this.#offset(gpa, length);
  }

  /** Reads 8 bits. */
  readU8(gpa: number): number {
    return this.#view.getUint8(this.#offset(gpa, 1));
  }

  /** Reads 16 bits, little-endian. */
  readU16(gpa: number): number {
    return this.#view.getUint16(this.#offset(gpa, 2), true);
  }

  /** Reads 32 bits, little-endian. */
  readU32(gpa: number): number {
    return this.#view.getUint32(this.#offset(gpa, 4), true);
  }

  /** Reads 64 bits, little-endian. Makes a BigInt: not for hot paths. */
  readU64(gpa: number): bigint {
    return this.#view.getBigUint64(this.#offset(gpa, 8), true);
  }

  /**
   * Reads 64 bits as a number. Above 2^53 it is rounded, which stays above: no such address is RAM, so
   * the next access with it throws.
   */
  readU64AsNumber(gpa: number): number {
    const at = this.#offset(gpa, 8);
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32;
  }

  /** Writes 8 bits. */
  writeU8(gpa: number, value: number): void {
    this.#view.setUint8(this.#offset(gpa, 1), value);
  }

  /** Writes 16 bits, little-endian. */
  writeU16(gpa: number, value: number): void {
    this.#view.setUint16(this.#offset(gpa, 2), value, true);
  }

  /** Writes 32 bits, little-endian. */
  writeU32(gpa: number, value: number): void {
    this.#view.setUint32(this.#offset(gpa, 4), value, true);
  }

  /** Writes 64 bits, little-endian. */
  writeU64(gpa: number, value: bigint): void {
    this.#view.setBigUint64(this.#offset(gpa, 8), value, true);
  }

  /** Copies guest memory to `into`, all of it. */
  readInto(gpa: number, into: Uint8Array): void {
    const at = this.#offset(gpa, into.byteLength);
    into.set(this.#bytes.subarray(at, at + into.byteLength));
  }

  /** Copies `bytes` to guest memory. */
  writeFrom(gpa: number, bytes: Uint8Array): void {
    this.#bytes.set(bytes, this.#offset(gpa, bytes.byteLength));
  }

  /**
   * Copies `bytes`, memory below 2 GiB that stays mapped, to guest memory while this thread does other
   * things. The owner is not disposed until it is done.
   *
   * @throws {HostError} when the host refuses.
   */
  async writeAside(
    gpa: number,
    bytes: { readonly address: bigint; readonly length: number },
  ): Promise<void> {
    await pwriteAside(this.fd, bytes, this.#offset(gpa, bytes.length));
  }

  /** A copy of `length` bytes. */
  read(gpa: number, length: number): Uint8Array<ArrayBuffer> {
    const at = this.#offset(gpa, length);
    return new Uint8Array(this.#bytes.subarray(at, at + length));
  }

  /** A view, not a copy, of `length` bytes; the guest may change them at any moment. */
  slice(gpa: number, length: number): Uint8Array {
    const at = this.#offset(gpa, length);
    return this.#bytes.subarray(at, at + length);
  }

  /** Sets `length` bytes to `value`. */
  fill(gpa: number, length: number, value = 0): void {
    const at = this.#offset(gpa, length);
    this.#bytes.fill(value, at, at + length);
  }

  /**
   * Gives pages back to the host; they read as zeros then. Only whole pages inside the range go.
   *
   * @throws {HostError} when the host refuses.
   */
  discard(gpa: number, length: number): void {
    const at = this.#offset(gpa, length);
    const begin = Math.ceil(at / PAGE_SIZE) * PAGE_SIZE;
    const end = Math.floor((at + length) / PAGE_SIZE) * PAGE_SIZE;
    if (end > begin) punchHole(this.fd, begin, end - begin);
  }

  /**
   * Maps all of it over `buffer`, that of a shared `WebAssembly.Memory`, from `offset` on as well: the
   * same bytes are there then, in the memfd's order, until this object is disposed.
   *
   * @throws {HostError} when the bounds are not those of pages inside of the buffer.
   */
  mapInto(buffer: SharedArrayBuffer, offset: number): void {
    mmapFixedOver(buffer, offset, this.sizeBytes, this.fd, 0);
    this.#owned?.defer(() => unmapFixedOver(buffer, offset, this.sizeBytes));
  }

  /** Bytes that the host holds for this memory. */
  residentBytes(): number {
    return fstat(this.fd).allocatedBytes;
  }

  /** Ends this object; the owner also releases the memory, which nobody may use any more. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#low = -1;
    this.#high = -1;
    if (this.#owned !== undefined) {
      this.#owned[Symbol.dispose]();
    } else if (this.wasmMemory === undefined) {
      // Slices that somebody kept must fail and not reach whatever is mapped there next.
      (this.#view.buffer as ArrayBuffer).transfer(0);
    }
  }

  #alive(): void {
    if (this.#disposed) throw new GuestMemoryError("guest memory was released");
  }

  #offset(gpa: number, length: number): number {
    // NaN fails every comparison; a huge address does not become small by rounding.
    if (length >= 0) {
      if (gpa >= 0 && gpa + length <= this.#low) return gpa;
      if (gpa >= HIGH_RAM_START) {
        const at = gpa - HIGH_RAM_START;
        if (at + length <= this.#high) return at + this.#low;
      }
    }
    throw outside(gpa, length);
  }
}

interface Mapped {
  readonly address: bigint;
  readonly wasmMemory: WebAssembly.Memory | undefined;
  readonly buffer: ArrayBufferLike;
}

function mapAlone(mapping: Mapping): Mapped {
  return { address: mapping.address, wasmMemory: undefined, buffer: mapping.buffer };
}

function mapIntoWasm(fd: Fd, sizeBytes: number, stack: DisposableStack): Mapped {
  const pages = sizeBytes / WASM_PAGE_SIZE;
  const wasmMemory = createGuardedMemory(pages);
  const { buffer } = wasmMemory;
  mmapFixedOver(buffer, 0, sizeBytes, fd, 0);
  stack.defer(() => unmapFixedOver(buffer, 0, sizeBytes));
  return { address: bufferAddress(buffer), wasmMemory, buffer };
}

function bufferOf(handle: GuestMemoryHandle): ArrayBufferLike {
  return handle.wasmMemory?.buffer ?? viewMemory(handle.address, handle.sizeBytes);
}
