/**
 * Arithmetic on 80-bit numbers in the state (Intel SDM vol. 1, 4.2.2, 4.8.3 and 8.5): functions take
 * addresses of operands, return the significand of the result, and leave its sign and exponent in
 * `fpExponent` and exceptions in `fpFlags`.
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
  type FuncBuilder,
  type FuncRef,
  geU,
  gtS,
  gtU,
  i32,
  i64,
  load,
  type Local,
  ltS,
  ltU,
  type ModuleBuilder,
  ne,
  or,
  select,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import { CPU, S } from "../state.ts";
import { BIAS, cell32, cell64, Control, Fp, raiseFlags, type SoftFloat } from "./softfloat.ts";

const { I32, I64 } = ValType;

const TOP_BIT = 1n << 63n;
const QUIET_BIT = 1n << 62n;
/** Significand, sign and exponent of the default NaN. */
export const NAN_SIGNIFICAND = 3n << 62n;
/** Sign and exponent of the default NaN. */
export const NAN_EXPONENT = 0xffff;
/** Bit of `fpFlags`: a memory operand was denormal in its own format. */
const PENDING_DENORMAL = 0x10000;

/** A number as it lies in a register. */
export interface Extended {
  /** i32: sign and exponent. */
  readonly se: Local;
  /** i32: exponent. */
  readonly exp: Local;
  /** i64. */
  readonly sig: Local;
}

/** Loads the number at `address`. */
export function loadExtended(f: FuncBuilder, address: Expr): Extended {
  const at = f.let(address);
  const se = f.let(load.i32_16u(CPU, at, 8));
  return { se, exp: f.let(and(se, 0x7fff)), sig: f.let(load.i64(CPU, at)) };
}

function isUnsupported(x: Extended): Expr {
  return and(ne(x.exp, i32(0)), eqz(shrU(x.sig, 63)));
}

function isNan(x: Extended): Expr {
  return and(eq(x.exp, i32(0x7fff)), ne(shl(x.sig, 1), i64(0)));
}

function isSignaling(x: Extended): Expr {
  return and(isNan(x), eqz(and(x.sig, i64(QUIET_BIT))));
}

function isInfinite(x: Extended): Expr {
  return and(eq(x.exp, i32(0x7fff)), eqz(shl(x.sig, 1)));
}

function isZero(x: Extended): Expr {
  return eqz(or(extU(x.exp), x.sig));
}

function isDenormal(x: Extended): Expr {
  return and(eqz(x.exp), ne(x.sig, i64(0)));
}

function signOf(x: Extended): Expr {
  return shrU(x.se, 15);
}

function give(f: FuncBuilder, se: Expr, sig: Expr): void {
  f.store32(CPU, i32(0), se, S.fpExponent);
  f.return(sig);
}

function giveDefault(f: FuncBuilder): void {
  give(f, i32(NAN_EXPONENT), i64(NAN_SIGNIFICAND));
}

function invalid(f: FuncBuilder): void {
  raiseFlags(f, Fp.invalid);
  giveDefault(f);
}

/** Returns what comes of unsupported operands and NaNs, if there is one. */
function handleSpecial(f: FuncBuilder, a: Extended, b: Extended): void {
  f.if(or(isUnsupported(a), isUnsupported(b)), () => invalid(f));
  f.if(or(isNan(a), isNan(b)), () => {
    const [signalA, signalB] = [f.let(isSignaling(a)), f.let(isSignaling(b))];
    f.if(or(signalA, signalB), () => raiseFlags(f, Fp.invalid));
    const [sigA, sigB] = [
      f.let(or(a.sig, i64(QUIET_BIT))),
      f.let(or(b.sig, i64(QUIET_BIT))),
    ];
    // Equal significands: the positive one.
    const larger = or(
      gtU(sigA, sigB),
      and(eq(sigA, sigB), ltU(a.se, b.se)),
    );
    // A quiet NaN goes before a signaling one, then the larger significand.
    const useA = f.let(
      cond(
        eqz(isNan(b)),
        i32(1),
        cond(
          eqz(isNan(a)),
          i32(0),
          cond(eq(signalA, signalB), larger, signalB),
        ),
      ),
    );
    give(f, select(useA, a.se, b.se), select(useA, sigA, sigB));
  });
}

