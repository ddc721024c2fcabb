/**
 * New qcow2 images.
 *
 * @module
 */

import { DiskError } from "../errors.ts";
import { checkSize, type DiskFormat } from "../image.ts";
import type { ImageFile } from "../image_file.ts";
import { Extension, l1EntriesFor, QCOW2_MAGIC, V3_HEADER_BYTES } from "./header.ts";
import { checkL1Length } from "./metadata.ts";

const REFCOUNT_ORDER = 4;

/** What a new image is like. */
export interface Qcow2Layout {
  /** Bytes of the disk. */
  readonly sizeBytes: number;
  /** Power of two from 512 to 2 MiB; 64 KiB unless stated. */
  readonly clusterBytes?: number;
  /** What it is based on: a path, relative to the image's folder or absolute. */
  readonly backing?: { readonly path: string; readonly format: DiskFormat } | undefined;
}

/**
 * Writes a new image of version 3 into an empty file: header, refcount table, refcount blocks, L1 table.
 *
 * @throws {DiskError} EINVAL when the layout is none that an image can have.
 */
export function writeQcow2(file: ImageFile, layout: Qcow2Layout): void {
  const { sizeBytes, clusterBytes = 65_536, backing } = layout;
  checkSize(file.path, sizeBytes);
  const clusterBits = Math.log2(clusterBytes);
  if (!Number.isInteger(clusterBits) || clusterBits < 9 || clusterBits > 21) {
    throw new DiskError(
      `${file.path}: expected clusters of a power of two from 512 to 2097152 bytes, got ` +
        clusterBytes,
      { code: "EINVAL" },
    );
  }
  const l1Entries = l1EntriesFor(sizeBytes, clusterBytes);
  checkL1Length(file.path, l1Entries, clusterBytes);
  const l1Clusters = Math.ceil(l1Entries * 8 / clusterBytes);
  const perBlock = clusterBytes * 8 / 2 ** REFCOUNT_ORDER;
  let blocks = 1;
  let tableClusters = 1;
  for (;;) {
    const total = 1 + tableClusters + blocks + l1Clusters;
    const neededBlocks = Math.ceil(total / perBlock);
    const neededTable = Math.ceil(neededBlocks * 8 / clusterBytes);
    if (neededBlocks === blocks && neededTable === tableClusters) break;
    blocks = neededBlocks;
    tableClusters = neededTable;
  }
  const total = 1 + tableClusters + blocks + l1Clusters;
  const counts = new DataView(new ArrayBuffer(blocks * clusterBytes));
  for (let cluster = 0; cluster < total; cluster++) counts.setUint16(cluster * 2, 1);
  const table = new DataView(new ArrayBuffer(tableClusters * clusterBytes));
  for (let block = 0; block < blocks; block++) {
    table.setBigUint64(block * 8, BigInt((1 + tableClusters + block) * clusterBytes));
  }
  file.write(new Uint8Array(table.buffer), clusterBytes);
  file.write(new Uint8Array(counts.buffer), (1 + tableClusters) * clusterBytes);
  file.writeZeros((1 + tableClusters + blocks) * clusterBytes, l1Clusters * clusterBytes);
  file.sync();
  // Last, so that what is cut off on the way is no image.
  const l1Offset = (1 + tableClusters + blocks) * clusterBytes;
  const header = buildHeader(file.path, { clusterBytes, backing });
  header.setBigUint64(24, BigInt(sizeBytes));
  header.setUint32(36, l1Entries);
  header.setBigUint64(40, BigInt(l1Offset));
  header.setBigUint64(48, BigInt(clusterBytes));
  header.setUint32(56, tableClusters);
  file.write(new Uint8Array(header.buffer), 0);
  file.sync();
}

function buildHeader(
  path: string,
  what: { readonly clusterBytes: number; readonly backing: Qcow2Layout["backing"] },
): DataView<ArrayBuffer> {
  const { clusterBytes, backing } = what;
  const bytes = new Uint8Array(clusterBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QCOW2_MAGIC);
  view.setUint32(4, 3);
  view.setUint32(20, Math.log2(clusterBytes));
  view.setUint32(96, REFCOUNT_ORDER);
  // With the compression type and its padding, as QEMU writes it.
  const headerBytes = V3_HEADER_BYTES + 8;
  view.setUint32(100, headerBytes);
  let at = headerBytes;
  if (backing === undefined) return view;
  const name = new TextEncoder().encode(backing.path);
  const format = new TextEncoder().encode(backing.format);
  const most = Math.min(1023, clusterBytes - headerBytes - 32);
  if (name.length < 1 || name.length > most) {
    throw new DiskError(
      `${path}: expected a backing file's name of 1 to ${most} bytes, got ${name.length}`,
      { code: "EINVAL" },
    );
  }
  view.setUint32(at, Extension.BackingFormat);
  view.setUint32(at + 4, format.length);
  bytes.set(format, at + 8);
  // The format, padded, and the mark of the extensions' end, which is zeros.
  at += 8 + 8 + 8;
  view.setBigUint64(8, BigInt(at));
  view.setUint32(16, name.length);
  bytes.set(name, at);
  return view;
}
