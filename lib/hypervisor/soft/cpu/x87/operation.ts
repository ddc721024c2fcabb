/**
 * An x87 instruction that TypeScript completes: numbers, the register stack, exceptions and rounding, as
 * the generated functions do them.
 *
 * @module
 */

import type { HostContext } from "../host_context.ts";
import { S } from "../state.ts";
import { Sw } from "./access.ts";
import { bitLength, scale } from "./fixed.ts";
import { Fp } from "./softfloat.ts";

/** Bias of exponents. */
export const BIAS = 16383;
/** Integer bit of significands. */
export const TOP = 1n << 63n;
const QUIET = 1n << 62n;

/** A number of the x87. */
export interface Value {
  readonly negative: boolean;
  /** Biased exponent. */
  readonly exp: number;
  readonly sig: bigint;
}

const DEFAULT_NAN: Value = { negative: true, exp: 0x7fff, sig: TOP | QUIET };
/** A zero. */
export const zero = (negative: boolean): Value => ({ negative, exp: 0, sig: 0n });
/** An infinity. */
export const infinity = (negative: boolean): Value => ({ negative, exp: 0x7fff, sig: TOP });
/** 1. */
export const ONE: Value = { negative: false, exp: BIAS, sig: TOP };

const isUnsupported = (x: Value) => x.exp !== 0 && (x.sig & TOP) === 0n;
const isNan = (x: Value) => x.exp === 0x7fff && (x.sig & TOP) !== 0n && x.sig !== TOP;
const isSignaling = (x: Value) => isNan(x) && (x.sig & QUIET) === 0n;
/** True for infinities. */
export const isInfinite = (x: Value) => x.exp === 0x7fff && x.sig === TOP;
/** True for zeros. */
export const isZero = (x: Value) => x.exp === 0 && x.sig === 0n;
/** True for denormals and pseudo-denormals. */
export const isDenormal = (x: Value) => x.exp === 0 && x.sig !== 0n;

/** |x| as numerator over a power of two: x = n * 2^e. */
export function parts(x: Value): { n: bigint; e: number } {
  return { n: x.sig, e: (x.exp === 0 ? 1 : x.exp) - BIAS - 63 };
}

/** Position of the leading bit of |x|. */
export function magnitude(x: Value): number {
  const { n, e } = parts(x);
  return bitLength(n) - 1 + e;
}

/** An exact or approximate result: sign, |value| = n / 2^s; more follows where it is not exact. */
export interface Long {
  readonly negative: boolean;
  readonly n: bigint;
  readonly s: number;
  readonly exact: boolean;
}

/** One x87 instruction under way. */
export class Operation {
  readonly #cpu: HostContext;
  flags = 0;

  constructor(cpu: HostContext) {
    this.#cpu = cpu;
  }

