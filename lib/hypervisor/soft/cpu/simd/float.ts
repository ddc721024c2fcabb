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
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  load,
  type Local,
  Op,
  op,
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
import { CPU } from "../state.ts";
import { const32, const64, getX, imm8, setLow, setX, sse } from "./access.ts";
import {
  asFloat,
  commit,
  countOf,
  eachLane,
  fromLanes,
  isNormalOrZero,
  isOrdinary,
  isSafe,
  isZero,
  lane,
  type Name,
  quickMode,
  quickOr,
  widthOf,
} from "./lanes.ts";

const { I32, I64, F32, F64 } = ValType;

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

// --- arithmetic --------------------------------------------------------------------------------

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
];
