/**
 * Random numbers as instructions find them interesting: mostly borders, special values and their
 * neighbours.
 *
 * @module
 */

import type { Insn } from "../cpu/opcode.ts";
import type { Random } from "./random.ts";

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

/** Random contents of a general register. */
export function random64(random: Random): bigint {
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
/** Writes a random number of the x87 FPU to the 16 bytes at `at`. */
export function extended(random: Random, view: DataView, at: number): void {
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
export function vector(random: Random, flavor: Flavor, to: { view: DataView; at: number }): void {
  const { view, at } = to;
  let kind = flavor === "mixed" ? random.pick(["integer", "single", "double"] as const) : flavor;
  if (random.oneIn(8)) kind = "integer";
  for (let i = 0; i < 2; i++) {
    if (kind === "single") {
      view.setUint32(at + 8 * i, single(random), true);
      view.setUint32(at + 8 * i + 4, single(random), true);
    } else {
      view.setBigUint64(at + 8 * i, kind === "double" ? double(random) : random64(random), true);
    }
  }
}
