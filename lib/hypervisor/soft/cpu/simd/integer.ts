/**
 * Packed integer instructions on XMM and MMX registers (Intel SDM vol. 2).
 *
 * @module
 */

import {
  add,
  and,
  eqz,
  type Expr,
  extU,
  type FuncBuilder,
  i32,
  i64,
  load,
  type Local,
  ltU,
  OpFd,
  or,
  select,
  shl,
  shrU,
  simd,
  v,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, Flag, S } from "../state.ts";
import {
  const16,
  const32,
  const64,
  const8,
  getX,
  imm8,
  iota,
  join64,
  lane32,
  lane64,
  mmx,
  setM,
  setX,
  setZeroing,
  shuffleLanes,
  splat64,
  sse,
  zeroV,
} from "./access.ts";
import { dwordPlaces } from "./moves.ts";

/** Result of a packed operation on `a` (the destination) and `b`. */
type Packed = (a: Local, b: Local, f: FuncBuilder) => Expr;

/** The semantics of `op` on XMM registers. */
function onXmm(op: Packed): (c: Cx) => void {
  return (c) => {
    const b = getX(c, 1);
    const a = c.f.let(load.v128(CPU, c.slot(0)));
    setX(c, 0, op(a, b, c.f));
  };
}

/** An operation whose low half depends only on the low halves. */
function onMmx(op: Packed): (c: Cx) => void {
  return (c) => {
    const b = c.f.let(splat64(c.get(1)));
    const a = c.f.let(splat64(c.get(0)));
    setM(c, 0, c.f.let(lane64(op(a, b, c.f), 0)));
  };
}

/** An operation that puts what comes of `a` below what comes of `b`. */
function onMmxJoined(op: Packed): (c: Cx) => void {
  return (c) => {
    const b = c.f.let(c.get(1));
    const joined = c.f.let(join64(c.get(0), b));
    setM(c, 0, c.f.let(lane64(op(joined, joined, c.f), 0)));
  };
}

const simple = (code: number): Packed => (a, b) => v(code, a, b);
const swapped = (code: number): Packed => (a, b) => v(code, b, a);

/** High or rounded halves of word products. */
function highWords(low: number, high: number): Packed {
  return (a, b) => shuffleLanes(2, v(low, a, b), v(high, a, b), [1, 3, 5, 7, 9, 11, 13, 15]);
}

const roundedHigh: Packed = (a, b, f) => {
  const least = f.let(const16(Array.from({ length: 8 }, () => 0x8000)));
  const both = v(OpFd.v128_and, v(OpFd.i16x8_eq, a, least), v(OpFd.i16x8_eq, b, least));
  return v(OpFd.v128_xor, v(OpFd.i16x8_q15mulr_sat_s, a, b), both);
};

const sumOfDifferences: Packed = (a, b, f) => {
  const difference = v(
    OpFd.v128_or,
    v(OpFd.i8x16_sub_sat_u, a, b),
    v(OpFd.i8x16_sub_sat_u, b, a),
  );
  const sums = f.let(
    v(
      OpFd.i32x4_extadd_pairwise_i16x8_u,
      v(OpFd.i16x8_extadd_pairwise_i8x16_u, difference),
    ),
  );
  const even = v(OpFd.v128_and, sums, const64([0xffff_ffffn, 0xffff_ffffn]));
  return v(OpFd.i64x2_add, even, v(OpFd.i64x2_shr_u, sums, i32(32)));
};

/** Products of the even dwords. */
function evenProducts(code: number): Packed {
  const even = (x: Expr) => shuffleLanes(4, x, x, [0, 2, 0, 2]);
  return (a, b) => v(code, even(a), even(b));
}

const multiplyAddBytes: Packed = (a, b, f) => {
  const low = f.let(
    v(
      OpFd.i16x8_mul,
      v(OpFd.i16x8_extend_low_i8x16_u, a),
      v(OpFd.i16x8_extend_low_i8x16_s, b),
    ),
  );
  const high = f.let(
    v(
      OpFd.i16x8_mul,
      v(OpFd.i16x8_extend_high_i8x16_u, a),
      v(OpFd.i16x8_extend_high_i8x16_s, b),
    ),
  );
  return v(OpFd.i16x8_add_sat_s, ...evenAndOdd(2, low, high));
};

