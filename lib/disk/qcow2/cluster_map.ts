/**
 * From the disk's clusters to the file's: the L1 table, which is all in memory, and the L2 tables, of
 * which a bounded part is.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import type { ImageFile } from "../image_file.ts";
import type { Qcow2Header } from "./header.ts";
import type { MetadataMap } from "./metadata_map.ts";
import { type Refcounts, zeroNewCluster } from "./refcounts.ts";
import type { RecoveryLog } from "./recovery_log.ts";
import { MAX_SLICE_BYTES, type Slice, TableCache } from "./table_cache.ts";

/** What stands behind a cluster of the disk. */
export const ClusterKind = {
  /** Nothing: the backing file's bytes, or zeros. */
  Unallocated: 0,
  /** Zeros, without storage. */
  Zero: 1,
  /** Zeros, with a cluster that is kept for it. */
  ZeroAllocated: 2,
  /** A cluster. */
  Data: 3,
  /** Compressed bytes. */
  Compressed: 4,
} as const;

/** High half of the flag that says: nothing else refers to this cluster. */
export const COPIED_HIGH = 0x8000_0000;
const COMPRESSED_HIGH = 0x4000_0000;
const ZERO_LOW = 1;
const OFFSET_HIGH = 0x00ff_ffff;
const OFFSET_LOW = 0xffff_fe00;
const TWO_32 = 2 ** 32;
const L1_SECTOR_BYTES = 512;

/** What {@link ClusterMap} works with. */
export interface ClusterMapOptions {
  readonly header: Qcow2Header;
  /** The L1 table as in the file. */
  readonly l1: Uint8Array<ArrayBuffer>;
  /** Most bytes of L2 tables in memory. */
  readonly cacheBytes: number;
  /** Where changes go that the file does not have yet. */
  readonly log: RecoveryLog | undefined;
  /** Brings all metadata to the file. */
  readonly commit: () => void;
  /** Reports damage of the image. */
  readonly corrupt: (message: string) => never;
}

/** What changes of the map need. */
export interface MapWriter {
  readonly refcounts: Refcounts;
  readonly metadata: MetadataMap;
  /** Drops a reference to a table's cluster once nothing in the file names it any more. */
  readonly releaseTable: (cluster: number) => void;
}

/** The mapping of an image. {@link lookup} leaves what it found in the public fields. */
export class ClusterMap {
  /** Of {@link ClusterKind}. */
  kind: number = ClusterKind.Unallocated;
  /** Where the cluster is in the file, for Data and ZeroAllocated. */
  hostOffset = 0;
  /** Whether only this entry refers to it. */
  copied = false;
  /** Upper half of the entry itself. */
  high = 0;
  /** Lower half of it. */
  low = 0;
  readonly #file: ImageFile;
  readonly #version: number;
  readonly #clusterBytes: number;
  readonly #perTable: number;
  readonly #perSlice: number;
  readonly #cache: TableCache;
  readonly #corrupt: (message: string) => never;
  readonly #log: RecoveryLog | undefined;
  readonly #dirtySectors = new Set<number>();
  #l1: Uint8Array<ArrayBuffer>;
  #l1View: DataView<ArrayBuffer>;
  #l1Offset: number;

