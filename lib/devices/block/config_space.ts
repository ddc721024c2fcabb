/**
 * What a disk tells its driver.
 *
 * @module
 */

import type { DiskImage } from "../../disk/mod.ts";
import { Feature } from "../../virtio/mod.ts";
import { BlockFeature, CONFIG_BYTES, ConfigField, SECTOR_BYTES } from "./protocol.ts";

/** Most descriptors of a queue. */
export const MAX_QUEUE_SIZE = 1024;
/** Most pieces of data of a request: the largest one that Linux makes, 1280 KiB, in single pages. */
export const SEG_MAX = 320;
/** Most ranges of a request to discard or zero. */
export const MAX_RANGES = 32;
/** Most sectors of a range to discard: 2 GiB. */
export const MAX_DISCARD_SECTORS = 2 ** 31 / SECTOR_BYTES;
/** Most sectors of a range to zero: 64 MiB, for a file system that cannot do it writes them all. */
export const MAX_ZERO_SECTORS = 2 ** 26 / SECTOR_BYTES;
/** Pages of the host's cache: smaller writes cost a read. */
const PHYSICAL_BLOCK_BYTES = 4096;

/** How a disk is to be shown. */
export interface DiskPresentation {
  /** Bytes of a logical block. */
  readonly blockBytes: number;
  readonly queueCount: number;
  /** Whether packed queues are offered; no where absent. */
  readonly packedQueues?: boolean;
  /** Whether storage is given back. */
  readonly sparse: boolean;
}

/** The features that `image` is offered with. */
export function blockFeatures(image: DiskImage, presentation: DiskPresentation): bigint {
  const { sparse, packedQueues = false } = presentation;
  const always = BlockFeature.SegMax | BlockFeature.BlkSize | BlockFeature.Flush |
    BlockFeature.Topology | BlockFeature.Mq | (packedQueues ? Feature.RingPacked : 0n);
  if (image.readOnly) return always | BlockFeature.ReadOnly;
  return always | BlockFeature.ConfigWce | BlockFeature.WriteZeroes |
    (sparse ? BlockFeature.Discard : 0n);
}

/** The configuration space of `image`. */
export function blockConfig(image: DiskImage, presentation: DiskPresentation): Uint8Array {
  const { blockBytes, queueCount, sparse } = presentation;
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  setCapacity(bytes, image, blockBytes);
  view.setUint32(ConfigField.SegMax, SEG_MAX, true);
  view.setUint32(ConfigField.BlkSize, blockBytes, true);
  const physical = Math.max(PHYSICAL_BLOCK_BYTES / blockBytes, 1);
  view.setUint8(ConfigField.PhysicalBlockExp, Math.log2(physical));
  view.setUint32(ConfigField.OptIoSize, Math.ceil(image.discardUnitBytes / blockBytes), true);
  view.setUint16(ConfigField.NumQueues, queueCount, true);
  if (image.readOnly) return bytes;
  view.setUint8(ConfigField.Writeback, 1);
  view.setUint32(ConfigField.MaxWriteZeroesSectors, MAX_ZERO_SECTORS, true);
  view.setUint32(ConfigField.MaxWriteZeroesSeg, MAX_RANGES, true);
  if (!sparse) return bytes;
  view.setUint8(ConfigField.WriteZeroesMayUnmap, 1);
  view.setUint32(ConfigField.MaxDiscardSectors, MAX_DISCARD_SECTORS, true);
  view.setUint32(ConfigField.MaxDiscardSeg, MAX_RANGES, true);
  const alignment = Math.max(image.discardUnitBytes, blockBytes) / SECTOR_BYTES;
  view.setUint32(ConfigField.DiscardSectorAlignment, alignment, true);
  return bytes;
}

/** Writes the disk's size; what does not fill a block is left out. */
export function setCapacity(config: Uint8Array, image: DiskImage, blockBytes: number): void {
  const blocks = Math.floor(image.sizeBytes / blockBytes);
  const view = new DataView(config.buffer, config.byteOffset);
  view.setBigUint64(ConfigField.Capacity, BigInt(blocks) * BigInt(blockBytes / SECTOR_BYTES), true);
}