function handleSpecialOne(f: FuncBuilder, a: Extended): void {
  f.if(isUnsupported(a), () => invalid(f));
  f.if(isNan(a), () => {
    f.if(isSignaling(a), () => raiseFlags(f, Fp.invalid));
    give(f, a.se, or(a.sig, i64(QUIET_BIT)));
  });
}

function noteDenormals(f: FuncBuilder, ...operands: Extended[]): void {
  const any = operands.map(isDenormal).reduce((x, y) => or(x, y));
  f.if(
    or(any, and(cell32(S.fpFlags), PENDING_DENORMAL)),
    () => raiseFlags(f, Fp.denormal),
  );
}

/** Exponent and significand of a number that is not zero, with bit 63 set. */
function normalize(f: FuncBuilder, x: Extended): { exp: Local; sig: Local } {
  const shift = f.let(clz(x.sig));
  const exp = f.let(sub(select(x.exp, x.exp, i32(1)), wrap(shift)));
  return { exp, sig: f.let(shl(x.sig, shift)) };
}

/** Rounding control of rounding functions, from the control word. */
function control(): Expr {
  const cw = cell32(S.fpuCw);
  const unmasked = xor(and(shrU(cw, 3), 3), 3); // bit 0 overflow, bit 1 underflow
  return or(
    and(shrU(cw, 10), 3),
    or(
      select(and(unmasked, 2), i32(Control.underflow), i32(0)),
      select(and(unmasked, 1), i32(Control.overflow), i32(0)),
    ),
  );
}

/** Functions on values; see the module's comment. */
export interface ValueFunctions {
  /** `(a, b, negate i32)`: a + b or a - b. */
  readonly add: FuncRef;
  readonly mul: FuncRef;
  readonly div: FuncRef;
  readonly sqrt: FuncRef;
  /** To an integral value. */
  readonly rint: FuncRef;
  /** a * 2^b. */
  readonly scale: FuncRef;
  /** `(a, b, nearest i32)`: remainder; also sets C0, C1, C2, C3. */
  readonly remainder: FuncRef;
  /** `(a, b, quiet i32) -> i32`: C3, C2, C0. */
  readonly compare: FuncRef;
  /** `(bits i64)`; with `arithmetic` (i32) NaNs stay signaling and denormals are noted for later. */
  readonly fromSingle: FuncRef;
  readonly fromDouble: FuncRef;
  /** `(value i64)`. */
  readonly fromInteger: FuncRef;
  /** `(a) -> bits`. */
  readonly toSingle: FuncRef;
  readonly toDouble: FuncRef;
  /** `(a, bits i32, mode i32) -> i64`; mode 4: that of the control word. */
  readonly toInteger: FuncRef;
}

function buildRound(module: ModuleBuilder, soft: SoftFloat): FuncRef {
  // (sign, exp, high, low): in the precision of the control word.
  const f = module.func([I32, I32, I64, I64], [I64]);
  const precision = f.let(and(shrU(cell32(S.fpuCw), 8), 3));
  const by = (bits: number) => {
    const round = soft.roundExtended.get(bits);
    if (round === undefined) throw new TypeError(`no rounding to ${bits} bits`);
    f.return(call(round, f.param(0), f.param(1), f.param(2), f.param(3), control()));
  };
  f.if(eq(precision, i32(0)), () => by(24));
  f.if(eq(precision, i32(2)), () => by(53));
  by(64);
  f.unreachable();
  return f;
}

/** Rounds the unrounded result in the state. */
function roundUnrounded(round: FuncRef): Expr {
  return call(round, cell32(S.fpSign), cell32(S.fpExp), cell64(S.fpHigh), cell64(S.fpLow));
}

function buildAdd(module: ModuleBuilder, soft: SoftFloat, round: FuncRef): FuncRef {
  const f = module.func([I32, I32, I32], [I64]);
  const a = loadExtended(f, f.param(0));
  const b = loadExtended(f, f.param(1));
  handleSpecial(f, a, b);
  f.set(b.se, xor(b.se, shl(f.param(2), 15)));
  noteDenormals(f, a, b);
  f.if(isInfinite(a), () => {
    f.if(and(isInfinite(b), ne(a.se, b.se)), () => invalid(f));
    give(f, a.se, a.sig);
  });
  f.if(isInfinite(b), () => give(f, b.se, b.sig));
  const downward = eq(and(cell32(S.fpuCw), 0xc00), i32(0x400));
  f.if(isZero(b), () => {
    f.if(isZero(a), () => {
      const se = cond(eq(a.se, b.se), a.se, select(downward, i32(0x8000), i32(0)));
      give(f, se, i64(0));
    });
    const x = normalize(f, a);
    f.return(call(round, signOf(a), x.exp, x.sig, i64(0)));
  });
  f.if(isZero(a), () => {
    const y = normalize(f, b);
    f.return(call(round, signOf(b), y.exp, y.sig, i64(0)));
  });
  const x = normalize(f, a);
  const y = normalize(f, b);
  f.call(soft.add, signOf(a), x.exp, x.sig, signOf(b), y.exp, y.sig, downward);
  f.if(eqz(cell64(S.fpHigh)), () => give(f, shl(cell32(S.fpSign), 15), i64(0)));
  f.return(roundUnrounded(round));
  f.unreachable();
  return f;
}

