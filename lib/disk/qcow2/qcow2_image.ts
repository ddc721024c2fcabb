/**
 * qcow2 images, versions 2 and 3 (QEMU's docs/interop/qcow2.txt).
 *
 * Guest data is written at once; the tables change in memory and go to the file at a flush, or when the
 * cache is full, in this order: reference counts that rise, references to new count blocks, L2 tables,
 * L1 table, then counts that fall. Each step is made durable before the next one begins. Thus a process
 * or host that stops at any point leaves an image without damage, in which at most some clusters are
 * counted that nothing uses; and a cluster is used anew only after nothing in the file names it.
 *
 * @module
 */

import { alignUp, formatSize } from "../../base/mod.ts";
import type { IoVector } from "../../host/mod.ts";
import { DiskError } from "../errors.ts";
import {
  checkRange,
  checkSize,
  checkWritable,
  type DiskImage,
  type WriteZeroesOptions,
} from "../image.ts";
import type { ImageFile } from "../image_file.ts";
import { ClusterMap } from "./cluster_map.ts";
import { ClusterReader } from "./cluster_reader.ts";
import { ClusterWriter } from "./cluster_writer.ts";
import { l1EntriesFor, type Qcow2Header, SIZE_FIELD } from "./header.ts";
import { readHeader, readL1 } from "./metadata.ts";
import { PendingWrites } from "./pending_writes.ts";
import { RecoveryLog } from "./recovery_log.ts";
import { damage, TableWriter } from "./table_writer.ts";
import { Qcow2Transfers } from "./transfers.ts";

const DEFAULT_CACHE_BYTES = 32 * 2 ** 20;

/** Settings of {@link Qcow2Image}. */
export interface Qcow2ImageOptions {
  /** What the image is based on; it is owned by the image. */
  readonly backing?: DiskImage | undefined;
  /** Whether freed clusters are given back to the host. */
  readonly sparse: boolean;
  /** Most bytes of L2 tables in memory; 32 MiB unless stated. */
  readonly cacheBytes?: number;
  /**
   * Memory that outlives the process, zeros at first: what it holds after the process that wrote to the
   * image died is applied, so that no write that was done is lost. Where the host has no room for that, all
   * that is asked of the disk fails with ENOSPC until it has. Where it cannot be made durable, and where
   * that failed in a process before, all fails with EIO.
   */
  readonly recovery?: Uint8Array | undefined;
}

/** What an image has that can be written to. */
interface Writable {
  readonly tables: TableWriter;
  readonly clusters: ClusterWriter;
  readonly pending: PendingWrites;
}

/** A qcow2 image. */
export class Qcow2Image implements DiskImage {
  readonly format = "qcow2";
  readonly path: string;
  readonly readOnly: boolean;
  readonly alignmentBytes: number;
  readonly discardUnitBytes: number;
  readonly transfers: Qcow2Transfers;
  /** The header as it was when the image was opened. */
  readonly header: Qcow2Header;
  readonly #file: ImageFile;
  readonly #backing: DiskImage | undefined;
  readonly #sparse: boolean;
  readonly #reader: ClusterReader;
  readonly #writing: Writable | undefined;
  readonly #clusterBytes: number;
  #sizeBytes: number;
  #open = true;
  /** Whether the recovery log is still to be applied. */
  #behind = false;
  /** Why that is so, from the last time. */
  #obstacle: DiskError | undefined;

