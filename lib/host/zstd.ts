/**
 * The host's Zstandard library, which every Debian has: its package manager is made with it.
 *
 * @module
 */

import { type LoadableLibrary, SharedLibrary } from "./shared_library.ts";

// Safe: a context is passed that ZSTD_createDCtx gave and ZSTD_freeDCtx has not taken yet, and two buffers with
// lengths that are not more than theirs, which the call does not keep. The result, of 64 bits, is at most the
// output's length or a small negative number, so its lower half says all.
const library = new SharedLibrary("libzstd.so.1", {
  ZSTD_createDCtx: { parameters: [], result: "pointer" },
  ZSTD_decompressDCtx: {
    parameters: ["pointer", "buffer", "usize", "buffer", "usize"],
    result: "i32",
  },
  ZSTD_freeDCtx: { parameters: ["pointer"], result: "i32" },
});

/** Where {@link ZstdDecoder} has its functions from. */
export const ZSTD: LoadableLibrary = library;

/** Settings of {@link ZstdDecoder.make}. */
export interface ZstdDecoderOptions {
  /** Where compressed data is put. */
  readonly input: Uint8Array<ArrayBuffer>;
  /** Where it is expanded to, less than 2 GiB. */
  readonly output: Uint8Array<ArrayBuffer>;
}

/** Expands Zstandard frames (RFC 8878) from one buffer to another; no memory of their window's size is taken. */
export class ZstdDecoder implements Disposable {
  readonly #functions: NonNullable<typeof library.functions>;
  readonly #input: Uint8Array<ArrayBuffer>;
  readonly #output: Uint8Array<ArrayBuffer>;
  readonly #outputBytes: bigint;
  #context: Deno.PointerObject | null;

  private constructor(
    functions: NonNullable<typeof library.functions>,
    context: Deno.PointerObject,
    { input, output }: ZstdDecoderOptions,
  ) {
    this.#functions = functions;
    this.#context = context;
    this.#input = input;
    this.#output = output;
    this.#outputBytes = BigInt(output.byteLength);
  }

  /** Undefined where the host has no such library, or no memory for it. */
  static make(options: ZstdDecoderOptions): ZstdDecoder | undefined {
    const { functions } = library;
    const context = functions?.ZSTD_createDCtx() ?? null;
    if (functions === undefined || context === null) return undefined;
    return new ZstdDecoder(functions, context, options);
  }

  /**
   * Expands the frame that is the first `inputBytes` of the input.
   *
   * @returns how many bytes of the output it is, less than 0 where it is none that fits.
   */
  expand(inputBytes: number): number {
    if (this.#context === null) throw new Error("the decoder is used after its end");
    if (!(inputBytes >= 0 && inputBytes <= this.#input.byteLength)) {
      throw new RangeError(`expected at most ${this.#input.byteLength} bytes, got ${inputBytes}`);
    }
    return this.#functions.ZSTD_decompressDCtx(
      this.#context,
      this.#output,
      this.#outputBytes,
      this.#input,
      BigInt(inputBytes),
    );
  }

  [Symbol.dispose](): void {
    if (this.#context === null) return;
    this.#functions.ZSTD_freeDCtx(this.#context);
    this.#context = null;
  }
}