function buildMul(module: ModuleBuilder, soft: SoftFloat, round: FuncRef): FuncRef {
  const f = module.func([I32, I32], [I64]);
  const a = loadExtended(f, f.param(0));
  const b = loadExtended(f, f.param(1));
  handleSpecial(f, a, b);
  const sign = f.let(and(xor(a.se, b.se), 0x8000));
  const zero = or(isZero(a), isZero(b));
  f.if(or(isInfinite(a), isInfinite(b)), () => {
    f.if(zero, () => invalid(f));
    noteDenormals(f, a, b);
    give(f, or(sign, 0x7fff), i64(TOP_BIT));
  });
  noteDenormals(f, a, b);
  f.if(zero, () => give(f, sign, i64(0)));
  const x = normalize(f, a);
  const y = normalize(f, b);
  f.call(soft.mul, shrU(sign, 15), x.exp, x.sig, y.exp, y.sig);
  f.return(roundUnrounded(round));
  f.unreachable();
  return f;
}

function buildDiv(module: ModuleBuilder, soft: SoftFloat, round: FuncRef): FuncRef {
  const f = module.func([I32, I32], [I64]);
  const a = loadExtended(f, f.param(0));
  const b = loadExtended(f, f.param(1));
  handleSpecial(f, a, b);
  const sign = f.let(and(xor(a.se, b.se), 0x8000));
  f.if(isInfinite(a), () => {
    f.if(isInfinite(b), () => invalid(f));
    noteDenormals(f, b);
    give(f, or(sign, 0x7fff), i64(TOP_BIT));
  });
  f.if(isInfinite(b), () => {
    noteDenormals(f, a);
    give(f, sign, i64(0));
  });
  f.if(isZero(b), () => {
    f.if(isZero(a), () => invalid(f));
    raiseFlags(f, Fp.divide);
    give(f, or(sign, 0x7fff), i64(TOP_BIT));
  });
  noteDenormals(f, a, b);
  f.if(isZero(a), () => give(f, sign, i64(0)));
  const x = normalize(f, a);
  const y = normalize(f, b);
  f.call(soft.div, shrU(sign, 15), x.exp, x.sig, y.exp, y.sig);
  f.return(roundUnrounded(round));
  f.unreachable();
  return f;
}

function buildSqrt(module: ModuleBuilder, soft: SoftFloat, round: FuncRef): FuncRef {
  const f = module.func([I32], [I64]);
  const a = loadExtended(f, f.param(0));
  handleSpecialOne(f, a);
  f.if(isZero(a), () => give(f, a.se, a.sig));
  f.if(signOf(a), () => invalid(f));
  noteDenormals(f, a);
  f.if(isInfinite(a), () => give(f, a.se, a.sig));
  const x = normalize(f, a);
  f.call(soft.sqrt, x.exp, x.sig);
  f.return(roundUnrounded(round));
  f.unreachable();
  return f;
}

function roundFull(soft: SoftFloat): FuncRef {
  const round = soft.roundExtended.get(64);
  if (round === undefined) throw new TypeError("no rounding to 64 bits");
  return round;
}

function buildRint(module: ModuleBuilder, soft: SoftFloat): FuncRef {
  const f = module.func([I32], [I64]);
  const a = loadExtended(f, f.param(0));
  handleSpecialOne(f, a);
  f.if(or(isInfinite(a), isZero(a)), () => give(f, a.se, a.sig));
  noteDenormals(f, a);
  const x = normalize(f, a);
  const mode = and(shrU(cell32(S.fpuCw), 10), 3);
  const sig = f.let(call(soft.roundIntegral, signOf(a), x.exp, x.sig, mode));
  const sign = f.let(and(a.se, 0x8000));
  f.if(eqz(sig), () => give(f, sign, i64(0)));
  give(f, or(sign, cell32(S.fpExp)), sig);
  f.unreachable();
  return f;
}