/** The even and the odd lanes of `a` and `b`. */
function evenAndOdd(width: number, a: Expr, b: Expr): [Expr, Expr] {
  const even = Array.from({ length: 16 / width }, (_, i) => 2 * i);
  return [shuffleLanes(width, a, b, even), shuffleLanes(width, a, b, even.map((i) => i + 1))];
}

function horizontal(width: number, code: number): Packed {
  return (a, b) => v(code, ...evenAndOdd(width, a, b));
}

function sign(width: 1 | 2 | 4): Packed {
  const [shr, minus, equal] = width === 1
    ? [OpFd.i8x16_shr_s, OpFd.i8x16_sub, OpFd.i8x16_eq]
    : width === 2
    ? [OpFd.i16x8_shr_s, OpFd.i16x8_sub, OpFd.i16x8_eq]
    : [OpFd.i32x4_shr_s, OpFd.i32x4_sub, OpFd.i32x4_eq];
  return (a, b, f) => {
    const negative = f.let(v(shr, b, i32(8 * width - 1)));
    const signed = v(minus, v(OpFd.v128_xor, a, negative), negative);
    return v(OpFd.v128_andnot, signed, v(equal, b, zeroV()));
  };
}

function unpack(width: number, high: boolean): Packed {
  const count = 8 / width;
  const lanes = Array.from({ length: count }, (_, i) => i + (high ? count : 0));
  return (a, b) => shuffleLanes(width, a, b, lanes.flatMap((i) => [i, i + 2 * count]));
}

const swizzle = (value: Expr, places: Expr) => v(OpFd.i8x16_swizzle, value, places);

/** Bytes of `high:low` from `count` (i32, 0 to 255) on, for registers of `width` bytes. */
function align(high: Expr, low: Expr, count: Expr): Expr {
  const shift = v(OpFd.i8x16_splat, count);
  return v(
    OpFd.v128_or,
    swizzle(low, v(OpFd.i8x16_add_sat_u, const8(iota), shift)),
    swizzle(high, v(OpFd.i8x16_add, const8(iota.map((i) => i + 240)), shift)),
  );
}

// --- shifts ------------------------------------------------------------------------------------

/** Shift of lanes of `bits` bits by `count` (i64): beyond the width, zeros or signs. */
function shiftLanes(
  f: FuncBuilder,
  at: { code: number; bits: number; arithmetic: boolean },
  operands: { value: Expr; count: Expr },
): Expr {
  const count = f.let(operands.count);
  if (at.arithmetic) {
    const limited = select(ltU(count, i64(at.bits)), count, i64(at.bits - 1));
    return v(at.code, operands.value, wrap(limited));
  }
  return select(
    ltU(count, i64(at.bits)),
    v(at.code, operands.value, wrap(count)),
    zeroV(),
  );
}

interface Shift {
  readonly mnemonic: string;
  readonly opcode: string;
  readonly immediate: string;
  readonly code: number;
  readonly bits: number;
  readonly arithmetic: boolean;
}

function shift(
  mnemonic: string,
  opcodes: readonly [string, string],
  op: { code: number; bits: number },
): Shift {
  const arithmetic = mnemonic.startsWith("psra");
  return { mnemonic, opcode: opcodes[0], immediate: opcodes[1], arithmetic, ...op };
}

const shifts: readonly Shift[] = [
  shift("psrlw", ["d1", "71 /2"], { code: OpFd.i16x8_shr_u, bits: 16 }),
  shift("psrld", ["d2", "72 /2"], { code: OpFd.i32x4_shr_u, bits: 32 }),
  shift("psrlq", ["d3", "73 /2"], { code: OpFd.i64x2_shr_u, bits: 64 }),
  shift("psraw", ["e1", "71 /4"], { code: OpFd.i16x8_shr_s, bits: 16 }),
  shift("psrad", ["e2", "72 /4"], { code: OpFd.i32x4_shr_s, bits: 32 }),
  shift("psllw", ["f1", "71 /6"], { code: OpFd.i16x8_shl, bits: 16 }),
  shift("pslld", ["f2", "72 /6"], { code: OpFd.i32x4_shl, bits: 32 }),
  shift("psllq", ["f3", "73 /6"], { code: OpFd.i64x2_shl, bits: 64 }),
];

