/**
 * Counts where the guest is found when its fuel is used up: since fuel is about time, so are samples.
 *
 * @module
 */

import type { CodePage } from "./code_cache.ts";
import { S } from "./state.ts";

/** Pages whose samples are counted, of those that are interpreted. */
const MAX_PAGES = 4096;
/** Samples between calls of {@link Samples.onMany}, a power of two. */
const MANY = 1024;

/** Samples of one vCPU. */
export class Samples {
  interpreted = 0;
  translated = 0;
  /** Called every so many samples. */
  onMany: () => void = () => {};
  /** Samples of interpreted code by the lower 40 bits of the linear page number. */
  readonly #pages = new Map<number, number>();
  readonly #state: Int32Array;

  /** @param state State of the vCPU as words. */
  constructor(state: Int32Array) {
    this.#state = state;
  }

  /** Counts a sample at `S.rip`, which is in `page`. */
  count(page: CodePage): void {
    const low = this.#state[S.rip >>> 2] as number;
    const record = this.#state[(page.map >>> 2) + (low & 0xfff)] as number;
    if (page.regions.has(record)) this.translated++;
    else {
      this.interpreted++;
      const high = this.#state[(S.rip >>> 2) + 1] as number;
      const key = (low >>> 12) + (high & 0xfffff) * 0x10_0000;
      const known = this.#pages.get(key);
      if (known !== undefined || this.#pages.size < MAX_PAGES) {
        this.#pages.set(key, (known ?? 0) + 1);
      }
    }
    if (((this.translated + this.interpreted) & (MANY - 1)) === 0) this.onMany();
  }

  /** The `count` pages of interpreted code that were hit most often. */
  worst(count: number): { address: bigint; samples: number }[] {
    const sorted = [...this.#pages].sort((a, b) => b[1] - a[1]).slice(0, count);
    // The upper bits of an address follow from these 52.
    return sorted.map(([page, samples]) => ({
      address: BigInt.asUintN(64, BigInt.asIntN(52, BigInt(page) << 12n)),
      samples,
    }));
  }
}
