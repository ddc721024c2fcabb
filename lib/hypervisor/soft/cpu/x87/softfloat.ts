/**
 * Exact arithmetic on unpacked floats, and rounding into the formats of SSE and x87 (IEEE 754-2019 with
 * the choices of Intel SDM vol. 1, 4.8 and 4.9: tininess is detected after rounding).
 *
 * An unpacked number is a sign, an exponent biased by 16383, and a 64-bit significand whose bit 63 is
 * set: value = significand / 2^63 * 2^(exponent - 16383). The operations leave an unrounded result of
 * 128 bits in the state (`fpSign` to `fpLow`): its low half holds the round bit and, jammed, the rest. A
 * rounding function makes it a number of its format and records exceptions in `fpFlags`.
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
  mul,
  ne,
  or,
  select,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import { CPU, S } from "../state.ts";

const { I32, I64 } = ValType;

/** Bias of unpacked exponents, that of the 80-bit format. */
export const BIAS = 16383;
/** What an unmasked underflow or overflow adds to or takes from an 80-bit exponent. */
const WRAP = 24576;
const TOP_BIT = 1n << 63n;

/** Exception flags, as MXCSR and the x87 status word number them. */
export const Fp = {
  invalid: 1,
  denormal: 2,
  divide: 4,
  overflow: 8,
  underflow: 16,
  inexact: 32,
  /** x87 stack fault. */
  stack: 0x40,
  /** C1 of the x87: the result was rounded up. */
  up: 0x200,
} as const;

/** Bits of the control argument of rounding functions. Bits 0 and 1 are the rounding mode. */
export const Control = {
  /** Tiny results become zero. */
  flush: 4,
  /** Underflow is not masked. */
  underflow: 8,
  /** Overflow is not masked. */
  overflow: 16,
} as const;

/** A format to round into. */
export interface Format {
  /** Bits of precision, the leading one included. */
  readonly precision: number;
  /** Unpacked exponents of the smallest and largest normal number. */
  readonly minExp: number;
  readonly maxExp: number;
  /** Bits of the stored fraction; 0: the 80-bit format. */
  readonly fraction: number;
  /** Position of the sign. */
  readonly sign: number;
}

/** Single precision. */
export const SINGLE: Format = {
  precision: 24,
  minExp: BIAS - 126,
  maxExp: BIAS + 127,
  fraction: 23,
  sign: 31,
};

/** Double precision. */
export const DOUBLE: Format = {
  precision: 53,
  minExp: BIAS - 1022,
  maxExp: BIAS + 1023,
  fraction: 52,
  sign: 63,
};

function extended(precision: number): Format {
  return { precision, minExp: 1, maxExp: 0x7ffe, fraction: 0, sign: 0 };
}

/** Names of the functions; all but the last group take unpacked operands. */
export interface SoftFloat {
  /** `(signA, expA, sigA, signB, expB, sigB, downward i32)`; both are not zero. */
  readonly add: FuncRef;
  /** `(sign, expA, sigA, expB, sigB)`. */
  readonly mul: FuncRef;
  /** `(sign, expA, sigA, expB, sigB)`. */
  readonly div: FuncRef;
  /** `(exp, sig)` of a positive number. */
  readonly sqrt: FuncRef;
  /** `(sign, exp, high, low, control) -> bits`. */
  readonly roundSingle: FuncRef;
  /** `(sign, exp, high, low, control) -> bits`. */
  readonly roundDouble: FuncRef;
  /** `(sign, exp, high, low, control) -> significand`, `fpExponent`; 24, 53 or 64 bits. */
  readonly roundExtended: ReadonlyMap<number, FuncRef>;
  /** `(sign, exp, high, low, control, bits i32) -> i64`: to a signed integer of 16, 32 or 64 bits. */
  readonly roundInteger: FuncRef;
  /** `(sign, exp, sig, mode) -> significand`, `fpExp`: to an integral value, 0 where nothing is left. */
  readonly roundIntegral: FuncRef;
}

/** i32 of the state. */
export function cell32(offset: number): Expr {
  return load.i32(CPU, i32(0), offset);
}

/** i64 of the state. */
export function cell64(offset: number): Expr {
  return load.i64(CPU, i32(0), offset);
}

/** Records exceptions. */
export function raiseFlags(f: FuncBuilder, flags: Expr | number): void {
  const value = typeof flags === "number" ? i32(flags) : flags;
  f.store32(CPU, i32(0), or(cell32(S.fpFlags), value), S.fpFlags);
}

