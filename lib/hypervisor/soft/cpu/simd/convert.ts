/**
 * Conversions between floating point and integers, and between precisions (Intel SDM vol. 2).
 *
 * @module
 */

import {
  and,
  call,
  eqz,
  type Expr,
  extU,
  f32,
  f64,
  i32,
  i64,
  Op,
  op,
  OpFc,
  opFc,
  or,
  shl,
  shrU,
  v,
  ValType,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import {
  commitMmx,
  enterMmx,
  getX,
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
import {
  asFloat,
  commit,
  eachLane,
  fromLanes,
  isOrdinary,
  isSafe,
  lane,
  type Name,
  quickMode,
  quickOr,
  widthOf,
} from "./lanes.ts";

const { I32, I64, F32, F64 } = ValType;

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

/** Rows of the conversions. */
export const conversionRows: readonly Insn[] = [
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
