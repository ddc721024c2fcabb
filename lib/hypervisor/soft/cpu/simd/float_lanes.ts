/**
 * The floating-point operations of SSE on one lane, exact for every mode of MXCSR (Intel SDM vol. 1,
 * 10.2.3, 11.5 and appendix E). They record exceptions in `fpFlags`; `sseCommit` moves them to MXCSR.
 *
 * @module
 */

import {
  add,
  and,
  call,
  clz,
  cond,
  eq,
  eqz,
  type Expr,
  extU,
  f64,
  type FuncBuilder,
  type FuncRef,
  geU,
  gtU,
  i32,
  i64,
  type Local,
  ltS,
  type ModuleBuilder,
  ne,
  Op,
  op,
  or,
  select,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import { CPU, S, Vector } from "../state.ts";
import {
  BIAS,
  cell32,
  cell64,
  DOUBLE,
  type Format,
  Fp,
  raiseFlags,
  roundResult,
  SINGLE,
  type SoftFloat,
  unpack,
} from "../x87/softfloat.ts";

const { I32, I64, F32, F64 } = ValType;

const DAZ = 0x40;
const CR4_OSXMMEXCPT = 1 << 10;

/** A format with the patterns that its operations need. */
interface LaneFormat extends Format {
  readonly name: "single" | "double";
  /** Bits of infinity. */
  readonly infinity: bigint;
  /** The bit that tells quiet NaNs. */
  readonly quiet: bigint;
  readonly signBit: bigint;
  readonly bits: number;
  round(soft: SoftFloat): FuncRef;
  /** The lane as a float. */
  value(bits: Expr): Expr;
  readonly lt: number;
  readonly eq: number;
}

const single: LaneFormat = {
  ...SINGLE,
  name: "single",
  infinity: 0x7f80_0000n,
  quiet: 0x40_0000n,
  signBit: 0x8000_0000n,
  bits: 32,
  round: (soft) => soft.roundSingle,
  value: (bits) => op(F32, Op.f32_reinterpret_i32, wrap(bits)),
  lt: Op.f32_lt,
  eq: Op.f32_eq,
};

const double: LaneFormat = {
  ...DOUBLE,
  name: "double",
  infinity: 0x7ff0_0000_0000_0000n,
  quiet: 0x8_0000_0000_0000n,
  signBit: 0x8000_0000_0000_0000n,
  bits: 64,
  round: (soft) => soft.roundDouble,
  value: (bits) => op(F64, Op.f64_reinterpret_i64, bits),
  lt: Op.f64_lt,
  eq: Op.f64_eq,
};

/** The lane formats by name. */
export const laneFormats = { single, double } as const;

function magnitude(format: LaneFormat, bits: Expr): Expr {
  return and(bits, i64(format.signBit - 1n));
}

function isNan(format: LaneFormat, bits: Expr): Expr {
  return gtU(magnitude(format, bits), i64(format.infinity));
}

function isSignaling(format: LaneFormat, bits: Expr): Expr {
  return and(isNan(format, bits), eqz(and(bits, i64(format.quiet))));
}

function isInfinite(format: LaneFormat, bits: Expr): Expr {
  return eq(magnitude(format, bits), i64(format.infinity));
}

function isZero(format: LaneFormat, bits: Expr): Expr {
  return eqz(magnitude(format, bits));
}

function isDenormal(format: LaneFormat, bits: Expr): Expr {
  // Zero wraps around to the largest number.
  const least = i64(1n << BigInt(format.fraction));
  return ltUnsigned(sub(magnitude(format, bits), 1), sub(least, 1));
}

function ltUnsigned(a: Expr, b: Expr): Expr {
  return gtU(b, a);
}

function signOf(format: LaneFormat, bits: Expr): Expr {
  return wrap(and(shrU(bits, format.sign), 1));
}

function defaultNan(format: LaneFormat): Expr {
  return i64(format.signBit | format.infinity | format.quiet);
}

/** Control argument of the rounding functions from MXCSR. */
function control(mx: Local): Expr {
  const flush = and(shrU(mx, 15), and(shrU(mx, 11), 1));
  const unmasked = and(xor(shrU(mx, 10), 3), 3);
  // Bits 10 and 11 mask overflow and underflow.
  return or(
    or(and(shrU(mx, 13), 3), shl(flush, 2)),
    or(shl(and(unmasked, 2), 2), shl(and(unmasked, 1), 4)),
  );
}

/** Returns `NaN` operands quieted: the first of them. */
function handleNans(f: FuncBuilder, format: LaneFormat, operands: readonly Local[]): void {
  const [a, b] = operands;
  if (a === undefined) return;
  const quiet = (x: Expr) => or(x, i64(format.quiet));
  const any = b === undefined ? isNan(format, a) : or(isNan(format, a), isNan(format, b));
  f.if(any, () => {
    const signaling = b === undefined
      ? isSignaling(format, a)
      : or(isSignaling(format, a), isSignaling(format, b));
    f.if(signaling, () => raiseFlags(f, Fp.invalid));
    f.return(quiet(b === undefined ? a : select(isNan(format, a), a, b)));
  });
}

/** Makes denormal operands zero with DAZ, or records them. */
function handleDenormals(
  f: FuncBuilder,
  format: LaneFormat,
  operands: readonly Local[],
  options: { mx: Local; silent?: boolean },
): void {
  const any = operands.map((x) => isDenormal(format, x)).reduce((x, y) => or(x, y));
  f.if(any, () => {
    f.if(
      and(options.mx, DAZ),
      () => {
        for (const x of operands) {
          f.if(isDenormal(format, x), () => f.set(x, and(x, i64(format.signBit))));
        }
      },
      options.silent === true ? undefined : () => raiseFlags(f, Fp.denormal),
    );
  });
}

function invalid(f: FuncBuilder, format: LaneFormat): void {
  raiseFlags(f, Fp.invalid);
  f.return(defaultNan(format));
}

/** Rounds number `x` unchanged into its format: FTZ and unmasked underflow may change it. */
function reround(
  f: FuncBuilder,
  format: LaneFormat,
  how: { soft: SoftFloat; x: Local; control: Expr },
): void {
  const u = unpack(f, format, how.x);
  f.return(call(how.soft[roundName(format)], u.sign, u.exp, u.sig, i64(0), how.control));
}

function roundName(format: LaneFormat): "roundSingle" | "roundDouble" {
  return format.name === "single" ? "roundSingle" : "roundDouble";
}

function buildAdd(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I64], [I64]);
  const [a, b] = [f.param(0), f.param(1)];
  const mx = f.let(cell32(S.mxcsr));
  handleNans(f, format, [a, b]);
  // A NaN keeps its sign in a subtraction, so the sign is changed only now.
  if (how.negate === true) f.set(b, xor(b, i64(format.signBit)));
  handleDenormals(f, format, [a, b], { mx });
  f.if(isInfinite(format, a), () => {
    f.if(
      and(isInfinite(format, b), ne(a, b)),
      () => invalid(f, format),
    );
    f.return(a);
  });
  f.if(isInfinite(format, b), () => f.return(b));
  const downward = eq(and(mx, 0x6000), i32(0x2000));
  f.if(isZero(format, b), () => {
    f.if(isZero(format, a), () => {
      f.if(eq(a, b), () => f.return(a));
      f.return(select(downward, i64(format.signBit), i64(0)));
    });
    reround(f, format, { soft, x: a, control: control(mx) });
  });
  f.if(isZero(format, a), () => reround(f, format, { soft, x: b, control: control(mx) }));
  const x = unpack(f, format, a);
  const y = unpack(f, format, b);
  f.call(soft.add, x.sign, x.exp, x.sig, y.sign, y.exp, y.sig, downward);
  f.if(
    eqz(cell64(S.fpHigh)),
    () => f.return(select(cell32(S.fpSign), i64(format.signBit), i64(0))),
  );
  f.return(roundResult(format.round(soft), control(mx)));
  f.unreachable();
  return f;
}

