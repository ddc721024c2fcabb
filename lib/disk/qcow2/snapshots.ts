/**
 * The table of internal snapshots (QEMU's docs/interop/qcow2.txt, "Snapshots"). Snapshots are respected
 * and listed; they are not made here.
 *
 * @module
 */

import { alignUp, MIB } from "../../base/mod.ts";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import { MAX_L1_BYTES, type Qcow2Header } from "./header.ts";

const ENTRY_BYTES = 40;
const MAX_TABLE_BYTES = 64 * MIB;
const MAX_EXTRA_BYTES = 1024;

/** A snapshot. */
export interface Snapshot {
  readonly id: string;
  readonly name: string;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** When it was made, in s since 1970. */
  readonly takenAt: number;
  /** Bytes of the disk then, where the table says so. */
  readonly sizeBytes: number | undefined;
}

/** The table, checked. */
export interface SnapshotTable {
  readonly list: readonly Snapshot[];
  readonly tableBytes: number;
}

/** Reads the table. @throws {DiskError} EINVAL when it is damaged. */
export function readSnapshots(file: ImageFile, header: Qcow2Header): SnapshotTable {
  const list: Snapshot[] = [];
  const head = new DataView(new ArrayBuffer(ENTRY_BYTES));
  let at = 0;
  const fail = (what: string): never => {
    throw new DiskError(`${file.path}: snapshot ${list.length + 1}: expected ${what}`, {
      code: "EINVAL",
    });
  };
  while (list.length < header.snapshotCount) {
    if (file.read(new Uint8Array(head.buffer), header.snapshotsOffset + at) < ENTRY_BYTES) {
      fail("an entry inside of the file");
    }
    const l1Offset = head.getBigUint64(0);
    const l1Entries = head.getUint32(8);
    const idBytes = head.getUint16(12);
    const nameBytes = head.getUint16(14);
    const extraBytes = head.getUint32(36);
    if (extraBytes > MAX_EXTRA_BYTES) {
      fail(`at most ${MAX_EXTRA_BYTES} bytes of extra data, got ${extraBytes}`);
    }
    if (l1Entries * 8 > MAX_L1_BYTES) {
      fail(`an L1 table of at most ${MAX_L1_BYTES / 8} entries, got ${l1Entries}`);
    }
    if (
      l1Offset % BigInt(header.clusterBytes) !== 0n ||
      l1Offset + BigInt(l1Entries * 8) > BigInt(alignUp(file.lengthBytes, header.clusterBytes))
    ) {
      fail(`an L1 table inside of the file, got one at ${l1Offset}`);
    }
    const rest = new Uint8Array(extraBytes + idBytes + nameBytes);
    if (file.read(rest, header.snapshotsOffset + at + ENTRY_BYTES) < rest.byteLength) {
      fail("an entry inside of the file");
    }
    const text = (from: number, to: number) => new TextDecoder().decode(rest.subarray(from, to));
    list.push({
      id: text(extraBytes, extraBytes + idBytes),
      name: text(extraBytes + idBytes, rest.byteLength),
      l1Offset: Number(l1Offset),
      l1Entries,
      takenAt: head.getUint32(16),
      sizeBytes: extraBytes >= 16 ? Number(new DataView(rest.buffer).getBigUint64(8)) : undefined,
    });
    at += alignUp(ENTRY_BYTES + rest.byteLength, 8);
    if (at > MAX_TABLE_BYTES) fail(`a table of at most ${MAX_TABLE_BYTES} bytes`);
  }
  return { list, tableBytes: at };
}