  /**
   * Takes `file` and the backing image over, also when it throws.
   *
   * @throws {DiskError} EINVAL when the image is damaged or asks for what is not supported.
   */
  constructor(file: ImageFile, options: Qcow2ImageOptions) {
    this.#file = file;
    this.#backing = options.backing;
    this.#sparse = options.sparse;
    this.path = file.path;
    this.readOnly = file.readOnly;
    this.alignmentBytes = file.alignmentBytes;
    this.transfers = new Qcow2Transfers(this, file, options.backing);
    try {
      const header = readHeader(file);
      this.header = header;
      this.#sizeBytes = header.sizeBytes;
      this.#clusterBytes = header.clusterBytes;
      this.discardUnitBytes = header.clusterBytes;
      const l1 = readL1(file, header);
      const log = options.recovery === undefined || this.readOnly
        ? undefined
        : new RecoveryLog(options.recovery);
      const map = new ClusterMap(file, {
        header,
        l1,
        cacheBytes: options.cacheBytes ?? DEFAULT_CACHE_BYTES,
        log,
        commit: () => this.#writing?.tables.writeTables(),
        corrupt: (message) => this.#corrupt(message),
      });
      const reader = new ClusterReader(file, { header, map, backing: options.backing });
      this.#reader = reader;
      if (!this.readOnly) {
        const { sparse } = options;
        const tables = new TableWriter(file, { header, l1, map, log, sparse });
        const parts = { header, map, tables, reader };
        const isBacked = options.backing !== undefined;
        this.#writing = {
          tables,
          clusters: new ClusterWriter(file, { ...parts, isBacked, disk: this }),
          pending: new PendingWrites(file, parts),
        };
        this.#behind = true;
        try {
          this.#catchUp();
        } catch (error) {
          // Whoever uses the disk is told so, and goes on once the host has room again. It also is where what was
          // written may be lost: a process that is started in this one's place would find nothing wrong.
          if (!isLackOfRoom(error) && file.syncFailure === undefined) throw error;
          if (error instanceof DiskError) this.#obstacle = error;
        }
      }
    } catch (error) {
      this.#release();
      throw DiskError.from(error, `${this.path}: opening it`);
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get trouble(): string | undefined {
    const failure = this.#file.syncFailure;
    if (!this.#behind || this.#obstacle === undefined) return failure?.message;
    const { clusters, tableBytes } = this.#writing!.tables.unrecovered;
    const left =
      `${this.#obstacle.message}; the process that served the disk before left changes of ` +
      `${clusters} clusters that are in no table of the image yet`;
    return failure !== undefined
      ? `${left}: all that is asked of the disk fails`
      : `${left}, and tables for them of up to about ${
        formatSize(tableBytes)
      } have no room on the host: until ` +
        "there is some, all that is asked of the disk fails";
  }

  readAt(offset: number, vector: IoVector): void {
    checkRange(this, offset, vector.lengthBytes);
    this.#catchUp();
    this.#reader.read(offset, vector);
  }

  writeAt(offset: number, vector: IoVector): void {
    checkWritable(this, offset, vector.lengthBytes);
    this.#writable().clusters.write(offset, vector);
  }

  /**
   * Where in the file the range lies in one piece; undefined where it is left to the backing file, -1 for
   * everything else.
   *
   * @throws {DiskError} where the image cannot be read.
   */
  locate(offset: number, lengthBytes: number): number | undefined {
    this.#catchUp();
    return this.#reader.locate(offset, lengthBytes);
  }

  /**
   * Where in the file a write of the range can go that is made by others, -1 where it is left to
   * {@link writeAt}; it becomes a part of the disk by {@link endWrite}.
   *
   * @throws {DiskError} where the image cannot be written to.
   */
  beginWrite(offset: number, lengthBytes: number): number {
    checkWritable(this, offset, lengthBytes);
    return this.#writable().pending.begin(offset, lengthBytes);
  }

  /** Ends what {@link beginWrite} began. @throws {DiskError} where its clusters cannot be used. */
  endWrite(offset: number, done: boolean): void {
    this.#writable().pending.end(offset, done);
  }

  flush(): void {
    this.#catchUp();
    this.#writing?.tables.flush();
  }

  /** Begins a flush, which making the file durable ends; false where there is nothing to do. */
  beginFlush(): boolean {
    if (this.#writing === undefined) return false;
    this.#catchUp();
    this.#writing.tables.prepareFlush();
    return this.#file.beginSync();
  }

  discard(offset: number, lengthBytes: number): void {
    checkWritable(this, offset, lengthBytes);
    if (!this.#sparse) return;
    // Version 2 knows no cluster of zeros: the backing file would shine through.
    if (this.#backing !== undefined && this.header.version < 3) return;
    const end = offset + lengthBytes;
    const first = Math.ceil(offset / this.#clusterBytes);
    const last = Math.floor(
      (end === this.#sizeBytes ? alignUp(end, this.#clusterBytes) : end) / this.#clusterBytes,
    );
    if (last > first) this.#writable().clusters.zeroClusters(first, last - first, true);
  }

  writeZeroes(offset: number, lengthBytes: number, options: WriteZeroesOptions = {}): void {
    checkWritable(this, offset, lengthBytes);
    const unmap = this.#sparse && (options.unmap ?? false);
    const atEnd = offset + lengthBytes === this.#sizeBytes;
    this.#writable().clusters.writeZeroes(
      offset,
      atEnd ? alignUp(offset + lengthBytes, this.#clusterBytes) - offset : lengthBytes,
      unmap,
    );
  }

  resize(sizeBytes: number): void {
    checkWritable(this, 0, 0);
    checkSize(this.path, sizeBytes);
    if (sizeBytes === this.#sizeBytes) return;
    if (sizeBytes < this.#sizeBytes) {
      throw new DiskError(
        `${this.path}: expected a size of at least ${this.#sizeBytes} bytes, got ${sizeBytes}; ` +
          "a qcow2 image is not made smaller here",
        { code: "EINVAL" },
      );
    }
    const { tables, clusters } = this.#writable();
    tables.makeReady();
    if (this.header.version < 3 && tables.snapshots.length > 0) {
      throw new DiskError(
        `${this.path}: it has ${tables.snapshots.length} snapshots, and version 2 of qcow2 cannot ` +
          "say how large the disk was at each",
        { code: "EINVAL" },
      );
    }
    tables.growL1(l1EntriesFor(sizeBytes, this.#clusterBytes));
    // What lies beyond the old end must not show: the rest of its last cluster, or a longer backing file.
    const tail = alignUp(this.#sizeBytes, this.#clusterBytes);
    const backed = Math.max(tail, alignUp(this.#reader.backedBytes, this.#clusterBytes));
    const hidden = Math.min(alignUp(sizeBytes, this.#clusterBytes), backed);
    clusters.writeZeroes(this.#sizeBytes, hidden - this.#sizeBytes, true);
    this.flush();
    const field = new DataView(new ArrayBuffer(8));
    field.setBigUint64(0, BigInt(sizeBytes));
    this.#file.write(new Uint8Array(field.buffer), SIZE_FIELD);
    this.#sizeBytes = sizeBytes;
    this.#file.sync();
  }

  close(): void {
    if (!this.#open) return;
    try {
      if (this.#writing?.tables.damage === undefined) this.flush();
    } finally {
      this.#release();
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Releases everything without bringing the tables to the file, as a crash does; for tests. */
  abandon(): void {
    this.#release();
  }

  #release(): void {
    this.#open = false;
    // There is none yet where the image cannot be opened.
    this.#reader?.[Symbol.dispose]();
    try {
      this.#file.close();
    } finally {
      this.#backing?.close();
    }
  }

  /** Applies the recovery log, where that is still to be done. */
  #catchUp(): void {
    if (!this.#behind) return;
    this.#writing!.tables.recover();
    this.#behind = false;
  }

  #writable(): Writable {
    this.#catchUp();
    if (this.#writing !== undefined) return this.#writing;
    throw new DiskError(`${this.path}: it is opened read-only`, { code: "EROFS" });
  }

  #corrupt(message: string): never {
    if (this.#writing !== undefined) return this.#writing.tables.corrupt(message);
    throw damage(this.path, message);
  }
}

/** Whether the host's lack of room is why something failed, which may pass. */
function isLackOfRoom(error: unknown): boolean {
  return error instanceof DiskError && (error.code === "ENOSPC" || error.code === "EDQUOT");
}
