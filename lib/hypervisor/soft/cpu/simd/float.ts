/**
 * Floating-point instructions of SSE to SSE4.1. Where MXCSR is as after reset with the precision flag
 * already set, and operands and result are normal numbers or zeros, WebAssembly's own arithmetic gives
 * the same result and no new flag; everything else goes through the lane functions.
 *
 * @module
 */

import {
  and,
  call,
  eq,
  eqz,
  type Expr,
  extU,
  f32,
  f64,
  i32,
  i64,
  load,
  type Local,
  ltU,
  ne,
  Op,
  op,
  OpFc,
  opFc,
  OpFd,
  or,
  select,
  shl,
  shrU,
  simd,
  sub,
  v,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, S } from "../state.ts";
import {
  commitMmx,
  const32,
  const64,
  enterMmx,
  getX,
  imm8,
  join64,
  lane32,
  lane64,
  setLow,
  setM,
  setX,
  setZeroing,
  splat64,
  sse,
} from "./access.ts";

const { I32, I64, F32, F64 } = ValType;

type Name = "single" | "double";

interface Native {
  readonly scalar: readonly [single: number, double: number];
  readonly packed: readonly [single: number, double: number];
  /** Which zero operands make a zero result exact; a sum's always is. */
  readonly zeroFrom: "any" | "both" | "first";
}

const natives: Readonly<Record<string, Native>> = {
  add: { scalar: [Op.f32_add, Op.f64_add], packed: [0xe4, 0xf0], zeroFrom: "any" },
  sub: { scalar: [Op.f32_sub, Op.f64_sub], packed: [0xe5, 0xf1], zeroFrom: "any" },
  mul: { scalar: [Op.f32_mul, Op.f64_mul], packed: [0xe6, 0xf2], zeroFrom: "both" },
  div: { scalar: [Op.f32_div, Op.f64_div], packed: [0xe7, 0xf3], zeroFrom: "first" },
};

/** MXCSR as after reset, with the precision flag set; other flags may be set. */
function quickMode(c: Cx): Expr {
  return eq(and(c.s32(S.mxcsr), 0xffe0), i32(0x1fa0));
}

const widthOf = (name: Name) => name === "single" ? 4 : 8;

/** i64 of lane `i` of `value`. */
function lane(name: Name, value: Expr, i: number): Expr {
  return name === "single" ? extU(lane32(value, i)) : lane64(value, i);
}

/** A vector of lanes in i64. */
function fromLanes(name: Name, lanes: readonly Expr[]): Expr {
  const [a, b, c, d] = lanes;
  if (a === undefined || b === undefined) throw new TypeError("a vector has two or four lanes");
  if (name === "double") return join64(a, b);
  if (c === undefined || d === undefined) throw new TypeError("a vector has two or four lanes");
  return join64(or(a, shl(b, 32)), or(c, shl(d, 32)));
}

const countOf = (name: Name) => name === "single" ? 4 : 2;

/** Records exceptions; before the destination is written. */
function commit(c: Cx): void {
  c.f.if(c.s32(S.fpFlags), () => c.f.call(c.helper("sseCommit"), c.rec));
}

// --- arithmetic --------------------------------------------------------------------------------

function isNormalOrZero(name: Name, bits: Local): Expr {
  return name === "single"
    ? or(ne(and(bits, i64(0x7f80_0000)), i64(0)), eqz(and(bits, i64(0x7fff_ffff))))
    : or(ne(and(bits, i64(0x7ff0_0000_0000_0000n)), i64(0)), eqz(shl(bits, 1)));
}

function isZero(name: Name, bits: Local): Expr {
  return name === "single" ? eqz(and(bits, i64(0x7fff_ffff))) : eqz(shl(bits, 1));
}

/** True where the exponent is that of a normal number, and not the smallest: no underflow. */
function isSafe(name: Name, bits: Local): Expr {
  return name === "single"
    ? ltU(sub(and(wrap(shrU(bits, 23)), 0xff), 2), i32(0xfd))
    : ltU(sub(and(wrap(shrU(bits, 52)), 0x7ff), 2), i32(0x7fd));
}