  constructor(file: ImageFile, options: ClusterMapOptions) {
    const { header } = options;
    this.#file = file;
    this.#version = header.version;
    this.#clusterBytes = header.clusterBytes;
    this.#perTable = header.clusterBytes / 8;
    const sliceBytes = Math.min(header.clusterBytes, MAX_SLICE_BYTES);
    this.#perSlice = sliceBytes / 8;
    this.#corrupt = options.corrupt;
    this.#log = options.log;
    this.#l1 = options.l1;
    this.#l1View = new DataView(options.l1.buffer, options.l1.byteOffset, options.l1.byteLength);
    this.#l1Offset = header.l1Offset;
    this.#cache = new TableCache(file, {
      sliceBytes,
      capacity: Math.max(16, Math.floor(options.cacheBytes / sliceBytes)),
      makeClean: options.commit,
    });
  }

  /** Whether something differs from the file. */
  get dirty(): boolean {
    return this.#cache.dirty || this.#dirtySectors.size > 0;
  }

  /** Entries of the L1 table. */
  get l1Entries(): number {
    return this.#l1.byteLength / 8;
  }

  /** Where the L1 table is. */
  get l1Offset(): number {
    return this.#l1Offset;
  }

  /** Finds what stands behind cluster `guest` of the disk. */
  lookup(guest: number): void {
    const slice = this.#find(guest);
    if (slice === undefined) this.decode(0, 0, guest);
    else {
      const at = guest % this.#perSlice * 8;
      this.decode(slice.view.getUint32(at), slice.view.getUint32(at + 4), guest);
    }
  }

  /**
   * After a lookup of `guest`: how many clusters from it on, at most `most`, are of the same kind, and
   * for those in the file follow each other there with the same {@link copied}.
   */
  run(guest: number, most: number): number {
    const { kind, high, low } = this;
    if (most <= 1 || kind === ClusterKind.Compressed) return 1;
    const slice = this.#find(guest);
    if (slice === undefined) {
      return Math.min(most, this.#perTable - guest % this.#perTable);
    }
    const first = guest % this.#perSlice;
    const end = Math.min(this.#perSlice, first + most);
    const step = kind === ClusterKind.Data || kind === ClusterKind.ZeroAllocated
      ? this.#clusterBytes
      : 0;
    let expectedHigh = high;
    let expectedLow = low;
    let at = first + 1;
    for (; at < end; at++) {
      expectedLow += step;
      if (expectedLow >= TWO_32) {
        expectedLow -= TWO_32;
        expectedHigh++;
      }
      if (
        slice.view.getUint32(at * 8 + 4) !== expectedLow ||
        slice.view.getUint32(at * 8) !== expectedHigh
      ) break;
    }
    return at - first;
  }

  /**
   * How many clusters from `guest` on, which needs a new place, do so, too: at most `wanted`, and at most to
   * the end of a slice of the map. What was looked up is another cluster then.
   */
  allocatable(guest: number, wanted: number): number {
    const most = Math.min(wanted, this.#perSlice - guest % this.#perSlice);
    let count = 1;
    for (; count < most; count++) {
      this.lookup(guest + count);
      const { kind, copied } = this;
      if (copied && (kind === ClusterKind.Data || kind === ClusterKind.ZeroAllocated)) break;
    }
    return count;
  }

  /** Makes sure that `guest` has an L2 table that nothing else refers to. */
  prepare(guest: number, writer: MapWriter): void {
    const index = Math.floor(guest / this.#perTable);
    const high = this.#l1View.getUint32(index * 8);
    const table = this.#tableOffset(index);
    if (table !== 0 && high >= COPIED_HIGH) {
      const last = alignUp(this.#file.lengthBytes, this.#clusterBytes);
      if (table + this.#clusterBytes > last) {
        this.#corrupt(`L1 entry ${index} names a table at ${table}, beyond the file's end`);
      }
      return;
    }
    const cluster = writer.refcounts.allocate(1);
    const offset = cluster * this.#clusterBytes;
    try {
      if (table === 0) {
        zeroNewCluster(this.#file, cluster, this.#clusterBytes);
      } else {
        // A table that a snapshot uses as well is never changed, so that the file's copy is current.
        const bytes = new Uint8Array(this.#clusterBytes);
        this.#file.read(bytes, table);
        this.#file.write(bytes, offset);
      }
    } catch (error) {
      writer.refcounts.release(cluster);
      throw error;
    }
    this.#cache.drop(offset, this.#clusterBytes);
    this.#l1View.setUint32(index * 8, Math.floor(offset / TWO_32) + COPIED_HIGH);
    this.#l1View.setUint32(index * 8 + 4, offset % TWO_32);
    this.#dirtySectors.add(Math.floor(index * 8 / L1_SECTOR_BYTES));
    writer.metadata.add(cluster);
    if (table !== 0) writer.releaseTable(table / this.#clusterBytes);
  }

  /** Makes `guest` the cluster at `hostOffset`, or with `zero` zeros that keep that cluster. */
  setCluster(guest: number, hostOffset: number, zero = false): void {
    const high = Math.floor(hostOffset / TWO_32) + COPIED_HIGH;
    this.#set(guest, high, hostOffset % TWO_32 + (zero ? ZERO_LOW : 0));
  }

  /** Takes the storage of `guest` away: it reads as zeros, or as the backing file. */
  clearCluster(guest: number, readsZero: boolean): void {
    this.#set(guest, 0, readsZero ? ZERO_LOW : 0);
  }

  /** Sets an entry that a log holds. */
  restore(guest: number, high: number, low: number): void {
    this.#store(guest, high, low);
  }

  /** Brings the L2 tables, then the L1 table to the file. */
  writeBack(): void {
    this.#cache.writeDirty();
    if (this.#dirtySectors.size === 0) return;
    this.#file.sync();
    for (const sector of this.#dirtySectors) {
      const from = sector * L1_SECTOR_BYTES;
      this.#file.write(this.#l1.subarray(from, from + L1_SECTOR_BYTES), this.#l1Offset + from);
      this.#dirtySectors.delete(sector);
    }
  }

  /** The L1 table with `entries` entries; the caller writes it to `offset` and then calls moveL1. */
  grownL1(entries: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(entries * 8);
    bytes.set(this.#l1);
    return bytes;
  }

  /** Goes over to a longer L1 table, which is in the file already. */
  moveL1(l1: Uint8Array<ArrayBuffer>, offset: number): void {
    this.#l1 = l1;
    this.#l1View = new DataView(l1.buffer);
    this.#l1Offset = offset;
    this.#dirtySectors.clear();
  }

  #find(guest: number): Slice | undefined {
    const index = Math.floor(guest / this.#perTable);
    const table = this.#tableOffset(index);
    if (table === 0) return undefined;
    const inTable = guest - index * this.#perTable;
    const slice = (inTable - inTable % this.#perSlice) * 8;
    return this.#cache.get(table + slice);
  }

  #tableOffset(index: number): number {
    const high = this.#l1View.getUint32(index * 8) & OFFSET_HIGH;
    const low = (this.#l1View.getUint32(index * 8 + 4) & OFFSET_LOW) >>> 0;
    const offset = high * TWO_32 + low;
    if (offset % this.#clusterBytes !== 0 || !Number.isSafeInteger(offset + this.#clusterBytes)) {
      this.#corrupt(
        `L1 entry ${index}: expected an offset that is a multiple of ${this.#clusterBytes}, got ` +
          offset,
      );
    }
    return offset;
  }

  /** Like {@link lookup} for an entry that is given. */
  decode(high: number, low: number, guest: number): void {
    const wrong = this.tryDecode(high, low, guest);
    if (wrong !== undefined) this.#corrupt(wrong);
  }

  /** Like {@link decode}; returns what is wrong with an entry that cannot be one. */
  tryDecode(high: number, low: number, guest: number): string | undefined {
    this.high = high;
    this.low = low;
    this.copied = high >= COPIED_HIGH;
    this.hostOffset = 0;
    if ((high & COMPRESSED_HIGH) !== 0) {
      this.kind = ClusterKind.Compressed;
      return undefined;
    }
    const offset = (high & OFFSET_HIGH) * TWO_32 + ((low & OFFSET_LOW) >>> 0);
    const isZero = (low & ZERO_LOW) !== 0;
    if (isZero && this.#version < 3) {
      return `L2 entry of cluster ${guest}: expected none of zeros in a version 2 image`;
    }
    if (
      offset % this.#clusterBytes !== 0 || !Number.isSafeInteger(offset + this.#clusterBytes)
    ) {
      return `L2 entry of cluster ${guest}: expected an offset that is a multiple of ` +
        `${this.#clusterBytes}, got ${offset}`;
    }
    this.hostOffset = offset;
    if (isZero) this.kind = offset === 0 ? ClusterKind.Zero : ClusterKind.ZeroAllocated;
    else this.kind = offset === 0 ? ClusterKind.Unallocated : ClusterKind.Data;
    return undefined;
  }

  #set(guest: number, high: number, low: number): void {
    this.#store(guest, high, low);
    this.#log?.append(guest, high, low);
  }

  #store(guest: number, high: number, low: number): void {
    const slice = this.#find(guest);
    if (slice === undefined) return this.#corrupt(`cluster ${guest} has no L2 table`);
    const at = guest % this.#perSlice * 8;
    slice.view.setUint32(at, high);
    slice.view.setUint32(at + 4, low);
    this.#cache.markDirty(slice);
  }
}
