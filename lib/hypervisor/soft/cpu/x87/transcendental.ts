/**
 * The transcendental x87 instructions, done in TypeScript with long fixed-point numbers: correctly
 * rounded but for the argument reduction, which uses the processor's own 66 bits of pi (Intel SDM
 * vol. 1, 8.3.8).
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import type { Insn } from "../opcode.ts";
import { x87 } from "./access.ts";
import { begin } from "./arithmetic.ts";
import { atan, bitLength, expm1, ln2, log1p, pi, scale, sinCos } from "./fixed.ts";
import {
  BIAS,
  infinity,
  isInfinite,
  isZero,
  type Long,
  magnitude,
  ONE,
  Operation,
  parts,
  TOP,
  type Value,
  zero,
} from "./operation.ts";
import { Fp } from "./softfloat.ts";

/** Host functions of the x87; ids from 1000 are its own. */
enum Id {
  F2xm1 = 1000,
  Fyl2x,
  Fyl2xp1,
  Fpatan,
  Fptan,
  Fsin,
  Fcos,
  Fsincos,
}

/** Relative precision of approximate results, in bits. */
const PRECISION = 140;
/** Below 2^-TINY the first term of a series decides. */
const TINY = 70;

/** Scale for a result of magnitude 2^`position`. */
function scaleFor(position: number): number {
  return Math.max(PRECISION, PRECISION - position);
}

/** x in fixed point of scale `s`, with its sign. */
function fixed(x: Value, s: number): bigint {
  const { n, e } = parts(x);
  const value = scale(n, e + s);
  return x.negative ? -value : value;
}

function long(value: bigint, s: number, exact = false): Long {
  return { negative: value < 0n, n: value < 0n ? -value : value, s, exact };
}

// --- sine and cosine ---------------------------------------------------------------------------

/** Half of the processor's pi: 67 fraction bits. */
const HALF_PI = 0xc90f_daa2_2168_c234cn;
const HALF_PI_SCALE = 67;

/** x minus the nearest multiple of pi/2: rest = n / 2^s. */
function reduce(x: Value): { quadrant: number; n: bigint; s: number } {
  const { n, e } = parts(x);
  const s = Math.max(HALF_PI_SCALE, -e);
  const value = n << BigInt(s + e);
  const unit = HALF_PI << BigInt(s - HALF_PI_SCALE);
  let quotient = value / unit;
  let rest = value - quotient * unit;
  if (2n * rest > unit) {
    rest -= unit;
    quotient++;
  }
  if (x.negative) {
    rest = -rest;
    quotient = -quotient;
  }
  return { quadrant: Number(quotient & 3n), n: rest, s };
}

function sineAndCosine(x: Value): { sin: Long; cos: Long } {
  const { quadrant, n, s } = reduce(x);
  const position = bitLength(n) - s;
  const w = scaleFor(position);
  let sin: Long;
  let cos: Long;
  if (position < -TINY) {
    // The processor gives r and 1, rounded no further.
    sin = { negative: n < 0n, n: n < 0n ? -n : n, s, exact: true };
    cos = { negative: false, n: 1n, s: 0, exact: true };
  } else {
    const both = sinCos(scale(n, w - s), w);
    sin = long(both.sin, w);
    cos = long(both.cos, w);
  }
  const minus = (l: Long): Long => ({ ...l, negative: !l.negative });
  switch (quadrant) {
    case 0:
      return { sin, cos };
    case 1:
      return { sin: cos, cos: minus(sin) };
    case 2:
      return { sin: minus(sin), cos: minus(cos) };
    default:
      return { sin: minus(cos), cos: sin };
  }
}