function nativeScalar(name: Name, code: number, args: readonly Expr[]): Expr {
  return name === "single"
    ? extU(op(
      I32,
      Op.i32_reinterpret_f32,
      op(F32, code, ...args.map((x) => op(F32, Op.f32_reinterpret_i32, wrap(x)))),
    ))
    : op(
      I64,
      Op.i64_reinterpret_f64,
      op(F64, code, ...args.map((x) => op(F64, Op.f64_reinterpret_i64, x))),
    );
}

function scalarArithmetic(name: Name, operation: string): (c: Cx) => void {
  const width = widthOf(name);
  const native = natives[operation];
  if (native === undefined) throw new TypeError(`no native ${operation}`);
  return (c) => {
    const f = c.f;
    const b = f.let(c.get(1));
    const a = f.let(c.get(0));
    const slow = () => {
      const result = f.let(call(c.helper(`${name}.${operation}`), a, b));
      commit(c);
      setLow(c, 0, { value: result, size: width });
    };
    const code = native.scalar[name === "single" ? 0 : 1];
    const quick = f.let(nativeScalar(name, code, [a, b]));
    const zeros = native.zeroFrom === "any"
      ? i32(1)
      : native.zeroFrom === "both"
      ? or(isZero(name, a), isZero(name, b))
      : isZero(name, a);
    const exact = and(isZero(name, quick), zeros);
    const operands = and(isNormalOrZero(name, a), isNormalOrZero(name, b));
    // A quotient that is zero for an infinite divisor is exact too.
    f.if(
      and(and(quickMode(c), or(isSafe(name, quick), exact)), operands),
      () => setLow(c, 0, { value: quick, size: width }),
      slow,
    );
  };
}

/** Applies lane function `helper` to each pair of lanes. */
function eachLane(c: Cx, name: Name, lanes: (i: number) => Expr): Local[] {
  return Array.from({ length: countOf(name) }, (_, i) => c.f.let(lanes(i)));
}

/** All lanes of `condition` (all ones or zeros) hold. */
function all(condition: Expr): Expr {
  return simd(I32, OpFd.i8x16_all_true, [condition]);
}

/** Lanes whose exponent is neither 0, 1 nor that of infinity; then normal or zero lanes. */
function laneTests(name: Name): {
  safe: (x: Expr) => Expr;
  operand: (x: Expr) => Expr;
  zero: (x: Expr) => Expr;
} {
  const isSingle = name === "single";
  const shr = isSingle ? OpFd.i32x4_shr_u : OpFd.i64x2_shr_u;
  const shiftLeft = isSingle ? OpFd.i32x4_shl : OpFd.i64x2_shl;
  const gt = isSingle ? OpFd.i32x4_gt_s : OpFd.i64x2_gt_s;
  const equal = isSingle ? OpFd.i32x4_eq : OpFd.i64x2_eq;
  const constant = (n: number) =>
    isSingle ? const32([n, n, n, n]) : const64([BigInt(n), BigInt(n)]);
  const exponent = (x: Expr) => v(shr, v(shiftLeft, x, i32(1)), i32(isSingle ? 24 : 53));
  const most = isSingle ? 0xff : 0x7ff;
  const zero = (x: Expr) => v(equal, v(shiftLeft, x, i32(1)), constant(0));
  return {
    safe: (x) =>
      v(OpFd.v128_and, v(gt, exponent(x), constant(1)), v(gt, constant(most), exponent(x))),
    operand: (x) => v(OpFd.v128_or, v(gt, exponent(x), constant(0)), zero(x)),
    zero,
  };
}

