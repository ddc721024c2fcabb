/**
 * Compressed clusters: where their bytes are, and what they expand to.
 *
 * @module
 */

import { collectYoungGarbage } from "../../host/mod.ts";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import type { Qcow2Header } from "./header.ts";

const SECTOR_BYTES = 512;
const ZSTD_MAGIC = 0xfd2f_b528;
// QEMU compresses with a window of 4 KiB.
const WINDOW_BITS = 12;
/**
 * The decompressors leave several times as much garbage, outside of the heap that the collector watches: when
 * so much is expanded it is collected.
 */
const COLLECT_BYTES = 2 ** 20;

/** The runtime's decompressors; to load them costs 4 MiB, which most disks never need. */
function zlib(): typeof import("node:zlib") {
  // deno-lint-ignore no-process-global -- the module that has it is loaded with it
  return process.getBuiltinModule("node:zlib");
}

/** A place in the file. */
export interface CompressedRange {
  readonly offset: number;
  /** Most bytes that it takes; the last sector may hold others' bytes, too. */
  readonly lengthBytes: number;
}

/** Where the bytes of the compressed cluster with this L2 entry are ("Compressed Clusters Descriptor"). */
export function compressedRange(high: number, low: number, clusterBits: number): CompressedRange {
  const entry = (BigInt(high) << 32n) | BigInt(low);
  const offsetBits = BigInt(62 - (clusterBits - 8));
  const offset = Number(entry & ((1n << offsetBits) - 1n));
  const more = Number((entry >> offsetBits) & ((1n << BigInt(clusterBits - 8)) - 1n));
  return { offset, lengthBytes: (more + 1) * SECTOR_BYTES - offset % SECTOR_BYTES };
}

/** Expands clusters; the last one stays in memory. */
export class Decompressor {
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  #packed: Uint8Array<ArrayBuffer> | undefined;
  #offset = -1;
  #cluster: Uint8Array | undefined;
  #uncollectedBytes = 0;

  constructor(file: ImageFile, header: Qcow2Header) {
    this.#file = file;
    this.#header = header;
  }

  /**
   * The cluster with this L2 entry, valid until the next call.
   *
   * @throws {DiskError} EIO when its bytes expand to anything but a cluster.
   */
  expand(high: number, low: number): Uint8Array {
    const range = compressedRange(high, low, this.#header.clusterBits);
    if (this.#cluster !== undefined && this.#offset === range.offset) return this.#cluster;
    if (!Number.isSafeInteger(range.offset + range.lengthBytes)) {
      throw this.#error(range, "an offset in the file");
    }
    // At most two clusters, by the width of the length's field.
    const packed = this.#packed ??= new Uint8Array(2 * this.#header.clusterBytes);
    const count = this.#file.read(packed.subarray(0, range.lengthBytes), range.offset);
    const cluster = this.#decode(packed.subarray(0, count), range);
    if (cluster.byteLength !== this.#header.clusterBytes) {
      throw this.#error(
        range,
        `${this.#header.clusterBytes} bytes when expanded, got ${cluster.byteLength}`,
      );
    }
    this.#offset = range.offset;
    this.#cluster = cluster;
    this.#uncollectedBytes += cluster.byteLength;
    if (this.#uncollectedBytes >= COLLECT_BYTES) {
      this.#uncollectedBytes = 0;
      collectYoungGarbage();
    }
    return cluster;
  }

  #decode(packed: Uint8Array<ArrayBuffer>, range: CompressedRange): Uint8Array {
    const maxOutputLength = this.#header.clusterBytes;
    // In one piece, which needs no putting together.
    const options = { maxOutputLength, chunkSize: maxOutputLength };
    try {
      if (this.#header.compression === "zlib") {
        return zlib().inflateRawSync(packed, { windowBits: WINDOW_BITS, ...options });
      }
      const frame = zstdFrameBytes(packed, maxOutputLength);
      if (frame === undefined) throw this.#error(range, "one Zstandard frame of a cluster");
      return zlib().zstdDecompressSync(packed.subarray(0, frame), options);
    } catch (error) {
      if (error instanceof DiskError) throw error;
      throw this.#error(range, `${this.#header.compression} data`, error);
    }
  }

  #error(range: CompressedRange, expected: string, cause?: unknown): DiskError {
    return new DiskError(
      `${this.#file.path}: compressed cluster at ${range.offset}: expected ${expected}`,
      cause === undefined ? {} : { cause },
    );
  }
}

/**
 * Bytes of the Zstandard frame that `bytes` begin with (RFC 8878, 3.1.1), for what follows it belongs to
 * another cluster. Undefined when it is none, is cut off, or certainly expands to more than `mostBytes`.
 */
export function zstdFrameBytes(bytes: Uint8Array, mostBytes: number): number | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < 9 || view.getUint32(0, true) !== ZSTD_MAGIC) return undefined;
  const descriptor = bytes[4]!;
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >>> 6;
  const sizeField = sizeFlag === 0 ? (singleSegment ? 1 : 0) : 1 << sizeFlag;
  const dictionaryField = [0, 1, 2, 4][descriptor & 3]!;
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryField + sizeField;
  let expanded = 0;
  for (;;) {
    if (at + 3 > bytes.byteLength) return undefined;
    const header = bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16;
    const type = (header >>> 1) & 3;
    const size = header >>> 3;
    if (type === 3) return undefined;
    // A repeated byte is the one block whose size says nothing of its length in the file.
    if (type !== 2) expanded += size;
    if (expanded > mostBytes) return undefined;
    at += 3 + (type === 1 ? 1 : size);
    if ((header & 1) !== 0) break;
  }
  if ((descriptor & 4) !== 0) at += 4;
  return at <= bytes.byteLength ? at : undefined;
}
