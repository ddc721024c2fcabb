/**
 * A small seeded generator of random numbers (xoshiro128**), so that a failed test can be repeated.
 *
 * @module
 */

/** Random numbers from a seed. */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number) {
    this.#a = seed ^ 0x9e3779b9;
    this.#b = Math.imul(seed, 0x85ebca6b) ^ 0x243f6a88;
    this.#c = Math.imul(seed, 0xc2b2ae35) ^ 0x13198a2e;
    this.#d = 0x03707344;
    for (let i = 0; i < 16; i++) this.u32();
  }

  /** 32 random bits, as a number from 0. */
  u32(): number {
    const b5 = Math.imul(this.#b, 5);
    const result = Math.imul((b5 << 7) | (b5 >>> 25), 9);
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result >>> 0;
  }

  /** A whole number from 0 to `n` - 1. */
  below(n: number): number {
    return this.u32() % n;
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  /** One of `values`. */
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)] as T;
  }

  /** 64 random bits. */
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
}

/** The seed of the tests: VMCTL_SEED, or always the same. */
export function testSeed(): number {
  const text = Deno.env.get("VMCTL_SEED");
  const seed = text === undefined ? 20240607 : Number(text);
  if (!Number.isSafeInteger(seed)) throw new TypeError(`VMCTL_SEED is not a whole number: ${text}`);
  return seed;
}
