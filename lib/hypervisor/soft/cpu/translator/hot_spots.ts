/**
 * What samples of the guest say is worth to be translated: places that are hot, places that are very hot, and
 * pages that are busy without such a place.
 *
 * @module
 */

import type { CodePage } from "../code_cache.ts";

/** Samples that make a place worth a region with the functions that it calls, in other pages too. */
const VERY_HOT = 100;

/**
 * Samples in the small regions of a page, wherever they are, that make the one at hand worth the same: of
 * many that run once for each request of a device, none is very hot for long, and most of the time goes from
 * one to the next.
 */
const BUSY = 50;

/** Samples of all before which that does not count: what a boot is busy with, it is through with soon. */
export const SETTLED: number = 1 << 15;

/** Times that translated code of a page may be lost before more heat is asked for. */
const FEW_CHANGES = 2;

/** What of a {@link CodePage} is looked at. */
export type SampledPage = Pick<CodePage, "heat" | "churn" | "busy">;

/** What is to be translated; `wide`: over several pages. */
export interface Wanted {
  readonly wide: boolean;
}

const NARROW: Wanted = { wide: false };
const WIDE: Wanted = { wide: true };

/** Counts the samples of one vCPU. */
export class HotSpots {
  #all = 0;
  readonly #hot: number;

  /** @param hot Samples at one place that make it hot. */
  constructor(hot: number) {
    this.#hot = hot;
  }

  /** Whether the guest is taken to have booted. */
  get isSettled(): boolean {
    return this.#all > SETTLED;
  }

  /**
   * Counts a sample at `offset` of `page`.
   *
   * @param isSmall True where it is in a region that a larger one may have the code of.
   * @returns what is to be translated from there, if anything.
   */
  count(page: SampledPage, offset: number, isSmall: boolean): Wanted | undefined {
    const count = (page.heat.get(offset) ?? 0) + 1;
    page.heat.set(offset, count);
    const changes = changesOf(page);
    const enough = VERY_HOT << changes;
    this.#all++;
    if (this.isSettled && isSmall && count < enough) page.busy++;
    if (count === enough || (count < enough && page.busy >= BUSY << changes)) return WIDE;
    return count === this.#hot << changes ? NARROW : undefined;
  }

  /** Notes that `wanted` at `offset` of `page` was seen to: each place is wanted once. */
  done(page: SampledPage, offset: number, wanted: Wanted): void {
    if (!wanted.wide) return;
    page.heat.set(offset, Math.max(page.heat.get(offset) ?? 0, VERY_HOT << changesOf(page)));
    page.busy = 0;
  }

  /** Notes that what {@link count} wanted at `offset` of `page` cannot be had now: it is to say so again. */
  postpone(page: SampledPage, offset: number): void {
    page.heat.set(offset, (page.heat.get(offset) ?? 1) - 1);
  }
}

/** Where code is changed again and again, what is made of it must be worth it. */
function changesOf(page: SampledPage): number {
  return Math.min(Math.max(page.churn - FEW_CHANGES, 0), 8);
}