function buildMul(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I64], [I64]);
  const [a, b] = [f.param(0), f.param(1)];
  const mx = f.let(cell32(S.mxcsr));
  handleNans(f, format, [a, b]);
  handleDenormals(f, format, [a, b], { mx });
  const sign = f.let(and(xor(a, b), i64(format.signBit)));
  const eitherZero = or(isZero(format, a), isZero(format, b));
  f.if(or(isInfinite(format, a), isInfinite(format, b)), () => {
    f.if(eitherZero, () => invalid(f, format));
    f.return(or(sign, i64(format.infinity)));
  });
  f.if(eitherZero, () => f.return(sign));
  const x = unpack(f, format, a);
  const y = unpack(f, format, b);
  f.call(soft.mul, xor(x.sign, y.sign), x.exp, x.sig, y.exp, y.sig);
  f.return(roundResult(format.round(soft), control(mx)));
  f.unreachable();
  return f;
}

function buildDiv(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I64], [I64]);
  const [a, b] = [f.param(0), f.param(1)];
  const mx = f.let(cell32(S.mxcsr));
  handleNans(f, format, [a, b]);
  const sign = f.let(and(xor(a, b), i64(format.signBit)));
  handleDenormals(f, format, [a, b], { mx, silent: true });
  f.if(isInfinite(format, a), () => {
    f.if(isInfinite(format, b), () => invalid(f, format));
    handleDenormals(f, format, [b], { mx });
    f.return(or(sign, i64(format.infinity)));
  });
  f.if(isInfinite(format, b), () => {
    handleDenormals(f, format, [a], { mx });
    f.return(sign);
  });
  f.if(isZero(format, b), () => {
    f.if(isZero(format, a), () => invalid(f, format));
    raiseFlags(f, Fp.divide);
    f.return(or(sign, i64(format.infinity)));
  });
  handleDenormals(f, format, [a, b], { mx });
  f.if(isZero(format, a), () => f.return(sign));
  const x = unpack(f, format, a);
  const y = unpack(f, format, b);
  f.call(soft.div, xor(x.sign, y.sign), x.exp, x.sig, y.exp, y.sig);
  f.return(roundResult(format.round(soft), control(mx)));
  f.unreachable();
  return f;
}

