/**
 * Where a packed kernel is read to and unpacked in: memory that WebAssembly can reach.
 *
 * @module
 */

import { alignUp } from "../base/mod.ts";
import { Advice, bufferAddress, madvise, viewMemory } from "../host/mod.ts";
import { createGuardedMemory } from "../memory/mod.ts";

/** What a block of LZ4's legacy frame holds at most, unpacked. */
export const MAX_BLOCK_BYTES: number = 8 * 1024 * 1024;
/** Copies of 8 and 16 bytes reach so far behind their end. */
export const SAFETY = 32;
/** How far back in what is unpacked a sequence may refer to, and a byte more. */
export const HISTORY_BYTES: number = 64 * 1024;
/** About what is unpacked between two windows: few enough to stay in a processor's cache. */
export const PIECE_BYTES: number = 1024 * 1024;
const PAGE_BYTES = 65536;
/** How many pieces there are room for: some are written while the next one is unpacked. */
export const WINDOWS = 4;
// A sequence at the end of a piece may unpack to all the rest of its block.
const WINDOW_BYTES = alignUp(HISTORY_BYTES + PIECE_BYTES + MAX_BLOCK_BYTES + SAFETY, PAGE_BYTES);

/**
 * Room for a packed kernel, and windows for what is unpacked of it: some are written to where they belong
 * while another is filled. All of it is given back when it is disposed: nothing would collect it soon
 * enough.
 */
export class UnpackRoom implements Disposable {
  /** All of it. */
  readonly memory: WebAssembly.Memory;
  /** Where the packed kernel goes, at offset 0 of {@link memory}. */
  readonly packed: Uint8Array<ArrayBuffer>;
  readonly #address: bigint;
  readonly #windows: number;

  /** @throws {GuestMemoryError} when there are no addresses for it. */
  constructor(packedBytes: number) {
    this.#windows = alignUp(packedBytes + SAFETY, PAGE_BYTES);
    const length = this.#windows + WINDOWS * WINDOW_BYTES;
    this.memory = createGuardedMemory(length / PAGE_BYTES);
    this.#address = bufferAddress(this.memory.buffer);
    try {
      // A kernel touches thousands of pages here once, on the way to the guest's first instruction.
      madvise(this.#address, this.memory.buffer.byteLength, Advice.HugePage);
    } catch {
      // The host has no huge pages.
    }
    this.packed = new Uint8Array(viewMemory(this.#address, packedBytes));
  }

  /** Offset in {@link memory} of window `index`; any {@link WINDOWS} that follow each other are apart. */
  window(index: number): number {
    return this.#windows + (index % WINDOWS) * WINDOW_BYTES;
  }

  /** Address of what is at `offset` of {@link memory}. */
  addressOf(offset: number): bigint {
    return this.#address + BigInt(offset);
  }

  [Symbol.dispose](): void {
    // A view that somebody kept must fail.
    this.packed.buffer.transfer(0);
    madvise(this.#address, this.memory.buffer.byteLength, Advice.DontNeed);
  }
}
