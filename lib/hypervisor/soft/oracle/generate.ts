/**
 * Random encodings of rows of the opcode table, and random states to run them from.
 *
 * @module
 */

import { type Insn, sizeOf } from "../cpu/opcode.ts";
import { Case, WINDOW } from "./native.ts";
import type { Random } from "./random.ts";

/** An instruction's bytes and what the state must provide for it. */
export interface Encoding {
  readonly row: Insn;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Operand size, where the row has several. */
  readonly size: number;
  /** The memory operand; undefined where there is none. */
  readonly memory: MemoryOperand | undefined;
}

/** A memory operand: base + (index << scale) + disp. */
export interface MemoryOperand {
  readonly base: number;
  /** -1 where there is none. */
  readonly index: number;
  readonly scale: number;
  readonly disp: number;
  readonly bytes: number;
  /** Register with a bit offset, or -1. */
  readonly bits: number;
}

const BASES = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/** True where a register operand is a signed bit offset from the memory operand. */
function addressesBits(row: Insn): boolean {
  return ["bt", "bts", "btr", "btc"].includes(row.mnemonic) && row.operands[1]?.kind === "G";
}

const MEMORY_KINDS = ["E", "M", "W", "Q"];

/** Forms in which a row can be encoded: register or memory operand, operand size. */
export function formsOf(row: Insn): { mem: boolean; size: number }[] {
  if (row.words.has("i64")) return [];
  const mems = !row.modrm || row.form === "reg"
    ? [false]
    : row.form === "mem"
    ? [true]
    : row.operands.some((o) => MEMORY_KINDS.includes(o.kind))
    ? [false, true]
    : [false];
  const sizes = !row.sized
    ? [0]
    : row.words.has("f64")
    ? [8]
    : row.words.has("d64")
    ? [2, 8]
    : row.prefix === "66" || row.prefix === "np"
    ? [4, 8]
    : [2, 4, 8];
  return mems.flatMap((mem) => sizes.map((size) => ({ mem, size })));
}

/** Encodes `row` with random registers, addressing and immediates. */
export function encode(row: Insn, form: { mem: boolean; size: number }, random: Random): Encoding {
  const { mem, size } = form;
  const bytes: number[] = [];
  if (size === 2 && row.prefix !== "66") bytes.push(0x66);
  if (row.prefix === "66") bytes.push(0x66);
  if (row.prefix === "f3") bytes.push(0xf3);
  if (row.prefix === "f2") bytes.push(0xf2);
  if (row.words.has("az")) {
    const rep = random.below(3);
    if (rep > 0) bytes.push(rep === 1 ? 0xf3 : 0xf2);
  }
  let rex = 0x40 | random.below(8);
  const wide = row.rexW === undefined
    ? (size === 8 && !row.words.has("f64") && !row.words.has("d64")) ||
      (!row.sized && row.modrm && row.map > 0 && random.oneIn(8))
    : row.rexW === 1;
  if (wide) rex |= 8;
  if (!wide && random.oneIn(2)) rex = 0x40;
  const reg = random.below(16);
  let rm = random.below(16);
  const plus = random.below(16);
  let modrm = 0;
  let memory: MemoryOperand | undefined;
  const tail: number[] = [];
  const disp32 = (value: number) => {
    for (let i = 0; i < 4; i++) tail.push((value >> (8 * i)) & 0xff);
  };
  const opcode = row.opcode + (row.plusReg ? plus & 7 : 0);
  if (row.plusReg) rex = (rex & ~1) | (plus >> 3);
  if (row.modrm) {
    rex &= ~4;
    const regField = row.digit ?? reg & 7;
    if (row.digit === undefined) rex |= (reg >> 3) << 2;
    modrm = regField << 3;
    rex &= ~1;
    if (mem) {
      // A bit offset in a register reaches far; it must not be the address.
      const bases = BASES.filter((n) => !addressesBits(row) || n !== reg);
      const base = random.pick(bases);
      let index = -1;
      let scale = 0;
      if (random.oneIn(3)) {
        index = random.pick(bases.filter((n) => n !== base));
        scale = random.below(4);
      }
      rex &= ~2;
      const withSib = index >= 0 || (base & 7) === 4;
      if (withSib) {
        rex |= index >= 8 ? 2 : 0;
        tail.push((scale << 6) | ((index < 0 ? 4 : index & 7) << 3) | (base & 7));
      }
      rex |= base >> 3;
      const mod = (base & 7) === 5 ? 1 + random.below(2) : random.below(3);
      let disp = 0;
      if (mod === 1) {
        disp = random.below(256) - 128;
        tail.push(disp & 0xff);
      } else if (mod === 2) {
        disp = random.u32() | 0;
        disp32(disp);
      }
      modrm |= (mod << 6) | (withSib ? 4 : base & 7);
      const operand = row.operands.find((o) => MEMORY_KINDS.includes(o.kind));
      const width = operand === undefined ? 1 : Math.max(1, sizeOf(operand.size, size));
      const bits = addressesBits(row) ? reg : -1;
      memory = { base, index, scale, disp, bytes: width, bits };
    } else {
      if (row.rm !== undefined) rm = row.rm;
      rex |= rm >> 3;
      modrm |= 0xc0 | (rm & 7);
    }
  }
  if (row.words.has("di")) memory = { base: 7, index: -1, scale: 0, disp: 0, bytes: 16, bits: -1 };
  const needsRex = rex !== 0x40 || random.oneIn(4);
  if (needsRex) bytes.push(rex);
  if (row.map > 0) bytes.push(0x0f);
  if (row.map === 2) bytes.push(0x38);
  if (row.map === 3) bytes.push(0x3a);
  bytes.push(opcode);
  if (row.modrm) bytes.push(modrm, ...tail);
  for (const operand of row.operands) {
    if (operand.kind !== "I" && operand.kind !== "Is") continue;
    const width = operand.size === "z"
      ? (size === 2 ? 2 : 4)
      : operand.kind === "I" && operand.size === "v"
      ? size
      : operand.kind === "Is"
      ? 1
      : sizeOf(operand.size, size);
    const small = random.oneIn(3);
    for (let i = 0; i < width; i++) bytes.push(small && i > 0 ? 0 : random.below(256));
    if (small && random.oneIn(2)) bytes[bytes.length - width] = random.below(70);
  }
  return { row, bytes: Uint8Array.from(bytes), size, memory };
}