function shiftRowsOf(s: Shift): Insn[] {
  return [
    sse(s.mnemonic, `66 0f ${s.opcode} /r`, "Vx Wx", (c) => {
      const count = lane64(getX(c, 1), 0);
      setX(c, 0, shiftLanes(c.f, s, { value: load.v128(CPU, c.slot(0)), count }));
    }),
    sse(s.mnemonic, `66 0f ${s.immediate}`, "Ux Ib", (c) => {
      const count = extU(imm8(c, 1));
      setX(c, 0, shiftLanes(c.f, s, { value: load.v128(CPU, c.slot(0)), count }));
    }),
    mmx(s.mnemonic, `np 0f ${s.opcode} /r`, "Pq Qq", (c) => {
      const count = c.f.let(c.get(1));
      const value = splat64(c.get(0));
      setM(c, 0, c.f.let(lane64(shiftLanes(c.f, s, { value, count }), 0)));
    }),
    mmx(s.mnemonic, `np 0f ${s.immediate}`, "Nq Ib", (c) => {
      const value = splat64(c.get(0));
      const count = extU(imm8(c, 1));
      setM(c, 0, c.f.let(lane64(shiftLanes(c.f, s, { value, count }), 0)));
    }),
  ];
}

/** 0 to 16 of an immediate. */
function upTo16(c: Cx, i: number): Expr {
  const count = c.f.let(imm8(c, i));
  return select(ltU(count, i32(16)), count, i32(16));
}

// --- tables ------------------------------------------------------------------------------------

/** Operations that exist for MMX and XMM alike: mnemonic, opcode, operation. */
const common: readonly (readonly [string, string, Packed])[] = [
  ["paddb", "fc", simple(OpFd.i8x16_add)],
  ["paddw", "fd", simple(OpFd.i16x8_add)],
  ["paddd", "fe", simple(OpFd.i32x4_add)],
  ["paddq", "d4", simple(OpFd.i64x2_add)],
  ["paddsb", "ec", simple(OpFd.i8x16_add_sat_s)],
  ["paddsw", "ed", simple(OpFd.i16x8_add_sat_s)],
  ["paddusb", "dc", simple(OpFd.i8x16_add_sat_u)],
  ["paddusw", "dd", simple(OpFd.i16x8_add_sat_u)],
  ["psubb", "f8", simple(OpFd.i8x16_sub)],
  ["psubw", "f9", simple(OpFd.i16x8_sub)],
  ["psubd", "fa", simple(OpFd.i32x4_sub)],
  ["psubq", "fb", simple(OpFd.i64x2_sub)],
  ["psubsb", "e8", simple(OpFd.i8x16_sub_sat_s)],
  ["psubsw", "e9", simple(OpFd.i16x8_sub_sat_s)],
  ["psubusb", "d8", simple(OpFd.i8x16_sub_sat_u)],
  ["psubusw", "d9", simple(OpFd.i16x8_sub_sat_u)],
  ["pmullw", "d5", simple(OpFd.i16x8_mul)],
  ["pmulhw", "e5", highWords(OpFd.i32x4_extmul_low_i16x8_s, OpFd.i32x4_extmul_high_i16x8_s)],
  ["pmulhuw", "e4", highWords(OpFd.i32x4_extmul_low_i16x8_u, OpFd.i32x4_extmul_high_i16x8_u)],
  ["pmulhrsw", "38 0b", roundedHigh],
  ["pmuludq", "f4", evenProducts(OpFd.i64x2_extmul_low_i32x4_u)],
  ["pmaddwd", "f5", simple(OpFd.i32x4_dot_i16x8_s)],
  ["pmaddubsw", "38 04", multiplyAddBytes],
  ["psadbw", "f6", sumOfDifferences],
  ["pavgb", "e0", simple(OpFd.i8x16_avgr_u)],
  ["pavgw", "e3", simple(OpFd.i16x8_avgr_u)],
  ["pminub", "da", simple(OpFd.i8x16_min_u)],
  ["pmaxub", "de", simple(OpFd.i8x16_max_u)],
  ["pminsw", "ea", simple(OpFd.i16x8_min_s)],
  ["pmaxsw", "ee", simple(OpFd.i16x8_max_s)],
  ["pand", "db", simple(OpFd.v128_and)],
  ["pandn", "df", swapped(OpFd.v128_andnot)],
  ["por", "eb", simple(OpFd.v128_or)],
  ["pxor", "ef", simple(OpFd.v128_xor)],
  ["pcmpeqb", "74", simple(OpFd.i8x16_eq)],
  ["pcmpeqw", "75", simple(OpFd.i16x8_eq)],
  ["pcmpeqd", "76", simple(OpFd.i32x4_eq)],
  ["pcmpgtb", "64", simple(OpFd.i8x16_gt_s)],
  ["pcmpgtw", "65", simple(OpFd.i16x8_gt_s)],
  ["pcmpgtd", "66", simple(OpFd.i32x4_gt_s)],
  ["psignb", "38 08", sign(1)],
  ["psignw", "38 09", sign(2)],
  ["psignd", "38 0a", sign(4)],
  ["pabsb", "38 1c", (_a, b) => v(OpFd.i8x16_abs, b)],
  ["pabsw", "38 1d", (_a, b) => v(OpFd.i16x8_abs, b)],
  ["pabsd", "38 1e", (_a, b) => v(OpFd.i32x4_abs, b)],
];

