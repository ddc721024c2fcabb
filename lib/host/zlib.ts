/**
 * The host's zlib, which every Debian has: its package manager is made with it.
 *
 * @module
 */

import { cString } from "./libc.ts";
import { type LoadableLibrary, SharedLibrary } from "./shared_library.ts";
import { MemorySpan } from "./vector.ts";

/** struct z_stream_s on x86-64 (zlib.h): its length in bytes, and where in it fields are, in words. */
const STREAM_BYTES = 112;
const NEXT_IN = 0;
const AVAIL_IN = 2;
const NEXT_OUT = 6;
const AVAIL_OUT = 8;

const Z_OK = 0;
const Z_STREAM_END = 1;
const Z_FINISH = 4;

// Safe: the first buffer is a z_stream of the length that the library is told, which does not move and lives
// until inflateEnd, and in which only places and lengths of two buffers stand that live as long. The version is
// a string that ends.
const library = new SharedLibrary("libz.so.1", {
  inflateInit2_: { parameters: ["buffer", "i32", "buffer", "i32"], result: "i32" },
  inflateReset: { parameters: ["buffer"], result: "i32" },
  inflate: { parameters: ["buffer", "i32"], result: "i32" },
  inflateEnd: { parameters: ["buffer"], result: "i32" },
});

/** Where {@link RawInflater} has its functions from. */
export const ZLIB: LoadableLibrary = library;

/** Of an API that all versions keep to whose number begins so. */
const VERSION = cString("1.2.11");

/** Settings of {@link RawInflater.make}. */
export interface RawInflaterOptions {
  /** Where compressed data is put; it stays in place. */
  readonly input: Uint8Array<ArrayBuffer>;
  /** Where it is expanded to; it stays in place. */
  readonly output: Uint8Array<ArrayBuffer>;
  /** Two to the power of it is how far back data may refer, 8 to 15. */
  readonly windowBits: number;
}

/** Expands raw DEFLATE data (RFC 1951) from one buffer to another; nothing is allocated for that. */
export class RawInflater implements Disposable {
  readonly #functions: NonNullable<typeof library.functions>;
  readonly #stream = new Uint32Array(new ArrayBuffer(STREAM_BYTES));
  readonly #input: MemorySpan;
  readonly #output: MemorySpan;
  #open = true;

  private constructor(
    functions: NonNullable<typeof library.functions>,
    options: RawInflaterOptions,
  ) {
    this.#functions = functions;
    this.#input = new MemorySpan(options.input);
    this.#output = new MemorySpan(options.output);
  }

  /** Undefined where the host has no zlib, or no memory for it. */
  static make(options: RawInflaterOptions): RawInflater | undefined {
    const { functions } = library;
    if (functions === undefined) return undefined;
    const inflater = new RawInflater(functions, options);
    // Negative: there is neither a header nor a checksum.
    const { windowBits } = options;
    const result = functions.inflateInit2_(inflater.#stream, -windowBits, VERSION, STREAM_BYTES);
    return result === Z_OK ? inflater : undefined;
  }

  /**
   * Expands what is in the first `inputBytes` of the input; what follows the data is left alone.
   *
   * @returns how many bytes of the output it is, -1 where it is not one whole stream that fits.
   */
  expand(inputBytes: number): number {
    if (!this.#open) throw new Error("the inflater is used after its end");
    const functions = this.#functions;
    const stream = this.#stream;
    const most = this.#output.bytes.byteLength;
    if (!(inputBytes >= 0 && inputBytes <= this.#input.bytes.byteLength)) {
      throw new RangeError(
        `expected at most ${this.#input.bytes.byteLength} bytes, got ${inputBytes}`,
      );
    }
    if (functions.inflateReset(stream) !== Z_OK) return -1;
    putAddress(stream, NEXT_IN, this.#input.address);
    stream[AVAIL_IN] = inputBytes;
    putAddress(stream, NEXT_OUT, this.#output.address);
    stream[AVAIL_OUT] = most;
    if (functions.inflate(stream, Z_FINISH) !== Z_STREAM_END) return -1;
    return most - (stream[AVAIL_OUT] ?? 0);
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    this.#functions.inflateEnd(this.#stream);
  }
}

function putAddress(stream: Uint32Array, at: number, address: number): void {
  // Of a larger number, the lower 32 bits are stored.
  stream[at] = address;
  stream[at + 1] = address / 2 ** 32;
}
