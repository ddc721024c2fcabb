/**
 * The decoder of LZ4 blocks as WebAssembly.
 *
 * @module
 */

import { embeddedPart } from "../base/mod.ts";
import { emitLz4 } from "./lz4_emit.ts";

/** A place in a block: what was read and written so far. */
export interface Lz4Place {
  from: number;
  to: number;
  /** True where the sequence at {@link from} is damaged. */
  damaged: boolean;
}

/** Where a block is, and its unpacked bytes are to be: offsets in the memory. */
export interface Lz4Block {
  readonly end: number;
  readonly start: number;
  /** Behind the last byte that the block may unpack to. */
  readonly limit: number;
  /** Behind the target. */
  readonly targetEnd: number;
}

/** Name of the part of the executable that is the module. */
export const LZ4_PART = "lz4";

/** Decodes blocks within a memory. */
export class Lz4Module {
  readonly #run: (...args: number[]) => bigint;

  constructor(memory: WebAssembly.Memory) {
    const module = new WebAssembly.Module(embeddedPart(LZ4_PART) ?? emitLz4());
    const { exports } = new WebAssembly.Instance(module, {
      e: { target: memory, source: memory },
    });
    this.#run = exports.run as unknown as (...args: number[]) => bigint;
  }

  /** Decodes at `place` of `block`, some of it or all; `place` moves on. */
  step(place: Lz4Place, { end, start, limit, targetEnd }: Lz4Block): void {
    const result = this.#run(place.from, end, place.to, start, limit, targetEnd);
    place.from = Number(BigInt.asUintN(31, result >> 32n));
    place.damaged = result < 0n;
    place.to = Number(BigInt.asUintN(32, result));
  }
}