/** The same, where MMX puts what comes of the second operand into its upper half. */
const joined: readonly (readonly [string, string, Packed])[] = [
  ["packsswb", "63", simple(OpFd.i8x16_narrow_i16x8_s)],
  ["packuswb", "67", simple(OpFd.i8x16_narrow_i16x8_u)],
  ["packssdw", "6b", simple(OpFd.i16x8_narrow_i32x4_s)],
  ["phaddw", "38 01", horizontal(2, OpFd.i16x8_add)],
  ["phaddd", "38 02", horizontal(4, OpFd.i32x4_add)],
  ["phaddsw", "38 03", horizontal(2, OpFd.i16x8_add_sat_s)],
  ["phsubw", "38 05", horizontal(2, OpFd.i16x8_sub)],
  ["phsubd", "38 06", horizontal(4, OpFd.i32x4_sub)],
  ["phsubsw", "38 07", horizontal(2, OpFd.i16x8_sub_sat_s)],
];

const unpacks: readonly (readonly [string, string, number, boolean])[] = [
  ["punpcklbw", "60", 1, false],
  ["punpcklwd", "61", 2, false],
  ["punpckldq", "62", 4, false],
  ["punpckhbw", "68", 1, true],
  ["punpckhwd", "69", 2, true],
  ["punpckhdq", "6a", 4, true],
];

/** Operations of XMM registers alone. */
const xmmOnly: readonly (readonly [string, string, Packed])[] = [
  ["unpcklpd", "14", unpack(8, false)],
  ["unpckhpd", "15", unpack(8, true)],
  ["andpd", "54", simple(OpFd.v128_and)],
  ["andnpd", "55", swapped(OpFd.v128_andnot)],
  ["orpd", "56", simple(OpFd.v128_or)],
  ["xorpd", "57", simple(OpFd.v128_xor)],
  ["punpcklqdq", "6c", unpack(8, false)],
  ["punpckhqdq", "6d", unpack(8, true)],
  ["pmuldq", "38 28", evenProducts(OpFd.i64x2_extmul_low_i32x4_s)],
  ["pcmpeqq", "38 29", simple(OpFd.i64x2_eq)],
  ["packusdw", "38 2b", simple(OpFd.i16x8_narrow_i32x4_u)],
  ["pcmpgtq", "38 37", simple(OpFd.i64x2_gt_s)],
  ["pminsb", "38 38", simple(OpFd.i8x16_min_s)],
  ["pminsd", "38 39", simple(OpFd.i32x4_min_s)],
  ["pminuw", "38 3a", simple(OpFd.i16x8_min_u)],
  ["pminud", "38 3b", simple(OpFd.i32x4_min_u)],
  ["pmaxsb", "38 3c", simple(OpFd.i8x16_max_s)],
  ["pmaxsd", "38 3d", simple(OpFd.i32x4_max_s)],
  ["pmaxuw", "38 3e", simple(OpFd.i16x8_max_u)],
  ["pmaxud", "38 3f", simple(OpFd.i32x4_max_u)],
  ["pmulld", "38 40", simple(OpFd.i32x4_mul)],
];

