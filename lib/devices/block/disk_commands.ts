/**
 * What requests do to a disk image, each to its end before the next one.
 *
 * @module
 */

import type { DiskImage } from "../../disk/mod.ts";
import type { Pieces } from "../../virtio/mod.ts";
import {
  type DiskPresentation,
  MAX_DISCARD_SECTORS,
  MAX_RANGES,
  MAX_ZERO_SECTORS,
} from "./config_space.ts";
import {
  BlockFeature,
  HEADER_BYTES,
  ID_BYTES,
  RANGE_BYTES,
  RANGE_UNMAP,
  RequestStatus,
  RequestType,
  SECTOR_BYTES,
} from "./protocol.ts";
import type { BlockRequest } from "./request.ts";

/** Settings of {@link DiskCommands}. */
export interface DiskCommandsOptions extends DiskPresentation {
  /** Serial number, at most 20 ASCII characters. */
  readonly id: string;
  /** Features that the disk was offered with. */
  readonly features: bigint;
}

/** Carries requests out on an image. */
export class DiskCommands {
  /** Whether what is written is made durable before it is answered. */
  writeThrough = false;
  readonly #image: DiskImage;
  readonly #features: bigint;
  readonly #blockBytes: number;
  readonly #id = new Uint8Array(ID_BYTES);

  constructor(image: DiskImage, { id, features, blockBytes }: DiskCommandsOptions) {
    this.#image = image;
    this.#features = features;
    this.#blockBytes = blockBytes;
    new TextEncoder().encodeInto(id, this.#id);
  }

  /**
   * Finds out what a request wants. Data to read or write is in its vector afterwards.
   *
   * @returns its status where there is something wrong with it, undefined where it is to be carried out
   * @throws {HostError} E2BIG for more pieces than it has room for.
   */
  prepare(request: BlockRequest): number | undefined {
    const { readable, writable } = request.chain;
    if (readable.lengthBytes < HEADER_BYTES) return RequestStatus.IoError;
    request.type = readable.readU32(0);
    switch (request.type) {
      case RequestType.In:
      case RequestType.Out: {
        // Beyond 2^53 it is rounded, and beyond any disk.
        const offset = readable.readU64AsNumber(8) * SECTOR_BYTES;
        const isIn = request.type === RequestType.In;
        const length = isIn ? request.writableBytes : readable.lengthBytes - HEADER_BYTES;
        if (length % SECTOR_BYTES !== 0 || offset + length > this.#capacityBytes) {
          return RequestStatus.IoError;
        }
        if (!isIn && this.#image.readOnly) return RequestStatus.IoError;
        request.offset = offset;
        request.vector.clear();
        if (isIn) writable.appendTo(request.vector, 0, length);
        else readable.appendTo(request.vector, HEADER_BYTES, length);
        return undefined;
      }
      case RequestType.Flush:
      case RequestType.GetId:
        return undefined;
      case RequestType.Discard:
        return this.#offers(BlockFeature.Discard);
      case RequestType.WriteZeroes:
        return this.#offers(BlockFeature.WriteZeroes);
      default:
        return RequestStatus.Unsupported;
    }
  }

  /**
   * Carries a prepared request out.
   *
   * @returns its status
   * @throws {DiskError} where the host fails it.
   */
  execute(request: BlockRequest): number {
    const image = this.#image;
    const { readable, writable } = request.chain;
    switch (request.type) {
      case RequestType.In:
        image.readAt(request.offset, request.vector);
        return RequestStatus.Ok;
      case RequestType.Out:
        image.writeAt(request.offset, request.vector);
        if (this.writeThrough) image.flush();
        return RequestStatus.Ok;
      case RequestType.Flush:
        image.flush();
        return RequestStatus.Ok;
      case RequestType.GetId:
        writable.copyFrom(this.#id.subarray(0, Math.min(ID_BYTES, request.writableBytes)));
        return RequestStatus.Ok;
      default:
        return this.#ranges(readable, request.type === RequestType.WriteZeroes);
    }
  }

  #offers(feature: bigint): number | undefined {
    return (this.#features & feature) === 0n ? RequestStatus.Unsupported : undefined;
  }

  /** Discards ranges, or zeroes them. All of them are checked before anything is done. */
  #ranges(readable: Pieces, zero: boolean): number {
    const lengthBytes = readable.lengthBytes - HEADER_BYTES;
    const count = lengthBytes / RANGE_BYTES;
    if (!Number.isInteger(count) || count < 1 || count > MAX_RANGES) return RequestStatus.IoError;
    // Read once: the guest could change them between check and use.
    const bytes = new Uint8Array(lengthBytes);
    readable.copyTo(bytes, HEADER_BYTES);
    const view = new DataView(bytes.buffer);
    const most = zero ? MAX_ZERO_SECTORS : MAX_DISCARD_SECTORS;
    for (let at = 0; at < lengthBytes; at += RANGE_BYTES) {
      const flags = view.getUint32(at + 12, true);
      if ((flags & ~(zero ? RANGE_UNMAP : 0)) !== 0) return RequestStatus.Unsupported;
      const sectors = view.getUint32(at + 8, true);
      const end = Number(view.getBigUint64(at, true)) + sectors;
      if (sectors > most || end * SECTOR_BYTES > this.#capacityBytes) return RequestStatus.IoError;
    }
    for (let at = 0; at < lengthBytes; at += RANGE_BYTES) {
      const offset = Number(view.getBigUint64(at, true)) * SECTOR_BYTES;
      const length = view.getUint32(at + 8, true) * SECTOR_BYTES;
      const unmap = (view.getUint32(at + 12, true) & RANGE_UNMAP) !== 0;
      if (zero) this.#image.writeZeroes(offset, length, { unmap });
      else this.#image.discard(offset, length);
    }
    if (this.writeThrough) this.#image.flush();
    return RequestStatus.Ok;
  }

  get #capacityBytes(): number {
    return Math.floor(this.#image.sizeBytes / this.#blockBytes) * this.#blockBytes;
  }
}
