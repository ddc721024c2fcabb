/**
 * Decoder of LZ4's legacy frame, which is what `lz4 -l` and thus the Linux kernel's build make
 * (lz4_Frame_format.md, "Legacy frame"; lz4_Block_format.md).
 *
 * @module
 */

import { BootError } from "./errors.ts";
import { Lz4Module } from "./lz4_module.ts";
import {
  HISTORY_BYTES,
  MAX_BLOCK_BYTES,
  PIECE_BYTES,
  SAFETY,
  type UnpackRoom,
} from "./unpack_room.ts";

/** First four bytes of a legacy frame, little-endian. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;

const MIN_MATCH = 4;

/**
 * Decodes the legacy frame in `source` into `target`. Decoding ends quietly when `target` is full, so
 * that a prefix can be had.
 * @returns the number of bytes written.
 * @throws {BootError} when the frame is damaged.
 */
export function decodeLz4Legacy(source: Uint8Array, target: Uint8Array): number {
  const decoder = new BlockDecoder(source, target);
  for (const { from, end } of blocksOf(source)) {
    if (decoder.written >= target.length) break;
    decoder.decode(from, end);
  }
  return decoder.written;
}

/** A piece of what is unpacked. */
export interface UnpackedPiece {
  /** Where it begins in the unpacked file. */
  readonly offset: number;
  /** Where it is in the memory. */
  readonly at: number;
  readonly length: number;
}

/**
 * Decodes the legacy frame in `source`, which lies in `room`, by WebAssembly, which is faster: a kernel is
 * 50 MiB, and nothing of the guest runs before it is unpacked. Each piece is in a window of the room until
 * so many others as there are windows were asked for. Decoding ends quietly after `wanted` bytes.
 * @throws {BootError} when the frame is damaged.
 */
export function* lz4Pieces(
  source: Uint8Array,
  { room, wanted }: { readonly room: UnpackRoom; readonly wanted: number },
): Generator<UnpackedPiece> {
  const module = new Lz4Module(room.memory);
  const memory = new Uint8Array(room.memory.buffer);
  const sourceAt = source.byteOffset - room.packed.byteOffset;
  const place = { from: 0, to: 0, damaged: false };
  let offset = 0;
  let index = 0;
  for (const block of blocksOf(source)) {
    const end = sourceAt + block.end;
    const blockEnd = Math.min(wanted, offset + MAX_BLOCK_BYTES);
    place.from = sourceAt + block.from;
    // What of the block is before this piece in its window.
    let history = 0;
    while (place.from < end && offset < wanted) {
      const window = room.window(index++);
      memory.copyWithin(window, place.to - history, place.to);
      const at = place.to = window + history;
      const limits = { limit: at + blockEnd - offset, targetEnd: at + wanted - offset };
      while (place.from < end && place.to < Math.min(limits.targetEnd, at + PIECE_BYTES)) {
        module.step(place, { end, start: window, ...limits });
        if (place.damaged) throw damaged(place.from - sourceAt);
      }
      const length = place.to - at;
      yield { offset, at, length };
      offset += length;
      history = Math.min(history + length, HISTORY_BYTES);
    }
  }
}

/** Where the blocks of a frame are. */
function* blocksOf(source: Uint8Array): Generator<{ readonly from: number; readonly end: number }> {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  if (source.length < 4 || view.getUint32(0, true) !== LZ4_LEGACY_MAGIC) {
    throw new BootError("expected an LZ4 legacy frame, found no magic number");
  }
  let position = 4;
  while (position + 4 <= source.length) {
    const size = view.getUint32(position, true);
    position += 4;
    if (size === LZ4_LEGACY_MAGIC) continue; // a frame may follow another
    if (size > source.length - position) {
      throw new BootError(
        `LZ4 block at byte ${position}: expected ${size} bytes, ` +
          `found only ${source.length - position}`,
      );
    }
    yield { from: position, end: position + size };
    position += size;
  }
}

class BlockDecoder {
  readonly #source: Uint8Array;
  readonly #target: Uint8Array;
  readonly #sourceView: DataView;
  readonly #targetView: DataView;
  /** Bytes of the target that are filled. */
  written = 0;

  constructor(source: Uint8Array, target: Uint8Array) {
    this.#source = source;
    this.#target = target;
    this.#sourceView = new DataView(source.buffer, source.byteOffset, source.byteLength);
    this.#targetView = new DataView(target.buffer, target.byteOffset, target.byteLength);
  }

  /**
   * Decodes the block in bytes `from` to `end` of the source. Copies of 8 bytes may write past their
   * end, never past the target's, and what they wrote too much is overwritten by what follows.
   */
  decode(from: number, end: number): void {
    const source = this.#source;
    const target = this.#target;
    const sourceView = this.#sourceView;
    const targetView = this.#targetView;
    const start = this.written;
    const limit = Math.min(target.length, start + MAX_BLOCK_BYTES);
    const isLast = limit === target.length;
    const safeFrom = end - SAFETY;
    const safeTo = target.length - SAFETY;
    let to = start;

    while (from < end) {
      const token = source[from++]!;

      let literals = token >> 4;
      if (literals === 15) {
        for (let more = 255; more === 255;) {
          if (from >= end) throw damaged(from);
          more = source[from++]!;
          literals += more;
        }
      }
      if (literals > end - from) throw damaged(from);
      if (literals > limit - to) {
        if (!isLast) throw damaged(from);
        literals = limit - to;
      }
      if (literals <= 16 && from < safeFrom && to < safeTo) {
        targetView.setBigUint64(to, sourceView.getBigUint64(from, true), true);
        if (literals > 8) {
          targetView.setBigUint64(to + 8, sourceView.getBigUint64(from + 8, true), true);
        }
        from += literals;
        to += literals;
      } else if (literals > 64) {
        target.set(source.subarray(from, from + literals), to);
        from += literals;
        to += literals;
      } else {
        for (const stop = to + literals; to < stop;) target[to++] = source[from++]!;
      }
      // The last sequence has no match; and a full target ends a prefix.
      if (from >= end || to === target.length) break;

      if (from + 2 > end) throw damaged(from);
      const distance = source[from]! | (source[from + 1]! << 8);
      from += 2;
      if (distance === 0 || distance > to - start) throw damaged(from);
      let length = (token & 15) + MIN_MATCH;
      if (length === 15 + MIN_MATCH) {
        for (let more = 255; more === 255;) {
          if (from >= end) throw damaged(from);
          more = source[from++]!;
          length += more;
        }
      }
      if (length > limit - to) {
        if (!isLast) throw damaged(from);
        length = limit - to;
      }
      const stop = to + length;
      let match = to - distance;
      if (distance >= 8 && stop < safeTo) {
        if (length > 64 && distance >= length) {
          target.copyWithin(to, match, match + length);
        } else {
          for (; to < stop; to += 8, match += 8) {
            targetView.setBigUint64(to, targetView.getBigUint64(match, true), true);
          }
        }
        to = stop;
      } else if (distance === 1 && length > 16) {
        target.fill(target[match]!, to, stop);
        to = stop;
      } else {
        while (to < stop) target[to++] = target[match++]!;
      }
    }
    this.written = to;
  }
}

function damaged(position: number): BootError {
  return new BootError(`LZ4 data at byte ${position}: expected a valid sequence, found garbage`);
}