const extensions: readonly (readonly [string, string, string, readonly number[]])[] = [
  ["bw", "0", "q", [OpFd.i16x8_extend_low_i8x16_s, OpFd.i16x8_extend_low_i8x16_u]],
  ["bd", "1", "d", [OpFd.i32x4_extend_low_i16x8_s, OpFd.i32x4_extend_low_i16x8_u]],
  ["bq", "2", "w", [OpFd.i64x2_extend_low_i32x4_s, OpFd.i64x2_extend_low_i32x4_u]],
  ["wd", "3", "q", [OpFd.i32x4_extend_low_i16x8_s, OpFd.i32x4_extend_low_i16x8_u]],
  ["wq", "4", "d", [OpFd.i64x2_extend_low_i32x4_s, OpFd.i64x2_extend_low_i32x4_u]],
  ["dq", "5", "q", [OpFd.i64x2_extend_low_i32x4_s, OpFd.i64x2_extend_low_i32x4_u]],
];

/** Widens the low lanes of operand 1, step by step. */
function extend(name: string, codes: { last: number; unsigned: number }): (c: Cx) => void {
  const steps: number[] = [];
  if (name[0] === "b") {
    steps.push(
      codes.unsigned === 1 ? OpFd.i16x8_extend_low_i8x16_u : OpFd.i16x8_extend_low_i8x16_s,
    );
  }
  if (name === "bq" || name === "wq") {
    steps.push(
      codes.unsigned === 1 ? OpFd.i32x4_extend_low_i16x8_u : OpFd.i32x4_extend_low_i16x8_s,
    );
  }
  if (name !== "bw") steps.push(codes.last);
  return (c) => setX(c, 0, steps.reduce((x, code) => v(code, x), splat64(c.get(1))));
}

const minimumPosition = (c: Cx) => {
  const f = c.f;
  const x = getX(c, 1);
  const keyed = (code: number, places: readonly number[]) =>
    v(OpFd.v128_or, v(OpFd.i32x4_shl, v(code, x), i32(16)), const32(places));
  let least = f.let(
    v(
      OpFd.i32x4_min_u,
      keyed(OpFd.i32x4_extend_low_i16x8_u, [0, 1, 2, 3]),
      keyed(OpFd.i32x4_extend_high_i16x8_u, [4, 5, 6, 7]),
    ),
  );
  for (const lanes of [[2, 3, 0, 1], [1, 0, 3, 2]]) {
    least = f.let(v(OpFd.i32x4_min_u, least, shuffleLanes(4, least, least, lanes)));
  }
  const key = f.let(lane32(least, 0));
  setZeroing(c, 0, extU(or(shrU(key, 16), shl(and(key, 0xffff), 16))));
};

const multipleSums = (c: Cx) => {
  const f = c.f;
  const b = getX(c, 1);
  const a = f.let(load.v128(CPU, c.slot(0)));
  const imm = f.let(imm8(c, 2));
  const aFrom = f.let(and(imm, 4));
  const bFrom = f.let(shl(and(imm, 3), 2));
  let sum: Expr | undefined;
  for (let k = 0; k < 4; k++) {
    const window = f.let(
      swizzle(a, v(OpFd.i8x16_add, const8(iota), v(OpFd.i8x16_splat, add(aFrom, k)))),
    );
    const byte = f.let(swizzle(b, v(OpFd.i8x16_splat, add(bFrom, k))));
    const difference = v(
      OpFd.i16x8_extend_low_i8x16_u,
      v(
        OpFd.v128_or,
        v(OpFd.i8x16_sub_sat_u, window, byte),
        v(OpFd.i8x16_sub_sat_u, byte, window),
      ),
    );
    sum = f.let(sum === undefined ? difference : v(OpFd.i16x8_add, sum, difference));
  }
  if (sum !== undefined) setX(c, 0, sum);
};

/** Takes lanes of operand 1 where the mask has bits set. */
function blend(c: Cx, mask: Expr): void {
  const b = getX(c, 1);
  setX(c, 0, v(OpFd.v128_bitselect, b, load.v128(CPU, c.slot(0)), mask));
}

/** Masks of lanes from the bits of imm8. */
function immediateMask(c: Cx, width: 2 | 4 | 8): Expr {
  const imm = imm8(c, 2);
  if (width === 2) {
    const bits = const16([1, 2, 4, 8, 16, 32, 64, 128]);
    return v(OpFd.i16x8_eq, v(OpFd.v128_and, v(OpFd.i16x8_splat, imm), bits), bits);
  }
  if (width === 4) {
    const bits = const32([1, 2, 4, 8]);
    return v(OpFd.i32x4_eq, v(OpFd.v128_and, v(OpFd.i32x4_splat, imm), bits), bits);
  }
  const bits = const64([1n, 2n]);
  return v(OpFd.i64x2_eq, v(OpFd.v128_and, splat64(extU(imm)), bits), bits);
}