function packedArithmetic(name: Name, operation: string): (c: Cx) => void {
  const native = natives[operation];
  return (c) => {
    const f = c.f;
    const b = getX(c, 1);
    const a = f.let(load.v128(CPU, c.slot(0)));
    const helper = c.helper(`${name}.${operation}`);
    const slow = () => {
      const lanes = eachLane(c, name, (i) => call(helper, lane(name, a, i), lane(name, b, i)));
      commit(c);
      setX(c, 0, fromLanes(name, lanes));
    };
    if (native === undefined) {
      slow();
      return;
    }
    const quick = f.let(v(native.packed[name === "single" ? 0 : 1], a, b));
    const test = laneTests(name);
    const zeros = native.zeroFrom === "any"
      ? test.zero(quick)
      : native.zeroFrom === "both"
      ? v(OpFd.v128_or, test.zero(a), test.zero(b))
      : test.zero(a);
    const exact = v(OpFd.v128_and, test.zero(quick), zeros);
    const fine = v(
      OpFd.v128_and,
      v(OpFd.v128_or, test.safe(quick), exact),
      v(OpFd.v128_and, test.operand(a), test.operand(b)),
    );
    f.if(and(quickMode(c), all(fine)), () => setX(c, 0, quick), slow);
  };
}

function scalarSqrt(name: Name): (c: Cx) => void {
  return (c) => {
    const a = c.f.let(c.get(1));
    quickOr(c, {
      // Normal and positive: the root is normal too.
      condition: () => and(and(quickMode(c), isSafe(name, a)), isPositive(name, a)),
      value: () => nativeScalar(name, name === "single" ? Op.f32_sqrt : Op.f64_sqrt, [a]),
      slow: () => call(c.helper(`${name}.sqrt`), a),
      put: (value) => setLow(c, 0, { value, size: widthOf(name) }),
    });
  };
}

function isPositive(name: Name, bits: Expr): Expr {
  return eqz(shrU(bits, name === "single" ? 31 : 63));
}

/** A result by WebAssembly's own means where `condition` holds, else by a lane function. */
function quickOr(
  c: Cx,
  how: {
    condition: () => Expr;
    value: () => Expr;
    slow: () => Expr;
    put: (value: Expr) => void;
  },
): void {
  c.f.if(
    how.condition(),
    () => how.put(c.f.let(how.value())),
    () => {
      const result = c.f.let(how.slow());
      commit(c);
      how.put(result);
    },
  );
}

/** `bits` as a float. */
function asFloat(name: Name, bits: Expr): Expr {
  return name === "single"
    ? op(F32, Op.f32_reinterpret_i32, wrap(bits))
    : op(F64, Op.f64_reinterpret_i64, bits);
}

const compareOps = {
  single: { lt: Op.f32_lt, eq: Op.f32_eq },
  double: { lt: Op.f64_lt, eq: Op.f64_eq },
} as const;

/** MINSS and the like: without NaNs and denormals they raise nothing. */
function scalarChoice(name: Name, operation: "min" | "max"): (c: Cx) => void {
  return (c) => {
    const b = c.f.let(c.get(1));
    const a = c.f.let(c.get(0));
    const { lt } = compareOps[name];
    const [x, y] = [asFloat(name, a), asFloat(name, b)];
    quickOr(c, {
      condition: () => and(isOrdinary(name, a), isOrdinary(name, b)),
      value: () => select(operation === "min" ? op(I32, lt, x, y) : op(I32, lt, y, x), a, b),
      slow: () => call(c.helper(`${name}.${operation}`), a, b),
      put: (value) => setLow(c, 0, { value, size: widthOf(name) }),
    });
  };
}

/** True for zeros and normal numbers: no denormal, infinity or NaN. */
function isOrdinary(name: Name, bits: Local): Expr {
  return name === "single"
    ? or(
      ltU(sub(and(wrap(shrU(bits, 23)), 0xff), 1), i32(0xfe)),
      eqz(and(bits, i64(0x7fff_ffff))),
    )
    : or(
      ltU(sub(and(wrap(shrU(bits, 52)), 0x7ff), 1), i32(0x7fe)),
      eqz(shl(bits, 1)),
    );
}

