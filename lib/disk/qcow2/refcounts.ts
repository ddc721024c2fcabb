/**
 * Reference counts of a qcow2 image's clusters, and the allocation of clusters by them.
 *
 * Everything is changed in memory first. {@link Refcounts.writeBack} brings it to the file in an order
 * in which a count on the disk is never lower than the references on the disk, provided that references
 * are written after it and that {@link Refcounts.release} is called after references were dropped there.
 *
 * @module
 */

import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import { MAX_REFCOUNT_TABLE_BYTES, type Qcow2Header, REFCOUNT_TABLE_FIELD } from "./header.ts";
import type { MetadataMap } from "./metadata_map.ts";
import { MAX_SLICE_BYTES, type Slice, TableCache } from "./table_cache.ts";

const CACHED_SLICES = 1024;
/** Entries of the table that are written together: a disk writes a sector wholly or not at all. */
const SECTOR_ENTRIES = 512 / 8;

/** What {@link Refcounts} works with. */
export interface RefcountsOptions {
  readonly header: Qcow2Header;
  /** File offsets of the refcount blocks; 0 where there is none. */
  readonly table: Float64Array;
  readonly metadata: MetadataMap;
  /** Reports damage of the image. */
  readonly corrupt: (message: string) => never;
}

/** The reference counts of an image that is written to. */
export class Refcounts {
  /** How many clusters the last {@link allocate} gave. */
  allocated = 0;
  readonly #file: ImageFile;
  readonly #clusterBytes: number;
  readonly #bits: number;
  readonly #perSlice: number;
  readonly #perBlock: number;
  readonly #cache: TableCache;
  readonly #metadata: MetadataMap;
  readonly #corrupt: (message: string) => never;
  readonly #dirtyEntries = new Set<number>();
  #table: Float64Array;
  #tableOffset: number;
  #tableClusters: number;
  // No cluster below it is free.
  #hint = 0;