/** Sets `high` and `low` to the pair shifted right by `count` (i32, not negative); lost bits jam. */
function shiftRightJam(f: FuncBuilder, pair: { high: Local; low: Local }, count: Expr): void {
  const n = f.let(count);
  const { high, low } = pair;
  const n64 = f.let(extU(n));
  const jam = (lost: Expr) => extU(ne(lost, i64(0)));
  f.if(ltU(n, i32(64)), () => {
    f.if(n, () => {
      const lost = shl(low, sub(i64(64), n64));
      f.set(low, or(or(shrU(low, n64), shl(high, sub(i64(64), n64))), jam(lost)));
      f.set(high, shrU(high, n64));
    });
  }, () => {
    f.if(ltU(n, i32(128)), () => {
      const rest = f.let(sub(n64, i64(64)));
      const lost = f.let(
        or(low, select(eqz(rest), i64(0), shl(high, sub(i64(64), rest)))),
      );
      f.set(low, or(shrU(high, rest), jam(lost)));
    }, () => f.set(low, jam(or(high, low))));
    f.set(high, i64(0));
  });
}

/** Leaves an unrounded result. */
function put(f: FuncBuilder, at: { sign: Expr; exp: Expr; high: Expr; low: Expr }): void {
  f.store32(CPU, i32(0), at.sign, S.fpSign);
  f.store32(CPU, i32(0), at.exp, S.fpExp);
  f.store64(CPU, i32(0), at.high, S.fpHigh);
  f.store64(CPU, i32(0), at.low, S.fpLow);
}

function buildAdd(module: ModuleBuilder): FuncRef {
  const f = module.func([I32, I32, I64, I32, I32, I64, I32]);
  // The larger magnitude is a.
  const swapped = or(
    ltS(f.param(1), f.param(4)),
    and(eq(f.param(1), f.param(4)), ltU(f.param(2), f.param(5))),
  );
  const swap = f.let(swapped);
  const choose = (a: number, b: number) => f.let(select(swap, f.param(b), f.param(a)));
  const [sign, exp, sig] = [choose(0, 3), choose(1, 4), choose(2, 5)];
  const [signB, expB, sigB] = [choose(3, 0), choose(4, 1), choose(5, 2)];
  const pair = { high: sigB, low: f.local(I64, i64(0)) };
  shiftRightJam(f, pair, sub(exp, expB));
  const high = f.local(I64);
  const low = f.local(I64, pair.low);
  f.if(
    eq(sign, signB),
    () => {
      f.set(high, add(sig, pair.high));
      f.if(ltU(high, sig), () => {
        f.set(low, or(or(shrU(low, 1), and(low, 1)), shl(high, 63)));
        f.set(high, or(shrU(high, 1), i64(TOP_BIT)));
        f.set(exp, add(exp, 1));
      });
    },
    () => {
      f.set(high, sub(sub(sig, pair.high), extU(ne(low, i64(0)))));
      f.set(low, sub(i64(0), low));
      f.if(eqz(or(high, low)), () => {
        put(f, { sign: f.param(6), exp: i32(0), high: i64(0), low: i64(0) });
        f.return();
      });
      f.if(eqz(high), () => {
        f.set(high, low);
        f.set(low, i64(0));
        f.set(exp, sub(exp, 64));
      });
      const shift = f.let(clz(high));
      f.if(ne(shift, i64(0)), () => {
        f.set(high, or(shl(high, shift), shrU(low, sub(i64(64), shift))));
        f.set(low, shl(low, shift));
        f.set(exp, sub(exp, wrap(shift)));
      });
    },
  );
  put(f, { sign, exp, high, low });
  return f;
}

function buildMul(module: ModuleBuilder, mulHigh: FuncRef): FuncRef {
  const f = module.func([I32, I32, I64, I32, I64]);
  const [sign, expA, sigA, expB, sigB] = [
    f.param(0),
    f.param(1),
    f.param(2),
    f.param(3),
    f.param(4),
  ];
  const high = f.let(call(mulHigh, sigA, sigB));
  const low = f.let(mul(sigA, sigB));
  const exp = f.let(sub(add(expA, expB), BIAS - 1));
  f.if(eqz(shrU(high, 63)), () => {
    f.set(high, or(shl(high, 1), shrU(low, 63)));
    f.set(low, shl(low, 1));
    f.set(exp, sub(exp, 1));
  });
  put(f, { sign, exp, high, low });
  return f;
}

