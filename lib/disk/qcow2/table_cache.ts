/**
 * Pieces of the tables of a qcow2 image that are held in memory, a bounded number of them.
 *
 * @module
 */

import type { ImageFile } from "../image_file.ts";

/** Longest slice in bytes; the clusters of an image may be smaller. */
export const MAX_SLICE_BYTES = 4096;

/** A piece of a table. */
export class Slice {
  /** Where it lies in the file. */
  readonly offset: number;
  /** What it says. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The same bytes, for numbers, which are big-endian. */
  readonly view: DataView<ArrayBuffer>;
  /** Whether it differs from the file. */
  dirty = false;
  /** Whether it was used since eviction last looked. */
  used = true;

  constructor(offset: number, lengthBytes: number) {
    this.offset = offset;
    this.bytes = new Uint8Array(lengthBytes);
    this.view = new DataView(this.bytes.buffer);
  }
}

/** Settings of {@link TableCache}. */
export interface TableCacheOptions {
  readonly sliceBytes: number;
  /** Most slices in memory. */
  readonly capacity: number;
  /** Called when all slices are dirty and room is needed; afterwards none is. */
  readonly makeClean: () => void;
}

/** Slices by their place in the file, written back only when told to. */
export class TableCache {
  /** Bytes of each slice. */
  readonly sliceBytes: number;
  readonly #file: ImageFile;
  readonly #capacity: number;
  readonly #makeClean: () => void;
  readonly #slices = new Map<number, Slice>();
  #dirty: Slice[] = [];
  #last: Slice | undefined;

  constructor(file: ImageFile, options: TableCacheOptions) {
    this.#file = file;
    this.sliceBytes = options.sliceBytes;
    this.#capacity = options.capacity;
    this.#makeClean = options.makeClean;
  }

  /** Whether a slice differs from the file. */
  get dirty(): boolean {
    return this.#dirty.length > 0;
  }

  /**
   * The slice at `offset`, a multiple of the slice's length; what lies beyond the end of the file is
   * zeros. It is valid until the next call.
   */
  get(offset: number): Slice {
    const last = this.#last;
    if (last !== undefined && last.offset === offset) return last;
    const slice = this.#slices.get(offset) ?? this.#load(offset);
    slice.used = true;
    this.#last = slice;
    return slice;
  }

  /** Tells that `slice` was changed. */
  markDirty(slice: Slice): void {
    if (slice.dirty) return;
    slice.dirty = true;
    this.#dirty.push(slice);
  }

  /** Writes what differs from the file. What could not be written stays dirty. */
  writeDirty(): void {
    if (this.#dirty.length === 0) return;
    const slices = this.#dirty.sort((a, b) => a.offset - b.offset);
    let written = 0;
    try {
      for (const slice of slices) {
        this.#file.write(slice.bytes, slice.offset);
        slice.dirty = false;
        written++;
      }
    } finally {
      this.#dirty = slices.slice(written);
    }
  }

  /** Forgets the slices of a range that holds no table any more. */
  drop(offset: number, lengthBytes: number): void {
    this.#last = undefined;
    for (let at = offset; at < offset + lengthBytes; at += this.sliceBytes) {
      const slice = this.#slices.get(at);
      if (slice === undefined) continue;
      this.#slices.delete(at);
      if (slice.dirty) this.#dirty = this.#dirty.filter((other) => other !== slice);
    }
  }

  #load(offset: number): Slice {
    if (this.#slices.size >= this.#capacity) this.#evict();
    const slice = new Slice(offset, this.sliceBytes);
    this.#file.read(slice.bytes, offset);
    this.#slices.set(offset, slice);
    return slice;
  }

  /** Second chance: a slice that was used since the last look goes to the end of the line. */
  #evict(): void {
    if (this.#dirty.length >= this.#slices.size) this.#makeClean();
    let looks = 2 * this.#slices.size;
    for (const [offset, slice] of this.#slices) {
      if (looks-- <= 0) break;
      if (slice.used || slice.dirty) {
        slice.used = false;
        this.#slices.delete(offset);
        this.#slices.set(offset, slice);
        continue;
      }
      this.#slices.delete(offset);
      if (this.#last === slice) this.#last = undefined;
      return;
    }
  }
}