function buildSqrt(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64], [I64]);
  const a = f.param(0);
  const mx = f.let(cell32(S.mxcsr));
  handleNans(f, format, [a]);
  f.if(isZero(format, a), () => f.return(a));
  f.if(and(mx, DAZ), () => handleDenormals(f, format, [a], { mx }));
  f.if(isZero(format, a), () => f.return(a));
  f.if(signOf(format, a), () => invalid(f, format));
  handleDenormals(f, format, [a], { mx });
  f.if(isInfinite(format, a), () => f.return(a));
  const x = unpack(f, format, a);
  f.call(soft.sqrt, x.exp, x.sig);
  f.return(roundResult(format.round(soft), control(mx)));
  f.unreachable();
  return f;
}

/** Minimum or maximum: the second operand where they do not compare or are equal. */
function buildChoice(module: ModuleBuilder, how: Lane & { greater: boolean }): FuncBuilder {
  const { format, greater } = how;
  const f = module.func([I64, I64], [I64]);
  const [a, b] = [f.param(0), f.param(1)];
  const mx = f.let(cell32(S.mxcsr));
  f.if(or(isNan(format, a), isNan(format, b)), () => {
    raiseFlags(f, Fp.invalid);
    handleDenormals(f, format, [b], { mx, silent: true });
    f.return(b);
  });
  handleDenormals(f, format, [a, b], { mx });
  const [x, y] = [format.value(a), format.value(b)];
  f.return(select(greater ? op(I32, format.lt, y, x) : op(I32, format.lt, x, y), a, b));
  f.unreachable();
  return f;
}