function buildDiv(module: ModuleBuilder, divide: FuncRef): FuncRef {
  const f = module.func([I32, I32, I64, I32, I64]);
  const [sign, expA, sigA, expB, sigB] = [
    f.param(0),
    f.param(1),
    f.param(2),
    f.param(3),
    f.param(4),
  ];
  const exp = f.let(add(sub(expA, expB), BIAS));
  const high = f.let(sigA);
  const low = f.local(I64, i64(0));
  f.if(
    geU(sigA, sigB),
    () => {
      f.set(low, shl(sigA, 63));
      f.set(high, shrU(sigA, 1));
    },
    () => f.set(exp, sub(exp, 1)),
  );
  f.drop(call(divide, high, low, sigB));
  const rest = f.let(cell64(S.scratch + 8));
  const round = f.let(or(wrap(shrU(rest, 63)), geU(shl(rest, 1), sigB)));
  const more = ne(shl(rest, 1), select(round, sigB, i64(0)));
  put(f, {
    sign,
    exp,
    high: cell64(S.scratch),
    low: f.let(or(shl(extU(round), 63), extU(more))),
  });
  return f;
}

function buildSqrt(module: ModuleBuilder): FuncRef {
  const f = module.func([I32, I64]);
  const [exp, sig] = [f.param(0), f.param(1)];
  // An odd exponent (unbiased) goes with twice the significand.
  const odd = f.let(and(add(exp, 1), 1));
  const high = f.let(select(odd, sig, shrU(sig, 1)));
  const low = f.let(select(odd, i64(0), shl(sig, 63)));
  const root = f.local(I64, i64(0));
  const restHigh = f.local(I64, i64(0));
  const restLow = f.local(I64, i64(0));
  const count = f.local(I32, i32(64));
  f.loop((again) => {
    f.set(restHigh, or(shl(restHigh, 2), shrU(restLow, 62)));
    f.set(restLow, or(shl(restLow, 2), shrU(high, 62)));
    f.set(high, or(shl(high, 2), shrU(low, 62)));
    f.set(low, shl(low, 2));
    const trialHigh = f.let(shrU(root, 62));
    const trialLow = f.let(or(shl(root, 2), 1));
    f.set(root, shl(root, 1));
    f.if(
      or(
        gtU(restHigh, trialHigh),
        and(eq(restHigh, trialHigh), geU(restLow, trialLow)),
      ),
      () => {
        f.set(restHigh, sub(sub(restHigh, trialHigh), extU(ltU(restLow, trialLow))));
        f.set(restLow, sub(restLow, trialLow));
        f.set(root, or(root, 1));
      },
    );
    f.set(count, sub(count, 1));
    f.brIf(again, count);
  });
  // The next bit is set where the rest is above the root; an exact half cannot be.
  const round = or(ne(restHigh, i64(0)), gtU(restLow, root));
  const lower = cond(
    eqz(or(restHigh, restLow)),
    i64(0),
    or(shl(extU(round), 63), i64(1)),
  );
  put(f, {
    sign: i32(0),
    exp: add(shrUnbiased(exp, odd), BIAS),
    high: root,
    low: lower,
  });
  return f;
}

/** (exp - BIAS - odd) / 2, for exponents from -64 on. */
function shrUnbiased(exp: Expr, odd: Expr): Expr {
  // 2^17 keeps the difference positive.
  return sub(shrU(sub(add(exp, (1 << 17) - BIAS), odd), 1), 1 << 16);
}

/** Whether rounding `high:low` to `precision` bits is exact, and whether it goes up. */
function decide(
  f: FuncBuilder,
  value: { sign: Expr; high: Expr; low: Expr },
  how: { dropped: number; mode: Expr },
): { inexact: Local; up: Local } {
  const { dropped, mode } = how;
  const half = dropped === 0 ? shrU(value.low, 63) : and(shrU(value.high, dropped - 1), 1);
  const rest = dropped === 0
    ? shl(value.low, 1)
    : dropped === 1
    ? value.low
    : or(and(value.high, (1n << BigInt(dropped - 1)) - 1n), value.low);
  const halfBit = f.let(wrap(half));
  const sticky = f.let(ne(rest, i64(0)));
  const inexact = f.let(or(halfBit, sticky));
  const odd = wrap(and(shrU(value.high, dropped), 1));
  const nearest = and(halfBit, or(sticky, odd));
  const downOrUp = and(inexact, eq(value.sign, eq(mode, i32(1))));
  const up = f.let(
    cond(
      eqz(mode),
      nearest,
      cond(eq(mode, i32(3)), i32(0), downOrUp),
    ),
  );
  return { inexact, up };
}