/** Lane function of one operand on every lane of operand 1. */
function packedUnary(name: Name, helper: string, extra?: (c: Cx) => Expr): (c: Cx) => void {
  return (c) => {
    const a = getX(c, 1);
    const func = c.helper(`${name}.${helper}`);
    const more = extra === undefined ? [] : [c.f.let(extra(c))];
    const lanes = eachLane(c, name, (i) => call(func, lane(name, a, i), ...more));
    commit(c);
    setX(c, 0, fromLanes(name, lanes));
  };
}

/** HADDPS and the like, ADDSUBPS: per lane of the result, operation and lanes of the operands. */
function acrossLanes(
  name: Name,
  plan: (i: number) => { operation: string; a: number; b: number; from: "a" | "b" | "both" },
): (c: Cx) => void {
  return (c) => {
    const b = getX(c, 1);
    const a = c.f.let(load.v128(CPU, c.slot(0)));
    const lanes = eachLane(c, name, (i) => {
      const step = plan(i);
      const first = step.from === "b" ? b : a;
      const second = step.from === "a" ? a : b;
      return call(
        c.helper(`${name}.${step.operation}`),
        lane(name, first, step.a),
        lane(name, second, step.b),
      );
    });
    commit(c);
    setX(c, 0, fromLanes(name, lanes));
  };
}

function horizontal(name: Name, operation: string): (c: Cx) => void {
  const half = countOf(name) / 2;
  return acrossLanes(name, (i) => ({
    operation,
    a: 2 * (i % half),
    b: 2 * (i % half) + 1,
    from: i < half ? "a" : "b",
  }));
}

function alternating(name: Name): (c: Cx) => void {
  return acrossLanes(name, (i) => ({
    operation: i % 2 === 0 ? "sub" : "add",
    a: i,
    b: i,
    from: "both",
  }));
}

/** DPPS and DPPD: products by bits 4 to 7 of imm8, summed by pairs, into lanes of bits 0 to 3. */
function dotProduct(name: Name): (c: Cx) => void {
  const count = countOf(name);
  return (c) => {
    const f = c.f;
    const b = getX(c, 1);
    const a = f.let(load.v128(CPU, c.slot(0)));
    const imm = f.let(imm8(c, 2));
    const products = Array.from({ length: count }, (_, i) => {
      const product = f.local(I64, i64(0));
      f.if(
        and(imm, 16 << i),
        () => f.set(product, call(c.helper(`${name}.mul`), lane(name, a, i), lane(name, b, i))),
      );
      return product;
    });
    commit(c);
    const sum = (x: Expr, y: Expr) => f.let(call(c.helper(`${name}.add`), x, y));
    // Each lane sums on its own, which shows where there are several NaNs: the first operand's stays.
    let sums: readonly Local[] = products;
    const step = (first: (i: number) => number, second: (i: number) => number) => {
      const before = sums;
      const at = (i: number): Expr => before[i] ?? i64(0);
      sums = products.map((_, i) => sum(at(first(i)), at(second(i))));
      commit(c);
    };
    if (count === 4) {
      step((i) => i ^ 1, (i) => i);
      step((i) => i, (i) => i ^ 2);
    } else step((i) => i, (i) => i ^ 1);
    const lanes = sums.map((total, i) => c.f.let(select(and(imm, 1 << i), total, i64(0))));
    setX(c, 0, fromLanes(name, lanes));
  };
}

// --- compares ----------------------------------------------------------------------------------

function packedCompare(name: Name): (c: Cx) => void {
  return (c) => {
    const b = getX(c, 1);
    const a = c.f.let(load.v128(CPU, c.slot(0)));
    const predicate = c.f.let(imm8(c, 2));
    const lanes = eachLane(c, name, (i) => {
      const mask = call(
        c.helper(`${name}.compare`),
        lane(name, a, i),
        lane(name, b, i),
        predicate,
      );
      return name === "single" ? and(mask, i64(0xffff_ffff)) : mask;
    });
    commit(c);
    setX(c, 0, fromLanes(name, lanes));
  };
}

function scalarCompare(name: Name): (c: Cx) => void {
  return (c) => {
    const b = c.f.let(c.get(1));
    const a = c.f.let(c.get(0));
    const mask = c.f.let(call(c.helper(`${name}.compare`), a, b, imm8(c, 2)));
    commit(c);
    setLow(c, 0, { value: mask, size: widthOf(name) });
  };
}

