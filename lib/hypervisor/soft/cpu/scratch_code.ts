/**
 * Single instructions that are executed once, from records that no page has.
 *
 * @module
 */

import { type Decoder, DecodeStatus } from "./decoder.ts";
import type { Interpreter } from "./interpreter.ts";
import type { RecordWriter } from "./record_writer.ts";
import { SCRATCH_RECORDS } from "./state.ts";

/** Makes those records. */
export class ScratchCode {
  readonly #interpreter: Interpreter;
  readonly #decoder: Decoder;
  readonly #records: RecordWriter;

  /** The decoder and the writer may serve others as well: nothing is kept in them from call to call. */
  constructor(parts: {
    readonly interpreter: Interpreter;
    readonly decoder: Decoder;
    readonly records: RecordWriter;
  }) {
    this.#interpreter = parts.interpreter;
    this.#decoder = parts.decoder;
    this.#records = parts.records;
  }

  /**
   * Decodes one instruction from `bytes` into the scratch records, followed by one that goes on (`goTo`)
   * or stops behind it.
   * @param options `offset`: page offset; `end`: valid bytes; `stop`: stop instead of going on.
   * @returns false where more bytes are needed.
   */
  decode(
    bytes: Uint8Array,
    options: { at: number; end: number; offset: number; mode: number; stop: boolean },
  ): boolean {
    const special = this.#interpreter.special;
    const { offset } = options;
    this.#decoder.open(bytes, options);
    const status = this.#decoder.decode(options.at);
    if (status === DecodeStatus.Truncated) return false;
    if (status !== DecodeStatus.Ok) {
      this.#records.special(SCRATCH_RECORDS, {
        handler: status === DecodeStatus.Invalid ? special.invalid : special.tooLong,
        offset,
      });
      return true;
    }
    this.#records.open(options.mode, 0);
    const record = this.#records.write(SCRATCH_RECORDS, offset);
    this.#records.special(record, {
      handler: options.stop ? special.stop : special.goTo,
      offset: offset + this.#decoder.length,
    });
    return true;
  }
}