function buildScale(module: ModuleBuilder, soft: SoftFloat): FuncRef {
  const f = module.func([I32, I32], [I64]);
  const a = loadExtended(f, f.param(0));
  const b = loadExtended(f, f.param(1));
  handleSpecial(f, a, b);
  f.if(isInfinite(b), () => {
    f.if(
      signOf(b),
      () => {
        f.if(isInfinite(a), () => invalid(f));
        noteDenormals(f, a);
        give(f, and(a.se, 0x8000), i64(0));
      },
      () => {
        f.if(isZero(a), () => invalid(f));
        noteDenormals(f, a);
        give(f, or(and(a.se, 0x8000), 0x7fff), i64(TOP_BIT));
      },
    );
  });
  noteDenormals(f, a, b);
  f.if(or(isZero(a), isInfinite(a)), () => give(f, a.se, a.sig));
  f.if(isZero(b), () => {
    const x = normalize(f, a);
    f.return(call(roundFull(soft), signOf(a), x.exp, x.sig, i64(0), control()));
  });
  // The integer part of b, at most 2^17: more over- or underflows in any case.
  const y = normalize(f, b);
  const amount = f.local(I32, i32(0x20000));
  f.if(ltS(y.exp, i32(BIAS + 17)), () => {
    f.if(
      ltS(y.exp, i32(BIAS)),
      () => f.set(amount, i32(0)),
      () => f.set(amount, wrap(shrU(y.sig, extU(sub(i32(BIAS + 63), y.exp))))),
    );
  });
  f.if(signOf(b), () => f.set(amount, sub(i32(0), amount)));
  const x = normalize(f, a);
  f.return(
    call(roundFull(soft), signOf(a), add(x.exp, amount), x.sig, i64(0), control()),
  );
  f.unreachable();
  return f;
}

/**
 * FPREM and FPREM1; C2 is clear at first. Beyond an exponent difference of 63 it reduces partly, by 32 to 63 bits, and sets C2
 * (as Intel's processors do: by 32 plus the difference modulo 32).
 */
function buildRemainder(module: ModuleBuilder, soft: SoftFloat): FuncRef {
  const f = module.func([I32, I32, I32], [I64]);
  const nearest = f.param(2);
  const a = loadExtended(f, f.param(0));
  const b = loadExtended(f, f.param(1));
  const setCodes = (codes: Expr) => {
    const others = and(cell32(S.fpuSw), ~0x4700);
    f.store32(CPU, i32(0), or(others, codes), S.fpuSw);
  };
  handleSpecial(f, a, b);
  f.if(or(isInfinite(a), isZero(b)), () => invalid(f));
  noteDenormals(f, a, b);
  // Without a result the condition codes stay as they are.
  const unmasked = and(cell32(S.fpFlags), xor(cell32(S.fpuCw), -1));
  f.if(and(unmasked, Fp.denormal), () => f.return(i64(0)));
  setCodes(i32(0));
  f.if(isZero(a), () => give(f, a.se, a.sig));
  const x = normalize(f, a);
  const sign = f.let(signOf(a));
  const full = roundFull(soft);
  f.if(isInfinite(b), () => f.return(call(full, sign, x.exp, x.sig, i64(0), control())));
  const y = normalize(f, b);
  const difference = f.let(sub(x.exp, y.exp));
  const steps = f.local(I32, difference);
  const partial = f.let(gtS(difference, i32(63)));
  // Smaller than the divisor: the quotient is 0, or 1 where it is nearer.
  f.if(ltS(difference, i32(-1)), () => {
    f.return(call(full, sign, x.exp, x.sig, i64(0), control()));
  });
  f.if(partial, () => f.set(steps, or(and(difference, 31), 32)));
  const quotient = f.local(I64, i64(0));
  const rest = f.let(x.sig);
  const exp = f.local(I32);
  f.if(ltS(difference, i32(0)), () => {
    // Half the exponent below: only rounding to nearest can subtract the divisor, once.
    f.set(exp, x.exp);
    f.if(and(nearest, gtU(x.sig, y.sig)), () => {
      // b - a in units of a: 2 * sigB - sigA.
      f.set(rest, sub(shl(y.sig, 1), x.sig));
      f.set(sign, xor(sign, 1));
      f.set(quotient, i64(1));
    });
  }, () => {
    const top = f.local(I32, i32(0));
    const count = f.local(I32, steps);
    // One quotient bit a turn; `top` is bit 64 of the rest.
    f.block((done) => {
      f.loop((again) => {
        f.set(quotient, shl(quotient, 1));
        f.if(or(top, geU(rest, y.sig)), () => {
          f.set(rest, sub(rest, y.sig));
          f.set(quotient, or(quotient, 1));
        });
        f.brIf(done, eqz(count));
        f.set(top, wrap(shrU(rest, 63)));
        f.set(rest, shl(rest, 1));
        f.set(count, sub(count, 1));
        f.br(again);
      });
    });
    f.set(exp, add(y.exp, sub(difference, steps)));
    f.if(and(nearest, eqz(partial)), () => {
      const other = f.let(sub(y.sig, rest));
      // Nearer from above, or halfway and odd.
      f.if(
        or(ltU(other, rest), and(eq(other, rest), wrap(and(quotient, 1)))),
        () => {
          f.set(rest, other);
          f.set(sign, xor(sign, 1));
          f.set(quotient, add(quotient, 1));
        },
      );
    });
  });
  f.if(
    partial,
    () => setCodes(i32(0x400)),
    () => {
      const q = wrap(quotient);
      // C0 is quotient bit 2, C3 bit 1, C1 bit 0.
      setCodes(
        or(
          or(shl(and(q, 4), 6), shl(and(q, 2), 13)),
          shl(and(q, 1), 9),
        ),
      );
      f.if(and(wrap(quotient), 1), () => raiseFlags(f, Fp.up));
    },
  );
  f.if(eqz(rest), () => give(f, and(a.se, 0x8000), i64(0)));
  const shift = f.let(clz(rest));
  f.return(
    call(full, sign, sub(exp, wrap(shift)), shl(rest, shift), i64(0), control()),
  );
  f.unreachable();
  return f;
}

