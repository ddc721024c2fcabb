/**
 * The header of qcow2 images and its extensions (QEMU's docs/interop/qcow2.txt, "Header"). All of it is
 * hostile: sizes, offsets and counts are checked here once, against each other and the file's length.
 *
 * @module
 */

import { alignUp, formatSize, MIB } from "../../base/mod.ts";
import { DiskError } from "../errors.ts";
import type { Compression } from "./decoders.ts";

/** First four bytes: `QFI` and 0xfb. */
export const QCOW2_MAGIC = 0x5146_49fb;
/** Length of a version 2 header in bytes. */
export const V2_HEADER_BYTES = 72;
/** Least length of a version 3 header in bytes. */
export const V3_HEADER_BYTES = 104;
/** Where the header holds the logarithm of the clusters' length. */
export const CLUSTER_BITS_FIELD = 20;
/** Where the header holds the disk's size, the encryption method and the L1 table's place. */
export const SIZE_FIELD = 24;
/** Where the header holds the refcount table's place. */
export const REFCOUNT_TABLE_FIELD = 48;
/** Where the header holds the incompatible feature bits. */
export const INCOMPATIBLE_FIELD = 72;
/** Where the header holds the autoclear feature bits. */
export const AUTOCLEAR_FIELD = 88;
/** Longest L1 table in bytes, as QEMU's. */
export const MAX_L1_BYTES = 32 * MIB;
/** Longest refcount table in bytes, as QEMU's. */
export const MAX_REFCOUNT_TABLE_BYTES = 8 * MIB;

const MAX_SNAPSHOTS = 65_536;
const MAX_BACKING_NAME_BYTES = 1023;

/** Incompatible feature bits: whoever does not know one cannot read the image. */
export const Incompatible = {
  Dirty: 1n,
  Corrupt: 2n,
  DataFile: 4n,
  Compression: 8n,
  ExtendedL2: 16n,
} as const;

/** Header extensions. */
export const Extension = {
  End: 0,
  BackingFormat: 0xe279_2aca,
  FeatureNames: 0x6803_f857,
} as const;

/** What a header says, checked. */
export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  readonly sizeBytes: number;
  readonly l1Entries: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  /** Bits of a reference count: 1, 2, 4 … 64. */
  readonly refcountBits: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly incompatible: bigint;
  readonly compatible: bigint;
  readonly autoclear: bigint;
  readonly compression: Compression;
  readonly backingFile: string | undefined;
  readonly backingFormat: string | undefined;
}

/** Most L1 entries that an image of `sizeBytes` needs. */
export function l1EntriesFor(sizeBytes: number, clusterBytes: number): number {
  return Math.ceil(sizeBytes / (clusterBytes * (clusterBytes / 8)));
}

/**
 * Reads a header.
 *
 * @param start the file's first bytes: a whole cluster, at most 2 MiB, or the whole file.
 * @throws {DiskError} EINVAL when it is none, is damaged, or asks for what is not supported.
 */
export function parseHeader(start: Uint8Array, fileBytes: number, path: string): Qcow2Header {
  const reader = new HeaderReader(start, fileBytes, path);
  return reader.parse();
}

class HeaderReader {
  readonly #view: DataView;
  readonly #start: Uint8Array;
  readonly #fileBytes: number;
  readonly #path: string;

  constructor(start: Uint8Array, fileBytes: number, path: string) {
    this.#start = start;
    this.#view = new DataView(start.buffer, start.byteOffset, start.byteLength);
    this.#fileBytes = fileBytes;
    this.#path = path;
  }

