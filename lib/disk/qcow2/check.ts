/**
 * Counting all references of a qcow2 image and comparing them with its reference counts.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import { compressedRange } from "./compressed.ts";
import { Incompatible, type Qcow2Header } from "./header.ts";
import { readHeader, readL1, readRefcountTable } from "./metadata.ts";
import { readCount } from "./refcounts.ts";
import { readSnapshots } from "./snapshots.ts";
import { Slice } from "./table_cache.ts";

const CHUNK = 1024;
// A gigabyte of counters; what needs more is no image that anybody made.
const MAX_CHUNKS = 2 ** 18;
const MAX_MESSAGES = 100;
const COPIED_HIGH = 0x8000_0000;
const COMPRESSED_HIGH = 0x4000_0000;
const BITMAPS = 1n;

/** What {@link checkQcow2} found. */
export interface CheckReport {
  /** Places where using the image would lose data; 0 for a sound one. */
  readonly corruptions: number;
  /** Clusters that are counted more often than they are used: lost room, nothing else. */
  readonly leaks: number;
  /** Clusters of the disk that have storage. */
  readonly allocatedClusters: number;
  /** Of them, those that are compressed. */
  readonly compressedClusters: number;
  /** Clusters that the disk has. */
  readonly totalClusters: number;
  /** What was found, the first hundred. */
  readonly messages: readonly string[];
}

/** Checks the image in `file`. @throws {DiskError} when it cannot be read so far as to check it. */
export function checkQcow2(file: ImageFile): CheckReport {
  return new Checker(file).check();
}

/** How often each cluster is referred to. */
class ReferenceCounts {
  readonly #chunks = new Map<number, Uint32Array>();

  add(cluster: number): void {
    const index = Math.floor(cluster / CHUNK);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      if (this.#chunks.size >= MAX_CHUNKS) {
        throw new DiskError("the image's clusters are scattered too widely to be checked");
      }
      this.#chunks.set(index, chunk = new Uint32Array(CHUNK));
    }
    chunk[cluster % CHUNK]!++;
  }

  get(cluster: number): number {
    return this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0;
  }

  /** Calls `visit` for each cluster that is referred to. */
  forEach(visit: (cluster: number, count: number) => void): void {
    for (const [index, chunk] of this.#chunks) {
      chunk.forEach((count, at) => {
        if (count > 0) visit(index * CHUNK + at, count);
      });
    }
  }
}

class Checker {
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  readonly #end: number;
  readonly #references = new ReferenceCounts();
  readonly #blocks: Float64Array;
  readonly #messages: string[] = [];
  #corruptions = 0;
  #leaks = 0;
  #allocated = 0;
  #compressed = 0;
  #block: { index: number; slice: Slice } | undefined;

  constructor(file: ImageFile) {
    this.#file = file;
    this.#header = readHeader(file);
    this.#end = alignUp(file.lengthBytes, this.#header.clusterBytes);
    this.#blocks = readRefcountTable(file, this.#header);
  }

