/**
 * What a bzImage carries: a packed vmlinux. Unpacking it here instead of in the guest saves a guest
 * hundreds of millions of instructions.
 *
 * @module
 */

import { describeError } from "../base/mod.ts";
import { BootError } from "./errors.ts";
import { decodeLz4Legacy, lz4Pieces, type UnpackedPiece } from "./lz4.ts";
import type { UnpackRoom } from "./unpack_room.ts";

/** How a payload is packed; `unknown` also covers packers that are left to the guest. */
export type PayloadFormat = "gzip" | "lz4" | "zstd" | "xz" | "lzma" | "bzip2" | "lzo" | "unknown";

/** Not imported: every start of the program would pay 20 ms for it, and few unpack anything. */
function zlib(): typeof import("node:zlib") {
  return globalThis.process.getBuiltinModule("node:zlib");
}

const MAGICS: readonly (readonly [PayloadFormat, readonly number[]])[] = [
  ["gzip", [0x1f, 0x8b]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["lzma", [0x5d, 0x00, 0x00]],
  ["bzip2", [0x42, 0x5a, 0x68]],
  ["lzo", [0x89, 0x4c, 0x5a, 0x4f]],
];

/** Longest vmlinux that is believed. */
const MAX_UNPACKED_BYTES = 1024 * 1024 * 1024;
/** The kernel's build appends the unpacked size to every payload but gzip's, which ends so anyway. */
const SIZE_BYTES = 4;

/** Tells by its first bytes how `payload` is packed. */
export function detectPayload(payload: Uint8Array): PayloadFormat {
  for (const [format, magic] of MAGICS) {
    if (payload.length > magic.length && magic.every((byte, i) => payload[i] === byte)) {
      return format;
    }
  }
  return "unknown";
}

/** Whether {@link unpackPayload} understands `format`. */
export function canUnpack(format: PayloadFormat): format is "gzip" | "lz4" | "zstd" {
  return format === "gzip" || format === "lz4" || format === "zstd";
}

/**
 * The size of the unpacked payload in bytes, as its last four bytes claim.
 * @throws {BootError} when that is absurd.
 */
export function unpackedSize(payload: Uint8Array, name: string): number {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const size = payload.length < SIZE_BYTES ? 0 : view.getUint32(payload.length - SIZE_BYTES, true);
  if (size === 0 || size > MAX_UNPACKED_BYTES) {
    throw new BootError(
      `${name}: expected a payload of 1 to ${MAX_UNPACKED_BYTES} bytes, found ${size}`,
    );
  }
  return size;
}

/**
 * Unpacks an LZ4 payload into `target`, or as much of it as fits.
 * @returns the number of bytes written.
 * @throws {BootError} when the payload is damaged.
 */
export function unpackLz4(
  payload: Uint8Array,
  target: Uint8Array,
  { name }: { readonly name: string },
): number {
  try {
    return decodeLz4Legacy(withoutSize(payload), target);
  } catch (error) {
    throw damaged(error, name);
  }
}

/**
 * Unpacks a whole LZ4 payload, which lies in `room`, piece by piece; see {@link lz4Pieces}.
 * @throws {BootError} when the payload is damaged or not of the size that it claims.
 */
export function* lz4PayloadPieces(
  payload: Uint8Array,
  { name, room }: { readonly name: string; readonly room: UnpackRoom },
): Generator<UnpackedPiece> {
  const size = unpackedSize(payload, name);
  let found = 0;
  try {
    for (const piece of lz4Pieces(withoutSize(payload), { room, wanted: size })) {
      found += piece.length;
      yield piece;
    }
  } catch (error) {
    throw damaged(error, name);
  }
  checkSize(name, { size, found });
}

function withoutSize(payload: Uint8Array): Uint8Array {
  return payload.subarray(0, payload.length - SIZE_BYTES);
}

function checkSize(name: string, { size, found }: { size: number; found: number }): void {
  if (found === size) return;
  throw new BootError(`${name}: expected ${size} bytes in its payload, found ${found}`);
}

/**
 * Unpacks a whole payload into memory of its own.
 * @throws {BootError} when the payload is damaged or not of the size that it claims.
 */
export function unpackPayload(
  payload: Uint8Array,
  { format, name }: { readonly format: "gzip" | "lz4" | "zstd"; readonly name: string },
): Uint8Array {
  const size = unpackedSize(payload, name);
  let unpacked: Uint8Array;
  try {
    switch (format) {
      case "gzip":
        unpacked = zlib().gunzipSync(payload, { maxOutputLength: size });
        break;
      case "zstd":
        unpacked = zlib().zstdDecompressSync(withoutSize(payload), {
          maxOutputLength: size,
        });
        break;
      case "lz4": {
        const target = new Uint8Array(size);
        unpacked = target.subarray(0, unpackLz4(payload, target, { name }));
        break;
      }
    }
  } catch (error) {
    throw damaged(error, name);
  }
  checkSize(name, { size, found: unpacked.length });
  return unpacked;
}

function damaged(cause: unknown, name: string): BootError {
  return new BootError(`${name}: damaged payload: ${describeError(cause)}`, { cause });
}