function flagsCompare(name: Name, signaling: number): (c: Cx) => void {
  return (c) => {
    const f = c.f;
    const b = f.let(c.get(1));
    const a = f.let(c.get(0));
    const flags = f.local(I64);
    const { lt, eq: equal } = compareOps[name];
    const [x, y] = [asFloat(name, a), asFloat(name, b)];
    quickOr(c, {
      condition: () => and(isOrdinary(name, a), isOrdinary(name, b)),
      value: () => or(shl(extU(op(I32, equal, x, y)), 6), extU(op(I32, lt, x, y))),
      slow: () => call(c.helper(`${name}.flags`), a, b, i32(signaling)),
      put: (value) => f.set(flags, value),
    });
    c.setArithFlags(flags);
  };
}

// --- conversions -------------------------------------------------------------------------------

/** From a general register or integer memory. */
function fromGeneral(name: Name): (c: Cx) => void {
  return (c) => {
    const f = c.f;
    const size = c.operandSize(1);
    const value = f.let(
      size === 4 ? op(I64, Op.i64_extend32_s, c.get(1)) : c.get(1),
    );
    if (name === "double" && size === 4) {
      // Always exact.
      const exact = op(F64, Op.f64_convert_i64_s, value);
      setLow(c, 0, { value: op(I64, Op.i64_reinterpret_f64, exact), size: 8 });
      return;
    }
    const native = name === "single"
      ? extU(op(I32, Op.i32_reinterpret_f32, op(F32, Op.f32_convert_i64_s, value)))
      : op(I64, Op.i64_reinterpret_f64, op(F64, Op.f64_convert_i64_s, value));
    quickOr(c, {
      condition: () => quickMode(c),
      value: () => native,
      slow: () => call(c.helper(`${name}.fromInteger`), value),
      put: (value) => setLow(c, 0, { value, size: widthOf(name) }),
    });
  };
}

/** Rounding mode argument: as MXCSR says, or towards zero. */
const AS_SET = 4;
const TRUNCATE = 3;

function toGeneral(name: Name, mode: number): (c: Cx) => void {
  return (c) => {
    const f = c.f;
    const bits = c.operandSize(0) * 8;
    const a = f.let(c.get(1));
    const result = f.local(I64);
    const type = name === "single" ? F32 : F64;
    const [abs, nearest, lt] = name === "single"
      ? [Op.f32_abs, Op.f32_nearest, Op.f32_lt]
      : [Op.f64_abs, Op.f64_nearest, Op.f64_lt];
    const limit = name === "single" ? f32(2 ** (bits - 1)) : f64(2 ** (bits - 1));
    const value = asFloat(name, a);
    // Rounding to nearest can reach the limit from below.
    const rounded = f.local(type, mode === TRUNCATE ? value : op(type, nearest, value));
    quickOr(c, {
      condition: () => and(quickMode(c), op(I32, lt, op(type, abs, rounded), limit)),
      value: () =>
        opFc(
          I64,
          name === "single" ? OpFc.i64_trunc_sat_f32_s : OpFc.i64_trunc_sat_f64_s,
          rounded,
        ),
      slow: () => call(c.helper(`${name}.toInteger`), a, i32(bits), i32(mode)),
      put: (value) => f.set(result, value),
    });
    c.set(0, result);
  };
}

function toDword(c: Cx, name: Name, at: { value: Expr; i: number; mode: number }): Expr {
  const value = lane(name, at.value, at.i);
  return and(
    call(c.helper(`${name}.toInteger`), value, i32(32), i32(at.mode)),
    i64(0xffff_ffff),
  );
}

/** Signed dword `i` of `value` as i64. */
function dword(value: Expr, i: number): Expr {
  return op(I64, Op.i64_extend_i32_s, lane32(value, i));
}

