/**
 * The file or block device under an image: whole transfers, durable or not, buffered or direct.
 *
 * @module
 */

import {
  blockDeviceSize,
  blockDiscard,
  blockSectorSize,
  blockZeroOut,
  fallocate,
  FallocateMode,
  Fd,
  fdatasync,
  flock,
  fstat,
  ftruncate,
  getStatusFlags,
  HostError,
  IoVector,
  isHostError,
  kindName,
  MemorySpan,
  mmap,
  OpenFlag,
  preadv,
  punchHole,
  pwritev,
  setStatusFlags,
} from "../host/mod.ts";
import { DiskError } from "./errors.ts";

const FILE_ALIGNMENT = 4096;
const ZEROS_BYTES = 2 ** 21;

let zeros: MemorySpan | undefined;

/** 2 MiB of zeros that nobody writes to. */
export function zeroSpan(): MemorySpan {
  // Mapped and never written: all of it is the kernel's one page of zeros.
  return zeros ??= new MemorySpan(mmap(ZEROS_BYTES).bytes);
}

/** Settings of {@link ImageFile}. */
export interface ImageFileOptions {
  /** For messages. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Whether transfers go past the host's page cache where their alignment allows it. */
  readonly direct?: boolean;
  /**
   * A word that outlives the process, 0 at first, for the number of the error with which making writes
   * durable failed: what a next process wrote would be no more durable.
   */
  readonly syncErrno?: Int32Array | undefined;
}

/** A file or block device; owns its descriptor. Its failures are {@link DiskError}s. */
export class ImageFile implements Disposable {
  readonly path: string;
  readonly readOnly: boolean;
  /** Whether it is a block device: its length is fixed. */
  readonly isDevice: boolean;
  /** Unit of direct transfers in bytes; 1 without. */
  readonly alignmentBytes: number;
  readonly #fd: Fd;
  readonly #rest = new IoVector();
  readonly #single = new IoVector(1);
  readonly #flags: number;
  #lengthBytes: number;
  // What a process before this one wrote may not be durable yet.
  #unsynced = true;
  #syncing = 0;
  #syncFailure: DiskError | undefined;
  readonly #syncErrno: Int32Array | undefined;
  /** Bytes that the last transfer has moved, also where it failed then. */
  #moved = 0;