function buildCompare(module: ModuleBuilder): FuncRef {
  const f = module.func([I32, I32, I32], [I32]);
  const quiet = f.param(2);
  const a = loadExtended(f, f.param(0));
  const b = loadExtended(f, f.param(1));
  f.if(or(isUnsupported(a), isUnsupported(b)), () => {
    raiseFlags(f, Fp.invalid);
    f.return(i32(0x4500));
  });
  f.if(or(isNan(a), isNan(b)), () => {
    f.if(
      or(eqz(quiet), or(isSignaling(a), isSignaling(b))),
      () => raiseFlags(f, Fp.invalid),
    );
    f.return(i32(0x4500));
  });
  noteDenormals(f, a, b);
  f.if(and(isZero(a), isZero(b)), () => f.return(i32(0x4000)));
  const [signA, signB] = [f.let(signOf(a)), f.let(signOf(b))];
  f.if(ne(signA, signB), () => f.return(shl(signA, 8)));
  const [expA, expB] = [
    f.let(select(a.exp, a.exp, i32(1))),
    f.let(select(b.exp, b.exp, i32(1))),
  ];
  f.if(and(eq(expA, expB), eq(a.sig, b.sig)), () => f.return(i32(0x4000)));
  // Zero has the exponent of a denormal and no significand.
  const less = or(
    ltU(expA, expB),
    and(eq(expA, expB), ltU(a.sig, b.sig)),
  );
  f.return(shl(xor(less, signA), 8));
  f.unreachable();
  return f;
}

/** `(bits i64, arithmetic i32)`. */
function buildFrom(module: ModuleBuilder, format: { fraction: number; sign: number }): FuncRef {
  const { fraction, sign } = format;
  const f = module.func([I64, I32], [I64]);
  const bits = f.param(0);
  const arithmetic = f.param(1);
  const exponentMask = (1 << (sign - fraction)) - 1;
  const bias = exponentMask >> 1;
  const signBit = f.let(shl(and(wrap(shrU(bits, sign)), 1), 15));
  const field = f.let(and(wrap(shrU(bits, fraction)), exponentMask));
  const sig = f.let(shl(bits, 64 - fraction));
  f.set(sig, shrU(sig, 1));
  f.if(eq(field, i32(exponentMask)), () => {
    f.if(and(ne(sig, i64(0)), eqz(arithmetic)), () => {
      f.if(eqz(and(sig, i64(QUIET_BIT))), () => raiseFlags(f, Fp.invalid));
      f.set(sig, or(sig, i64(QUIET_BIT)));
    });
    give(f, or(signBit, 0x7fff), or(sig, i64(TOP_BIT)));
  });
  f.if(eqz(field), () => {
    f.if(eqz(sig), () => give(f, signBit, i64(0)));
    raiseFlags(f, select(arithmetic, i32(PENDING_DENORMAL), i32(Fp.denormal)));
    const shift = f.let(clz(sig));
    give(
      f,
      or(signBit, sub(i32(BIAS + 1 - bias), wrap(shift))),
      shl(sig, shift),
    );
  });
  give(f, or(signBit, add(field, BIAS - bias)), or(sig, i64(TOP_BIT)));
  f.unreachable();
  return f;
}