function buildRound(module: ModuleBuilder, format: Format): FuncRef {
  const f = module.func([I32, I32, I64, I64, I32], [I64]);
  const sign = f.param(0);
  const exp = f.param(1);
  const high = f.param(2);
  const low = f.param(3);
  const control = f.param(4);
  const { precision, minExp, maxExp } = format;
  const dropped = 64 - precision;
  const mask = (1n << BigInt(dropped)) - 1n;
  const isExtended = format.fraction === 0;
  const mode = f.let(and(control, 3));
  const first = decide(f, { sign, high, low }, { dropped, mode });
  const { inexact, up } = first;
  const signed = (bits: Expr): Expr => or(bits, shl(extU(sign), format.sign));
  const finish = (exponent: Expr, significand: Expr) => {
    if (isExtended) {
      f.store32(CPU, i32(0), or(exponent, shl(sign, 15)), S.fpExponent);
      f.return(significand);
    } else {
      const scaled = shl(extU(sub(exponent, minExp)), format.fraction);
      f.return(signed(add(scaled, shrU(significand, dropped))));
    }
  };

  f.if(ltS(exp, i32(minExp)), () => {
    const allOnes = eq(or(high, mask), i64(-1n));
    const reaches = and(and(eq(exp, i32(minExp - 1)), up), allOnes);
    const tiny = f.let(eqz(reaches));
    const denormalize = () => {
      shiftRightJam(f, { high, low }, sub(i32(minExp), exp));
      f.set(exp, i32(minExp));
      const second = decide(f, { sign, high, low }, { dropped, mode });
      f.set(inexact, second.inexact);
      f.set(up, second.up);
    };
    f.if(
      and(control, Control.underflow),
      () => {
        // The result is that of a larger exponent range (and no result at all in SSE).
        f.if(tiny, () => {
          raiseFlags(f, Fp.underflow);
          f.set(exp, isExtended ? add(exp, WRAP) : i32(minExp));
          if (isExtended) {
            // FSCALE can go beyond that too.
            f.if(ltS(exp, i32(minExp)), () => {
              raiseFlags(f, Fp.inexact);
              finish(i32(0), i64(0));
            });
          }
        }, denormalize);
      },
      () => {
        f.if(and(tiny, shrU(and(control, Control.flush), 2)), () => {
          raiseFlags(f, Fp.underflow | Fp.inexact);
          f.return(isExtended ? i64(0) : signed(i64(0)));
        });
        denormalize();
        f.if(and(tiny, inexact), () => raiseFlags(f, Fp.underflow));
      },
    );
  });
  f.if(inexact, () => raiseFlags(f, Fp.inexact));
  f.if(up, () => raiseFlags(f, Fp.up));
  if (dropped > 0) f.set(high, and(high, i64(~mask)));
  f.if(up, () => {
    const before = f.let(high);
    f.set(high, add(high, i64(1n << BigInt(dropped))));
    f.if(ltU(high, before), () => {
      f.set(high, i64(TOP_BIT));
      f.set(exp, add(exp, 1));
    });
  });
  f.if(gtS(exp, i32(maxExp)), () => {
    const overflowed = () => {
      raiseFlags(f, Fp.overflow | Fp.inexact);
      const infinite = or(
        eqz(mode),
        and(ne(mode, i32(3)), eq(sign, eq(mode, i32(1)))),
      );
      f.store32(CPU, i32(0), and(cell32(S.fpFlags), ~Fp.up), S.fpFlags);
      f.if(infinite, () => {
        raiseFlags(f, Fp.up);
        if (isExtended) {
          f.store32(CPU, i32(0), or(shl(sign, 15), 0x7fff), S.fpExponent);
          f.return(i64(TOP_BIT));
        } else f.return(signed(shl(i64(maxExp - minExp + 2), format.fraction)));
      });
      finish(i32(maxExp), i64(~mask));
    };
    f.if(
      and(control, Control.overflow),
      () => {
        raiseFlags(f, Fp.overflow);
        f.set(exp, sub(exp, WRAP));
        if (isExtended) {
          f.if(gtS(exp, i32(maxExp)), () => {
            raiseFlags(f, Fp.inexact | Fp.up);
            finish(i32(0x7fff), i64(TOP_BIT));
          });
        }
      },
      overflowed,
    );
  });
  // Below bit 63 the number is denormal, its exponent field 0.
  if (isExtended) finish(select(wrap(shrU(high, 63)), exp, i32(0)), high);
  else finish(exp, high);
  f.unreachable();
  return f;
}

