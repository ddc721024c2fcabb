/**
 * Compressed clusters: where their bytes are, and what they expand to.
 *
 * @module
 */

import { IoVector, MemorySpan } from "../../host/mod.ts";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "../image_file.ts";
import { type Decoder, type DecoderMaker, makeDecoder } from "./decoders.ts";
import type { Qcow2Header } from "./header.ts";

const SECTOR_BYTES = 512;
const ZSTD_MAGIC = 0xfd2f_b528;
/** Of a window of 128 MiB, the largest that decoders take without being asked to (RFC 8878, 3.1.1.1.2). */
const MOST_WINDOW = 17 << 3;

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

/** What clusters are expanded with: made at the first of them, for most disks have none. */
interface Workshop {
  readonly packed: MemorySpan;
  readonly cluster: Uint8Array<ArrayBuffer>;
  readonly decoder: Decoder;
}

/** Expands clusters; the last one stays in memory. */
export class Decompressor implements Disposable {
  readonly #file: ImageFile;
  readonly #header: Pick<Qcow2Header, "clusterBits" | "clusterBytes" | "compression">;
  readonly #makeDecoder: DecoderMaker;
  readonly #part = new IoVector(1);
  #workshop: Workshop | undefined;
  /** Where the cluster in memory is in the file. */
  #offset = -1;

  constructor(
    file: ImageFile,
    header: Pick<Qcow2Header, "clusterBits" | "clusterBytes" | "compression">,
    decoders: DecoderMaker = makeDecoder,
  ) {
    this.#file = file;
    this.#header = header;
    this.#makeDecoder = decoders;
  }

  /**
   * The cluster with this L2 entry, valid until the next call.
   *
   * @throws {DiskError} EIO when its bytes expand to anything but a cluster.
   */
  expand(high: number, low: number): Uint8Array {
    const range = compressedRange(high, low, this.#header.clusterBits);
    const workshop = this.#workshop ??= this.#makeWorkshop();
    if (this.#offset === range.offset) return workshop.cluster;
    if (!Number.isSafeInteger(range.offset + range.lengthBytes)) {
      throw this.#error(range, "an offset in the file");
    }
    this.#offset = -1;
    const { packed, cluster, decoder } = workshop;
    this.#part.clear();
    this.#part.push(packed, 0, range.lengthBytes);
    let count: number | undefined = this.#file.readVector(this.#part, range.offset);
    const { clusterBytes, compression } = this.#header;
    if (compression === "zstd") {
      count = zstdFrameBytes(packed.bytes.subarray(0, count), clusterBytes);
      if (count === undefined) throw this.#error(range, "one Zstandard frame of a cluster");
    }
    const expanded = decoder.expand(count);
    if (expanded < 0) throw this.#error(range, `${compression} data of a cluster`);
    if (expanded !== clusterBytes) {
      throw this.#error(range, `${clusterBytes} bytes when expanded, got ${expanded}`);
    }
    this.#offset = range.offset;
    return cluster;
  }

  #makeWorkshop(): Workshop {
    const { clusterBytes, compression } = this.#header;
    // At most two clusters, by the width of the length's field.
    const input = new Uint8Array(2 * clusterBytes);
    const output = new Uint8Array(clusterBytes);
    return {
      packed: new MemorySpan(input),
      cluster: output,
      decoder: this.#makeDecoder(compression, { input, output }),
    };
  }

  #error(range: CompressedRange, expected: string): DiskError {
    return new DiskError(
      `${this.#file.path}: compressed cluster at ${range.offset}: expected ${expected}`,
    );
  }

  /** Releases what it works with; it can be used again. */
  [Symbol.dispose](): void {
    this.#workshop?.decoder[Symbol.dispose]();
    this.#workshop = undefined;
    this.#offset = -1;
  }
}

/**
 * Bytes of the Zstandard frame that `bytes` begin with (RFC 8878, 3.1.1), for what follows it belongs to
 * another cluster. Undefined when it is none, is cut off, wants more memory than decoders take, or certainly expands
 * to more than `mostBytes`.
 */
export function zstdFrameBytes(bytes: Uint8Array, mostBytes: number): number | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < 9 || view.getUint32(0, true) !== ZSTD_MAGIC) return undefined;
  const descriptor = bytes[4]!;
  const singleSegment = (descriptor & 0x20) !== 0;
  if (!singleSegment && bytes[5]! > MOST_WINDOW) return undefined;
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
