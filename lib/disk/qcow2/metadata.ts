/**
 * Loading an image's tables, and finding out whether they can be written to.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import {
  CLUSTER_BITS_FIELD,
  Incompatible,
  MAX_L1_BYTES,
  parseHeader,
  type Qcow2Header,
} from "./header.ts";
import { type ClusterRange, MetadataMap } from "./metadata_map.ts";
import { readSnapshots, type Snapshot } from "./snapshots.ts";

const MIN_CLUSTER_BYTES = 2 ** 9;
const MAX_CLUSTER_BYTES = 2 ** 21;

/** Reads the header of the image in `file`. */
export function readHeader(file: ImageFile): Qcow2Header {
  // It has the first cluster for itself. What says how long that is lies in the shortest one.
  const least = new Uint8Array(MIN_CLUSTER_BYTES);
  file.read(least, 0);
  const length = 2 ** new DataView(least.buffer).getUint32(CLUSTER_BITS_FIELD);
  const start = length > MIN_CLUSTER_BYTES && length <= MAX_CLUSTER_BYTES
    ? new Uint8Array(length)
    : least;
  const count = file.read(start, 0);
  return parseHeader(start.subarray(0, count), file.lengthBytes, file.path);
}

/** Reads the L1 table. */
export function readL1(file: ImageFile, header: Qcow2Header): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(header.l1Entries * 8);
  file.read(bytes, header.l1Offset);
  return bytes;
}

/** Offsets that a table of 64-bit entries holds, without their flags; 0 where there is none. */
export function tableOffsets(bytes: Uint8Array<ArrayBuffer>): Float64Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const offsets = new Float64Array(bytes.byteLength / 8);
  for (let at = 0; at < offsets.length; at++) {
    const high = view.getUint32(at * 8) & 0x00ff_ffff;
    offsets[at] = high * 2 ** 32 + ((view.getUint32(at * 8 + 4) & 0xffff_fe00) >>> 0);
  }
  return offsets;
}

/** Reads the refcount table: file offsets of the blocks. */
export function readRefcountTable(file: ImageFile, header: Qcow2Header): Float64Array {
  const bytes = new Uint8Array(header.refcountTableClusters * header.clusterBytes);
  file.read(bytes, header.refcountTableOffset);
  return tableOffsets(bytes);
}

/** What an image needs for being written to. */
export interface WritableTables {
  readonly refcountTable: Float64Array;
  readonly metadata: MetadataMap;
  readonly snapshots: readonly Snapshot[];
}

/**
 * Checks that an image can be written to and finds out where its metadata lies.
 *
 * @throws {DiskError} EINVAL when it was left dirty or marked corrupt, or its tables overlap.
 */
export function loadWritable(
  file: ImageFile,
  header: Qcow2Header,
  l1: Uint8Array<ArrayBuffer>,
): WritableTables {
  const refuse = (what: string): never => {
    throw new DiskError(
      `${file.path}: ${what}, so it cannot be written to; open it read-only, or repair it with ` +
        "qemu-img check -r all",
      { code: "EINVAL" },
    );
  };
  if ((header.incompatible & Incompatible.Corrupt) !== 0n) refuse("it is marked as corrupt");
  if ((header.incompatible & Incompatible.Dirty) !== 0n) {
    refuse("its reference counts are out of date (it is marked as dirty)");
  }
  const refcountTable = readRefcountTable(file, header);
  const snapshots = readSnapshots(file, header);
  const { clusterBytes } = header;
  const ranges: ClusterRange[] = [{ start: 0, end: 1 }];
  const addRange = (offset: number, lengthBytes: number) => {
    if (lengthBytes === 0) return;
    ranges.push({
      start: Math.floor(offset / clusterBytes),
      end: Math.ceil((offset + lengthBytes) / clusterBytes),
    });
  };
  addRange(header.refcountTableOffset, header.refcountTableClusters * clusterBytes);
  addRange(header.l1Offset, header.l1Entries * 8);
  addRange(header.snapshotsOffset, snapshots.tableBytes);
  for (const { l1Offset, l1Entries } of snapshots.list) addRange(l1Offset, l1Entries * 8);
  const tables = new MetadataMap(new Float64Array(), ranges);
  const end = alignUp(file.lengthBytes, clusterBytes);
  const points: Float64Array[] = [];
  for (
    const [name, offsets] of [
      ["refcount table", refcountTable],
      ["L1 table", tableOffsets(l1)],
    ] as const
  ) {
    const clusters = offsets.filter((offset) => offset !== 0);
    for (const offset of clusters) {
      if (offset % clusterBytes !== 0 || offset + clusterBytes > end) {
        refuse(
          `its ${name} names ${offset}: expected a multiple of ${clusterBytes} before ${end}`,
        );
      }
      if (tables.overlap(offset / clusterBytes, 1) !== undefined) {
        refuse(`its ${name} names ${offset}, where other metadata is`);
      }
    }
    points.push(clusters.map((offset) => offset / clusterBytes));
  }
  const [blocks, l2] = points as [Float64Array, Float64Array];
  const all = new Float64Array(blocks.length + l2.length);
  all.set(blocks);
  all.set(l2, blocks.length);
  const metadata = new MetadataMap(all, ranges);
  const twice = metadata.duplicate;
  if (twice !== undefined) refuse(`two of its tables are said to lie at ${twice * clusterBytes}`);
  return { refcountTable, metadata, snapshots: snapshots.list };
}

/** @throws {DiskError} EFBIG when an L1 table for a disk of this size is longer than is allowed. */
export function checkL1Length(path: string, entries: number, clusterBytes: number): void {
  if (entries * 8 <= MAX_L1_BYTES) return;
  const most = MAX_L1_BYTES / 8 * clusterBytes * (clusterBytes / 8);
  throw new DiskError(
    `${path}: expected at most ${most} bytes with clusters of ${clusterBytes} bytes, got more`,
    { code: "EFBIG" },
  );
}
