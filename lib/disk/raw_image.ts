/**
 * Raw images: the disk's bytes are the file's.
 *
 * @module
 */

import { formatSize } from "../base/mod.ts";
import { IoVector } from "../host/mod.ts";
import { DiskError } from "./errors.ts";
import {
  checkRange,
  checkSize,
  checkWritable,
  type DiskImage,
  type DiskTransfers,
  type ResizeOptions,
  type WriteZeroesOptions,
} from "./image.ts";
import type { ImageFile } from "./image_file.ts";
import { formatName, PROBE_BYTES } from "./probe.ts";

/** Settings of {@link RawImage}. */
export interface RawImageOptions {
  /** Whether discarded storage is given back to the host. */
  readonly sparse: boolean;
  /**
   * Whether the format was guessed. Then the guest may not write what would be taken for another format
   * at the next guess: it could name any file of the host as its backing file.
   */
  readonly probed: boolean;
}

/** A raw file or block device. */
export class RawImage implements DiskImage {
  readonly format = "raw";
  readonly path: string;
  readonly readOnly: boolean;
  readonly alignmentBytes: number;
  readonly discardUnitBytes: number;
  readonly transfers: DiskTransfers;
  readonly #file: ImageFile;
  readonly #sparse: boolean;
  readonly #probed: boolean;
  #open = true;

  /** Takes `file` over. */
  constructor(file: ImageFile, options: RawImageOptions) {
    this.path = file.path;
    this.readOnly = file.readOnly;
    this.alignmentBytes = file.alignmentBytes;
    this.discardUnitBytes = Math.max(file.alignmentBytes, file.isDevice ? 512 : 4096);
    this.#file = file;
    this.#sparse = options.sparse;
    this.#probed = options.probed;
    this.transfers = {
      fd: file.rawFd,
      direct: file.alignmentBytes > 1,
      locate: (offset, vector, writing) => {
        const isForbidden = writing && (this.readOnly || (this.#probed && offset < PROBE_BYTES));
        return !isForbidden && file.isAligned(offset, vector) ? offset : -1;
      },
      syncs: true,
      changesWait: false,
      beginWrite: () => file.beginWrite(),
      // What others made durable meanwhile was not this.
      endWrite: () => file.beginWrite(),
      beginSync: () => file.beginSync(),
      endSync: (errno) => file.endSync(errno),
    };
  }

  get sizeBytes(): number {
    return this.#file.lengthBytes;
  }

  get trouble(): string | undefined {
    return this.#file.syncFailure?.message;
  }

  readAt(offset: number, vector: IoVector): void {
    checkRange(this, offset, vector.lengthBytes);
    const count = this.#file.readVector(vector, offset);
    // Somebody truncated the file meanwhile.
    if (count < vector.lengthBytes) vector.fillZero(count);
  }

  writeAt(offset: number, vector: IoVector): void {
    checkWritable(this, offset, vector.lengthBytes);
    if (this.#probed && offset < PROBE_BYTES) this.#checkStart(offset, vector);
    this.#file.writeVector(vector, offset);
  }

  flush(): void {
    this.#file.sync();
  }

  discard(offset: number, lengthBytes: number): void {
    checkWritable(this, offset, lengthBytes);
    if (this.#sparse) this.#file.discard(offset, lengthBytes);
  }

  writeZeroes(offset: number, lengthBytes: number, options: WriteZeroesOptions = {}): void {
    checkWritable(this, offset, lengthBytes);
    this.#file.zero(offset, lengthBytes, { unmap: this.#sparse && (options.unmap ?? false) });
  }

  resize(sizeBytes: number, { shrink = false }: ResizeOptions = {}): void {
    checkWritable(this, 0, 0);
    checkSize(this.path, sizeBytes);
    if (this.#file.isDevice) {
      throw new DiskError(
        `${this.path}: a block device cannot be resized from here; it has ${this.sizeBytes} bytes`,
        { code: "EINVAL" },
      );
    }
    if (sizeBytes < this.sizeBytes && !shrink) {
      throw new DiskError(
        `${this.path}: expected a size of at least the ${
          showSize(this.sizeBytes)
        } that it has, got ` +
          `${
            showSize(sizeBytes)
          }; a smaller disk loses what is behind its new end, and is only made ` +
          "where that is asked for (--shrink)",
        { code: "EINVAL" },
      );
    }
    this.#file.setLength(sizeBytes);
    this.#file.sync();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    try {
      if (!this.readOnly) this.#file.sync();
    } finally {
      this.#file.close();
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #checkStart(offset: number, vector: IoVector): void {
    const start = new Uint8Array(PROBE_BYTES);
    this.#file.read(start, 0);
    vector.copyTo(start.subarray(offset));
    const name = formatName(start);
    if (name === "raw") return;
    throw new DiskError(
      `${this.path}: the guest writes the mark of a ${name} image to the start of a disk whose format ` +
        "was guessed as raw; state format=raw to allow it",
      { code: "EPERM" },
    );
  }
}

/** For people and for comparing: `8 MiB (8388608 bytes)`. */
function showSize(bytes: number): string {
  return bytes < 1024 ? `${bytes} bytes` : `${formatSize(bytes)} (${bytes} bytes)`;
}