/** `(a, b, predicate i32) -> mask`: predicates 0 to 7 of CMPPS. */
function buildCompare(module: ModuleBuilder, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I64, I32], [I64]);
  const [a, b, predicate] = [f.param(0), f.param(1), f.param(2)];
  const mx = f.let(cell32(S.mxcsr));
  const kind = f.let(and(predicate, 3));
  const holds = f.local(I32);
  f.if(
    or(isNan(format, a), isNan(format, b)),
    () => {
      const ordered = or(eq(kind, i32(1)), eq(kind, i32(2)));
      const signaling = or(isSignaling(format, a), isSignaling(format, b));
      f.if(or(ordered, signaling), () => raiseFlags(f, Fp.invalid));
      f.set(holds, eq(kind, i32(3)));
    },
    () => {
      handleDenormals(f, format, [a, b], { mx });
      const [x, y] = [format.value(a), format.value(b)];
      const equal = op(I32, format.eq, x, y);
      const less = op(I32, format.lt, x, y);
      // eq counts for 0 and 2, lt for 1 and 2.
      f.set(
        holds,
        or(and(equal, eqz(and(kind, 1))), and(less, or(eq(kind, i32(1)), eq(kind, i32(2))))),
      );
    },
  );
  f.return(sub(i64(0), extU(xor(holds, and(shrU(predicate, 2), 1)))));
  f.unreachable();
  return f;
}

/** `(a, b, signaling i32) -> ZF, PF, CF`: COMISS and UCOMISS. */
function buildFlagsCompare(module: ModuleBuilder, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I64, I32], [I64]);
  const [a, b, signaling] = [f.param(0), f.param(1), f.param(2)];
  const mx = f.let(cell32(S.mxcsr));
  f.if(or(isNan(format, a), isNan(format, b)), () => {
    f.if(
      or(signaling, or(isSignaling(format, a), isSignaling(format, b))),
      () => raiseFlags(f, Fp.invalid),
    );
    f.return(i64(0x45));
  });
  handleDenormals(f, format, [a, b], { mx });
  const [x, y] = [format.value(a), format.value(b)];
  f.return(
    or(
      shl(extU(op(I32, format.eq, x, y)), 6),
      extU(op(I32, format.lt, x, y)),
    ),
  );
  f.unreachable();
  return f;
}

/** `(a) -> double`: exact. */
function buildWiden(module: ModuleBuilder): FuncBuilder {
  const f = module.func([I64], [I64]);
  const a = f.param(0);
  const mx = f.let(cell32(S.mxcsr));
  f.if(isNan(single, a), () => {
    f.if(isSignaling(single, a), () => raiseFlags(f, Fp.invalid));
    const fraction = shl(and(a, i64(0x7f_ffff)), 29);
    const sign = shl(and(a, i64(single.signBit)), 32);
    f.return(or(or(sign, fraction), i64(double.infinity | double.quiet)));
  });
  handleDenormals(f, single, [a], { mx });
  f.return(op(I64, Op.i64_reinterpret_f64, op(F64, Op.f64_promote_f32, single.value(a))));
  f.unreachable();
  return f;
}

/** `(a) -> single`. */
function buildNarrow(module: ModuleBuilder, soft: SoftFloat): FuncBuilder {
  const f = module.func([I64], [I64]);
  const a = f.param(0);
  const mx = f.let(cell32(S.mxcsr));
  const sign = f.let(shl(extU(signOf(double, a)), 31));
  f.if(isNan(double, a), () => {
    f.if(isSignaling(double, a), () => raiseFlags(f, Fp.invalid));
    const fraction = and(shrU(a, 29), i64(0x7f_ffff));
    f.return(or(or(sign, fraction), i64(single.infinity | single.quiet)));
  });
  handleDenormals(f, double, [a], { mx });
  f.if(isInfinite(double, a), () => f.return(or(sign, i64(single.infinity))));
  f.if(isZero(double, a), () => f.return(sign));
  const x = unpack(f, double, a);
  f.return(call(soft.roundSingle, x.sign, x.exp, x.sig, i64(0), control(mx)));
  f.unreachable();
  return f;
}