/** FSIN, FCOS, FSINCOS, FPTAN: operands out of range set C2 and stay. */
function trigonometric(
  op: Operation,
  how: { pushes: boolean; compute: (x: Value) => readonly [Value, Value | undefined] },
): void {
  op.setC2(false);
  if (op.isEmpty(0) || (how.pushes && !op.isEmpty(7))) {
    const nan = op.stackFault(!op.isEmpty(0));
    if (!op.commit()) return;
    op.write(0, nan);
    if (how.pushes) op.push(nan);
    return;
  }
  const x = op.read(0);
  let results: readonly [Value, Value | undefined];
  const special = op.special(x);
  if (special !== undefined) results = [special, special];
  else if (isInfinite(x)) {
    const nan = op.invalid();
    results = [nan, nan];
  } else {
    op.noteDenormals(x);
    if (!isZero(x) && magnitude(x) >= 63) {
      op.setC2(true);
      op.commit();
      return;
    }
    results = how.compute(x);
  }
  if (!op.commit()) return;
  op.write(0, results[0]);
  if (how.pushes && results[1] !== undefined) op.push(results[1]);
}

function fsin(op: Operation): void {
  trigonometric(op, {
    pushes: false,
    compute: (x) => [isZero(x) ? x : op.roundInexact(sineAndCosine(x).sin), undefined],
  });
}

function fcos(op: Operation): void {
  trigonometric(op, {
    pushes: false,
    compute: (x) => [isZero(x) ? ONE : op.roundInexact(sineAndCosine(x).cos), undefined],
  });
}

function fsincos(op: Operation): void {
  trigonometric(op, {
    pushes: true,
    compute: (x) => {
      if (isZero(x)) return [x, ONE];
      const { sin, cos } = sineAndCosine(x);
      const first = op.roundInexact(sin);
      op.flags &= ~Fp.up;
      return [first, op.roundInexact(cos)];
    },
  });
}

function fptan(op: Operation): void {
  trigonometric(op, {
    pushes: true,
    compute: (x) => {
      if (isZero(x)) return [x, ONE];
      const { n, s, quadrant } = reduce(x);
      // Here too the processor gives a tiny r itself.
      if (quadrant % 2 === 0 && bitLength(n) - s < -TINY) {
        return [
          op.roundInexact({ negative: n < 0n, n: n < 0n ? -n : n, s, exact: true }),
          ONE,
        ];
      }
      const { sin, cos } = sineAndCosine(x);
      const quotient = (sin.n << BigInt(PRECISION + cos.s)) / cos.n;
      const result: Long = {
        negative: sin.negative !== cos.negative,
        n: quotient,
        s: PRECISION + sin.s,
        exact: false,
      };
      return [op.round(result), ONE];
    },
  });
}

// --- logarithms and powers ---------------------------------------------------------------------

/** Two operands, the result in ST(1), ST(0) popped. */
function binary(op: Operation, compute: (x: Value, y: Value) => Value): void {
  if (op.isEmpty(0) || op.isEmpty(1)) {
    const nan = op.stackFault(false);
    if (!op.commit()) return;
    op.write(1, nan);
    op.pop();
    return;
  }
  const [x, y] = [op.read(0), op.read(1)];
  const result = op.special(x, y) ?? compute(x, y);
  if (!op.commit()) return;
  op.write(1, result);
  op.pop();
}

/** y * l. */
function times(y: Value, l: Long): Long {
  const { n, e } = parts(y);
  return { negative: y.negative !== l.negative, n: n * l.n, s: l.s - e, exact: l.exact };
}

/** log2 of x > 0, x != 1. */
function log2(x: Value): Long {
  // x = m * 2^k with m from 3/4 to 3/2, so that neither cancels.
  const { n } = parts(x);
  const length = bitLength(n);
  let k = magnitude(x);
  const s = 2 * PRECISION;
  let m = scale(n, s - (length - 1));
  if (2n * m > 3n << BigInt(s)) {
    m >>= 1n;
    k++;
  }
  const rest = m - (1n << BigInt(s));
  if (rest === 0n) return long(BigInt(k), 0, true);
  const log = (log1p(rest, s) << BigInt(s)) / ln2(s);
  return long((BigInt(k) << BigInt(s)) + log, s);
}

const isOne = (x: Value) => x.exp === BIAS && x.sig === TOP && !x.negative;

