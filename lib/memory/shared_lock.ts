/**
 * A mutual exclusion between workers over a word of shared memory.
 *
 * @module
 */

const FREE = 0;
const HELD = 1;
/** Held, and somebody may sleep. */
const CONTENDED = 2;
/** Tries before sleeping; sections are shorter than a sleep and a wake-up. */
const SPINS = 64;

/**
 * A lock: spins a little, then sleeps. Not reentrant. Made from the same word in every worker (and on
 * the main thread, where it may sleep too: Deno allows that). The word begins as 0.
 */
export class SharedLock {
  readonly #words: Int32Array;
  readonly #index: number;

  /** @param words over a `SharedArrayBuffer` */
  constructor(words: Int32Array, index = 0) {
    this.#words = words;
    this.#index = index;
  }

  /** Waits until the lock is free, and takes it. */
  lock(): void {
    const words = this.#words;
    const index = this.#index;
    if (Atomics.compareExchange(words, index, FREE, HELD) === FREE) return;
    for (let spin = 0; spin < SPINS; spin++) {
      if (
        Atomics.load(words, index) === FREE &&
        Atomics.compareExchange(words, index, FREE, HELD) === FREE
      ) return;
    }
    while (Atomics.exchange(words, index, CONTENDED) !== FREE) {
      Atomics.wait(words, index, CONTENDED);
    }
  }

  /** Takes the lock if it is free; says whether it did. */
  tryLock(): boolean {
    return Atomics.compareExchange(this.#words, this.#index, FREE, HELD) === FREE;
  }

  /** Frees the lock, which the caller holds. */
  unlock(): void {
    if (Atomics.exchange(this.#words, this.#index, FREE) === CONTENDED) {
      Atomics.notify(this.#words, this.#index, 1);
    }
  }

  /** Runs `body` under the lock. Where a closure is too much, use {@link lock} and {@link unlock}. */
  withLock<T>(body: () => T): T {
    this.lock();
    try {
      return body();
    } finally {
      this.unlock();
    }
  }
}