/** Signs of the lanes of XMM0. */
function signsOfXmm0(code: number, bits: number): Expr {
  return v(code, load.v128(CPU, i32(0), S.xmm), i32(bits - 1));
}

const insertPs = (c: Cx) => {
  const f = c.f;
  const imm = f.let(imm8(c, 2));
  const value = f.let(
    c.isMemory(1) ? wrap(c.get(1)) : load.i32(CPU, add(c.slot(1), shl(shrU(imm, 6), 2))),
  );
  f.store32(CPU, add(c.slot(0), shl(and(shrU(imm, 4), 3), 2)), value);
  const bits = const32([1, 2, 4, 8]);
  const zeroed = v(OpFd.i32x4_eq, v(OpFd.v128_and, v(OpFd.i32x4_splat, imm), bits), bits);
  f.storeV128(CPU, c.slot(0), v(OpFd.v128_andnot, load.v128(CPU, c.slot(0)), zeroed));
};

const test = (c: Cx) => {
  const b = getX(c, 1);
  const a = c.f.let(load.v128(CPU, c.slot(0)));
  const none = (x: Expr) => extU(eqz(simd(ValType.I32, OpFd.v128_any_true, [x])));
  const zf = shl(none(v(OpFd.v128_and, a, b)), Math.log2(Flag.ZF));
  c.setArithFlags(or(zf, none(v(OpFd.v128_andnot, b, a))));
};

const shufps = (c: Cx) => {
  const b = getX(c, 1);
  const a = c.f.let(load.v128(CPU, c.slot(0)));
  const places = c.f.let(dwordPlaces(imm8(c, 2)));
  setX(c, 0, shuffleLanes(8, swizzle(a, places), swizzle(b, places), [0, 3]));
};

const shufpd = (c: Cx) => {
  const b = getX(c, 1);
  const a = c.f.let(load.v128(CPU, c.slot(0)));
  const imm = c.f.let(imm8(c, 2));
  const low = select(and(imm, 1), lane64(a, 1), lane64(a, 0));
  const high = select(and(imm, 2), lane64(b, 1), lane64(b, 0));
  setX(c, 0, c.f.let(join64(low, high)));
};

