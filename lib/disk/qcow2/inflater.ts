/**
 * DEFLATE (RFC 1951), as in compressed clusters.
 *
 * @module
 */

import {
  Z_FINISH,
  Z_STREAM_END,
  zlibInflate,
  zlibInflateInit2,
  zlibInflateReset,
  ZStream,
} from "pako";

// QEMU compresses with a window of 4 KiB.
const WINDOW_BITS = 12;

/**
 * Expands streams without a header, into one buffer for all of them: the runtime's own decompressor takes
 * a new one for each, and several MiB for itself.
 */
export class Inflater {
  readonly #stream = new ZStream();
  readonly #output: Uint8Array<ArrayBuffer>;

  /** @param mostBytes Most that a stream may expand to. */
  constructor(mostBytes: number) {
    this.#output = new Uint8Array(mostBytes);
    zlibInflateInit2(this.#stream, -WINDOW_BITS);
  }

  /**
   * What the stream that `packed` begins with expands to, valid until the next call; what follows the stream
   * is ignored.
   *
   * @throws {Error} when it is damaged, cut off, or expands to too much.
   */
  inflate(packed: Uint8Array): Uint8Array {
    const stream = this.#stream;
    zlibInflateReset(stream);
    stream.input = packed;
    stream.next_in = 0;
    stream.avail_in = packed.byteLength;
    stream.output = this.#output;
    stream.next_out = 0;
    stream.avail_out = this.#output.byteLength;
    const status = zlibInflate(stream, Z_FINISH);
    if (status !== Z_STREAM_END) {
      const full = stream.avail_out === 0;
      throw new Error(stream.msg || (full ? "expands to too much" : "ends early"));
    }
    return this.#output.subarray(0, stream.next_out);
  }
}