function singlesToDwords(mode: number): (c: Cx) => void {
  return (c) => {
    const a = getX(c, 1);
    const lanes = eachLane(c, "single", (i) => toDword(c, "single", { value: a, i, mode }));
    commit(c);
    setX(c, 0, fromLanes("single", lanes));
  };
}

function doublesToDwords(mode: number): (c: Cx) => void {
  return (c) => {
    const a = getX(c, 1);
    const lanes = eachLane(c, "double", (i) => toDword(c, "double", { value: a, i, mode }));
    commit(c);
    setZeroing(c, 0, pairOf(lanes));
  };
}

/** Two dwords in i64 as one. */
function pairOf(lanes: readonly Expr[]): Expr {
  const [low, high] = lanes;
  if (low === undefined || high === undefined) throw new TypeError("two lanes are joined");
  return or(low, shl(high, 32));
}

/** Dword `i` of an i64, sign-extended. */
function half(value: Expr, i: number): Expr {
  return op(I64, Op.i64_extend32_s, i === 0 ? value : shrU(value, 32));
}

const dwordsToSingles = (c: Cx) => {
  const a = getX(c, 1);
  const lanes = eachLane(c, "single", (i) => call(c.helper("single.fromInteger"), dword(a, i)));
  commit(c);
  setX(c, 0, fromLanes("single", lanes));
};

const dwordsToDoubles = (c: Cx) => {
  setX(c, 0, v(0xfe, splat64(c.get(1)))); // f64x2.convert_low_i32x4_s
};

const singlesToDoubles = (c: Cx) => {
  const a = c.f.let(c.get(1));
  const low = c.f.let(call(c.helper("single.widen"), and(a, i64(0xffff_ffff))));
  const high = c.f.let(call(c.helper("single.widen"), shrU(a, 32)));
  commit(c);
  setX(c, 0, join64(low, high));
};

const doublesToSingles = (c: Cx) => {
  const a = getX(c, 1);
  const lanes = eachLane(c, "double", (i) => call(c.helper("double.narrow"), lane64(a, i)));
  commit(c);
  setZeroing(c, 0, pairOf(lanes));
};

const singleToDouble = (c: Cx) => {
  const a = c.f.let(c.get(1));
  quickOr(c, {
    condition: () => isOrdinary("single", a),
    value: () => op(I64, Op.i64_reinterpret_f64, op(F64, Op.f64_promote_f32, asFloat("single", a))),
    slow: () => call(c.helper("single.widen"), a),
    put: (value) => setLow(c, 0, { value, size: 8 }),
  });
};

const doubleToSingle = (c: Cx) => {
  const f = c.f;
  const a = f.let(c.get(1));
  const narrow = op(I32, Op.i32_reinterpret_f32, op(F32, Op.f32_demote_f64, asFloat("double", a)));
  const quick = f.let(extU(narrow));
  quickOr(c, {
    condition: () => and(quickMode(c), or(isSafe("single", quick), eqz(shl(a, 1)))),
    value: () => quick,
    slow: () => call(c.helper("double.narrow"), a),
    put: (value) => setLow(c, 0, { value, size: 4 }),
  });
};

// --- between MMX and XMM -----------------------------------------------------------------------

// From memory they leave the x87 alone.
const mmxToSingles = (c: Cx) => {
  if (!c.isMemory(1)) enterMmx(c);
  const a = c.f.let(c.get(1));
  if (!c.isMemory(1)) commitMmx(c);
  const lanes = [0, 1].map((i) => c.f.let(call(c.helper("single.fromInteger"), half(a, i))));
  commit(c);
  setLow(c, 0, { value: pairOf(lanes), size: 8 });
};

const mmxToDoubles = (c: Cx) => {
  if (!c.isMemory(1)) enterMmx(c);
  const value = c.f.let(splat64(c.get(1)));
  setX(c, 0, v(0xfe, value)); // f64x2.convert_low_i32x4_s
  if (!c.isMemory(1)) commitMmx(c);
};