  #address(i: number): number {
    return S.fpu + 16 * (((this.#cpu.get32(S.fpuSw) >> Sw.topShift) + i) & 7);
  }

  isEmpty(i: number): boolean {
    const n = ((this.#cpu.get32(S.fpuSw) >> Sw.topShift) + i) & 7;
    return ((this.#cpu.get32(S.fpuEmpty) >> n) & 1) !== 0;
  }

  read(i: number): Value {
    const at = this.#address(i);
    const se = this.#cpu.u16[(at + 8) >>> 1] as number;
    return { negative: (se & 0x8000) !== 0, exp: se & 0x7fff, sig: this.#cpu.get64(at) };
  }

  write(i: number, x: Value): void {
    const at = this.#address(i);
    const cpu = this.#cpu;
    cpu.set64(at, x.sig);
    cpu.u16[(at + 8) >>> 1] = x.exp | (x.negative ? 0x8000 : 0);
    const n = (at - S.fpu) >> 4;
    cpu.set32(S.fpuEmpty, cpu.get32(S.fpuEmpty) & ~(1 << n));
  }

  moveTop(by: number): void {
    const sw = this.#cpu.get32(S.fpuSw);
    this.#cpu.set32(S.fpuSw, (sw & ~Sw.top) | ((sw + (by << Sw.topShift)) & Sw.top));
  }

  pop(): void {
    const cpu = this.#cpu;
    const top = (cpu.get32(S.fpuSw) >> Sw.topShift) & 7;
    cpu.set32(S.fpuEmpty, cpu.get32(S.fpuEmpty) | (1 << top));
    this.moveTop(1);
  }

  push(x: Value): void {
    this.moveTop(-1);
    this.write(0, x);
  }

  setC2(set: boolean): void {
    const sw = this.#cpu.get32(S.fpuSw) & ~Sw.c2;
    this.#cpu.set32(S.fpuSw, set ? sw | Sw.c2 : sw);
  }

  get mode(): number {
    return (this.#cpu.get32(S.fpuCw) >> 10) & 3;
  }

  masked(flag: number): boolean {
    return (this.#cpu.get32(S.fpuCw) & flag) !== 0;
  }

  /** Records the exceptions; false where the registers must stay as they are. */
  commit(): boolean {
    const cpu = this.#cpu;
    const early = Fp.invalid | Fp.denormal | Fp.divide;
    const unmasked = this.flags & ~cpu.get32(S.fpuCw) & 0x3f;
    let flags = this.flags & 0x27f;
    if ((unmasked & early) !== 0 && (flags & Fp.stack) === 0) flags &= early;
    let sw = (cpu.get32(S.fpuSw) & ~Sw.c1) | flags;
    if (unmasked !== 0) {
      sw |= Sw.summary | Sw.busy;
      cpu.set32(S.fpuOpcode, cpu.get32(S.fpOpcode) & 0x7ff);
    }
    cpu.set32(S.fpuSw, sw);
    return (unmasked & early) === 0;
  }

  stackFault(overflow: boolean): Value {
    this.flags = Fp.invalid | Fp.stack | (overflow ? Fp.up : 0);
    return DEFAULT_NAN;
  }

  invalid(): Value {
    this.flags |= Fp.invalid;
    return DEFAULT_NAN;
  }

  /** What comes of NaNs and unsupported operands; undefined where there are none. */
  special(...operands: readonly Value[]): Value | undefined {
    if (operands.some(isUnsupported)) return this.invalid();
    const nans = operands.filter(isNan);
    if (nans.length === 0) return undefined;
    if (nans.some(isSignaling)) this.flags |= Fp.invalid;
    const quiet = nans.filter((x) => !isSignaling(x));
    const [first, second] = (quiet.length > 0 ? quiet : nans).map((x) => ({
      ...x,
      sig: x.sig | QUIET,
    }));
    if (first === undefined) return this.invalid();
    if (second === undefined || first.sig > second.sig) return first;
    if (second.sig > first.sig) return second;
    return first.negative ? second : first;
  }

  noteDenormals(...operands: readonly Value[]): void {
    if (operands.some(isDenormal)) this.flags |= Fp.denormal;
  }

  /** Whether rounding to 64 bits gives the next power of two. */
  #roundsUpToPower(x: Long): boolean {
    const length = bitLength(x.n);
    const nearest = this.mode === 0;
    const ones = scale(x.n, 65 - length) === (1n << 65n) - 1n;
    const upward = x.negative === (this.mode === 1) && this.mode !== 3;
    return nearest ? ones : upward && scale(x.n, 64 - length) === 0xffff_ffff_ffff_ffffn;
  }

  /** Like {@link round}, but the processor calls even an exact product inexact. */
  roundInexact(x: Long): Value {
    const result = this.round(x);
    this.flags |= Fp.inexact;
    if (isDenormal(result)) this.flags |= Fp.underflow;
    return result;
  }

  /** Rounds to 64 bits. */
  round(x: Long): Value {
    const { negative } = x;
    if (x.n === 0n) return zero(negative);
    let exp = bitLength(x.n) - 1 - x.s + BIAS;
    let bits = 64;
    const tiny = exp < 1 && !(exp === 0 && this.#roundsUpToPower(x));
    if (tiny) {
      if (this.masked(Fp.underflow)) {
        bits += exp - 1;
        exp = 1;
      } else {
        this.flags |= Fp.underflow;
        exp += 24576;
      }
    }
    if (!tiny && exp === 0) {
      bits = 63;
      exp = 1;
    }
    const dropped = bitLength(x.n) - (exp === 1 ? bits : 64);
    let sig = scale(x.n, -dropped);
    const rest = dropped > 0 ? x.n - (sig << BigInt(dropped)) : 0n;
    const half = dropped > 0 ? 1n << BigInt(dropped - 1) : 1n;
    const inexact = rest !== 0n || !x.exact;
    const above = rest > half || (rest === half && !x.exact);
    const mode = this.mode;
    const up = inexact &&
      (mode === 0
        ? above || (rest === half && (sig & 1n) === 1n)
        : mode === 3
        ? false
        : negative === (mode === 1));
    if (inexact) this.flags |= Fp.inexact;
    if (tiny && inexact && exp === 1) this.flags |= Fp.underflow;
    if (up) {
      this.flags |= Fp.up;
      sig++;
      if (sig === 1n << 64n) {
        sig = TOP;
        exp++;
      }
    }
    if (exp > 0x7ffe) {
      this.flags |= Fp.overflow | Fp.inexact;
      if (!this.masked(Fp.overflow)) return { negative, exp: exp - 24576, sig };
      const infinite = mode === 0 || (mode !== 3 && negative === (mode === 1));
      this.flags = infinite ? this.flags | Fp.up : this.flags & ~Fp.up;
      return infinite ? infinity(negative) : { negative, exp: 0x7ffe, sig: 0xffff_ffff_ffff_ffffn };
    }
    return { negative, exp: (sig & TOP) === 0n ? 0 : exp, sig };
  }
}