  check(): CheckReport {
    const header = this.#header;
    const { clusterBytes } = header;
    if ((header.incompatible & Incompatible.Corrupt) !== 0n) {
      this.#corruption("it is marked as corrupt");
    }
    this.#refer(0, clusterBytes, "the header");
    this.#refer(
      header.refcountTableOffset,
      header.refcountTableClusters * clusterBytes,
      "the refcount table",
    );
    this.#blocks.forEach((offset, index) => {
      if (offset !== 0) this.#referAligned(offset, `refcount block ${index}`);
    });
    this.#checkTables(readL1(this.#file, header), header.l1Offset, true);
    const snapshots = readSnapshots(this.#file, header);
    this.#refer(header.snapshotsOffset, snapshots.tableBytes, "the snapshot table");
    for (const snapshot of snapshots.list) {
      const l1 = new Uint8Array(snapshot.l1Entries * 8);
      this.#file.read(l1, snapshot.l1Offset);
      this.#checkTables(l1, snapshot.l1Offset, false);
    }
    this.#compare();
    return {
      corruptions: this.#corruptions,
      leaks: this.#leaks,
      allocatedClusters: this.#allocated,
      compressedClusters: this.#compressed,
      totalClusters: Math.ceil(header.sizeBytes / clusterBytes),
      messages: this.#messages,
    };
  }

  #checkTables(l1: Uint8Array<ArrayBuffer>, l1Offset: number, isActive: boolean): void {
    const { clusterBytes } = this.#header;
    this.#refer(l1Offset, l1.byteLength, "an L1 table");
    const view = new DataView(l1.buffer);
    const table = new Uint8Array(clusterBytes);
    for (let at = 0; at < l1.byteLength; at += 8) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      const offset = entryOffset(high, low);
      const what = `L2 table ${at / 8}`;
      if ((high & 0x7f00_0000) !== 0 || (low & 0x1ff) !== 0) {
        this.#corruption(`the entry of ${what} has bits that mean nothing`);
      }
      if (offset === 0) continue;
      if (!this.#referAligned(offset, what)) continue;
      if (isActive) this.#checkCopied(high, offset, what);
      table.fill(0);
      this.#file.read(table, offset);
      this.#checkEntries(table, at / 8 * (clusterBytes / 8), isActive);
    }
  }

  #checkEntries(table: Uint8Array<ArrayBuffer>, firstGuest: number, isActive: boolean): void {
    const { clusterBytes, clusterBits, version } = this.#header;
    const view = new DataView(table.buffer);
    for (let at = 0; at < clusterBytes; at += 8) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (high === 0 && (low & ~1) === 0) {
        if (low === 1 && version < 3) this.#corruption("a cluster of zeros in version 2");
        continue;
      }
      const what = `cluster ${firstGuest + at / 8} of the disk`;
      if ((high & COMPRESSED_HIGH) !== 0) {
        const { offset, lengthBytes } = compressedRange(high, low, clusterBits);
        this.#refer(offset, lengthBytes, what);
        if (high >= COPIED_HIGH) this.#corruption(`${what} is compressed and marked as copied`);
        if (isActive) this.#compressed++;
      } else {
        const offset = entryOffset(high, low);
        if ((high & 0x3f00_0000) !== 0 || (low & 0x1fe) !== 0) {
          this.#corruption(`the entry of ${what} has bits that mean nothing`);
        }
        if (offset === 0 || !this.#referAligned(offset, what)) continue;
        if (isActive) this.#checkCopied(high, offset, what);
      }
      if (isActive) this.#allocated++;
    }
  }

  /** The mark must stand exactly where the count is 1. */
  #checkCopied(high: number, offset: number, what: string): void {
    const count = this.#count(offset / this.#header.clusterBytes);
    if ((high >= COPIED_HIGH) !== (count === 1)) {
      this.#corruption(
        `${what} is ${
          high >= COPIED_HIGH ? "" : "not "
        }marked as copied, but its count is ${count}`,
      );
    }
  }

  #referAligned(offset: number, what: string): boolean {
    if (offset % this.#header.clusterBytes !== 0) {
      this.#corruption(`${what} is said to lie at ${offset}, in the middle of a cluster`);
      return false;
    }
    return this.#refer(offset, this.#header.clusterBytes, what);
  }

  #refer(offset: number, lengthBytes: number, what: string): boolean {
    if (lengthBytes === 0) return true;
    const { clusterBytes } = this.#header;
    // A compressed cluster's last sector may be said to reach a bit beyond the end.
    if (!Number.isSafeInteger(offset + lengthBytes) || offset >= this.#end) {
      this.#corruption(`${what} is said to lie at ${offset}, beyond the file's end`);
      return false;
    }
    const last = Math.floor((offset + lengthBytes - 1) / clusterBytes);
    for (let cluster = Math.floor(offset / clusterBytes); cluster <= last; cluster++) {
      this.#references.add(cluster);
    }
    return true;
  }

  #compare(): void {
    this.#references.forEach((cluster, references) => {
      const count = this.#count(cluster);
      if (count < references) {
        this.#corruption(
          `file cluster ${cluster} has ${references} references, but counts ${count}`,
        );
      }
    });
    // What bitmaps of QEMU's use is not followed, and would look lost.
    if ((this.#header.autoclear & BITMAPS) !== 0n) return;
    const perBlock = this.#perBlock();
    const clusters = this.#end / this.#header.clusterBytes;
    this.#blocks.forEach((offset, index) => {
      if (offset === 0 || offset % this.#header.clusterBytes !== 0 || offset >= this.#end) return;
      // What is counted beyond the end takes no room.
      const inFile = Math.min(perBlock, clusters - index * perBlock);
      for (let at = 0; at < inFile; at++) {
        const cluster = index * perBlock + at;
        const count = this.#count(cluster);
        if (count <= this.#references.get(cluster)) continue;
        this.#leaks++;
        this.#tell(
          `file cluster ${cluster} has ${
            this.#references.get(cluster)
          } references, but counts ${count}`,
        );
      }
    });
  }

  #perBlock(): number {
    return this.#header.clusterBytes * 8 / this.#header.refcountBits;
  }

  #count(cluster: number): number {
    const perBlock = this.#perBlock();
    const index = Math.floor(cluster / perBlock);
    const offset = this.#blocks[index] ?? 0;
    if (offset === 0 || offset % this.#header.clusterBytes !== 0) return 0;
    if (this.#block?.index !== index) {
      const slice = new Slice(offset, this.#header.clusterBytes);
      this.#file.read(slice.bytes, offset);
      this.#block = { index, slice };
    }
    return readCount(this.#block.slice, cluster % perBlock, this.#header.refcountBits);
  }

  #corruption(message: string): void {
    this.#corruptions++;
    this.#tell(message);
  }

  #tell(message: string): void {
    if (this.#messages.length < MAX_MESSAGES) this.#messages.push(message);
  }
}

function entryOffset(high: number, low: number): number {
  return (high & 0x00ff_ffff) * 2 ** 32 + ((low & 0xffff_fe00) >>> 0);
}
