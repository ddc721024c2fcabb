/**
 * Random states from which an encoding can run.
 *
 * @module
 */

import type { Encoding } from "./encodings.ts";
import { Case, WINDOW } from "./native.ts";
import type { Random } from "./random.ts";
import { extended, type Flavor, random64, vector } from "./values.ts";

/** Where a test may put memory. */
export interface Pages {
  /** First of two usable pages. */
  readonly address: bigint;
}

const ALL_PAGES = 8192;

/** Where the operand of `bytes` bytes begins, relative to the pages; `within`: far from their ends. */
function place(random: Random, bytes: number, within: boolean): number {
  if (within) return 512 + random.below(6000);
  const middle = 512 + 16 * random.below(200);
  switch (random.below(16)) {
    case 0:
    case 1: // misaligned
      return middle + random.below(16);
    case 2: // across the border of the pages
      return 4096 - random.below(bytes + 1);
    case 3: // up to the end
      return ALL_PAGES - bytes;
    case 4: // aligned at the end
      return ALL_PAGES - Math.max(16, Math.ceil(bytes / 16) * 16);
    case 5: // into the page that is not there
      return ALL_PAGES - random.below(bytes + 1);
    case 6: // before the first page
      return random.oneIn(2) ? -random.below(bytes + 8) : random.oneIn(2) ? -16 : ALL_PAGES;
    default:
      return middle;
  }
}

/** Fills the case at `at` of `view` with a random state in which `encoding` can run. */
export function fillState(
  encoding: Encoding,
  random: Random,
  to: { view: DataView; at: number; pages: Pages; flavor: Flavor },
): void {
  const { view, at, pages } = to;
  const { row, memory } = encoding;
  const flavor = random.oneIn(10) ? "mixed" : to.flavor;
  for (let n = 0; n < 16; n++) view.setBigUint64(at + 8 * n, random64(random), true);
  let offset = 0;
  let windowAt = 512 + 8 * random.below(100);
  if (memory !== undefined) {
    offset = place(random, memory.bytes, memory.bits >= 0);
    windowAt = Math.max(
      0,
      Math.min(ALL_PAGES - WINDOW, (offset - (memory.bits < 0 ? 16 : 64)) & ~7),
    );
    let target = pages.address + BigInt(offset);
    if (memory.bits < 0 && random.oneIn(64)) target = 0x8000_0000_0000_0000n | random.u64() >> 4n; // not canonical
    let rest = target - BigInt(memory.disp);
    if (memory.index >= 0) {
      rest -= view.getBigUint64(at + 8 * memory.index, true) << BigInt(memory.scale);
    }
    view.setBigUint64(at + 8 * memory.base, BigInt.asUintN(64, rest), true);
    if (memory.bits >= 0) {
      const offset = BigInt.asUintN(64, BigInt(random.below(1024) - 512));
      view.setBigUint64(at + 8 * memory.bits, offset, true);
    }
  }
  const window = pages.address + BigInt(windowAt);
  view.setBigUint64(at + Case.window, window, true);
  // The stack lies in the window, for instructions that use it.
  const usesRsp = memory !== undefined && [memory.base, memory.index, memory.bits].includes(4);
  if (!usesRsp) view.setBigUint64(at + 32, window + BigInt(64 + 8 * random.below(48)), true);
  if (row.words.has("az")) {
    view.setBigUint64(at + 48, window + BigInt(random.below(200)), true);
    view.setBigUint64(at + 56, window + BigInt(200 + random.below(200)), true);
    view.setBigUint64(at + 8, BigInt(random.below(12)), true);
  }
  const flags = (random.u32() & 0x8d5) | 0x202 |
    (row.words.has("az") ? (random.u32() & 0x400) : 0);
  view.setBigUint64(at + Case.flags, BigInt(flags), true);

  // MXCSR: half the time as after reset, often with all sticky flags.
  let mxcsr = 0x1f80;
  if (random.oneIn(2)) {
    mxcsr = (random.u32() & 0xe040) | 0x1f80;
    if (random.oneIn(2)) mxcsr &= ~(random.u32() & 0x8040);
    if (random.oneIn(8)) mxcsr &= ~(random.u32() & 0x1f80);
  }
  if (random.oneIn(2)) mxcsr |= random.pick([0x20, 0x3f, random.below(64)]);
  const fx = at + Case.fx;
  for (let i = 0; i < 416; i += 4) view.setUint32(fx + i, 0, true);
  view.setUint16(fx + 6, random.below(0x800), true);
  view.setBigUint64(fx + 8, BigInt(random.u32()), true);
  view.setBigUint64(fx + 16, BigInt(random.u32()), true);
  view.setUint32(fx + 24, mxcsr, true);
  let cw = 0x37f;
  if (random.oneIn(2)) {
    cw = 0x7f | (random.pick([0, 2, 3, 3]) << 8) | (random.below(4) << 10);
    if (random.oneIn(6)) cw &= ~(random.u32() & 0x3f);
  }
  let sw = (random.below(8) << 11) | (random.u32() & 0x4700);
  if (random.oneIn(2)) sw |= random.u32() & 0x7f & (random.oneIn(8) ? 0x7f : cw | 0x40);
  if (sw & ~cw & 0x3f) sw |= 0x8080;
  view.setUint16(fx, cw, true);
  view.setUint16(fx + 2, sw, true);
  view.setUint8(fx + 4, random.oneIn(4) ? random.below(256) : 0xff);
  for (let i = 0; i < 8; i++) extended(random, view, fx + 32 + 16 * i);
  for (let i = 0; i < 16; i++) vector(random, flavor, { view, at: fx + 160 + 16 * i });
  // Memory of its own around the operand, random words elsewhere.
  const memoryAt = at + Case.memory;
  for (let i = 0; i < WINDOW; i += 64) view.setUint32(memoryAt + i, random.u32(), true);
  if (memory !== undefined) {
    const relative = offset - windowAt;
    for (let i = 0; i < Math.max(16, memory.bytes); i += 16) {
      if (relative + i >= 0 && relative + i + 16 <= WINDOW) {
        memoryContents(random, flavor, { view, at: memoryAt + relative + i });
      }
    }
  }
}

function memoryContents(random: Random, flavor: Flavor, to: { view: DataView; at: number }): void {
  if (flavor === "mixed" && random.oneIn(3)) extended(random, to.view, to.at);
  else vector(random, flavor, to);
}
