/**
 * Changing an image's tables, and bringing them to the file in an order that is sound at each point.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import { ClusterKind, type ClusterMap, type MapWriter } from "./cluster_map.ts";
import { compressedRange } from "./compressed.ts";
import {
  AUTOCLEAR_FIELD,
  Incompatible,
  INCOMPATIBLE_FIELD,
  type Qcow2Header,
  SIZE_FIELD,
} from "./header.ts";
import { checkL1Length, loadWritable } from "./metadata.ts";
import type { MetadataMap } from "./metadata_map.ts";
import type { RecoveryLog } from "./recovery_log.ts";
import { Refcounts } from "./refcounts.ts";
import type { Snapshot } from "./snapshots.ts";

/** Clusters that wait for being free before they are freed without a flush. */
const MAX_PENDING = 65_536;
/** Most entries of the map that change before there is a chance to commit: those of a slice. */
const MAX_CHANGES = 512;

/** What {@link TableWriter} works with. */
export interface TableWriterOptions {
  readonly header: Qcow2Header;
  /** The L1 table as in the file. */
  readonly l1: Uint8Array<ArrayBuffer>;
  readonly map: ClusterMap;
  readonly log: RecoveryLog | undefined;
  /** Whether freed clusters are given back to the host. */
  readonly sparse: boolean;
}

/** The tables of an image that is written to. */
export class TableWriter implements MapWriter {
  readonly refcounts: Refcounts;
  readonly metadata: MetadataMap;
  readonly snapshots: readonly Snapshot[];
  /** Why nothing is written any more. */
  damage: DiskError | undefined;
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  readonly #clusterBytes: number;
  readonly #map: ClusterMap;
  readonly #log: RecoveryLog | undefined;
  readonly #sparse: boolean;
  #pending: number[] = [];
  /** Those of the pending clusters that held tables. */
  readonly #retired = new Set<number>();

  /** @throws {DiskError} EINVAL when the image cannot be written to. */
  constructor(file: ImageFile, options: TableWriterOptions) {
    const { header, l1 } = options;
    const { refcountTable, metadata, snapshots } = loadWritable(file, header, l1);
    this.#file = file;
    this.#header = header;
    this.#clusterBytes = header.clusterBytes;
    this.#map = options.map;
    this.#log = options.log;
    this.#sparse = options.sparse;
    this.metadata = metadata;
    this.snapshots = snapshots;
    this.refcounts = new Refcounts(file, {
      header,
      table: refcountTable,
      metadata,
      corrupt: (message) => this.corrupt(message),
    });
    this.#clearAutoclear();
  }

