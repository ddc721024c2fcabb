/**
 * Writes to an image's file that others make, such as several at once.
 *
 * New clusters become a part of the disk when their write ends; until then no table names them, and the
 * disk reads as before.
 *
 * @module
 */

import type { ImageFile } from "../image_file.ts";
import { ClusterKind, type ClusterMap } from "./cluster_map.ts";
import type { ClusterReader } from "./cluster_reader.ts";
import type { Qcow2Header } from "./header.ts";
import type { TableWriter } from "./table_writer.ts";

/** New clusters of the file that follow each other. */
interface NewClusters {
  readonly count: number;
  /** Number of the first one in the file. */
  readonly cluster: number;
}

/** Settings of {@link PendingWrites}. */
export interface PendingWritesOptions {
  readonly header: Qcow2Header;
  readonly map: ClusterMap;
  readonly tables: TableWriter;
  readonly reader: ClusterReader;
}

/** The writes under way. */
export class PendingWrites {
  readonly #file: ImageFile;
  readonly #map: ClusterMap;
  readonly #tables: TableWriter;
  readonly #reader: ClusterReader;
  readonly #clusterBytes: number;
  /** Those of all writes, by the first cluster of the disk that they are for. */
  readonly #taken = new Map<number, NewClusters>();

  constructor(file: ImageFile, options: PendingWritesOptions) {
    this.#file = file;
    this.#map = options.map;
    this.#tables = options.tables;
    this.#reader = options.reader;
    this.#clusterBytes = options.header.clusterBytes;
  }

  /**
   * Begins a write to a range of the disk.
   *
   * @returns where in the file it can go, -1 where it is to be made by the image
   * @throws {DiskError} where the image cannot be written to.
   */
  begin(offset: number, lengthBytes: number): number {
    this.#tables.makeReady();
    const guest = Math.floor(offset / this.#clusterBytes);
    const inCluster = offset - guest * this.#clusterBytes;
    const count = Math.ceil((inCluster + lengthBytes) / this.#clusterBytes);
    if (this.#overlaps(guest, count)) return -1;
    this.#map.lookup(guest);
    const { kind, copied, hostOffset } = this.#map;
    if (kind === ClusterKind.Data && copied) {
      if (this.#map.run(guest, count) < count) return -1;
      this.#tables.checkInPlace(hostOffset, count);
      return hostOffset + inCluster;
    }
    const tail = count * this.#clusterBytes - inCluster - lengthBytes;
    const host = this.#takeNew({ guest, count, head: inCluster, tail });
    return host < 0 ? -1 : host + inCluster;
  }

  /**
   * Ends what {@link begin} began at `offset`; where it is not `done`, as if that had not been.
   *
   * @throws {DiskError} where its new clusters cannot become a part of the disk.
   */
  end(offset: number, done: boolean): void {
    const guest = Math.floor(offset / this.#clusterBytes);
    const taken = this.#taken.get(guest);
    // A write to clusters that the disk had leaves nothing to do.
    if (taken === undefined) return;
    this.#taken.delete(guest);
    const { count, cluster } = taken;
    try {
      if (done) this.#tables.makeReady();
    } catch (error) {
      this.#giveBack(taken);
      throw error;
    }
    if (!done) return this.#giveBack(taken);
    for (let index = 0; index < count; index++) {
      this.#tables.dropCluster(guest + index);
      this.#map.setCluster(guest + index, (cluster + index) * this.#clusterBytes);
    }
  }

  /**
   * Takes clusters of the file that follow each other, for clusters of the disk that nothing else is to be
   * written to: around the new bytes there are zeros, which the file's new part has.
   *
   * @returns where they are, -1 where it is not as simple
   */
  #takeNew(
    what: {
      readonly guest: number;
      readonly count: number;
      readonly head: number;
      readonly tail: number;
    },
  ): number {
    const { guest, count, head, tail } = what;
    const isPart = head > 0 || tail > 0;
    if (head > 0 && !this.#readsZero(guest) || tail > 0 && !this.#readsZero(guest + count - 1)) {
      return -1;
    }
    this.#map.prepare(guest, this.#tables);
    if (this.#map.allocatable(guest, count) < count) return -1;
    this.#map.lookup(guest);
    // What keeps its cluster is written in place.
    if (this.#map.kind === ClusterKind.ZeroAllocated && this.#map.copied) return -1;
    const { refcounts } = this.#tables;
    const cluster = refcounts.allocate(count);
    const host = cluster * this.#clusterBytes;
    const { allocated } = refcounts;
    if (allocated < count || (isPart && host < this.#file.lengthBytes)) {
      this.#giveBack({ count: allocated, cluster });
      return -1;
    }
    this.#file.extend(host + count * this.#clusterBytes);
    this.#taken.set(guest, { count, cluster });
    return host;
  }

  #readsZero(guest: number): boolean {
    this.#map.lookup(guest);
    const { kind } = this.#map;
    return kind === ClusterKind.Zero || (kind === ClusterKind.Unallocated &&
      guest * this.#clusterBytes >= this.#reader.backedBytes);
  }

  #giveBack({ count, cluster }: NewClusters): void {
    for (let index = 0; index < count; index++) this.#tables.refcounts.release(cluster + index);
  }

  /** Whether one of `count` clusters of the disk from `guest` on is about to become another. */
  #overlaps(guest: number, count: number): boolean {
    for (const [first, taken] of this.#taken) {
      if (first < guest + count && guest < first + taken.count) return true;
    }
    return false;
  }
}