function toMmx(name: Name, mode: number): (c: Cx) => void {
  return (c) => {
    enterMmx(c);
    const value = name === "single" ? c.f.let(splat64(c.get(1))) : getX(c, 1);
    commitMmx(c);
    const lanes = [0, 1].map((i) => c.f.let(toDword(c, name, { value, i, mode })));
    commit(c);
    setM(c, 0, c.f.let(pairOf(lanes)));
  };
}

// --- approximations ----------------------------------------------------------------------------

/** RCPPS and RSQRTPS: no exceptions, denormals are zeros. */
function approximate(c: Cx, helper: string, scalar: boolean): void {
  const func = c.helper(helper);
  if (scalar) {
    setLow(c, 0, { value: c.f.let(call(func, c.get(1))), size: 4 });
    return;
  }
  const a = getX(c, 1);
  const lanes = eachLane(c, "single", (i) => call(func, lane("single", a, i)));
  setX(c, 0, fromLanes("single", lanes));
}

// --- rows --------------------------------------------------------------------------------------

interface Form {
  readonly suffix: "ps" | "pd" | "ss" | "sd";
  readonly prefix: "np" | "66" | "f3" | "f2";
  readonly name: Name;
  readonly scalar: boolean;
}

const forms: readonly Form[] = [
  { suffix: "ps", prefix: "np", name: "single", scalar: false },
  { suffix: "pd", prefix: "66", name: "double", scalar: false },
  { suffix: "ss", prefix: "f3", name: "single", scalar: true },
  { suffix: "sd", prefix: "f2", name: "double", scalar: true },
];

function operandsOf(form: Form): string {
  if (!form.scalar) return "Vx Wx";
  return form.name === "single" ? "Vd Wd" : "Vq Wq";
}

const arithmetic: readonly (readonly [string, string])[] = [
  ["add", "58"],
  ["mul", "59"],
  ["sub", "5c"],
  ["min", "5d"],
  ["div", "5e"],
  ["max", "5f"],
];

function rowsOf(form: Form): Insn[] {
  const { suffix, prefix, name, scalar } = form;
  const operands = operandsOf(form);
  return [
    ...arithmetic.map(([operation, opcode]) =>
      sse(
        `${operation}${suffix}`,
        `${prefix} 0f ${opcode} /r`,
        operands,
        !scalar
          ? packedArithmetic(name, operation)
          : operation === "min" || operation === "max"
          ? scalarChoice(name, operation)
          : scalarArithmetic(name, operation),
      )
    ),
    sse(
      `sqrt${suffix}`,
      `${prefix} 0f 51 /r`,
      operands,
      scalar ? scalarSqrt(name) : packedUnary(name, "sqrt"),
    ),
    sse(
      `cmp${suffix}`,
      `${prefix} 0f c2 /r`,
      `${operands} Ib`,
      scalar ? scalarCompare(name) : packedCompare(name),
    ),
  ];
}

/** ROUNDSS and ROUNDSD. */
function scalarRound(name: Name): (c: Cx) => void {
  return (c) => {
    const a = c.f.let(c.get(1));
    const result = c.f.let(call(c.helper(`${name}.round`), a, imm8(c, 2)));
    commit(c);
    setLow(c, 0, { value: result, size: widthOf(name) });
  };
}

const round = (name: Name) => packedUnary(name, "round", (c) => imm8(c, 2));