  /** Takes `fd` over, also when it throws. */
  constructor(fd: Fd, options: ImageFileOptions) {
    this.path = options.path;
    this.readOnly = options.readOnly;
    this.#fd = fd;
    this.#syncErrno = options.syncErrno;
    const errno = this.#syncErrno?.[0] ?? 0;
    if (errno !== 0) this.#syncFailure = this.#lost(errno);
    try {
      const status = fstat(fd);
      if (status.kind !== "file" && status.kind !== "block") {
        throw new DiskError(
          `${this.path}: expected a file or a block device, got a ${kindName(status.kind)}`,
          { code: "EINVAL" },
        );
      }
      this.isDevice = status.kind === "block";
      this.#lengthBytes = this.isDevice ? blockDeviceSize(fd) : status.sizeBytes;
      if (!Number.isSafeInteger(this.#lengthBytes)) {
        throw new DiskError(`${this.path}: it is longer than this program can count`, {
          code: "EFBIG",
        });
      }
      const flags = getStatusFlags(fd) & ~OpenFlag.NonBlock;
      this.#flags = options.direct ? flags | OpenFlag.Direct : flags & ~OpenFlag.Direct;
      setStatusFlags(fd, this.#flags);
      this.alignmentBytes = !options.direct
        ? 1
        : this.isDevice
        ? Math.max(512, blockSectorSize(fd))
        : FILE_ALIGNMENT;
    } catch (error) {
      fd.close();
      throw DiskError.from(error, `${this.path}: cannot be used as a disk`);
    }
  }

  /** Bytes of it. */
  get lengthBytes(): number {
    return this.#lengthBytes;
  }

  /** Why nothing that is written can be made durable any more, if that is so. */
  get syncFailure(): DiskError | undefined {
    return this.#syncFailure;
  }

  /** Number of the descriptor. */
  get rawFd(): number {
    return this.#fd.raw;
  }

  /** Reads until the pieces are full or the file ends; returns how many bytes there were. */
  readVector(vector: IoVector, offset: number): number {
    try {
      return this.#transfer(preadv, vector, offset);
    } catch (error) {
      throw DiskError.from(error, `${this.path}: reading ${vector.lengthBytes} bytes at ${offset}`);
    }
  }

  /** Writes all pieces. The file grows where they reach beyond its end. */
  writeVector(vector: IoVector, offset: number): void {
    this.#unsynced = true;
    try {
      this.#transfer(pwritev, vector, offset);
    } catch (error) {
      throw DiskError.from(error, `${this.path}: writing ${vector.lengthBytes} bytes at ${offset}`);
    } finally {
      // What a full file system took of it is in the file: those are not zeros behind its end.
      if (this.#moved > 0) this.extend(offset + this.#moved);
    }
    if (this.#moved < vector.lengthBytes) {
      throw new DiskError(
        `${this.path}: expected to write ${vector.lengthBytes} bytes at ${offset}, but the host ` +
          `took ${this.#moved}`,
        { code: "ENOSPC" },
      );
    }
  }

  /** Reads until `into` is full or the file ends; returns how many bytes there were. */
  read(into: Uint8Array, offset: number): number {
    return this.readVector(this.#only(into), offset);
  }

  /** Writes all of `bytes`. */
  write(bytes: Uint8Array, offset: number): void {
    this.writeVector(this.#only(bytes), offset);
  }

  /** Writes zeros. */
  writeZeros(offset: number, lengthBytes: number): void {
    const span = zeroSpan();
    for (let done = 0; done < lengthBytes;) {
      const take = Math.min(ZEROS_BYTES, lengthBytes - done);
      this.#single.clear();
      this.#single.push(span, 0, take);
      this.writeVector(this.#single, offset + done);
      done += take;
    }
  }

  /** Makes everything that was written durable. */
  sync(): void {
    if (!this.beginSync()) return;
    let errno = 0;
    try {
      fdatasync(this.#fd);
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      errno = error.errno;
    }
    this.endSync(errno);
  }

  /** Somebody writes to the descriptor, or has written. */
  beginWrite(): void {
    this.#unsynced = true;
  }

  /** Somebody makes durable what was written to the descriptor; false where there is nothing to do. */
  beginSync(): boolean {
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
    // What another one has begun is not done yet.
    if (!this.#unsynced && this.#syncing === 0) return false;
    this.#unsynced = false;
    this.#syncing++;
    return true;
  }

  /** It is done, or has failed with `errno`. */
  endSync(errno: number): void {
    this.#syncing--;
    if (errno !== 0) {
      if (this.#syncErrno !== undefined) this.#syncErrno[0] ||= errno;
      this.#syncFailure ??= this.#lost(errno);
    }
    // Of several at once the kernel tells only one of what it has lost of them all.
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
  }

  /**
   * Linux may have dropped what it could not write, and says so only once: nothing that is written from now
   * on makes the file whole again. That holds for ENOSPC and EDQUOT as well, which a thin volume or a file
   * system that allocates late has here, so that they are no lack of room that may pass.
   */
  #lost(errno: number): DiskError {
    const cause = new HostError("fdatasync", errno);
    return new DiskError(
      `${this.path}: making writes durable: ${cause.message}; what was written since the last flush may ` +
        "be lost, so that no flush succeeds any more until the disk is opened anew by a new VM",
      { code: "EIO", cause },
    );
  }

  /** Whether a transfer needs no detour. */
  isAligned(offset: number, vector: IoVector): boolean {
    const unit = this.alignmentBytes;
    return unit === 1 || (offset % unit === 0 && vector.isAligned(unit));
  }

  /** Sets the length of a file. */
  setLength(lengthBytes: number): void {
    this.#unsynced = true;
    try {
      ftruncate(this.#fd, lengthBytes);
    } catch (error) {
      throw DiskError.from(error, `${this.path}: setting its length to ${lengthBytes} bytes`);
    }
    this.#lengthBytes = lengthBytes;
  }

  /**
   * Makes the file reach to the end of a range, which lies beyond its end, with storage for it: writing
   * there does not fail for lack of room later.
   */
  reserve(offset: number, lengthBytes: number): void {
    if (!this.#tryRange(offset, lengthBytes, allocate)) this.writeZeros(offset, lengthBytes);
    this.#lengthBytes = Math.max(this.#lengthBytes, offset + lengthBytes);
  }

  /** Counts what others are about to write there as the file's; until they have, it may be shorter. */
  extend(endOffset: number): void {
    this.#lengthBytes = Math.max(this.#lengthBytes, endOffset);
  }

  /** Gives storage back; false where the file system or device cannot. What is read then is open. */
  discard(offset: number, lengthBytes: number): boolean {
    return this.#tryRange(offset, lengthBytes, this.isDevice ? blockDiscard : punchHole);
  }

  /** Makes a range that lies inside of the file read as zeros, by the cheapest means. */
  zero(offset: number, lengthBytes: number, options: { readonly unmap: boolean }): void {
    if (this.isDevice) {
      if (this.#tryRange(offset, lengthBytes, blockZeroOut)) return;
    } else {
      if (options.unmap && this.#tryRange(offset, lengthBytes, punchHole)) return;
      if (this.#tryRange(offset, lengthBytes, zeroRange)) return;
    }
    this.writeZeros(offset, lengthBytes);
  }

  /** Locks it for writing. @throws {DiskError} EBUSY when another uses it. */
  lockExclusive(): void {
    if (flock(this.#fd, "exclusive")) return;
    throw new DiskError(`${this.path}: expected to lock it, but another program uses it`, {
      code: "EBUSY",
    });
  }

  close(): void {
    this.#fd.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #only(bytes: Uint8Array): IoVector {
    this.#single.clear();
    this.#single.push(new MemorySpan(bytes), 0, bytes.byteLength);
    return this.#single;
  }

  #transfer(call: typeof preadv, vector: IoVector, offset: number): number {
    const length = vector.lengthBytes;
    this.#moved = 0;
    if (length === 0) return 0;
    this.#moved = this.#call(call, vector, offset);
    while (this.#moved > 0 && this.#moved < length) {
      this.#rest.clear();
      this.#rest.pushSlice(vector, this.#moved, length - this.#moved);
      const more = this.#call(call, this.#rest, offset + this.#moved);
      if (more === 0) break;
      this.#moved += more;
    }
    return this.#moved;
  }

  #call(call: typeof preadv, vector: IoVector, offset: number): number {
    if (this.isAligned(offset, vector)) return call(this.#fd, vector, offset);
    // The kernel keeps its page cache and direct transfers of one file coherent.
    setStatusFlags(this.#fd, this.#flags & ~OpenFlag.Direct);
    try {
      return call(this.#fd, vector, offset);
    } finally {
      setStatusFlags(this.#fd, this.#flags);
    }
  }

  #tryRange(
    offset: number,
    lengthBytes: number,
    call: (fd: Fd, offset: number, lengthBytes: number) => void,
  ): boolean {
    if (lengthBytes === 0) return true;
    this.#unsynced = true;
    try {
      call(this.#fd, offset, lengthBytes);
      return true;
    } catch (error) {
      if (isHostError(error, "EOPNOTSUPP", "ENOSYS", "EINVAL", "ENOTTY", "EPERM")) return false;
      throw DiskError.from(
        error,
        `${this.path}: changing the storage of ${lengthBytes} bytes at ${offset}`,
      );
    }
  }
}

function allocate(fd: Fd, offset: number, lengthBytes: number): void {
  fallocate(fd, 0, { offset, lengthBytes });
}

function zeroRange(fd: Fd, offset: number, lengthBytes: number): void {
  fallocate(fd, FallocateMode.ZeroRange | FallocateMode.KeepSize, { offset, lengthBytes });
}