  constructor(file: ImageFile, options: RefcountsOptions) {
    const { header } = options;
    this.#file = file;
    this.#clusterBytes = header.clusterBytes;
    this.#bits = header.refcountBits;
    this.#table = options.table;
    this.#tableOffset = header.refcountTableOffset;
    this.#tableClusters = header.refcountTableClusters;
    this.#metadata = options.metadata;
    this.#corrupt = options.corrupt;
    const sliceBytes = Math.min(this.#clusterBytes, MAX_SLICE_BYTES);
    this.#perSlice = sliceBytes * 8 / this.#bits;
    this.#perBlock = this.#clusterBytes * 8 / this.#bits;
    const cache: TableCache = this.#cache = new TableCache(file, {
      sliceBytes,
      capacity: CACHED_SLICES,
      // Counts alone: new blocks may be none that the file's table has room for yet.
      makeClean: () => cache.writeDirty(),
    });
  }

  /** Whether something differs from the file. */
  get dirty(): boolean {
    return this.#cache.dirty || this.#dirtyEntries.size > 0;
  }

  /** References to a cluster. */
  get(cluster: number): number {
    const block = this.#table[Math.floor(cluster / this.#perBlock)] ?? 0;
    if (block === 0) return 0;
    return readCount(this.#slice(block, cluster), cluster % this.#perSlice, this.#bits);
  }

  /**
   * Takes free clusters that follow each other: at least one and at most `wanted`. Their number is in
   * {@link allocated}.
   *
   * @returns the first one
   */
  allocate(wanted: number): number {
    for (let cluster = this.#hint;;) {
      const index = Math.floor(cluster / this.#perBlock);
      if (index >= this.#table.length) {
        this.#growTable(index);
        cluster = this.#hint;
        continue;
      }
      const block = this.#table[index]!;
      if (block === 0) {
        // Nothing in the block's range is in use yet, so that the block takes a place there itself.
        this.#createBlock(index, cluster);
        continue;
      }
      const slice = this.#slice(block, cluster);
      const first = cluster - cluster % this.#perSlice;
      const end = Math.min(this.#perSlice, (index + 1) * this.#perBlock - first);
      const free = findZero(slice, cluster - first, { end, bits: this.#bits });
      if (free < 0) {
        cluster = first + end;
        this.#hint = cluster;
        continue;
      }
      let count = 0;
      while (
        count < wanted && free + count < end && readCount(slice, free + count, this.#bits) === 0
      ) {
        count++;
      }
      this.#checkFree(first + free, count);
      for (let at = 0; at < count; at++) writeCount(slice, free + at, this.#bits, 1);
      this.#cache.markDirty(slice);
      this.#hint = first + free + count;
      this.allocated = count;
      return first + free;
    }
  }

  /** Takes exactly `count` free clusters that follow each other. @returns the first one */
  allocateContiguous(count: number): number {
    const start = this.allocate(count);
    if (this.allocated === count) return start;
    for (let at = 0; at < this.allocated; at++) this.release(start + at);
    for (let from = start;;) {
      const run = this.#freeRun(from, count);
      const last = Math.floor((run + this.#withBlocks(run, count) - 1) / this.#perBlock);
      if (last < this.#table.length) {
        this.#takeRun(run, count);
        return run;
      }
      this.#growTable(last);
      from = run;
    }
  }

  /** Drops one reference to a cluster. @returns whether it was the last one */
  release(cluster: number): boolean {
    const block = this.#table[Math.floor(cluster / this.#perBlock)] ?? 0;
    const slice = block === 0 ? undefined : this.#slice(block, cluster);
    const at = cluster % this.#perSlice;
    const count = slice === undefined ? 0 : readCount(slice, at, this.#bits);
    if (slice === undefined || count === 0) {
      return this.#corrupt(`cluster ${cluster} is referenced, but its reference count is 0`);
    }
    writeCount(slice, at, this.#bits, count - 1);
    this.#cache.markDirty(slice);
    if (count > 1) return false;
    if (cluster < this.#hint) this.#hint = cluster;
    return true;
  }

  /** Counts clusters of the file that a log says are in use, and that may not be counted yet. */
  claim(clusters: ReadonlySet<number>): void {
    // New blocks go into their own ranges, where the process had them that has left the log: there is room. Else
    // they go behind the last of those clusters, and not behind the file's end, where a device has none.
    let end = 0;
    for (const cluster of clusters) end = Math.max(end, cluster + 1);
    for (const cluster of clusters) {
      if (this.get(cluster) > 0) continue;
      // Also after the table has moved: what is free before the end may be one of them.
      this.#hint = end;
      const index = Math.floor(cluster / this.#perBlock);
      if (index >= this.#table.length) this.#growTable(index);
      if ((this.#table[index] ?? 0) === 0) {
        const own = this.#ownPlace(index, clusters);
        if (own === undefined) this.#addBlock(index);
        else this.#createBlock(index, own);
      }
      this.#set(cluster, 1);
    }
    this.#hint = 0;
  }

  /** A cluster of the file for the block at `index`, in the range that it will count, where `taken` are in use. */
  #ownPlace(index: number, taken: ReadonlySet<number>): number | undefined {
    const first = index * this.#perBlock;
    const end = Math.min(
      first + this.#perBlock,
      Math.floor(this.#file.lengthBytes / this.#clusterBytes),
    );
    for (let cluster = first; cluster < end; cluster++) {
      if (!taken.has(cluster) && this.#metadata.overlap(cluster, 1) === undefined) return cluster;
    }
    return undefined;
  }

  #addBlock(index: number): void {
    const block = this.allocate(1);
    try {
      // Its own range may be the one that lacked a block.
      if (this.#table[index] === 0) return this.#placeBlock(index, block);
    } catch (error) {
      this.release(block);
      throw error;
    }
    this.release(block);
  }

  /**
   * Brings counts, then references to new blocks to the file: sectors of the table, the last one first. A
   * block may be counted by one that comes with it, which is for clusters at least as far behind.
   */
  writeBack(): void {
    this.#cache.writeDirty();
    const sectors = new Set([...this.#dirtyEntries].map((at) => Math.floor(at / SECTOR_ENTRIES)));
    const bytes = new DataView(new ArrayBuffer(SECTOR_ENTRIES * 8));
    for (const sector of [...sectors].sort((a, b) => b - a)) {
      this.#file.sync();
      const first = sector * SECTOR_ENTRIES;
      for (let at = 0; at < SECTOR_ENTRIES; at++) {
        bytes.setBigUint64(at * 8, BigInt(this.#table[first + at]!));
      }
      this.#file.write(new Uint8Array(bytes.buffer), this.#tableOffset + first * 8);
      for (let at = 0; at < SECTOR_ENTRIES; at++) this.#dirtyEntries.delete(first + at);
    }
  }

  #slice(block: number, cluster: number): Slice {
    const inBlock = cluster % this.#perBlock;
    const slice = Math.floor(inBlock / this.#perSlice);
    return this.#cache.get(block + slice * this.#cache.sliceBytes);
  }

  #checkFree(cluster: number, count: number): void {
    const overlap = this.#metadata.overlap(cluster, count);
    if (overlap !== undefined) {
      this.#corrupt(`cluster ${overlap} holds metadata, but its reference count is 0`);
    }
  }

  /** Makes the block at `index` of the table in `cluster`, which no block covers yet. */
  #createBlock(index: number, cluster: number): void {
    this.#checkFree(cluster, 1);
    this.#placeBlock(index, cluster);
    try {
      this.#set(cluster, 1);
    } catch (error) {
      this.#forgetBlock(index);
      throw error;
    }
  }

  #placeBlock(index: number, cluster: number): void {
    zeroNewCluster(this.#file, cluster, this.#clusterBytes);
    this.#table[index] = cluster * this.#clusterBytes;
    this.#dirtyEntries.add(index);
    this.#metadata.add(cluster);
    this.#cache.drop(cluster * this.#clusterBytes, this.#clusterBytes);
  }

  /** Sets the count of a cluster that a block covers. */
  #set(cluster: number, count: number): void {
    const block = this.#table[Math.floor(cluster / this.#perBlock)]!;
    const slice = this.#slice(block, cluster);
    writeCount(slice, cluster % this.#perSlice, this.#bits, count);
    this.#cache.markDirty(slice);
  }

  /** Table entries without a block among those that cover `count` clusters from `start` on. */
  #uncovered(start: number, count: number): number[] {
    const missing: number[] = [];
    const last = Math.floor((start + count - 1) / this.#perBlock);
    for (let index = Math.floor(start / this.#perBlock); index <= last; index++) {
      if ((this.#table[index] ?? 0) === 0) missing.push(index);
    }
    return missing;
  }

  /** The first of `count` free clusters, with free ones behind them for the blocks that they need. */
  #freeRun(from: number, count: number): number {
    let start = from;
    for (;;) {
      const total = this.#withBlocks(start, count);
      let used = -1;
      for (let at = start + total - 1; at >= start; at--) {
        if (this.get(at) !== 0) {
          used = at;
          break;
        }
      }
      if (used < 0) return start;
      start = used + 1;
    }
  }

  /** `count` and the number of blocks that must be made for them and for those blocks. */
  #withBlocks(start: number, count: number): number {
    let total = count;
    for (;;) {
      const next = count + this.#uncovered(start, total).length;
      if (next === total) return total;
      total = next;
    }
  }

  /**
   * Takes clusters that {@link #freeRun} found, and makes blocks behind them; the table reaches there.
   *
   * @returns what undoes it, as long as the file's table names none of those blocks
   */
  #takeRun(start: number, count: number): () => void {
    const total = this.#withBlocks(start, count);
    this.#checkFree(start, total);
    const placed: number[] = [];
    let counted = start;
    const undo = () => {
      // What stands in the new blocks goes with them.
      for (const index of placed) this.#forgetBlock(index);
      this.#giveBack(start, counted);
    };
    try {
      let next = start + count;
      for (const index of this.#uncovered(start, total)) {
        this.#checkFree(next, 1);
        this.#placeBlock(index, next++);
        placed.push(index);
      }
      for (; counted < next; counted++) this.#set(counted, 1);
    } catch (error) {
      undo();
      throw error;
    }
    return undo;
  }

  /** Gives clusters of a run back that was taken in part, as far as a block counts them. */
  #giveBack(start: number, end: number): void {
    for (let cluster = start; cluster < end; cluster++) {
      if ((this.#table[Math.floor(cluster / this.#perBlock)] ?? 0) === 0) continue;
      try {
        this.#set(cluster, 0);
      } catch (error) {
        // Its count is not in memory any more, and cannot be read: it stays counted, which does no harm.
        if (!(error instanceof DiskError)) throw error;
      }
    }
  }

  /**
   * Moves the table to a longer one that has an entry `index`. It goes where enough clusters are free, also
   * inside of the image: a device has no room behind its end.
   */
  #growTable(index: number): void {
    const { start, clusters } = this.#placeForTable(index);
    const table = new Float64Array(clusters * this.#clusterBytes / 8);
    table.set(this.#table);
    const old = { offset: this.#tableOffset, clusters: this.#tableClusters, table: this.#table };
    this.#table = table;
    let undo: (() => void) | undefined;
    try {
      undo = this.#takeRun(start, clusters);
      this.#cache.writeDirty();
      const bytes = new DataView(new ArrayBuffer(table.length * 8));
      table.forEach((offset, at) => bytes.setBigUint64(at * 8, BigInt(offset)));
      this.#file.write(new Uint8Array(bytes.buffer), start * this.#clusterBytes);
      this.#file.sync();
      const place = new DataView(new ArrayBuffer(12));
      place.setBigUint64(0, BigInt(start * this.#clusterBytes));
      place.setUint32(8, clusters);
      this.#file.write(new Uint8Array(place.buffer), REFCOUNT_TABLE_FIELD);
    } catch (error) {
      undo?.();
      this.#table = old.table;
      throw error;
    }
    this.#tableOffset = start * this.#clusterBytes;
    this.#tableClusters = clusters;
    this.#metadata.add(start, clusters);
    this.#dirtyEntries.clear();
    this.#file.sync();
    const first = old.offset / this.#clusterBytes;
    for (let at = first; at < first + old.clusters; at++) {
      this.#metadata.remove(at);
      this.release(at);
    }
  }

  /** Where a longer table goes that has an entry `index` and those for itself and its blocks. */
  #placeForTable(index: number): { readonly start: number; readonly clusters: number } {
    const perCluster = this.#clusterBytes / 8;
    const most = Math.floor(MAX_REFCOUNT_TABLE_BYTES / this.#clusterBytes);
    let clusters = Math.min(most, Math.ceil(this.#tableClusters * 1.5));
    for (let start = this.#hint;;) {
      start = this.#freeRun(start, clusters);
      const end = start + this.#withBlocks(start, clusters);
      const entries = Math.max(index, Math.floor((end - 1) / this.#perBlock)) + 1;
      const needed = Math.ceil(entries / perCluster);
      if (needed <= clusters) return { start, clusters };
      if (needed > most) {
        throw new DiskError(
          `${this.#file.path}: expected a refcount table of at most ${MAX_REFCOUNT_TABLE_BYTES} ` +
            `bytes, got ${
              needed * this.#clusterBytes
            }; its clusters are too small for so much data`,
          { code: "EFBIG" },
        );
      }
      clusters = needed;
    }
  }

  /** Forgets a block that the file does not know of. */
  #forgetBlock(index: number): void {
    const block = this.#table[index]!;
    if (block === 0) return;
    this.#cache.drop(block, this.#clusterBytes);
    this.#metadata.remove(block / this.#clusterBytes);
    this.#dirtyEntries.delete(index);
    this.#table[index] = 0;
  }
}

/** Makes a cluster that was free read as zeros, with storage: a table must not fail when it is written. */
export function zeroNewCluster(file: ImageFile, cluster: number, clusterBytes: number): void {
  const offset = cluster * clusterBytes;
  const inFile = Math.min(Math.max(0, file.lengthBytes - offset), clusterBytes);
  if (inFile > 0) file.writeZeros(offset, inFile);
  if (inFile < clusterBytes) file.reserve(offset + inFile, clusterBytes - inFile);
}

/** The count at `at` of a slice; counts below a byte begin at its lowest bit. */
export function readCount(slice: Slice, at: number, bits: number): number {
  switch (bits) {
    case 16:
      return slice.view.getUint16(at * 2);
    case 8:
      return slice.bytes[at]!;
    case 32:
      return slice.view.getUint32(at * 4);
    case 64:
      return slice.view.getUint32(at * 8) * 2 ** 32 + slice.view.getUint32(at * 8 + 4);
    default: {
      const bit = at * bits;
      return (slice.bytes[bit >>> 3]! >>> (bit & 7)) & ((1 << bits) - 1);
    }
  }
}

/** Sets the count at `at` of a slice; it must fit. */
export function writeCount(slice: Slice, at: number, bits: number, count: number): void {
  switch (bits) {
    case 16:
      slice.view.setUint16(at * 2, count);
      break;
    case 8:
      slice.bytes[at] = count;
      break;
    case 32:
      slice.view.setUint32(at * 4, count);
      break;
    case 64:
      slice.view.setUint32(at * 8, Math.floor(count / 2 ** 32));
      slice.view.setUint32(at * 8 + 4, count % 2 ** 32);
      break;
    default: {
      const bit = at * bits;
      const mask = ((1 << bits) - 1) << (bit & 7);
      slice.bytes[bit >>> 3] = (slice.bytes[bit >>> 3]! & ~mask) | (count << (bit & 7));
    }
  }
}

function findZero(
  slice: Slice,
  from: number,
  where: { readonly end: number; readonly bits: number },
): number {
  for (let at = from; at < where.end; at++) {
    if (readCount(slice, at, where.bits) === 0) return at;
  }
  return -1;
}