function buildRoundInteger(module: ModuleBuilder): FuncRef {
  const f = module.func([I32, I32, I64, I64, I32, I32], [I64]);
  const [sign, exp, high, low, control, bits] = [
    f.param(0),
    f.param(1),
    f.param(2),
    f.param(3),
    f.param(4),
    f.param(5),
  ];
  const indefinite = () => {
    raiseFlags(f, Fp.invalid);
    f.return(shl(i64(-1n), extU(sub(bits, 1))));
  };
  f.if(gtS(exp, i32(BIAS + 63)), indefinite);
  // The integer part comes into `high`, the fraction into `low`.
  shiftRightJam(f, { high, low }, sub(i32(BIAS + 63), exp));
  const mode = f.let(and(control, 3));
  const { inexact, up } = decide(f, { sign, high, low }, { dropped: 0, mode });
  f.if(up, () => {
    f.set(high, add(high, 1));
    f.if(eqz(high), indefinite);
  });
  // A negative number may be one larger.
  const most = f.let(sub(shl(i64(1), extU(sub(bits, 1))), extU(eqz(sign))));
  f.if(gtU(high, most), indefinite);
  f.if(inexact, () => raiseFlags(f, Fp.inexact));
  f.if(up, () => raiseFlags(f, Fp.up));
  f.return(select(sign, sub(i64(0), high), high));
  f.unreachable();
  return f;
}

function buildRoundIntegral(module: ModuleBuilder): FuncRef {
  const f = module.func([I32, I32, I64, I32], [I64]);
  const [sign, exp, sig, mode] = [f.param(0), f.param(1), f.param(2), f.param(3)];
  f.store32(CPU, i32(0), exp, S.fpExp);
  f.if(gtS(exp, i32(BIAS + 62)), () => f.return(sig));
  const high = f.let(sig);
  const low = f.local(I64, i64(0));
  shiftRightJam(f, { high, low }, sub(i32(BIAS + 63), exp));
  const { inexact, up } = decide(f, { sign, high, low }, { dropped: 0, mode });
  f.if(inexact, () => raiseFlags(f, Fp.inexact));
  f.if(up, () => {
    raiseFlags(f, Fp.up);
    f.set(high, add(high, 1));
  });
  f.if(eqz(high), () => f.return(i64(0)));
  const shift = f.let(clz(high));
  f.store32(CPU, i32(0), sub(i32(BIAS + 63), wrap(shift)), S.fpExp);
  f.return(shl(high, shift));
  f.unreachable();
  return f;
}

/** Adds the functions. `mulHigh` and `divide` are the integer helpers of that name. */
export function buildSoftFloat(
  module: ModuleBuilder,
  helpers: { mulHigh: FuncRef; divide: FuncRef },
): SoftFloat {
  return {
    add: buildAdd(module),
    mul: buildMul(module, helpers.mulHigh),
    div: buildDiv(module, helpers.divide),
    sqrt: buildSqrt(module),
    roundSingle: buildRound(module, SINGLE),
    roundDouble: buildRound(module, DOUBLE),
    roundExtended: new Map([24, 53, 64].map((p) => [p, buildRound(module, extended(p))])),
    roundInteger: buildRoundInteger(module),
    roundIntegral: buildRoundIntegral(module),
  };
}

/** Rounds the unrounded result in the state by `round`. */
export function roundResult(round: FuncRef, control: Expr): Expr {
  return call(
    round,
    cell32(S.fpSign),
    cell32(S.fpExp),
    cell64(S.fpHigh),
    cell64(S.fpLow),
    control,
  );
}

/** An operand taken apart. */
export interface Unpacked {
  /** i32, 0 or 1. */
  readonly sign: Local;
  /** Unpacked exponent. */
  readonly exp: Local;
  /** Significand; 0: the number is zero. */
  readonly sig: Local;
}

/** Takes a finite number of `format` (single or double, `bits` an i64) apart. */
export function unpack(f: FuncBuilder, format: Format, bits: Local): Unpacked {
  const exponentMask = format.maxExp - format.minExp + 2;
  const sign = f.let(wrap(shrU(bits, format.sign)));
  if (format.sign === 63) f.set(sign, and(sign, 1));
  const field = f.let(and(wrap(shrU(bits, format.fraction)), exponentMask));
  const fraction = and(bits, (1n << BigInt(format.fraction)) - 1n);
  const sig = f.let(shl(fraction, 63 - format.fraction));
  const exp = f.local(I32);
  f.if(field, () => {
    f.set(sig, or(sig, i64(TOP_BIT)));
    f.set(exp, add(field, format.minExp - 1));
  }, () => {
    const shift = f.let(clz(sig));
    f.set(sig, shl(sig, shift));
    f.set(exp, sub(i32(format.minExp), wrap(shift)));
  });
  return { sign, exp, sig };
}
