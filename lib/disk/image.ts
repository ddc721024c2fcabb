/**
 * What a disk image is to whoever uses it.
 *
 * @module
 */

import type { IoVector } from "../host/mod.ts";
import { DiskError } from "./errors.ts";

/** Formats of images. */
export type DiskFormat = "raw" | "qcow2";

/** Settings of {@link DiskImage.writeZeroes}. */
export interface WriteZeroesOptions {
  /** Whether storage of the range may be given back. */
  readonly unmap?: boolean;
}

/**
 * The files under an image, for who makes transfers by other means than the image's methods, such as
 * several at once. Ranges are to be checked before.
 */
export interface DiskTransfers {
  /** Number of the descriptor that {@link locate} found last; at first, of the image's own file. */
  readonly fd: number;
  /** Whether transfers go past the host's page cache. */
  readonly direct: boolean;
  /**
   * Where in a file a range of the disk lies in one piece.
   *
   * @returns the offset in the file of {@link fd}, -1 where it is not to be transferred so
   */
  locate(offset: number, vector: IoVector, writing: boolean): number;
  /**
   * Whether what changes the disk by the image's own methods has to wait until no write is under way: it
   * may free where one goes, or begin what one has begun.
   */
  readonly changesWait: boolean;
  /** A write that was located is about to begin. Each is ended by {@link endWrite}. */
  beginWrite(): void;
  /**
   * The write at `offset` of the disk is done, or has failed: then it is as if it had not begun, for
   * whoever makes it anew.
   *
   * @throws {DiskError} where it has not become a part of the disk.
   */
  endWrite(offset: number, done: boolean): void;
  /**
   * Whether what was written is made durable by making the image's file so, by fdatasync(2) or the like;
   * if not, only the image can.
   */
  readonly syncs: boolean;
  /**
   * That is about to begin, for writes that are done.
   *
   * @returns whether there is anything to do
   * @throws {DiskError} where that has failed before: nothing makes the file whole again.
   */
  beginSync(): boolean;
  /** It is done, or has failed with `errno`. @throws {DiskError} where it has failed. */
  endSync(errno: number): void;
}

/** Settings of {@link DiskImage.resize}. */
export interface ResizeOptions {
  /** Whether the disk may become smaller; false unless stated. */
  readonly shrink?: boolean;
}

/**
 * A disk: bytes that are read and written at any offset. All of it is synchronous and belongs to one
 * thread. What was written is durable after the next {@link flush}, and only then. Every method throws
 * {@link DiskError}; after an error of a write, the range holds old or new bytes, and the rest of the
 * disk is as it was.
 */
export interface DiskImage extends Disposable {
  readonly format: DiskFormat;
  /** Where it lies, for messages. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Bytes that the disk holds. */
  readonly sizeBytes: number;
  /**
   * Unit in bytes in which reads and writes go straight to the file: with direct access, requests whose
   * offsets, lengths or memory are not multiples of it work, but take a detour.
   */
  readonly alignmentBytes: number;
  /** Unit in bytes in which {@link discard} gives storage back. */
  readonly discardUnitBytes: number;
  /** Where transfers can be made by other means. */
  readonly transfers?: DiskTransfers;
  /** Why requests fail that nothing is wrong with, such as a host without room; undefined where they do not. */
  readonly trouble: string | undefined;
  /** Fills the pieces of `vector` with what is at `offset`. */
  readAt(offset: number, vector: IoVector): void;
  /** Writes the pieces of `vector` at `offset`. */
  writeAt(offset: number, vector: IoVector): void;
  /** Makes everything that was written durable. */
  flush(): void;
  /** Tells that a range is not needed any more; it may read as zeros or as before. */
  discard(offset: number, lengthBytes: number): void;
  /** Makes a range read as zeros. */
  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void;
  /**
   * Makes the disk larger, where the new part reads as zeros, or smaller, where that is asked for: what was
   * behind the new end is lost then. Shrinking is always refused for qcow2.
   */
  resize(sizeBytes: number, options?: ResizeOptions): void;
  /** Flushes and releases all descriptors; does nothing the second time. */
  close(): void;
}

/** @throws {DiskError} EINVAL when the range is not all on the disk. */
export function checkRange(image: DiskImage, offset: number, lengthBytes: number): void {
  if (
    !(Number.isSafeInteger(offset) && Number.isSafeInteger(lengthBytes) && offset >= 0 &&
      lengthBytes >= 0 && offset + lengthBytes <= image.sizeBytes)
  ) {
    throw new DiskError(
      `${image.path}: expected a range on the disk of ${image.sizeBytes} bytes, got ` +
        `${lengthBytes} bytes at ${offset}`,
      { code: "EINVAL" },
    );
  }
}

/** @throws {DiskError} EROFS when the image is read-only, EINVAL as {@link checkRange}. */
export function checkWritable(image: DiskImage, offset: number, lengthBytes: number): void {
  if (image.readOnly) {
    throw new DiskError(`${image.path}: it is opened read-only, so nothing is written to it`, {
      code: "EROFS",
    });
  }
  checkRange(image, offset, lengthBytes);
}

/** @throws {DiskError} EINVAL when it is no size of a disk. */
export function checkSize(path: string, sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
    throw new DiskError(
      `${path}: expected a size in bytes from 0 to ${Number.MAX_SAFE_INTEGER}, got ${sizeBytes}`,
      { code: "EINVAL" },
    );
  }
}