// --- states ------------------------------------------------------------------------------------

const interesting64 = [
  0n,
  1n,
  2n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x7fff_ffff_ffff_ffffn,
  0x8000_0000_0000_0000n,
  0xffff_ffff_ffff_ffffn,
  0x8000_8000_8000_8000n,
  0x7f80_ff01_0080_ff7fn,
];

const floats32 = [
  0x0000_0000,
  0x8000_0000,
  0x0000_0001,
  0x8000_0001,
  0x007f_ffff,
  0x0040_0000,
  0x0080_0000,
  0x8080_0000,
  0x0080_0001,
  0x3f80_0000,
  0xbf80_0000,
  0x4000_0000,
  0x3f00_0000,
  0x3fc0_0000,
  0x4b00_0000,
  0x4aff_ffff,
  0x4eff_ffff,
  0x4f00_0000,
  0xcf00_0000,
  0xcf00_0001,
  0x5eff_ffff,
  0x5f00_0000,
  0xdf00_0000,
  0x7f7f_ffff,
  0xff7f_ffff,
  0x7f00_0000,
  0x7f80_0000,
  0xff80_0000,
  0x7f80_0001,
  0xffa0_0000,
  0x7fc0_0000,
  0xffc0_0000,
  0x7fc1_2345,
  0xffff_ffff,
  0x0100_0000,
  0x1f80_0000,
  0x2000_0000,
  0x5f80_0000,
];

const floats64 = [
  0x0000_0000_0000_0000n,
  0x8000_0000_0000_0000n,
  0x0000_0000_0000_0001n,
  0x8000_0000_0000_0001n,
  0x000f_ffff_ffff_ffffn,
  0x0008_0000_0000_0000n,
  0x0010_0000_0000_0000n,
  0x8010_0000_0000_0000n,
  0x3ff0_0000_0000_0000n,
  0xbff0_0000_0000_0000n,
  0x4000_0000_0000_0000n,
  0x3fe0_0000_0000_0000n,
  0x3ff8_0000_0000_0000n,
  0x4004_0000_0000_0000n,
  0x4340_0000_0000_0000n,
  0x433f_ffff_ffff_ffffn,
  0x41df_ffff_ffc0_0000n,
  0x41df_ffff_ffe0_0000n,
  0x41e0_0000_0000_0000n,
  0xc1e0_0000_0000_0000n,
  0xc1e0_0000_0010_0000n,
  0xc1e0_0000_0020_0000n,
  0x43df_ffff_ffff_ffffn,
  0x43e0_0000_0000_0000n,
  0xc3e0_0000_0000_0000n,
  0x7fef_ffff_ffff_ffffn,
  0xffef_ffff_ffff_ffffn,
  0x7fe0_0000_0000_0000n,
  0x7ff0_0000_0000_0000n,
  0xfff0_0000_0000_0000n,
  0x7ff0_0000_0000_0001n,
  0xfff4_0000_0000_0000n,
  0x7ff8_0000_0000_0000n,
  0xfff8_0000_0000_0000n,
  0x7ff8_1234_5678_9abcn,
  0x0020_0000_0000_0000n,
  0x380f_ffff_ffff_ffffn,
  0x36a0_0000_0000_0000n,
  0x47ef_ffff_efff_ffffn,
  0x47ef_ffff_f000_0000n,
  0x3810_0000_0000_0000n,
];

const exponents80 = [
  0x0000,
  0x0001,
  0x3fff,
  0x3ffe,
  0x4000,
  0x3ffd,
  0x401e,
  0x403e,
  0x403f,
  0x7ffe,
  0x7fff,
  0x3bff,
  0x3c00,
  0x3c01,
  0x43fe,
  0x43ff,
  0x3f80,
  0x3f81,
  0x407e,
  0x407f,
  0x3fbf,
];

