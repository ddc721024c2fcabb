/**
 * Reads what stands in clusters of the disk: in the image's file, compressed there, in the backing file, or
 * nowhere, which is zeros.
 *
 * @module
 */

import { IoVector } from "../../host/mod.ts";
import type { DiskImage } from "../image.ts";
import type { ImageFile } from "../image_file.ts";
import { ClusterKind, type ClusterMap } from "./cluster_map.ts";
import { Decompressor } from "./compressed.ts";
import type { Qcow2Header } from "./header.ts";

/** Settings of a {@link ClusterReader}. */
export interface ClusterReaderOptions {
  readonly header: Qcow2Header;
  readonly map: ClusterMap;
  readonly backing: DiskImage | undefined;
}

/** Reads an image's disk. */
export class ClusterReader implements Disposable {
  readonly #file: ImageFile;
  readonly #map: ClusterMap;
  readonly #backing: DiskImage | undefined;
  readonly #decompressor: Decompressor;
  readonly #clusterBytes: number;
  readonly #part = new IoVector();

  constructor(file: ImageFile, options: ClusterReaderOptions) {
    const { header, map, backing } = options;
    this.#file = file;
    this.#map = map;
    this.#backing = backing;
    this.#decompressor = new Decompressor(file, header);
    this.#clusterBytes = header.clusterBytes;
  }

  [Symbol.dispose](): void {
    this.#decompressor[Symbol.dispose]();
  }

  /** Bytes of the disk behind which the backing file has none; 0 without one. */
  get backedBytes(): number {
    return this.#backing?.sizeBytes ?? 0;
  }

  /** Fills the pieces of `vector` with what is at `offset`. @throws {DiskError} where that fails. */
  read(offset: number, vector: IoVector): void {
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
        const part = sliceInto(this.#part, vector, done, take);
        const got = this.#file.readVector(part, hostOffset + inCluster);
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

  #readBacking(
    position: number,
    vector: IoVector,
    part: { readonly done: number; readonly take: number },
  ): void {
    const { done, take } = part;
    const there = Math.min(take, Math.max(0, this.backedBytes - position));
    if (there > 0) {
      const slice = sliceInto(this.#part, vector, done, there);
      this.#backing?.readAt(position, slice);
    }
    if (there < take) vector.fillZero(done + there, take - there);
  }
}

/** `length` bytes of `vector` from `skip` on: itself where that is all of it, else `part`. */
export function sliceInto(
  part: IoVector,
  vector: IoVector,
  skip: number,
  length: number,
): IoVector {
  if (skip === 0 && length === vector.lengthBytes) return vector;
  part.clear();
  part.pushSlice(vector, skip, length);
  return part;
}