/** `(value i64) -> bits`: from a signed integer. */
function buildFromInteger(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64], [I64]);
  const value = f.param(0);
  const mx = f.let(cell32(S.mxcsr));
  f.if(eqz(value), () => f.return(i64(0)));
  const sign = f.let(ltS(value, i64(0)));
  const size = f.let(select(sign, sub(i64(0), value), value));
  const shift = f.let(clz(size));
  const exp = sub(i32(BIAS + 63), wrap(shift));
  f.return(call(format.round(soft), sign, exp, shl(size, shift), i64(0), control(mx)));
  f.unreachable();
  return f;
}

/** `(a, bits i32, mode i32) -> i64`: to a signed integer; mode 4 is that of MXCSR. */
function buildToInteger(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I32, I32], [I64]);
  const [a, bits, asked] = [f.param(0), f.param(1), f.param(2)];
  const mx = f.let(cell32(S.mxcsr));
  const mode = f.let(cond(and(asked, 4), and(shrU(mx, 13), 3), asked));
  f.if(geU(magnitude(format, a), i64(format.infinity)), () => {
    raiseFlags(f, Fp.invalid);
    f.return(shl(i64(-1n), extU(sub(bits, 1))));
  });
  handleDenormals(f, format, [a], { mx, silent: true });
  f.if(isZero(format, a), () => f.return(i64(0)));
  const x = unpack(f, format, a);
  f.return(call(soft.roundInteger, x.sign, x.exp, x.sig, i64(0), mode, bits));
  f.unreachable();
  return f;
}

/** `(a, imm i32) -> bits`: ROUNDSS and the like. */
function buildRoundIntegral(module: ModuleBuilder, soft: SoftFloat, how: Lane): FuncBuilder {
  const { format } = how;
  const f = module.func([I64, I32], [I64]);
  const [a, imm] = [f.param(0), f.param(1)];
  const mx = f.let(cell32(S.mxcsr));
  const mode = f.let(cond(and(imm, 4), and(shrU(mx, 13), 3), and(imm, 3)));
  handleNans(f, format, [a]);
  f.if(isInfinite(format, a), () => f.return(a));
  handleDenormals(f, format, [a], { mx, silent: true });
  f.if(isZero(format, a), () => f.return(a));
  const x = unpack(f, format, a);
  const significand = f.let(call(soft.roundIntegral, x.sign, x.exp, x.sig, mode));
  // Bit 3 of the immediate suppresses the precision exception.
  f.if(
    and(imm, 8),
    () => f.store32(CPU, i32(0), and(cell32(S.fpFlags), ~Fp.inexact), S.fpFlags),
  );
  f.if(eqz(significand), () => f.return(and(a, i64(format.signBit))));
  f.return(
    call(format.round(soft), x.sign, cell32(S.fpExp), significand, i64(0), i32(0)),
  );
  f.unreachable();
  return f;
}

/** `(record)`: moves `fpFlags` to MXCSR and raises #XM where one of them is not masked. */
function buildCommit(module: ModuleBuilder, runtime: Runtime): FuncBuilder {
  const f = module.func([I32]);
  const flags = f.let(and(cell32(S.fpFlags), 0x3f));
  f.store32(CPU, i32(0), i32(0), S.fpFlags);
  const mx = f.let(cell32(S.mxcsr));
  const unmasked = f.let(and(flags, xor(and(shrU(mx, 7), 0x3f), 0x3f)));
  // Exceptions of operands come before any result, of which there is then none to be inexact.
  const early = Fp.invalid | Fp.denormal | Fp.divide;
  f.if(and(unmasked, early), () => f.set(flags, and(flags, early)));
  f.store32(CPU, i32(0), or(mx, flags), S.mxcsr);
  f.if(unmasked, () => {
    const vector = select(and(cell32(S.cr4), CR4_OSXMMEXCPT), i32(Vector.XM), i32(Vector.UD));
    f.call(runtime.raise, vector, i32(0), i32(0), f.param(0));
    f.unreachable();
  });
  return f;
}