const significands80 = [
  0x8000_0000_0000_0000n,
  0xc000_0000_0000_0000n,
  0xffff_ffff_ffff_ffffn,
  0xffff_ffff_ffff_fc00n,
  0xffff_ffff_ffff_f800n,
  0xffff_ff00_0000_0000n,
  0x8000_0000_0000_0001n,
  0xa000_0000_0000_0000n,
];

/** What the registers are mostly filled with. */
export type Flavor = "integer" | "single" | "double" | "mixed";

/** What suits the mnemonic. */
export function flavorOf(row: Insn): Flavor {
  if (/(ps|ss|ps2..|ss2..)$/.test(row.mnemonic)) return "single";
  if (/(pd|sd|pd2..|sd2..)$/.test(row.mnemonic)) return "double";
  return row.operands.some((o) => "VWU".includes(o.kind)) ? "integer" : "mixed";
}

function random64(random: Random): bigint {
  switch (random.below(5)) {
    case 0:
      return random.pick(interesting64);
    case 1:
      return BigInt(random.below(256));
    case 2:
      return BigInt.asUintN(64, BigInt(random.u32() | 0));
    default:
      return random.u64();
  }
}

function single(random: Random): number {
  switch (random.below(6)) {
    case 0:
    case 1:
      return random.pick(floats32);
    case 2:
      return random.u32();
    case 3: // near one, few bits
      return (random.below(2) << 31) | ((112 + random.below(32)) << 23) | (random.below(8) << 20);
    case 4: // extremes of the exponent
      return (random.below(2) << 31) | (random.pick([0, 1, 2, 253, 254]) << 23) |
        random.below(1 << 23);
    default:
      return (random.below(2) << 31) | ((110 + random.below(36)) << 23) | random.below(1 << 23);
  }
}

function double(random: Random): bigint {
  const sign = BigInt(random.below(2)) << 63n;
  const fraction = random.u64() & 0xf_ffff_ffff_ffffn;
  switch (random.below(7)) {
    case 0:
    case 1:
      return random.pick(floats64);
    case 2:
      return random.u64();
    case 3:
      return sign | (BigInt(1000 + random.below(64)) << 52n) | (BigInt(random.below(16)) << 48n);
    case 4:
      return sign | (BigInt(random.pick([0, 1, 2, 2045, 2046])) << 52n) | fraction;
    case 5: // about the range of singles
      return sign | (BigInt(random.pick([870, 874, 896, 897, 898, 1149, 1150, 1151])) << 52n) |
        fraction;
    default:
      return sign | (BigInt(990 + random.below(90)) << 52n) | fraction;
  }
}

/** A random 80-bit value into 16 bytes at `at`. */
function extended(random: Random, view: DataView, at: number): void {
  let significand: bigint;
  let exponent: number;
  switch (random.below(8)) {
    case 0: // anything, unsupported formats too
      significand = random.u64();
      exponent = random.below(0x8000);
      break;
    case 1: // zero, infinity, NaN, denormal
      exponent = random.pick([0, 0, 0x7fff]);
      significand = random.pick([
        0n,
        0x8000_0000_0000_0000n,
        0xc000_0000_0000_0000n,
        0xa000_0000_0000_1234n,
        1n,
        random.u64() >> 1n,
        random.u64(),
      ]);
      break;
    case 2:
      exponent = random.pick(exponents80);
      significand = random.u64() | (1n << 63n);
      break;
    case 3:
      exponent = random.pick(exponents80);
      significand = random.pick(significands80);
      break;
    case 4: // small integers and halves
      exponent = 0x3ffe + random.below(8);
      significand = (1n << 63n) | (BigInt(random.below(128)) << 56n);
      break;
    case 5: // doubles
      exponent = 0x3fff - 60 + random.below(120);
      significand = (random.u64() | (1n << 63n)) & ~0x7ffn;
      break;
    default:
      exponent = 0x3fff - 40 + random.below(80);
      significand = random.u64() | (1n << 63n);
  }
  view.setBigUint64(at, significand, true);
  view.setUint16(at + 8, exponent | (random.below(2) << 15), true);
  view.setUint16(at + 10, 0, true);
  view.setUint32(at + 12, 0, true);
}

/** Random contents of 16 bytes for SIMD. */
function vector(random: Random, flavor: Flavor, to: { view: DataView; at: number }): void {
  const { view, at } = to;
  let kind = flavor === "mixed" ? random.pick(["integer", "single", "double"] as const) : flavor;
  if (random.oneIn(8)) kind = "integer";
  for (let i = 0; i < 2; i++) {
    if (kind === "single") {
      view.setUint32(at + 8 * i, single(random), true);
      view.setUint32(at + 8 * i + 4, single(random), true);
    } else {view.setBigUint64(
        at + 8 * i,
        kind === "double" ? double(random) : random64(random),
        true,
      );}
  }
}

function memoryContents(random: Random, flavor: Flavor, to: { view: DataView; at: number }): void {
  if (flavor === "mixed" && random.oneIn(3)) extended(random, to.view, to.at);
  else vector(random, flavor, to);
}

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
