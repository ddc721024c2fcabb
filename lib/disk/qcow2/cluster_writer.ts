/**
 * Writes to clusters of the disk: in place where only one entry of the tables refers to a cluster of the
 * file, else to a new one, beside the bytes that it is to keep.
 *
 * @module
 */

import { alignDown, alignUp } from "../../base/mod.ts";
import { IoVector, MAX_VECTOR_PIECES, MemorySpan, mmap } from "../../host/mod.ts";
import { type ImageFile, zeroSpan } from "../image_file.ts";
import { ClusterKind, type ClusterMap } from "./cluster_map.ts";
import { type ClusterReader, sliceInto } from "./cluster_reader.ts";
import type { Qcow2Header } from "./header.ts";
import type { TableWriter } from "./table_writer.ts";

/** Settings of a {@link ClusterWriter}. */
export interface ClusterWriterOptions {
  readonly header: Qcow2Header;
  readonly map: ClusterMap;
  readonly tables: TableWriter;
  readonly reader: ClusterReader;
  /** Whether there is a backing file, which shines through where the image says nothing. */
  readonly isBacked: boolean;
  /** The disk, whose size may change. */
  readonly disk: { readonly sizeBytes: number };
}

/** Writes to an image's disk. */
export class ClusterWriter {
  readonly #file: ImageFile;
  readonly #map: ClusterMap;
  readonly #tables: TableWriter;
  readonly #reader: ClusterReader;
  readonly #isBacked: boolean;
  readonly #disk: { readonly sizeBytes: number };
  readonly #version: number;
  readonly #clusterBytes: number;
  readonly #part = new IoVector();
  readonly #composed = new IoVector();
  readonly #padding = new IoVector(1);
  /** Old bytes before and behind new ones, a cluster each. */
  #scratch: MemorySpan | undefined;

  constructor(file: ImageFile, options: ClusterWriterOptions) {
    this.#file = file;
    this.#map = options.map;
    this.#tables = options.tables;
    this.#reader = options.reader;
    this.#isBacked = options.isBacked;
    this.#disk = options.disk;
    this.#version = options.header.version;
    this.#clusterBytes = options.header.clusterBytes;
  }

