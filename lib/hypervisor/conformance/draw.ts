/**
 * Random choices for generated guests, which can be repeated.
 *
 * @module
 */

/** The same choices for the same seed (xorshift). */
export class Draw {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b9) | 1;
  }

  /** A whole number from 0 to `n` - 1. */
  below(n: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % n;
  }

  /** One of `list`. */
  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }
}
