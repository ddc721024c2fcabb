/**
 * Reads, writes and flushes of qcow2 images by other means than the image's.
 *
 * A write under way to a cluster that is freed and used anew would end up in another place of the disk,
 * so changes by the image's own methods wait until there is none. What is read from such a cluster is
 * only wrong for a guest that frees what it reads.
 *
 * @module
 */

import type { IoVector } from "../../host/mod.ts";
import type { DiskImage, DiskTransfers } from "../image.ts";
import type { ImageFile } from "../image_file.ts";
import type { Qcow2Image } from "./qcow2_image.ts";

/** Finds what reads find in the image's file, or in those that it is based on. */
export class Qcow2Transfers implements DiskTransfers {
  readonly direct: boolean;
  readonly syncs = true;
  readonly changesWait = true;
  readonly #image: Qcow2Image;
  readonly #file: ImageFile;
  readonly #backing: DiskImage | undefined;
  #fd: number;

  constructor(image: Qcow2Image, file: ImageFile, backing: DiskImage | undefined) {
    this.#image = image;
    this.#file = file;
    this.#backing = backing;
    this.direct = file.alignmentBytes > 1;
    this.#fd = file.rawFd;
  }

  get fd(): number {
    return this.#fd;
  }

  locate(offset: number, vector: IoVector, writing: boolean): number {
    const { lengthBytes } = vector;
    if (writing) {
      this.#fd = this.#file.rawFd;
      // A cluster begins where a direct transfer can.
      const fits = this.#image.discardUnitBytes % this.#file.alignmentBytes === 0 &&
        this.#file.isAligned(offset % this.#image.discardUnitBytes, vector);
      return fits ? this.#image.beginWrite(offset, lengthBytes) : -1;
    }
    const at = this.#image.locate(offset, lengthBytes);
    if (at !== undefined) {
      this.#fd = this.#file.rawFd;
      return at >= 0 && this.#file.isAligned(at, vector) ? at : -1;
    }
    const transfers = this.#backing?.transfers;
    if (transfers === undefined || offset + lengthBytes > this.#backing!.sizeBytes) return -1;
    const behind = transfers.locate(offset, vector, false);
    this.#fd = transfers.fd;
    return behind;
  }

  beginWrite(): void {
    this.#file.beginWrite();
  }

  endWrite(offset: number, done: boolean): void {
    // What others made durable meanwhile was not this.
    this.#file.beginWrite();
    this.#image.endWrite(offset, done);
  }

  beginSync(): boolean {
    this.#fd = this.#file.rawFd;
    return this.#image.beginFlush();
  }

  endSync(errno: number): void {
    this.#file.endSync(errno);
  }
}