  /** Writes the pieces of `vector` at `offset`. @throws {DiskError} where that fails. */
  write(offset: number, vector: IoVector): void {
    this.#tables.makeReady();
    const length = vector.lengthBytes;
    for (let done = 0; done < length;) {
      const position = offset + done;
      const guest = Math.floor(position / this.#clusterBytes);
      const inCluster = position - guest * this.#clusterBytes;
      this.#map.lookup(guest);
      if (this.#map.kind !== ClusterKind.Data || !this.#map.copied) {
        done += this.#writeAllocating(vector, { guest, inCluster, done });
        continue;
      }
      const host = this.#map.hostOffset;
      const wanted = Math.ceil((inCluster + length - done) / this.#clusterBytes);
      const count = this.#map.run(guest, wanted);
      const take = Math.min(length - done, count * this.#clusterBytes - inCluster);
      this.#tables.checkInPlace(host, count);
      this.#file.writeVector(this.#slice(vector, done, take), host + inCluster);
      done += take;
    }
  }

  /**
   * Makes a range of bytes read as zeros; its end may lie beyond the disk's, up to the cluster's.
   *
   * @param unmap whether clusters of the file that held them are given back
   * @throws {DiskError} where that fails.
   */
  writeZeroes(offset: number, lengthBytes: number, unmap: boolean): void {
    if (lengthBytes <= 0) return;
    const end = offset + lengthBytes;
    const first = alignUp(offset, this.#clusterBytes);
    const last = alignDown(end, this.#clusterBytes);
    if (first > last) return this.#writeZeroBytes(offset, lengthBytes);
    this.#writeZeroBytes(offset, first - offset);
    if (last > first) {
      this.zeroClusters(
        first / this.#clusterBytes,
        (last - first) / this.#clusterBytes,
        unmap,
      );
    }
    this.#writeZeroBytes(last, end - last);
  }

  /**
   * Makes whole clusters of the disk read as zeros.
   *
   * @param unmap whether those of the file that held them are given back
   * @throws {DiskError} where that fails.
   */
  zeroClusters(first: number, count: number, unmap: boolean): void {
    const end = first + count;
    for (let guest = first; guest < end;) {
      this.#tables.makeReady();
      this.#map.lookup(guest);
      const { kind } = this.#map;
      const isZero = kind === ClusterKind.Zero || (kind === ClusterKind.ZeroAllocated && !unmap) ||
        (kind === ClusterKind.Unallocated && !this.#isBacked);
      if (isZero) guest += this.#map.run(guest, end - guest);
      else this.#zeroCluster(guest++, unmap);
    }
  }

  /** Writes clusters that need a new place. @returns how many bytes */
  #writeAllocating(
    vector: IoVector,
    at: { readonly guest: number; readonly inCluster: number; readonly done: number },
  ): number {
    const { guest, inCluster, done } = at;
    this.#tables.makeReady();
    const left = vector.lengthBytes - done;
    this.#map.prepare(guest, this.#tables);
    this.#map.lookup(guest);
    let host: number;
    let count = 1;
    const reused = this.#map.kind === ClusterKind.ZeroAllocated && this.#map.copied;
    if (reused) {
      host = this.#map.hostOffset;
      this.#tables.checkInPlace(host, 1);
    } else {
      const wanted = Math.ceil((inCluster + left) / this.#clusterBytes);
      const { refcounts } = this.#tables;
      host = refcounts.allocate(this.#map.allocatable(guest, wanted)) * this.#clusterBytes;
      count = refcounts.allocated;
    }
    const take = Math.min(left, count * this.#clusterBytes - inCluster);
    try {
      const tail = count * this.#clusterBytes - inCluster - take;
      this.#writeNew(vector, { guest, count, host, head: inCluster, done, take, tail });
    } catch (error) {
      if (!reused) {
        for (let index = 0; index < count; index++) {
          this.#tables.refcounts.release(host / this.#clusterBytes + index);
        }
      }
      throw error;
    }
    for (let index = 0; index < count; index++) {
      if (!reused) this.#tables.dropCluster(guest + index);
      this.#map.setCluster(guest + index, host + index * this.#clusterBytes);
    }
    return take;
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
    const there = Math.min(length, this.#disk.sizeBytes - start);
    this.#map.lookup(guest);
    const { kind } = this.#map;
    const isZero = there <= 0 || kind === ClusterKind.Zero || kind === ClusterKind.ZeroAllocated ||
      (kind === ClusterKind.Unallocated && start >= this.#reader.backedBytes);
    if (isZero) return fresh ? undefined : { span: zeroSpan(), offset: 0 };
    const span = this.#scratch ??= new MemorySpan(mmap(2 * this.#clusterBytes).bytes);
    const offset = slot * this.#clusterBytes;
    this.#padding.clear();
    this.#padding.push(span, offset, there);
    this.#reader.read(start, this.#padding);
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

  /** Zeros within one cluster, written unless they stand there. */
  #writeZeroBytes(offset: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    this.#tables.makeReady();
    const guest = Math.floor(offset / this.#clusterBytes);
    this.#map.lookup(guest);
    const { kind } = this.#map;
    if (kind === ClusterKind.Zero || kind === ClusterKind.ZeroAllocated) return;
    if (kind === ClusterKind.Unallocated && offset >= this.#reader.backedBytes) return;
    const inCluster = offset - guest * this.#clusterBytes;
    const zeros = new IoVector(1);
    zeros.push(zeroSpan(), 0, lengthBytes);
    if (kind === ClusterKind.Data && this.#map.copied) {
      const host = this.#map.hostOffset;
      this.#tables.checkInPlace(host, 1);
      this.#file.writeVector(zeros, host + inCluster);
    } else {
      this.#writeAllocating(zeros, { guest, inCluster, done: 0 });
    }
  }

  #zeroCluster(guest: number, unmap: boolean): void {
    const isBacked = this.#isBacked;
    if (this.#version < 3 && (isBacked || !unmap)) {
      return this.#writeZeroBytes(guest * this.#clusterBytes, this.#clusterBytes);
    }
    this.#map.prepare(guest, this.#tables);
    this.#map.lookup(guest);
    const { kind, copied, hostOffset } = this.#map;
    if (kind === ClusterKind.Data && copied && !unmap) {
      this.#map.setCluster(guest, hostOffset, true);
      return;
    }
    this.#tables.dropCluster(guest);
    this.#map.clearCluster(guest, isBacked);
  }

  #slice(vector: IoVector, skip: number, length: number): IoVector {
    return sliceInto(this.#part, vector, skip, length);
  }
}