function buildFromInteger(module: ModuleBuilder): FuncRef {
  const f = module.func([I64], [I64]);
  const value = f.param(0);
  f.if(eqz(value), () => give(f, i32(0), i64(0)));
  const sign = f.let(ltS(value, i64(0)));
  const size = f.let(select(sign, sub(i64(0), value), value));
  const shift = f.let(clz(size));
  give(f, or(shl(sign, 15), sub(i32(BIAS + 63), wrap(shift))), shl(size, shift));
  f.unreachable();
  return f;
}

function buildTo(
  module: ModuleBuilder,
  format: { fraction: number; sign: number; round: FuncRef },
): FuncRef {
  const { fraction, sign, round } = format;
  const f = module.func([I32], [I64]);
  const a = loadExtended(f, f.param(0));
  const infinity = ((1n << BigInt(sign - fraction)) - 1n) << BigInt(fraction);
  const quiet = 1n << BigInt(fraction - 1);
  const signBit = f.let(shl(extU(signOf(a)), sign));
  f.if(isUnsupported(a), () => {
    raiseFlags(f, Fp.invalid);
    f.return(i64((1n << BigInt(sign)) | infinity | quiet));
  });
  f.if(isNan(a), () => {
    f.if(isSignaling(a), () => raiseFlags(f, Fp.invalid));
    const payload = and(shrU(a.sig, 63 - fraction), i64((1n << BigInt(fraction)) - 1n));
    f.return(or(or(signBit, i64(infinity | quiet)), payload));
  });
  f.if(isInfinite(a), () => f.return(or(signBit, i64(infinity))));
  f.if(isZero(a), () => f.return(signBit));
  const x = normalize(f, a);
  f.return(call(round, signOf(a), x.exp, x.sig, i64(0), control()));
  f.unreachable();
  return f;
}

function buildToInteger(module: ModuleBuilder, soft: SoftFloat): FuncRef {
  const f = module.func([I32, I32, I32], [I64]);
  const a = loadExtended(f, f.param(0));
  const [bits, asked] = [f.param(1), f.param(2)];
  const mode = f.let(cond(and(asked, 4), and(shrU(cell32(S.fpuCw), 10), 3), asked));
  f.if(or(isUnsupported(a), eq(a.exp, i32(0x7fff))), () => {
    raiseFlags(f, Fp.invalid);
    f.return(shl(i64(-1n), extU(sub(bits, 1))));
  });
  f.if(isZero(a), () => f.return(i64(0)));
  const x = normalize(f, a);
  f.return(call(soft.roundInteger, signOf(a), x.exp, x.sig, i64(0), mode, bits));
  f.unreachable();
  return f;
}

/** Adds the functions. */
export function buildValues(module: ModuleBuilder, soft: SoftFloat): ValueFunctions {
  const round = buildRound(module, soft);
  return {
    add: buildAdd(module, soft, round),
    mul: buildMul(module, soft, round),
    div: buildDiv(module, soft, round),
    sqrt: buildSqrt(module, soft, round),
    rint: buildRint(module, soft),
    scale: buildScale(module, soft),
    remainder: buildRemainder(module, soft),
    compare: buildCompare(module),
    fromSingle: buildFrom(module, { fraction: 23, sign: 31 }),
    fromDouble: buildFrom(module, { fraction: 52, sign: 63 }),
    fromInteger: buildFromInteger(module),
    toSingle: buildTo(module, { fraction: 23, sign: 31, round: soft.roundSingle }),
    toDouble: buildTo(module, { fraction: 52, sign: 63, round: soft.roundDouble }),
    toInteger: buildToInteger(module, soft),
  };
}
