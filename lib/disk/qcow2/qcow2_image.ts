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

import { alignDown, alignUp } from "../../base/mod.ts";
import { IoVector, MAX_VECTOR_PIECES, MemorySpan, mmap } from "../../host/mod.ts";
import { DiskError } from "../errors.ts";
import {
  checkRange,
  checkSize,
  checkWritable,
  type DiskImage,
  type WriteZeroesOptions,
} from "../image.ts";
import { type ImageFile, zeroSpan } from "../image_file.ts";
import { ClusterKind, ClusterMap } from "./cluster_map.ts";
import { Decompressor } from "./compressed.ts";
import { l1EntriesFor, type Qcow2Header, SIZE_FIELD } from "./header.ts";
import { readHeader, readL1 } from "./metadata.ts";
import { NewClusters } from "./new_clusters.ts";
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
   * image died is applied, so that no write that was done is lost.
   */
  readonly recovery?: Uint8Array | undefined;
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
  readonly #map: ClusterMap;
  readonly #decompressor: Decompressor;
  readonly #writer: TableWriter | undefined;
  readonly #clusterBytes: number;
  readonly #part = new IoVector();
  readonly #composed = new IoVector();
  readonly #padding = new IoVector(1);
  readonly #newClusters = new NewClusters();
  #scratch: MemorySpan | undefined;
  #sizeBytes: number;
  #open = true;

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
      this.#decompressor = new Decompressor(file, header);
      this.#map = new ClusterMap(file, {
        header,
        l1,
        cacheBytes: options.cacheBytes ?? DEFAULT_CACHE_BYTES,
        log,
        commit: () => this.#writer?.writeTables(),
        corrupt: (message) => this.#corrupt(message),
      });
      if (!this.readOnly) {
        this.#writer = new TableWriter(file, {
          header,
          l1,
          map: this.#map,
          log,
          sparse: options.sparse,
        });
        this.#writer.recover();
      }
    } catch (error) {
      this.#release();
      throw DiskError.from(error, `${this.path}: opening it`);
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  readAt(offset: number, vector: IoVector): void {
    checkRange(this, offset, vector.lengthBytes);
    this.#read(offset, vector);
  }

  /**
   * Where in the file the range lies in one piece; undefined where it is left to the backing file, -1 for
   * everything else.
   */
  locate(offset: number, lengthBytes: number): number | undefined {
    const guest = Math.floor(offset / this.#clusterBytes);
    const inCluster = offset - guest * this.#clusterBytes;
    this.#map.lookup(guest);
    const { kind, hostOffset } = this.#map;
    if (kind !== ClusterKind.Data && kind !== ClusterKind.Unallocated) return -1;
    const wanted = Math.ceil((inCluster + lengthBytes) / this.#clusterBytes);
    if (this.#map.run(guest, wanted) < wanted) return -1;
    if (kind === ClusterKind.Unallocated) return undefined;
    const at = hostOffset + inCluster;
    // The last cluster of a file may be cut off.
    return at + lengthBytes <= this.#file.lengthBytes ? at : -1;
  }

  writeAt(offset: number, vector: IoVector): void {
    checkWritable(this, offset, vector.lengthBytes);
    const writer = this.#writing();
    const length = vector.lengthBytes;
    for (let done = 0; done < length;) {
      const position = offset + done;
      const guest = Math.floor(position / this.#clusterBytes);
      const inCluster = position - guest * this.#clusterBytes;
      this.#map.lookup(guest);
      if (this.#map.kind !== ClusterKind.Data || !this.#map.copied) {
        done += this.#writeAllocating(writer, vector, { guest, inCluster, done });
        continue;
      }
      const host = this.#map.hostOffset;
      const wanted = Math.ceil((inCluster + length - done) / this.#clusterBytes);
      const count = this.#map.run(guest, wanted);
      const take = Math.min(length - done, count * this.#clusterBytes - inCluster);
      writer.checkInPlace(host, count);
      this.#file.writeVector(this.#slice(vector, done, take), host + inCluster);
      done += take;
    }
  }

  /**
   * Where in the file a write of the range can go that is made by others, -1 where it is left to
   * {@link writeAt}. New clusters become a part of the disk at its {@link endWrite}; until then nothing
   * names them, and the range reads as before.
   *
   * @throws {DiskError} where the image cannot be written to.
   */
  beginWrite(offset: number, lengthBytes: number): number {
    checkWritable(this, offset, lengthBytes);
    const writer = this.#writing();
    const guest = Math.floor(offset / this.#clusterBytes);
    const inCluster = offset - guest * this.#clusterBytes;
    const count = Math.ceil((inCluster + lengthBytes) / this.#clusterBytes);
    if (this.#newClusters.overlaps(guest, count)) return -1;
    this.#map.lookup(guest);
    const { kind, copied, hostOffset } = this.#map;
    if (kind === ClusterKind.Data && copied) {
      if (this.#map.run(guest, count) < count) return -1;
      writer.checkInPlace(hostOffset, count);
      return hostOffset + inCluster;
    }
    const tail = count * this.#clusterBytes - inCluster - lengthBytes;
    const host = this.#takeNew(writer, { guest, count, head: inCluster, tail });
    return host < 0 ? -1 : host + inCluster;
  }

  /** Ends what {@link beginWrite} began. @throws {DiskError} where its clusters cannot be used. */
  endWrite(offset: number, done: boolean): void {
    const guest = Math.floor(offset / this.#clusterBytes);
    const taken = this.#newClusters.take(guest);
    if (taken === undefined) return;
    const { count, cluster } = taken;
    const { refcounts } = this.#writer!;
    const giveBack = () => {
      for (let index = 0; index < count; index++) refcounts.release(cluster + index);
    };
    if (!done) {
      giveBack();
      return;
    }
    let writer: TableWriter;
    try {
      writer = this.#writing();
    } catch (error) {
      giveBack();
      throw error;
    }
    for (let index = 0; index < count; index++) {
      writer.dropCluster(guest + index);
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
    writer: TableWriter,
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
    this.#map.prepare(guest, writer);
    if (this.#allocatable(guest, count) < count) return -1;
    this.#map.lookup(guest);
    // What keeps its cluster is written in place.
    if (this.#map.kind === ClusterKind.ZeroAllocated && this.#map.copied) return -1;
    const { refcounts } = writer;
    const cluster = refcounts.allocate(count);
    const host = cluster * this.#clusterBytes;
    if (refcounts.allocated < count || (isPart && host < this.#file.lengthBytes)) {
      for (let index = refcounts.allocated; index > 0; index--) {
        refcounts.release(cluster + index - 1);
      }
      return -1;
    }
    this.#file.extend(host + count * this.#clusterBytes);
    this.#newClusters.add(guest, { count, cluster });
    return host;
  }

  #readsZero(guest: number): boolean {
    this.#map.lookup(guest);
    const { kind } = this.#map;
    return kind === ClusterKind.Zero || (kind === ClusterKind.Unallocated &&
      guest * this.#clusterBytes >= (this.#backing?.sizeBytes ?? 0));
  }

  flush(): void {
    this.#writer?.flush();
  }

  /** Begins a flush, which making the file durable ends; false where there is nothing to do. */
  beginFlush(): boolean {
    if (this.#writer === undefined) return false;
    this.#writer.prepareFlush();
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
    if (last > first) this.#zeroClusters(first, last - first, true);
  }

  writeZeroes(offset: number, lengthBytes: number, options: WriteZeroesOptions = {}): void {
    checkWritable(this, offset, lengthBytes);
    const unmap = this.#sparse && (options.unmap ?? false);
    const atEnd = offset + lengthBytes === this.#sizeBytes;
    this.#zeroRange(
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
    const writer = this.#writing();
    if (this.header.version < 3 && writer.snapshots.length > 0) {
      throw new DiskError(
        `${this.path}: it has ${writer.snapshots.length} snapshots, and version 2 of qcow2 cannot ` +
          "say how large the disk was at each",
        { code: "EINVAL" },
      );
    }
    writer.growL1(l1EntriesFor(sizeBytes, this.#clusterBytes));
    // What lies beyond the old end must not show: the rest of its last cluster, or a longer backing file.
    const tail = alignUp(this.#sizeBytes, this.#clusterBytes);
    const backed = Math.max(tail, alignUp(this.#backing?.sizeBytes ?? 0, this.#clusterBytes));
    const hidden = Math.min(alignUp(sizeBytes, this.#clusterBytes), backed);
    this.#zeroRange(this.#sizeBytes, hidden - this.#sizeBytes, true);
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
      if (this.#writer?.damage === undefined) this.flush();
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
    try {
      this.#file.close();
    } finally {
      this.#backing?.close();
    }
  }

  /** `length` bytes of `vector` from `skip` on: itself where that is all of it. */
  #slice(vector: IoVector, skip: number, length: number): IoVector {
    if (skip === 0 && length === vector.lengthBytes) return vector;
    this.#part.clear();
    this.#part.pushSlice(vector, skip, length);
    return this.#part;
  }

  #read(offset: number, vector: IoVector): void {
    const length = vector.lengthBytes;
    for (let done = 0; done < length;) {
      const position = offset + done;
      const guest = Math.floor(position / this.#clusterBytes);
      const inCluster = position - guest * this.#clusterBytes;
      this.#map.lookup(guest);
      const { kind, hostOffset, high, low } = this.#map;
      const wanted = Math.ceil((inCluster + length - done) / this.#clusterBytes);
      const count = this.#map.run(guest, wanted);
      const take = Math.min(length - done, count * this.#clusterBytes - inCluster);
      if (kind === ClusterKind.Data) {
        const got = this.#file.readVector(
          this.#slice(vector, done, take),
          hostOffset + inCluster,
        );
        // The last cluster of a file may be cut off.
        if (got < take) vector.fillZero(done + got, take - got);
      } else if (kind === ClusterKind.Compressed) {
        const cluster = this.#decompressor.expand(high, low);
        vector.copyFrom(cluster.subarray(inCluster, inCluster + take), done);
      } else if (kind === ClusterKind.Unallocated) {
        this.#readBacking(position, vector, { done, take });
      } else {
        vector.fillZero(done, take);
      }
      done += take;
    }
  }

  #readBacking(
    position: number,
    vector: IoVector,
    part: { readonly done: number; readonly take: number },
  ): void {
    const { done, take } = part;
    const there = Math.min(take, Math.max(0, (this.#backing?.sizeBytes ?? 0) - position));
    if (there > 0) this.#backing?.readAt(position, this.#slice(vector, done, there));
    if (there < take) vector.fillZero(done + there, take - there);
  }

  /** Writes clusters that need a new place. @returns how many bytes */
  #writeAllocating(
    writer: TableWriter,
    vector: IoVector,
    at: { readonly guest: number; readonly inCluster: number; readonly done: number },
  ): number {
    const { guest, inCluster, done } = at;
    this.#writing();
    const left = vector.lengthBytes - done;
    this.#map.prepare(guest, writer);
    this.#map.lookup(guest);
    let host: number;
    let count = 1;
    const reused = this.#map.kind === ClusterKind.ZeroAllocated && this.#map.copied;
    if (reused) {
      host = this.#map.hostOffset;
      writer.checkInPlace(host, 1);
    } else {
      const wanted = Math.ceil((inCluster + left) / this.#clusterBytes);
      host = writer.refcounts.allocate(this.#allocatable(guest, wanted)) * this.#clusterBytes;
      count = writer.refcounts.allocated;
    }
    const take = Math.min(left, count * this.#clusterBytes - inCluster);
    try {
      const tail = count * this.#clusterBytes - inCluster - take;
      this.#writeNew(vector, { guest, count, host, head: inCluster, done, take, tail });
    } catch (error) {
      if (!reused) {
        for (let index = 0; index < count; index++) {
          writer.refcounts.release(host / this.#clusterBytes + index);
        }
      }
      throw error;
    }
    for (let index = 0; index < count; index++) {
      if (!reused) writer.dropCluster(guest + index);
      this.#map.setCluster(guest + index, host + index * this.#clusterBytes);
    }
    return take;
  }

  /** How many clusters from `guest` on need a new place, at most `wanted`, in one slice of the map. */
  #allocatable(guest: number, wanted: number): number {
    const most = this.#map.inSlice(guest, wanted);
    let count = 1;
    for (; count < most; count++) {
      this.#map.lookup(guest + count);
      if (
        this.#map.copied &&
        (this.#map.kind === ClusterKind.Data || this.#map.kind === ClusterKind.ZeroAllocated)
      ) break;
    }
    return count;
  }

  /** Fills clusters that nothing refers to yet: old bytes before and behind, new ones between. */
  #writeNew(
    vector: IoVector,
    what: {
      readonly guest: number;
      readonly count: number;
      readonly host: number;
      readonly head: number;
      readonly done: number;
      readonly take: number;
      readonly tail: number;
    },
  ): void {
    const { guest, count, host, head, done, take, tail } = what;
    if (head === 0 && tail === 0) {
      this.#file.writeVector(this.#slice(vector, done, take), host);
      return;
    }
    // Beyond the end of the file are zeros already.
    const fresh = host >= this.#file.lengthBytes;
    const headSpan = this.#oldBytes(guest, { from: 0, length: head, fresh, slot: 0 });
    const tailSpan = this.#oldBytes(guest + count - 1, {
      from: this.#clusterBytes - tail,
      length: tail,
      fresh,
      slot: 1,
    });
    const pieces = vector.count + 2;
    if (pieces > MAX_VECTOR_PIECES) {
      this.#writeSpan(headSpan, head, host);
      this.#writeSpan(tailSpan, tail, host + head + take);
      this.#file.writeVector(this.#slice(vector, done, take), host + head);
      return;
    }
    const list = this.#composed;
    list.clear();
    if (headSpan !== undefined) list.push(headSpan.span, headSpan.offset, head);
    list.pushSlice(vector, done, take);
    if (tailSpan !== undefined) list.push(tailSpan.span, tailSpan.offset, tail);
    this.#file.writeVector(list, headSpan === undefined ? host + head : host);
  }

  /** What stands in a part of a cluster before it is written to; undefined where zeros stand already. */
  #oldBytes(
    guest: number,
    part: {
      readonly from: number;
      readonly length: number;
      readonly fresh: boolean;
      readonly slot: number;
    },
  ): { readonly span: MemorySpan; readonly offset: number } | undefined {
    const { from, length, fresh, slot } = part;
    if (length === 0) return undefined;
    const start = guest * this.#clusterBytes + from;
    const there = Math.min(length, this.#sizeBytes - start);
    this.#map.lookup(guest);
    const { kind } = this.#map;
    const isZero = there <= 0 || kind === ClusterKind.Zero || kind === ClusterKind.ZeroAllocated ||
      (kind === ClusterKind.Unallocated && start >= (this.#backing?.sizeBytes ?? 0));
    if (isZero) return fresh ? undefined : { span: zeroSpan(), offset: 0 };
    const span = this.#scratch ??= new MemorySpan(mmap(2 * this.#clusterBytes).bytes);
    const offset = slot * this.#clusterBytes;
    this.#padding.clear();
    this.#padding.push(span, offset, there);
    this.#read(start, this.#padding);
    if (there < length) span.bytes.fill(0, offset + there, offset + length);
    return { span, offset };
  }

  #writeSpan(
    from: { readonly span: MemorySpan; readonly offset: number } | undefined,
    lengthBytes: number,
    offset: number,
  ): void {
    if (from === undefined) return;
    this.#padding.clear();
    this.#padding.push(from.span, from.offset, lengthBytes);
    this.#file.writeVector(this.#padding, offset);
  }

  /** Makes a range of bytes read as zeros; its end may lie beyond the disk's, up to the cluster's. */
  #zeroRange(offset: number, lengthBytes: number, unmap: boolean): void {
    if (lengthBytes <= 0) return;
    const end = offset + lengthBytes;
    const first = alignUp(offset, this.#clusterBytes);
    const last = alignDown(end, this.#clusterBytes);
    if (first > last) return this.#writeZeroBytes(offset, lengthBytes);
    this.#writeZeroBytes(offset, first - offset);
    if (last > first) {
      this.#zeroClusters(
        first / this.#clusterBytes,
        (last - first) / this.#clusterBytes,
        unmap,
      );
    }
    this.#writeZeroBytes(last, end - last);
  }

  /** Zeros within one cluster, written unless they stand there. */
  #writeZeroBytes(offset: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    const writer = this.#writing();
    const guest = Math.floor(offset / this.#clusterBytes);
    this.#map.lookup(guest);
    const { kind } = this.#map;
    if (kind === ClusterKind.Zero || kind === ClusterKind.ZeroAllocated) return;
    if (kind === ClusterKind.Unallocated && offset >= (this.#backing?.sizeBytes ?? 0)) return;
    const inCluster = offset - guest * this.#clusterBytes;
    const zeros = new IoVector(1);
    zeros.push(zeroSpan(), 0, lengthBytes);
    if (kind === ClusterKind.Data && this.#map.copied) {
      const host = this.#map.hostOffset;
      writer.checkInPlace(host, 1);
      this.#file.writeVector(zeros, host + inCluster);
    } else {
      this.#writeAllocating(writer, zeros, { guest, inCluster, done: 0 });
    }
  }

  #zeroClusters(first: number, count: number, unmap: boolean): void {
    const end = first + count;
    for (let guest = first; guest < end;) {
      const writer = this.#writing();
      this.#map.lookup(guest);
      const { kind } = this.#map;
      const isBacked = this.#backing !== undefined;
      const isZero = kind === ClusterKind.Zero || (kind === ClusterKind.ZeroAllocated && !unmap) ||
        (kind === ClusterKind.Unallocated && !isBacked);
      if (isZero) guest += this.#map.run(guest, end - guest);
      else this.#zeroCluster(writer, guest++, unmap);
    }
  }

  #zeroCluster(writer: TableWriter, guest: number, unmap: boolean): void {
    const isBacked = this.#backing !== undefined;
    if (this.header.version < 3 && (isBacked || !unmap)) {
      return this.#writeZeroBytes(guest * this.#clusterBytes, this.#clusterBytes);
    }
    this.#map.prepare(guest, writer);
    this.#map.lookup(guest);
    const { kind, copied, hostOffset } = this.#map;
    if (kind === ClusterKind.Data && copied && !unmap) {
      this.#map.setCluster(guest, hostOffset, true);
      return;
    }
    writer.dropCluster(guest);
    this.#map.clearCluster(guest, isBacked);
  }

  /** The tables, ready for a change. */
  #writing(): TableWriter {
    if (this.#writer === undefined) {
      throw new DiskError(`${this.path}: it is opened read-only`, { code: "EROFS" });
    }
    this.#writer.makeReady();
    return this.#writer;
  }

  #corrupt(message: string): never {
    if (this.#writer !== undefined) return this.#writer.corrupt(message);
    throw damage(this.path, message);
  }
}