interface Lane {
  readonly format: LaneFormat;
  /** The second operand's sign is changed. */
  readonly negate?: boolean;
}

/** Adds the lane functions, as `single.add` and so on. */
export function registerLanes(module: ModuleBuilder, runtime: Runtime, soft: SoftFloat): void {
  const set = (name: string, func: FuncRef) => runtime.helpers.set(name, func);
  for (const format of [single, double]) {
    const how = { format };
    const { name } = format;
    set(`${name}.add`, buildAdd(module, soft, how));
    set(`${name}.sub`, buildAdd(module, soft, { format, negate: true }));
    set(`${name}.mul`, buildMul(module, soft, how));
    set(`${name}.div`, buildDiv(module, soft, how));
    set(`${name}.sqrt`, buildSqrt(module, soft, how));
    set(`${name}.min`, buildChoice(module, { format, greater: false }));
    set(`${name}.max`, buildChoice(module, { format, greater: true }));
    set(`${name}.compare`, buildCompare(module, how));
    set(`${name}.flags`, buildFlagsCompare(module, how));
    set(`${name}.fromInteger`, buildFromInteger(module, soft, how));
    set(`${name}.toInteger`, buildToInteger(module, soft, how));
    set(`${name}.round`, buildRoundIntegral(module, soft, how));
  }
  set("single.widen", buildWiden(module));
  set("double.narrow", buildNarrow(module, soft));
  set("sseCommit", buildCommit(module, runtime));
}

/**
 * Adds `rcp` and `rsqrt`, `(a) -> bits`. As in Intel's processors: the function's value in the middle of
 * the interval that the leading 11 (rsqrt: 10) fraction bits name, rounded to 12 fraction bits. That is
 * within the architecture's bound of 1.5 * 2^-12.
 */
export function registerApproximations(module: ModuleBuilder, runtime: Runtime): void {
  for (const name of ["rcp", "rsqrt"]) {
    const f = module.func([I64], [I64]);
    const a = f.param(0);
    f.if(isNan(single, a), () => f.return(or(a, i64(single.quiet))));
    // Denormals count as zeros.
    f.if(
      ltUnsigned(magnitude(single, a), i64(0x80_0000)),
      () => f.return(or(and(a, i64(single.signBit)), i64(single.infinity))),
    );
    if (name === "rsqrt") f.if(signOf(single, a), () => f.return(defaultNan(single)));
    f.if(
      isInfinite(single, a),
      () => f.return(and(a, i64(single.signBit))),
    );
    const kept = name === "rcp" ? 11 : 10;
    const half = 1n << BigInt(22 - kept);
    const middle = or(and(a, i64(~(2n * half - 1n))), i64(half));
    const value = op(F64, Op.f64_promote_f32, single.value(middle));
    const divisor = name === "rcp" ? value : op(F64, Op.f64_sqrt, value);
    const quotient = op(I64, Op.i64_reinterpret_f64, op(F64, Op.f64_div, f64(1), divisor));
    const bits = f.let(and(add(quotient, i64(1n << 39n)), i64(-1n << 40n)));
    const result = f.let(
      extU(op(
        I32,
        Op.i32_reinterpret_f32,
        op(F32, Op.f32_demote_f64, op(F64, Op.f64_reinterpret_i64, bits)),
      )),
    );
    // A tiny reciprocal is zero.
    f.if(
      ltUnsigned(magnitude(single, result), i64(0x80_0000)),
      () => f.return(and(a, i64(single.signBit))),
    );
    f.return(result);
    f.unreachable();
    runtime.helpers.set(name, f);
  }
}
