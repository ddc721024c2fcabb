/**
 * Disk images: raw files, block devices and qcow2.
 *
 * @module
 */

export { DiskError, type DiskErrorOptions } from "./errors.ts";
export type { DiskFormat, DiskImage, DiskTransfers, WriteZeroesOptions } from "./image.ts";
export {
  assembleDisk,
  type DiskFile,
  DiskFiles,
  MAX_CHAIN_LENGTH,
  openDisk,
  openDiskFiles,
  type OpenDiskOptions,
} from "./open.ts";
export { type ClaimingDisk, FileClaims } from "./claims.ts";
export { createQcow2, type CreateQcow2Options } from "./create.ts";
export { checkDisk, type DiskInfo, diskInfo, type InspectOptions } from "./info.ts";
export { type Compression, loadDecoder, openDecoder } from "./qcow2/decoders.ts";
export { hasPartitions } from "./partitions.ts";
export type { CheckReport } from "./qcow2/check.ts";
export type { Snapshot } from "./qcow2/snapshots.ts";
