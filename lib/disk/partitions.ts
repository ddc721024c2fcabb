/**
 * Whether a disk is divided into partitions.
 *
 * @module
 */

import { IoVector } from "../host/mod.ts";
import type { DiskImage } from "./image.ts";

const SECTOR_BYTES = 512;
/** Of the table in the first sector (UEFI 2.10, 5.2.1). */
const ENTRIES_AT = 446;
const ENTRIES = 4;
const ENTRY_BYTES = 16;
const SIGNATURE = 0xaa55;
const ACTIVE = 0x80;

/**
 * Whether `image` has a partition table: that of a PC's first sector, which one with a GUID partition table
 * has as well (UEFI 2.10, 5.2.3). The boot sector of a file system without one has no sound entries.
 *
 * @throws {DiskError} where the image cannot be read.
 */
export function hasPartitions(image: DiskImage): boolean {
  if (image.sizeBytes < SECTOR_BYTES) return false;
  const sector = new Uint8Array(SECTOR_BYTES);
  image.readAt(0, IoVector.of(sector));
  const view = new DataView(sector.buffer);
  if (view.getUint16(SECTOR_BYTES - 2, true) !== SIGNATURE) return false;
  // In blocks, which are of 512 bytes at least.
  const limit = image.sizeBytes / SECTOR_BYTES;
  let found = false;
  for (let at = ENTRIES_AT; at < ENTRIES_AT + ENTRIES * ENTRY_BYTES; at += ENTRY_BYTES) {
    const status = view.getUint8(at);
    if (status !== 0 && status !== ACTIVE) return false;
    if (view.getUint8(at + 4) === 0) continue;
    const begin = view.getUint32(at + 8, true);
    if (begin === 0 || begin >= limit || view.getUint32(at + 12, true) === 0) return false;
    found = true;
  }
  return found;
}
