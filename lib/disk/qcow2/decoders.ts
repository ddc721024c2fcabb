/**
 * What expands compressed clusters: the host's own libraries, and the runtime's where it has none. Those of the
 * runtime cost a process 4 MiB when they are loaded, and leave garbage outside of the heap at each cluster.
 *
 * @module
 */

import { log } from "../../base/mod.ts";
import {
  collectYoungGarbage,
  type Fd,
  type FdLike,
  type LoadableLibrary,
  RawInflater,
  ZLIB,
  ZSTD,
  ZstdDecoder,
} from "../../host/mod.ts";

/** How the clusters of an image are compressed. */
export type Compression = "zlib" | "zstd";

const LIBRARIES: Readonly<Record<Compression, LoadableLibrary>> = { zlib: ZLIB, zstd: ZSTD };

/**
 * Opens the file of the library that expands clusters so, for {@link loadDecoder} in a process that cannot look
 * for it; undefined where the host has none.
 */
export function openDecoder(compression: Compression): Fd | undefined {
  return LIBRARIES[compression].openFile();
}

/** Loads a library for this thread from its file, which stays the caller's. */
export function loadDecoder(compression: Compression, file: FdLike): void {
  LIBRARIES[compression].load(file);
}

/** Where a decoder works. */
export interface DecoderBuffers {
  /** Where compressed data is put. */
  readonly input: Uint8Array<ArrayBuffer>;
  /** Where it is expanded to: a cluster. */
  readonly output: Uint8Array<ArrayBuffer>;
}

/** Expands clusters. */
export interface Decoder extends Disposable {
  /**
   * Expands the first `inputBytes` of the input: for zlib a raw stream (RFC 1951), whatever follows it, for zstd
   * a frame (RFC 8878).
   *
   * @returns how many bytes of the output it is, less than 0 where it is not one whole piece that fits.
   */
  expand(inputBytes: number): number;
}

/** Makes a decoder. */
export type DecoderMaker = (compression: Compression, buffers: DecoderBuffers) => Decoder;

/** A decoder of the host's, or of the runtime's where it has none. */
export function makeDecoder(compression: Compression, buffers: DecoderBuffers): Decoder {
  const decoder = hostDecoder(compression, buffers);
  if (decoder !== undefined) return decoder;
  log.debug(
    `${compression} clusters are expanded by the runtime: the host has no library for them`,
  );
  return new RuntimeDecoder(compression, buffers);
}

/** QEMU compresses with a window of 4 KiB. */
const WINDOW_BITS = 12;

/** A decoder of the host's; undefined where it has none. */
export function hostDecoder(
  compression: Compression,
  buffers: DecoderBuffers,
): Decoder | undefined {
  return compression === "zlib"
    ? RawInflater.make({ ...buffers, windowBits: WINDOW_BITS })
    : ZstdDecoder.make(buffers);
}

/**
 * The runtime's decoders leave several times as much garbage as they expand, outside of the heap that the
 * collector watches: when so much is expanded it is collected.
 */
const COLLECT_BYTES = 2 ** 20;

/** A decoder of the runtime's. */
export class RuntimeDecoder implements Decoder {
  readonly #compression: Compression;
  readonly #buffers: DecoderBuffers;
  #uncollectedBytes = 0;

  constructor(compression: Compression, buffers: DecoderBuffers) {
    this.#compression = compression;
    this.#buffers = buffers;
  }

  expand(inputBytes: number): number {
    const { input, output } = this.#buffers;
    const packed = input.subarray(0, inputBytes);
    const maxOutputLength = output.byteLength;
    // In one piece, which needs no putting together.
    const options = { maxOutputLength, chunkSize: maxOutputLength };
    try {
      const expanded = this.#compression === "zlib"
        ? zlib().inflateRawSync(packed, { windowBits: WINDOW_BITS, ...options })
        : zlib().zstdDecompressSync(packed, options);
      output.set(expanded);
      this.#collect(expanded.byteLength);
      return expanded.byteLength;
    } catch (error) {
      if (error instanceof Error) return -1;
      throw error;
    }
  }

  #collect(expandedBytes: number): void {
    this.#uncollectedBytes += expandedBytes;
    if (this.#uncollectedBytes < COLLECT_BYTES) return;
    this.#uncollectedBytes = 0;
    collectYoungGarbage();
  }

  [Symbol.dispose](): void {}
}

/** The runtime's decompressors, which most disks never need. */
function zlib(): typeof import("node:zlib") {
  // deno-lint-ignore no-process-global -- the module that has it is loaded with it
  return process.getBuiltinModule("node:zlib");
}
