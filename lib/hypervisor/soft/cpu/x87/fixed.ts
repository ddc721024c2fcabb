/**
 * Elementary functions in fixed point of any precision. A number is a BigInt `n` with a scale `s` and
 * stands for n / 2^s. Errors stay below a few units of the scale.
 *
 * @module
 */

/** Bits of precision that functions work with beyond what their result needs. */
const GUARD = 24;

/** Number of bits of |n|. */
export function bitLength(n: bigint): number {
  const text = (n < 0n ? -n : n).toString(16);
  return n === 0n ? 0 : text.length * 4 - Math.clz32(parseInt(text[0] ?? "0", 16)) + 28;
}

/** n * 2^by, rounded down. */
export function scale(n: bigint, by: number): bigint {
  return by >= 0 ? n << BigInt(by) : n >> BigInt(-by);
}

/** Integer square root. */
function squareRoot(n: bigint): bigint {
  if (n < 2n) return n;
  let x = 1n << BigInt((bitLength(n) + 1) >> 1);
  for (;;) {
    const next = (x + n / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
}

/** atanh(x) or, with `alternating`, atan(x); |x| is small. */
function arcSeries(x: bigint, s: number, alternating: boolean): bigint {
  const one = 1n << BigInt(s);
  const square = scale(x * x, -s);
  let power = x;
  let sum = x;
  for (let k = 3n; power !== 0n; k += 2n) {
    // Division cuts towards zero, so that a negative series ends as well.
    power = power * square / one;
    if (alternating) power = -power;
    sum += power / k;
  }
  return sum;
}

const constants = new Map<string, bigint>();

function constant(name: string, s: number, compute: (s: number) => bigint): bigint {
  const key = `${name} ${s}`;
  let value = constants.get(key);
  if (value === undefined) {
    value = scale(compute(s + GUARD), -GUARD);
    constants.set(key, value);
  }
  return value;
}

/** ln(2). */
export function ln2(s: number): bigint {
  // 2 atanh(1/3)
  return constant("ln2", s, (w) => 2n * arcSeries((1n << BigInt(w)) / 3n, w, false));
}

/** pi. */
export function pi(s: number): bigint {
  // Machin: 16 atan(1/5) - 4 atan(1/239)
  return constant("pi", s, (w) => {
    const one = 1n << BigInt(w);
    return 16n * arcSeries(one / 5n, w, true) - 4n * arcSeries(one / 239n, w, true);
  });
}

/** ln(1 + x) for x from -1/2 to 1. */
export function log1p(x: bigint, s: number): bigint {
  const w = s + GUARD;
  const wide = scale(x, GUARD);
  // 2 atanh(x / (2 + x))
  const z = scale(wide, w) / ((2n << BigInt(w)) + wide);
  return scale(2n * arcSeries(z, w, false), -GUARD);
}

/** e^x - 1 for |x| up to 1. */
export function expm1(x: bigint, s: number): bigint {
  const w = s + GUARD;
  const wide = scale(x, GUARD);
  let term = wide;
  let sum = wide;
  for (let k = 2n; term !== 0n && term !== -1n; k++) {
    term = scale(term * wide, -w) / k;
    sum += term;
  }
  return scale(sum, -GUARD);
}

/** Sine and cosine for |x| up to 1. */
export function sinCos(x: bigint, s: number): { sin: bigint; cos: bigint } {
  const w = s + GUARD;
  const wide = scale(x, GUARD);
  const square = scale(wide * wide, -w);
  const series = (first: bigint, from: bigint): bigint => {
    let term = first;
    let sum = first;
    for (let k = from; term !== 0n; k += 2n) {
      term = -(scale(term * square, -w) / (k * (k + 1n)));
      sum += term;
    }
    return scale(sum, -GUARD);
  };
  return { sin: series(wide, 2n), cos: series(1n << BigInt(w), 1n) };
}

/** atan(x) for x from 0 to 1. */
export function atan(x: bigint, s: number): bigint {
  const w = s + GUARD;
  let z = scale(x, GUARD);
  // Halving the angle three times makes the series short: tan(a/2) = t / (1 + sqrt(1 + t^2)).
  for (let i = 0; i < 3; i++) {
    const one = 1n << BigInt(w);
    const root = squareRoot(scale(one, w) + z * z);
    z = scale(z, w) / (one + root);
  }
  return scale(8n * arcSeries(z, w, true), -GUARD);
}