/** Rows of the packed integer instructions and of shuffles and logic on floats. */
export const integerRows: readonly Insn[] = [
  ...common.flatMap(([name, opcode, op]) => [
    sse(name, `66 0f ${opcode} /r`, "Vx Wx", onXmm(op)),
    mmx(name, `np 0f ${opcode} /r`, "Pq Qq", onMmx(op)),
  ]),
  ...joined.flatMap(([name, opcode, op]) => [
    sse(name, `66 0f ${opcode} /r`, "Vx Wx", onXmm(op)),
    mmx(name, `np 0f ${opcode} /r`, "Pq Qq", onMmxJoined(op)),
  ]),
  ...unpacks.flatMap(([name, opcode, width, high]) => [
    sse(name, `66 0f ${opcode} /r`, "Vx Wx", onXmm(unpack(width, high))),
    mmx(name, `np 0f ${opcode} /r`, high ? "Pq Qq" : "Pq Qd", (c) => {
      const b = c.f.let(splat64(c.get(1)));
      const a = splat64(load.i64(CPU, c.slot(0)));
      setM(c, 0, c.f.let(lane64(shuffleLow(width, a, b), high ? 1 : 0)));
    }),
  ]),
  ...xmmOnly.map(([name, opcode, op]) => sse(name, `66 0f ${opcode} /r`, "Vx Wx", onXmm(op))),
  sse("unpcklps", "np 0f 14 /r", "Vx Wx", onXmm(unpack(4, false))),
  sse("unpckhps", "np 0f 15 /r", "Vx Wx", onXmm(unpack(4, true))),
  sse("andps", "np 0f 54 /r", "Vx Wx", onXmm(simple(OpFd.v128_and))),
  sse("andnps", "np 0f 55 /r", "Vx Wx", onXmm(swapped(OpFd.v128_andnot))),
  sse("orps", "np 0f 56 /r", "Vx Wx", onXmm(simple(OpFd.v128_or))),
  sse("xorps", "np 0f 57 /r", "Vx Wx", onXmm(simple(OpFd.v128_xor))),
  ...shifts.flatMap(shiftRowsOf),
  sse("psrldq", "66 0f 73 /3", "Ux Ib", (c) => {
    const count = v(OpFd.i8x16_splat, imm8(c, 1));
    setX(c, 0, swizzle(load.v128(CPU, c.slot(0)), v(OpFd.i8x16_add_sat_u, const8(iota), count)));
  }),
  sse("pslldq", "66 0f 73 /7", "Ux Ib", (c) => {
    const count = v(OpFd.i8x16_splat, upTo16(c, 1));
    setX(c, 0, swizzle(load.v128(CPU, c.slot(0)), v(OpFd.i8x16_sub, const8(iota), count)));
  }),
  sse(
    "pshufb",
    "66 0f 38 00 /r",
    "Vx Wx",
    onXmm((a, b) => swizzle(a, v(OpFd.v128_and, b, const8(iota.map(() => 0x8f))))),
  ),
  mmx(
    "pshufb",
    "np 0f 38 00 /r",
    "Pq Qq",
    onMmx((a, b) => swizzle(a, v(OpFd.v128_and, b, const8(iota.map(() => 0x87))))),
  ),
  sse("palignr", "66 0f 3a 0f /r", "Vx Wx Ib", (c) => {
    const b = getX(c, 1);
    const count = c.f.let(imm8(c, 2));
    setX(c, 0, align(load.v128(CPU, c.slot(0)), b, count));
  }),
  mmx("palignr", "np 0f 3a 0f /r", "Pq Qq Ib", (c) => {
    const b = c.f.let(c.get(1));
    const count = c.f.let(imm8(c, 2));
    setM(c, 0, c.f.let(lane64(align(zeroV(), join64(b, c.get(0)), count), 0)));
  }),
  ...extensions.flatMap(([name, digit, size, codes]) =>
    [0, 1].map((unsigned) =>
      sse(
        `pmov${unsigned === 1 ? "z" : "s"}x${name}`,
        `66 0f 38 ${unsigned === 1 ? "3" : "2"}${digit} /r`,
        `Vx W${size}`,
        extend(name, { last: codes[unsigned] ?? 0, unsigned }),
      )
    )
  ),
  sse("phminposuw", "66 0f 38 41 /r", "Vx Wx", minimumPosition),
  sse("mpsadbw", "66 0f 3a 42 /r", "Vx Wx Ib", multipleSums),
  sse("pblendvb", "66 0f 38 10 /r", "Vx Wx", (c) => blend(c, signsOfXmm0(OpFd.i8x16_shr_s, 8))),
  sse("blendvps", "66 0f 38 14 /r", "Vx Wx", (c) => blend(c, signsOfXmm0(OpFd.i32x4_shr_s, 32))),
  sse("blendvpd", "66 0f 38 15 /r", "Vx Wx", (c) => blend(c, signsOfXmm0(OpFd.i64x2_shr_s, 64))),
  sse("blendps", "66 0f 3a 0c /r", "Vx Wx Ib", (c) => blend(c, immediateMask(c, 4))),
  sse("blendpd", "66 0f 3a 0d /r", "Vx Wx Ib", (c) => blend(c, immediateMask(c, 8))),
  sse("pblendw", "66 0f 3a 0e /r", "Vx Wx Ib", (c) => blend(c, immediateMask(c, 2))),
  sse("insertps", "66 0f 3a 21 /r", "Vx Wd Ib", insertPs),
  sse("ptest", "66 0f 38 17 /r", "Vx Wx", test),
  sse("shufps", "np 0f c6 /r", "Vx Wx Ib", shufps),
  sse("shufpd", "66 0f c6 /r", "Vx Wx Ib", shufpd),
];

/** Interleaves the low 8 bytes of `a` and `b` by lanes of `width` bytes. */
function shuffleLow(width: number, a: Expr, b: Expr): Expr {
  const count = 8 / width;
  const lanes = Array.from({ length: count }, (_, i) => i);
  return shuffleLanes(width, a, b, lanes.flatMap((i) => [i, i + 2 * count]));
}