/** Rows of the floating-point instructions. */
export const floatRows: readonly Insn[] = [
  ...forms.flatMap(rowsOf),
  sse("ucomiss", "np 0f 2e /r", "Vd Wd", flagsCompare("single", 0)),
  sse("ucomisd", "66 0f 2e /r", "Vq Wq", flagsCompare("double", 0)),
  sse("comiss", "np 0f 2f /r", "Vd Wd", flagsCompare("single", 1)),
  sse("comisd", "66 0f 2f /r", "Vq Wq", flagsCompare("double", 1)),
  sse("haddpd", "66 0f 7c /r", "Vx Wx", horizontal("double", "add")),
  sse("haddps", "f2 0f 7c /r", "Vx Wx", horizontal("single", "add")),
  sse("hsubpd", "66 0f 7d /r", "Vx Wx", horizontal("double", "sub")),
  sse("hsubps", "f2 0f 7d /r", "Vx Wx", horizontal("single", "sub")),
  sse("addsubpd", "66 0f d0 /r", "Vx Wx", alternating("double")),
  sse("addsubps", "f2 0f d0 /r", "Vx Wx", alternating("single")),
  sse("dpps", "66 0f 3a 40 /r", "Vx Wx Ib", dotProduct("single")),
  sse("dppd", "66 0f 3a 41 /r", "Vx Wx Ib", dotProduct("double")),
  sse("roundps", "66 0f 3a 08 /r", "Vx Wx Ib", round("single")),
  sse("roundpd", "66 0f 3a 09 /r", "Vx Wx Ib", round("double")),
  sse("roundss", "66 0f 3a 0a /r", "Vd Wd Ib", scalarRound("single")),
  sse("roundsd", "66 0f 3a 0b /r", "Vq Wq Ib", scalarRound("double")),
  sse("rsqrtps", "np 0f 52 /r", "Vx Wx", (c) => approximate(c, "rsqrt", false)),
  sse("rsqrtss", "f3 0f 52 /r", "Vd Wd", (c) => approximate(c, "rsqrt", true)),
  sse("rcpps", "np 0f 53 /r", "Vx Wx", (c) => approximate(c, "rcp", false)),
  sse("rcpss", "f3 0f 53 /r", "Vd Wd", (c) => approximate(c, "rcp", true)),

  sse("cvtsi2ss", "f3 0f 2a /r", "Vd Ey", fromGeneral("single")),
  sse("cvtsi2sd", "f2 0f 2a /r", "Vq Ey", fromGeneral("double")),
  sse("cvttss2si", "f3 0f 2c /r", "Gy Wd", toGeneral("single", TRUNCATE)),
  sse("cvttsd2si", "f2 0f 2c /r", "Gy Wq", toGeneral("double", TRUNCATE)),
  sse("cvtss2si", "f3 0f 2d /r", "Gy Wd", toGeneral("single", AS_SET)),
  sse("cvtsd2si", "f2 0f 2d /r", "Gy Wq", toGeneral("double", AS_SET)),
  sse("cvtss2sd", "f3 0f 5a /r", "Vq Wd", singleToDouble),
  sse("cvtsd2ss", "f2 0f 5a /r", "Vd Wq", doubleToSingle),
  sse("cvtps2pd", "np 0f 5a /r", "Vx Wq", singlesToDoubles),
  sse("cvtpd2ps", "66 0f 5a /r", "Vx Wx", doublesToSingles),
  sse("cvtdq2ps", "np 0f 5b /r", "Vx Wx", dwordsToSingles),
  sse("cvtps2dq", "66 0f 5b /r", "Vx Wx", singlesToDwords(AS_SET)),
  sse("cvttps2dq", "f3 0f 5b /r", "Vx Wx", singlesToDwords(TRUNCATE)),
  sse("cvtdq2pd", "f3 0f e6 /r", "Vx Wq", dwordsToDoubles),
  sse("cvtpd2dq", "f2 0f e6 /r", "Vx Wx", doublesToDwords(AS_SET)),
  sse("cvttpd2dq", "66 0f e6 /r", "Vx Wx", doublesToDwords(TRUNCATE)),
  sse("cvtpi2ps", "np 0f 2a /r", "Vq Qq", mmxToSingles),
  sse("cvtpi2pd", "66 0f 2a /r", "Vx Qq", mmxToDoubles),
  sse("cvttps2pi", "np 0f 2c /r", "Pq Wq", toMmx("single", TRUNCATE)),
  sse("cvttpd2pi", "66 0f 2c /r", "Pq Wx", toMmx("double", TRUNCATE)),
  sse("cvtps2pi", "np 0f 2d /r", "Pq Wq", toMmx("single", AS_SET)),
  sse("cvtpd2pi", "66 0f 2d /r", "Pq Wx", toMmx("double", AS_SET)),
];