  /** Makes room for the next changes. To be called between operations on the map. */
  makeReady(): void {
    if (this.damage !== undefined) throw this.damage;
    const isLogFull = this.#log !== undefined && this.#log.room < MAX_CHANGES;
    if (this.#pending.length > MAX_PENDING || isLogFull) this.#commit();
  }

  /** Makes everything durable. */
  flush(): void {
    this.prepareFlush();
    this.#file.sync();
  }

  /** Does what a flush needs, so that only the file is to be made durable. */
  prepareFlush(): void {
    if (this.damage !== undefined) throw this.damage;
    this.#commit();
  }

  /** Drops what the entry of `guest` refers to, which is about to be replaced. */
  dropCluster(guest: number): void {
    this.#map.lookup(guest);
    const { kind, hostOffset, high, low } = this.#map;
    let first = hostOffset / this.#clusterBytes;
    let last = first;
    if (kind === ClusterKind.Compressed) {
      const { offset, lengthBytes } = compressedRange(high, low, this.#header.clusterBits);
      first = Math.floor(offset / this.#clusterBytes);
      last = Math.floor((offset + lengthBytes - 1) / this.#clusterBytes);
    } else if (kind !== ClusterKind.Data && kind !== ClusterKind.ZeroAllocated) {
      return;
    }
    if (this.metadata.overlap(first, last - first + 1) !== undefined) {
      this.corrupt(`cluster ${guest} of the disk is said to lie where metadata is`);
    }
    for (let at = first; at <= last; at++) this.#pending.push(at);
  }

  /** Moves the L1 table to where there is room for `entries`. */
  growL1(entries: number): void {
    if (entries <= this.#map.l1Entries) return;
    checkL1Length(this.#file.path, entries, this.#clusterBytes);
    this.flush();
    const l1 = this.#map.grownL1(entries);
    const oldClusters = Math.ceil(this.#map.l1Entries * 8 / this.#clusterBytes);
    const oldStart = this.#map.l1Offset / this.#clusterBytes;
    const clusters = Math.ceil(entries * 8 / this.#clusterBytes);
    const start = this.refcounts.allocateContiguous(clusters);
    const offset = start * this.#clusterBytes;
    try {
      const padded = new Uint8Array(clusters * this.#clusterBytes);
      padded.set(l1);
      this.#file.write(padded, offset);
      this.refcounts.writeBack();
      this.#file.sync();
      const field = new DataView(new ArrayBuffer(12));
      field.setUint32(0, entries);
      field.setBigUint64(4, BigInt(offset));
      this.#file.write(new Uint8Array(field.buffer), SIZE_FIELD + 12);
    } catch (error) {
      for (let at = 0; at < clusters; at++) this.refcounts.release(start + at);
      throw error;
    }
    this.#map.moveL1(l1, offset);
    this.metadata.add(start, clusters);
    for (let at = 0; at < oldClusters; at++) {
      this.releaseTable(oldStart + at);
    }
  }

  /** @throws {DiskError} EIO when clusters that guest data goes to hold something else. */
  checkInPlace(host: number, count: number): void {
    const first = host / this.#clusterBytes;
    const overlap = this.metadata.overlap(first, count);
    if (overlap !== undefined) {
      this.corrupt(`a cluster of the disk is said to lie at ${host}, where metadata is`);
    }
    const end = host + count * this.#clusterBytes;
    if (end > alignUp(this.#file.lengthBytes, this.#clusterBytes)) {
      this.corrupt(`a cluster of the disk is said to lie at ${host}, beyond the file's end`);
    }
  }

  /** Brings the tables to the file and frees what they do not name any more. */
  #commit(): void {
    this.writeTables();
    this.#releasePending();
    this.#log?.clear();
  }

  /** How many clusters of the disk the log is about, and the most bytes of new tables that they may need. */
  get unrecovered(): { readonly clusters: number; readonly tableBytes: number } {
    const changes = this.#log?.entries ?? [];
    const tables = new Set(changes.map(({ guest }) => Math.floor(guest * 8 / this.#clusterBytes)));
    // Counts of as many clusters again fit into one block for each table, whatever their width.
    const clusters = new Set(changes.map(({ guest }) => guest)).size;
    return { clusters, tableBytes: 2 * tables.size * this.#clusterBytes };
  }

  /**
   * Applies the log of a process that died. What it had begun to free may stay counted. Where it fails it can
   * be done again, unless it found the image damaged or cannot make it durable: then it fails the same way from
   * there on and writes nothing, as all that changes the image.
   */
  recover(): void {
    const entries = this.#log?.entries ?? [];
    if (entries.length === 0) return;
    const failure = this.damage ?? this.#file.syncFailure;
    if (failure !== undefined) throw failure;
    const inUse = new Set<number>();
    // Not those of the disk: it may have died while it made the disk larger.
    const mapped = this.#map.l1Entries * (this.#clusterBytes / 8);
    const fileClusters = Math.ceil(this.#file.lengthBytes / this.#clusterBytes);
    for (const { guest, high, low } of entries) {
      // What is wrong with the log is no damage of the image.
      const wrong = this.#map.tryDecode(high, low, guest);
      const host = this.#map.hostOffset / this.#clusterBytes;
      const fits = wrong === undefined && this.#map.kind !== ClusterKind.Compressed &&
        Number.isInteger(guest) &&
        guest >= 0 && guest < mapped && host < fileClusters &&
        (host === 0 || this.metadata.overlap(host, 1) === undefined);
      if (!fits) {
        throw new DiskError(
          `${this.#file.path}: its recovery log belongs to another image: ` +
            (wrong ?? `it puts cluster ${guest} at ${this.#map.hostOffset}`),
          { code: "EINVAL" },
        );
      }
      if (host !== 0) inUse.add(host);
    }
    // All of them before tables take what looks free.
    this.refcounts.claim(inUse);
    for (const { guest, high, low } of entries) {
      this.#map.prepare(guest, this);
      this.#map.restore(guest, high, low);
    }
    this.#commit();
  }

  /** Brings the tables to the file. */
  writeTables(): void {
    this.refcounts.writeBack();
    if (!this.#map.dirty) return;
    this.#file.sync();
    this.#map.writeBack();
  }

  /** Frees what nothing in the file names any more, after the tables were brought there. */
  #releasePending(): void {
    if (this.#pending.length === 0) return;
    this.#file.sync();
    const pending = this.#pending;
    this.#pending = [];
    pending.sort((a, b) => a - b);
    let start = -1;
    let end = -1;
    const punch = () => {
      if (start < 0 || !this.#sparse) return;
      this.#file.discard(start * this.#clusterBytes, (end - start) * this.#clusterBytes);
    };
    for (const cluster of pending) {
      if (!this.refcounts.release(cluster)) continue;
      if (this.#retired.has(cluster)) this.metadata.remove(cluster);
      if (cluster === end) {
        end++;
        continue;
      }
      punch();
      start = cluster;
      end = cluster + 1;
    }
    punch();
    this.#retired.clear();
    this.refcounts.writeBack();
  }

  /** Drops a table's cluster once nothing in the file names it any more. */
  releaseTable(cluster: number): void {
    this.#pending.push(cluster);
    this.#retired.add(cluster);
  }

  /** Clears the bits of features whose data are out of date once an image is written to by us. */
  #clearAutoclear(): void {
    if (this.#header.autoclear === 0n) return;
    this.#file.write(new Uint8Array(8), AUTOCLEAR_FIELD);
    this.#file.sync();
  }

  /** Refuses all writes from now on, and marks the image so that others refuse them, too. */
  corrupt(message: string): never {
    const error = damage(this.#file.path, message);
    if (this.damage === undefined) {
      this.damage = error;
      if (this.#header.version >= 3) {
        const field = new DataView(new ArrayBuffer(8));
        field.setBigUint64(0, this.#header.incompatible | Incompatible.Corrupt);
        try {
          this.#file.write(new Uint8Array(field.buffer), INCOMPATIBLE_FIELD);
        } catch (failure) {
          // That is not what is wrong, nor does it pass, as a lack of room would.
          if (!(failure instanceof DiskError)) throw failure;
        }
      }
    }
    throw error;
  }
}

/** The error of an image that is damaged. */
export function damage(path: string, message: string): DiskError {
  return new DiskError(
    `${path}: the image is damaged: ${message}; repair it with qemu-img check -r all`,
  );
}