function fyl2x(op: Operation): void {
  binary(op, (x, y) => {
    if (x.negative && !isZero(x)) return op.invalid();
    if (isInfinite(x)) {
      if (isZero(y)) return op.invalid();
      op.noteDenormals(y);
      return infinity(y.negative);
    }
    if (isZero(x)) {
      if (isZero(y)) return op.invalid();
      if (!isInfinite(y)) op.flags |= Fp.divide;
      return infinity(!y.negative);
    }
    const below = x.exp < BIAS;
    if (isInfinite(y)) {
      if (isOne(x)) return op.invalid();
      op.noteDenormals(x);
      return infinity(y.negative !== below);
    }
    op.noteDenormals(x, y);
    if (isOne(x)) return zero(y.negative);
    if (isZero(y)) return zero(y.negative !== below);
    return op.roundInexact(times(y, log2(x)));
  });
}

/** log2(1 + x) for x > -1, x != 0. */
function log2p1(x: Value): Long {
  const position = magnitude(x);
  if (position < -TINY) {
    // x / ln 2 * (1 - x/2).
    const { n, e } = parts(x);
    const quotient = (n << BigInt(3 * PRECISION)) / ln2(2 * PRECISION);
    const shrink = quotient >> BigInt(TINY + 60);
    const value = x.negative ? quotient + shrink : quotient - shrink;
    return { negative: x.negative, n: value, s: PRECISION - e, exact: false };
  }
  if (position >= -1) {
    const s = 2 * PRECISION;
    const sum = fixed(x, s) + (1n << BigInt(s));
    const length = bitLength(sum);
    let k = length - 1 - s;
    let m = scale(sum, s - (length - 1));
    if (2n * m > 3n << BigInt(s)) {
      m >>= 1n;
      k++;
    }
    const rest = m - (1n << BigInt(s));
    if (rest === 0n) return long(BigInt(k), 0, true);
    return long((BigInt(k) << BigInt(s)) + (log1p(rest, s) << BigInt(s)) / ln2(s), s);
  }
  const s = scaleFor(position);
  return long((log1p(fixed(x, s), s) << BigInt(s)) / ln2(s), s);
}

function fyl2xp1(op: Operation): void {
  binary(op, (x, y) => {
    const below = x.negative;
    if (isInfinite(x)) {
      if (x.negative || isZero(y)) return op.invalid();
      op.noteDenormals(y);
      return infinity(y.negative);
    }
    if (isZero(x)) {
      if (isInfinite(y)) return op.invalid();
      op.noteDenormals(y);
      return zero(x.negative !== y.negative);
    }
    if (x.negative && x.exp >= BIAS) {
      // Not defined.
      op.noteDenormals(y);
      op.flags |= Fp.inexact;
      return x;
    }
    if (isInfinite(y)) {
      op.noteDenormals(x);
      return infinity(y.negative !== below);
    }
    op.noteDenormals(x, y);
    if (isZero(y)) return zero(y.negative !== below);
    return op.roundInexact(times(y, log2p1(x)));
  });
}

function f2xm1(op: Operation): void {
  if (op.isEmpty(0)) {
    const nan = op.stackFault(false);
    if (op.commit()) op.write(0, nan);
    return;
  }
  const x = op.read(0);
  const compute = (): Value => {
    if (isInfinite(x)) {
      return x.negative ? { ...ONE, negative: true } : x;
    }
    if (isZero(x)) return x;
    op.noteDenormals(x);
    const position = magnitude(x);
    // Beyond 1 the instruction is not defined.
    if (position >= 0) {
      if (x.exp === BIAS && x.sig === TOP) {
        op.flags |= Fp.inexact;
        return x.negative ? { ...ONE, negative: true, exp: BIAS - 1 } : ONE;
      }
      op.flags |= Fp.inexact;
      return x;
    }
    if (position < -TINY) {
      // x ln 2 (1 + x ln 2 / 2).
      const { n, e } = parts(x);
      const product = n * ln2(2 * PRECISION);
      const grow = product >> BigInt(TINY + 60);
      const value = x.negative ? product - grow : product + grow;
      return op.round({ negative: x.negative, n: value, s: 2 * PRECISION - e, exact: false });
    }
    const s = scaleFor(position);
    return op.round(long(expm1(scale(fixed(x, s) * ln2(s), -s), s), s));
  };
  const result = op.special(x) ?? compute();
  if (op.commit()) op.write(0, result);
}

