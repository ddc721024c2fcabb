/**
 * Small kernels for the tests of this folder.
 *
 * @module
 */

import { gzipSync, zstdCompressSync } from "node:zlib";
import { concatBytes } from "../base/mod.ts";

/** A segment of {@link makeElf}. */
export interface TestSegment {
  readonly address: number;
  readonly data: Uint8Array;
  readonly memoryBytes?: number;
}

/** An x86-64 vmlinux of some segments, with a PVH note on demand. */
export function makeElf(options: {
  readonly entry?: number | bigint;
  readonly segments?: readonly TestSegment[];
  readonly pvhEntry?: number;
} = {}): Uint8Array<ArrayBuffer> {
  const segments = options.segments ?? [{ address: 0x100_0000, data: pattern(8192) }];
  const count = segments.length + (options.pvhEntry === undefined ? 0 : 1);
  const dataOffset = 4096;
  let size = dataOffset;
  for (const { data } of segments) size += data.length;
  const noteOffset = size;
  const bytes = new Uint8Array(size + (options.pvhEntry === undefined ? 0 : 64));
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(24, BigInt(options.entry ?? segments[0]!.address), true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, count, true);
  const header = (index: number, fields: readonly [number, number, number, number, number]) => {
    const at = 64 + index * 56;
    const [type, offset, address, fileBytes, memoryBytes] = fields;
    view.setUint32(at, type, true);
    view.setBigUint64(at + 8, BigInt(offset), true);
    view.setBigUint64(at + 24, BigInt(address), true);
    view.setBigUint64(at + 32, BigInt(fileBytes), true);
    view.setBigUint64(at + 40, BigInt(memoryBytes), true);
  };
  let offset = dataOffset;
  for (const [index, { address, data, memoryBytes }] of segments.entries()) {
    header(index, [1, offset, address, data.length, memoryBytes ?? data.length]);
    bytes.set(data, offset);
    offset += data.length;
  }
  if (options.pvhEntry !== undefined) {
    header(segments.length, [4, noteOffset, 0, 64, 64]);
    // A note of another kind first: "GNU\0", 4 bytes.
    view.setUint32(noteOffset, 4, true);
    view.setUint32(noteOffset + 4, 4, true);
    view.setUint32(noteOffset + 8, 3, true);
    bytes.set(new TextEncoder().encode("GNU\0"), noteOffset + 12);
    const at = noteOffset + 20;
    view.setUint32(at, 4, true);
    view.setUint32(at + 4, 8, true);
    view.setUint32(at + 8, 18, true);
    bytes.set(new TextEncoder().encode("Xen\0"), at + 12);
    view.setBigUint64(at + 16, BigInt(options.pvhEntry), true);
  }
  return bytes;
}

/** A bzImage around `payload`, of boot protocol 2.15. */
export function makeBzImage(
  payload: Uint8Array,
  options: { readonly initBytes?: number; readonly xloadflags?: number } = {},
): Uint8Array<ArrayBuffer> {
  const setupSectors = 4;
  const payloadOffset = 0x300;
  const protectedBytes = Math.ceil((payloadOffset + payload.length) / 16) * 16;
  const bytes = new Uint8Array((setupSectors + 1) * 512 + protectedBytes);
  const view = new DataView(bytes.buffer);
  view.setUint8(0x1f1, setupSectors);
  view.setUint32(0x1f4, protectedBytes / 16, true);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint8(0x201, 0x6a);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, 0x020f, true);
  view.setUint8(0x211, 1);
  view.setUint32(0x22c, 0x7fff_ffff, true);
  view.setUint32(0x230, 0x20_0000, true);
  view.setUint16(0x236, options.xloadflags ?? 0x7f, true);
  view.setUint32(0x238, 2047, true);
  view.setUint32(0x248, payloadOffset, true);
  view.setUint32(0x24c, payload.length, true);
  view.setBigUint64(0x258, 0x100_0000n, true);
  view.setUint32(0x260, options.initBytes ?? 0x10_0000, true);
  bytes.set(payload, (setupSectors + 1) * 512 + payloadOffset);
  return bytes;
}

/** Packs a vmlinux as the kernel's build does. */
export function packPayload(
  vmlinux: Uint8Array,
  format: "gzip" | "lz4" | "zstd",
): Uint8Array<ArrayBuffer> {
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, vmlinux.length, true);
  switch (format) {
    case "gzip":
      return new Uint8Array(gzipSync(vmlinux));
    case "zstd":
      return concatBytes([zstdCompressSync(vmlinux), size]);
    case "lz4":
      return concatBytes([packLz4Legacy(vmlinux), size]);
  }
}

/** A simple LZ4 compressor: finds matches through a hash of four bytes. */
export function packLz4Legacy(
  bytes: Uint8Array,
  options: { readonly blockBytes?: number } = {},
): Uint8Array<ArrayBuffer> {
  const blockBytes = options.blockBytes ?? 8 * 1024 * 1024;
  const parts: Uint8Array[] = [Uint8Array.of(0x02, 0x21, 0x4c, 0x18)];
  for (let start = 0; start < bytes.length; start += blockBytes) {
    const block = packLz4Block(bytes.subarray(start, start + blockBytes));
    const size = new Uint8Array(4);
    new DataView(size.buffer).setUint32(0, block.length, true);
    parts.push(size, block);
  }
  return concatBytes(parts);
}

function packLz4Block(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const out: number[] = [];
  const seen = new Map<number, number>();
  const putLength = (value: number) => {
    let rest = value - 15;
    for (; rest >= 255; rest -= 255) out.push(255);
    out.push(rest);
  };
  const put = (literals: Uint8Array, match?: { distance: number; length: number }) => {
    const literalBits = Math.min(15, literals.length);
    const matchBits = match ? Math.min(15, match.length - 4) : 0;
    out.push(literalBits << 4 | matchBits);
    if (literalBits === 15) putLength(literals.length);
    for (const byte of literals) out.push(byte);
    if (!match) return;
    out.push(match.distance & 0xff, match.distance >> 8);
    if (matchBits === 15) putLength(match.length - 4);
  };
  let anchor = 0;
  let at = 0;
  // The format wants the last five bytes as literals.
  while (at + 12 < bytes.length) {
    const key = bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16 | bytes[at + 3]! << 24;
    const before = seen.get(key);
    seen.set(key, at);
    if (before === undefined || at - before > 0xffff) {
      at++;
      continue;
    }
    let length = 4;
    while (at + length < bytes.length - 5 && bytes[before + length] === bytes[at + length]) {
      length++;
    }
    put(bytes.subarray(anchor, at), { distance: at - before, length });
    at += length;
    anchor = at;
  }
  put(bytes.subarray(anchor));
  return Uint8Array.from(out);
}

/** `length` bytes that repeat only now and then. */
export function pattern(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let state = seed;
  for (let index = 0; index < length; index++) {
    if (index % 97 < 60) state = (state * 1103515245 + 12345) & 0x7fffffff;
    bytes[index] = state >> 16;
  }
  return bytes;
}
