/**
 * Numbers of the virtio block device (virtio 1.2, 5.2).
 *
 * @module
 */

/** Bytes of a sector, whatever the block size. */
export const SECTOR_BYTES = 512;
/** Bytes of a request's header: type (32), reserved (32), sector (64). */
export const HEADER_BYTES = 16;
/** Bytes of a disk's serial number. */
export const ID_BYTES = 20;
/** Bytes of a range to discard or to zero: sector (64), count (32), flags (32). */
export const RANGE_BYTES = 16;
/** Flag of a range to zero: its storage may be given back. */
export const RANGE_UNMAP = 1;

/** Types of requests (5.2.6). */
export const RequestType = {
  In: 0,
  Out: 1,
  Flush: 4,
  GetId: 8,
  Discard: 11,
  WriteZeroes: 13,
} as const;

/** Status bytes (5.2.6). */
export const RequestStatus = { Ok: 0, IoError: 1, Unsupported: 2 } as const;

/** Feature bits (5.2.3). */
export const BlockFeature = {
  SegMax: 1n << 2n,
  ReadOnly: 1n << 5n,
  BlkSize: 1n << 6n,
  Flush: 1n << 9n,
  Topology: 1n << 10n,
  ConfigWce: 1n << 11n,
  Mq: 1n << 12n,
  Discard: 1n << 13n,
  WriteZeroes: 1n << 14n,
} as const;

/** Bytes of the configuration space (5.2.4), without what zoned devices have. */
export const CONFIG_BYTES = 60;

/** Offsets in the configuration space (5.2.4). */
export const ConfigField = {
  Capacity: 0,
  SegMax: 12,
  BlkSize: 20,
  PhysicalBlockExp: 24,
  OptIoSize: 28,
  Writeback: 32,
  NumQueues: 34,
  MaxDiscardSectors: 36,
  MaxDiscardSeg: 40,
  DiscardSectorAlignment: 44,
  MaxWriteZeroesSectors: 48,
  MaxWriteZeroesSeg: 52,
  WriteZeroesMayUnmap: 56,
} as const;