// --- arc tangent -------------------------------------------------------------------------------

/** The part `numerator` / `denominator` of pi. */
function partOfPi(negative: boolean, numerator: bigint, denominator: bigint): Long {
  const s = PRECISION;
  return { negative, n: (pi(s) * numerator) / denominator, s, exact: false };
}

function fpatan(op: Operation): void {
  binary(op, (x, y) => {
    const { negative } = y;
    if (isInfinite(y)) {
      op.noteDenormals(x);
      if (!isInfinite(x)) return op.round(partOfPi(negative, 1n, 2n));
      return op.round(x.negative ? partOfPi(negative, 3n, 4n) : partOfPi(negative, 1n, 4n));
    }
    op.noteDenormals(x, y);
    if (isInfinite(x) || isZero(y)) {
      return x.negative ? op.round(partOfPi(negative, 1n, 1n)) : zero(negative);
    }
    if (isZero(x)) return op.round(partOfPi(negative, 1n, 2n));
    const [a, b] = [parts(y), parts(x)];
    const difference = magnitude(y) - magnitude(x);
    // The ratio with PRECISION bits, and where its leading bit is.
    const ratioScale = PRECISION - difference;
    const ratio = scale(a.n, ratioScale + a.e - b.e) / b.n;
    const exact = scale(a.n, ratioScale + a.e - b.e) % b.n === 0n;
    if (!x.negative && difference < -TINY) {
      // atan t = t (1 - tiny).
      return op.round({
        negative,
        n: exact ? (ratio << 80n) - 1n : ratio << 80n,
        s: ratioScale + 80,
        exact: false,
      });
    }
    const s = PRECISION + TINY + 8;
    const one = 1n << BigInt(s);
    const direct = difference < -TINY - 4
      ? 1n
      : difference > TINY + 4
      ? pi(s) / 2n - 1n
      : arc({ y: scale(a.n, a.e - b.e + 400), x: scale(b.n, 400) }, s, one);
    return op.round({ negative, n: x.negative ? pi(s) - direct : direct, s, exact: false });
  });
}

/** atan(y / x) for positive y and x. */
function arc(point: { y: bigint; x: bigint }, s: number, one: bigint): bigint {
  const { x, y } = point;
  if (y <= x) return atan((y * one) / x, s);
  return pi(s) / 2n - atan((x * one) / y, s);
}

// --- table -------------------------------------------------------------------------------------

const operations: readonly (readonly [Id, string, string, (op: Operation) => void])[] = [
  [Id.F2xm1, "f2xm1", "d9 /6 reg rm0", f2xm1],
  [Id.Fyl2x, "fyl2x", "d9 /6 reg rm1", fyl2x],
  [Id.Fptan, "fptan", "d9 /6 reg rm2", fptan],
  [Id.Fpatan, "fpatan", "d9 /6 reg rm3", fpatan],
  [Id.Fyl2xp1, "fyl2xp1", "d9 /7 reg rm1", fyl2xp1],
  [Id.Fsincos, "fsincos", "d9 /7 reg rm3", fsincos],
  [Id.Fsin, "fsin", "d9 /7 reg rm6", fsin],
  [Id.Fcos, "fcos", "d9 /7 reg rm7", fcos],
];

/** Rows of the transcendental instructions. */
export const transcendentalRows: readonly Insn[] = operations.map(([id, mnemonic, encoding]) =>
  x87(mnemonic, encoding, "", (c) => {
    begin(c);
    c.host(id);
  })
);

/** TypeScript's part of these instructions, by host function id. */
export const x87HostFunctions: ReadonlyMap<number, HostFunction> = new Map(
  operations.map(([id, _mnemonic, _encoding, run]) => [
    id as number,
    (cpu: HostContext) => {
      run(new Operation(cpu));
      return HostResult.Next;
    },
  ]),
);