  parse(): Qcow2Header {
    this.#need(V2_HEADER_BYTES, "a header");
    const view = this.#view;
    if (view.getUint32(0) !== QCOW2_MAGIC) {
      this.#fail("magic", "0x514649fb", `0x${view.getUint32(0).toString(16).padStart(8, "0")}`);
    }
    const version = view.getUint32(4);
    if (version !== 2 && version !== 3) this.#fail("version", "2 or 3", version);
    if (version === 3) this.#need(V3_HEADER_BYTES, "a version 3 header");
    const clusterBits = view.getUint32(CLUSTER_BITS_FIELD);
    if (clusterBits < 9 || clusterBits > 21) this.#fail("cluster_bits", "9 to 21", clusterBits);
    const clusterBytes = 2 ** clusterBits;
    const headerBytes = version === 3 ? view.getUint32(100) : V2_HEADER_BYTES;
    if (
      version === 3 &&
      (headerBytes < V3_HEADER_BYTES || headerBytes % 8 !== 0 || headerBytes > clusterBytes)
    ) {
      this.#fail("header_length", `104 to ${clusterBytes}, a multiple of 8`, headerBytes);
    }
    this.#need(headerBytes, "the header that it announces");
    const encryption = view.getUint32(32);
    if (encryption !== 0) {
      this.#fail("crypt_method", "0 (encrypted images are not supported)", encryption);
    }
    const backing = this.#backingRange(clusterBytes, headerBytes);
    const extensions = this.#extensions(
      headerBytes,
      backing === undefined ? Math.min(clusterBytes, this.#start.byteLength) : backing.offset,
    );
    const incompatible = version === 3 ? view.getBigUint64(INCOMPATIBLE_FIELD) : 0n;
    this.#checkFeatures(incompatible, extensions.featureNames);
    const refcountOrder = version === 3 ? view.getUint32(96) : 4;
    if (refcountOrder > 6) this.#fail("refcount_order", "0 to 6", refcountOrder);
    const sizeBytes = this.#number64(SIZE_FIELD, "size");
    const l1Entries = view.getUint32(36);
    const maxEntries = MAX_L1_BYTES / 8;
    if (l1Entries > maxEntries) this.#fail("l1_size", `at most ${maxEntries}`, l1Entries);
    const neededEntries = l1EntriesFor(sizeBytes, clusterBytes);
    if (l1Entries < neededEntries) {
      this.#fail("l1_size", `at least ${neededEntries} for ${formatSize(sizeBytes)}`, l1Entries);
    }
    const l1Offset = this.#table(40, l1Entries * 8, { name: "l1_table_offset", clusterBytes });
    const refcountTableClusters = view.getUint32(56);
    const maxClusters = Math.ceil(MAX_REFCOUNT_TABLE_BYTES / clusterBytes);
    if (refcountTableClusters < 1 || refcountTableClusters > maxClusters) {
      this.#fail("refcount_table_clusters", `1 to ${maxClusters}`, refcountTableClusters);
    }
    const refcountTableOffset = this.#table(
      REFCOUNT_TABLE_FIELD,
      refcountTableClusters * clusterBytes,
      { name: "refcount_table_offset", clusterBytes },
    );
    const snapshotCount = view.getUint32(60);
    if (snapshotCount > MAX_SNAPSHOTS) {
      this.#fail("nb_snapshots", `at most ${MAX_SNAPSHOTS}`, snapshotCount);
    }
    const snapshotsOffset = snapshotCount === 0
      ? 0
      : this.#table(64, snapshotCount * 40, { name: "snapshots_offset", clusterBytes });
    return {
      version,
      clusterBits,
      clusterBytes,
      sizeBytes,
      l1Entries,
      l1Offset,
      refcountTableOffset,
      refcountTableClusters,
      refcountBits: 2 ** refcountOrder,
      snapshotCount,
      snapshotsOffset,
      incompatible,
      compatible: version === 3 ? view.getBigUint64(80) : 0n,
      autoclear: version === 3 ? view.getBigUint64(AUTOCLEAR_FIELD) : 0n,
      compression: this.#compression(headerBytes, incompatible),
      backingFile: backing === undefined ? undefined : this.#text(backing.offset, backing.length),
      backingFormat: extensions.backingFormat,
    };
  }

  #compression(headerBytes: number, incompatible: bigint): Compression {
    const type = headerBytes > 104 ? this.#start[104] ?? 0 : 0;
    if (type > 1) this.#fail("compression_type", "0 (zlib) or 1 (zstd)", type);
    if ((type !== 0) !== ((incompatible & Incompatible.Compression) !== 0n)) {
      this.#fail("compression_type", "0 exactly where its feature bit is clear", type);
    }
    return type === 1 ? "zstd" : "zlib";
  }

  #checkFeatures(bits: bigint, names: ReadonlyMap<number, string>): void {
    if ((bits & Incompatible.DataFile) !== 0n) {
      this.#fail("incompatible_features", "no external data file (bit 2 is not supported)", "it");
    }
    if ((bits & Incompatible.ExtendedL2) !== 0n) {
      this.#fail(
        "incompatible_features",
        "no subclusters (bit 4, extended L2 entries, is not supported)",
        "it",
      );
    }
    const unknown = bits & ~0x1fn;
    if (unknown === 0n) return;
    const bit = unknown.toString(2).length - 1;
    const name = names.get(bit);
    this.#fail(
      "incompatible_features",
      "only bits 0, 1 and 3",
      `bit ${bit}${name === undefined ? "" : ` (${JSON.stringify(name)})`}`,
    );
  }

  #backingRange(
    clusterBytes: number,
    headerBytes: number,
  ): { offset: number; length: number } | undefined {
    const offset = this.#number64(8, "backing_file_offset");
    if (offset === 0) return undefined;
    const length = this.#view.getUint32(16);
    const end = Math.min(clusterBytes, this.#start.byteLength);
    if (offset < headerBytes || offset > end) {
      this.#fail("backing_file_offset", `0 or ${headerBytes} to ${end}`, offset);
    }
    const longest = Math.min(MAX_BACKING_NAME_BYTES, end - offset);
    if (length > longest) this.#fail("backing_file_size", `at most ${longest}`, length);
    return length === 0 ? undefined : { offset, length };
  }

  #extensions(
    from: number,
    end: number,
  ): { backingFormat: string | undefined; featureNames: ReadonlyMap<number, string> } {
    const featureNames = new Map<number, string>();
    let backingFormat: string | undefined;
    // Each step is at least 8 bytes long, and they all lie in the first cluster.
    for (let at = from; at + 8 <= end;) {
      const type = this.#view.getUint32(at);
      const length = this.#view.getUint32(at + 4);
      if (type === Extension.End) break;
      if (length > end - at - 8) {
        this.#fail(`extension 0x${type.toString(16)}`, `at most ${end - at - 8} bytes`, length);
      }
      if (type === Extension.BackingFormat) {
        if (length > 15) this.#fail("backing format", "at most 15 bytes", length);
        backingFormat = this.#text(at + 8, length);
      } else if (type === Extension.FeatureNames) {
        for (let entry = at + 8; entry + 48 <= at + 8 + length; entry += 48) {
          if (this.#start[entry] !== 0) continue;
          const name = this.#text(entry + 2, 46).replace(/\0.*$/s, "");
          featureNames.set(this.#start[entry + 1] ?? 0, name);
        }
      }
      at += 8 + alignUp(length, 8);
    }
    return { backingFormat, featureNames };
  }

  /** The place of a table whose start is inside the file and whose end is not beyond its last cluster. */
  #table(
    field: number,
    lengthBytes: number,
    about: { readonly name: string; readonly clusterBytes: number },
  ): number {
    const { name, clusterBytes } = about;
    const offset = this.#number64(field, name);
    if (lengthBytes === 0) return offset;
    const end = alignUp(this.#fileBytes, clusterBytes);
    if (offset < clusterBytes || offset % clusterBytes !== 0 || offset + lengthBytes > end) {
      this.#fail(
        name,
        `a multiple of ${clusterBytes} from there on, with ${lengthBytes} bytes before ${end}`,
        offset,
      );
    }
    return offset;
  }

  #number64(at: number, name: string): number {
    const value = this.#view.getBigUint64(at);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
      this.#fail(name, `at most ${Number.MAX_SAFE_INTEGER}`, String(value));
    }
    return Number(value);
  }

  #text(offset: number, length: number): string {
    return new TextDecoder().decode(this.#start.subarray(offset, offset + length));
  }

  #need(length: number, what: string): void {
    if (this.#start.byteLength < length) {
      throw new DiskError(
        `${this.#path}: expected ${what} of ${length} bytes, got ${this.#start.byteLength}`,
        { code: "EINVAL" },
      );
    }
  }

  #fail(field: string, expected: string, found: string | number): never {
    throw new DiskError(
      `${this.#path}: qcow2 header, ${field}: expected ${expected}, got ${found}`,
      {
        code: "EINVAL",
      },
    );
  }
}
