/**
 * When a thread that waits for another one looks for what comes before it sleeps. To be woken up costs both
 * sides more time than a small request takes: one the interrupt of another processor, the other one the way
 * out of its sleep.
 *
 * @module
 */

import { microsBetween } from "./clock.ts";

/** How long it does not look any more after it has looked in vain. */
const VAIN_REST_US = 10_000;
/** Between two looks for longer, somebody else had the processor: it is wanted. */
const AWAY_US = 50;
/**
 * How long it does not look then: it would come late, and nobody wakes up who looks. Each time twice as long,
 * until many looks in a row went well.
 */
const AWAY_REST_US = 100_000;
const MAX_AWAY_REST_US = 1_600_000;
const GOOD_LOOKS = 256;

/** Decides whether to look, and for how long. Times are in microseconds, for `microsBetween`: it is asked very often. */
export class BusyPoll {
  readonly #windowUs: number;
  /** Whether the last work came soon enough for looking to be worth it. */
  #worthIt = false;
  #beginUs = 0;
  #lastUs = 0;
  #restBeginUs = 0;
  #restUs = 0;
  readonly #leastAwayRestUs: number;
  #awayRestUs: number;
  /** Whether this wait began with a look, and how many of those since the last bad one found work. */
  #looks = false;
  #goodLooks = 0;

  /**
   * @param windowUs how long to look at most, in microseconds; 0 is never
   * @param awayRestUs how long not to look when somebody else had the processor, the first time
   */
  constructor(windowUs: number, awayRestUs: number = AWAY_REST_US) {
    this.#windowUs = windowUs;
    this.#leastAwayRestUs = awayRestUs;
    this.#awayRestUs = awayRestUs;
  }

  /** Whether it is ever looked. */
  get enabled(): boolean {
    return this.#windowUs > 0;
  }

  /** There is nothing to do any more. @returns whether to look for work */
  begin(nowUs: number): boolean {
    this.#beginUs = nowUs;
    this.#lastUs = nowUs;
    this.#looks = this.#worthIt && microsBetween(this.#restBeginUs, nowUs) >= this.#restUs;
    return this.#looks;
  }

  /** Told after each look that found nothing. @returns whether to look once more */
  goesOn(nowUs: number): boolean {
    const isAway = microsBetween(this.#lastUs, nowUs) > AWAY_US;
    this.#lastUs = nowUs;
    if (!isAway && microsBetween(this.#beginUs, nowUs) < this.#windowUs) return true;
    this.#looks = false;
    this.#restBeginUs = nowUs;
    this.#restUs = isAway ? this.#awayRestUs : VAIN_REST_US;
    if (isAway) {
      this.#awayRestUs = Math.min(2 * this.#awayRestUs, MAX_AWAY_REST_US);
      this.#goodLooks = 0;
    }
    return false;
  }

  /** There is work again, or the time is up. */
  end(nowUs: number): void {
    this.#worthIt = microsBetween(this.#beginUs, nowUs) < this.#windowUs;
    if (this.#looks && ++this.#goodLooks === GOOD_LOOKS) this.#awayRestUs = this.#leastAwayRestUs;
  }
}
