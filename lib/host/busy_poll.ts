/**
 * When a thread that waits for another one looks for what comes before it sleeps. To be woken up costs both
 * sides more time than a small request takes: one the interrupt of another processor, the other one the way
 * out of its sleep.
 *
 * @module
 */

import { microsBetween, threadPreemptions } from "./clock.ts";

/**
 * What looks in vain may take of the thread's time, and of the time that it looked with success; and how many of
 * them may follow each other whatever was before.
 */
const VAIN_SHARE = 1 / 100;
const VAIN_SHARE_OF_GOOD = 1 / 4;
const VAIN_WINDOWS = 16;
/** Between two looks for longer, somebody else may have had the processor: the host below, or another thread. */
const AWAY_US = 50;
/**
 * How many times as long as another thread had the processor it is not looked then: that thread may want more
 * of it, and who looks is not woken up, so that it would come late. Twice as many each time, half as many
 * whenever many looks went well.
 */
const AWAY_REST = 8;
const MAX_AWAY_REST = 256;
const MAX_AWAY_REST_US = 1_600_000;
const GOOD_LOOKS = 64;

/** Decides whether to look, and for how long. Times are in microseconds, for `microsBetween`: it is asked very often. */
export class BusyPoll {
  readonly #windowUs: number;
  readonly #preemptions: () => number;
  /** Whether the last wait ended within the window: else looking is not worth it. */
  #isSoon = false;
  /** What looks in vain may take now. */
  #creditUs: number;
  #beginUs = 0;
  #lastUs = 0;
  #lastPreemptions = 0;
  #restBeginUs = 0;
  #restUs = 0;
  #awayRest = AWAY_REST;
  /** Whether this wait began with a look, and is not yet over. */
  #looks = false;
  #goodLooks = 0;

  /**
   * @param windowUs how long to look at most, in microseconds; 0 is never
   * @param preemptions how often another thread took the processor from this one
   */
  constructor(windowUs: number, preemptions: () => number = threadPreemptions) {
    this.#windowUs = windowUs;
    this.#creditUs = VAIN_WINDOWS * windowUs;
    this.#preemptions = preemptions;
  }

  /** Whether it is ever looked. */
  get enabled(): boolean {
    return this.#windowUs > 0;
  }

  /**
   * There is nothing to do any more.
   *
   * @param mayLook false where looking would do harm for other reasons
   * @returns whether to look for work
   */
  begin(nowUs: number, mayLook = true): boolean {
    this.#earn(microsBetween(this.#beginUs, nowUs) * VAIN_SHARE);
    this.#beginUs = nowUs;
    this.#lastUs = nowUs;
    this.#looks = mayLook && this.#isSoon && this.#creditUs >= this.#windowUs &&
      microsBetween(this.#restBeginUs, nowUs) >= this.#restUs;
    if (this.#looks) this.#lastPreemptions = this.#preemptions();
    return this.#looks;
  }

  /** Told after each look that found nothing. @returns whether to look once more */
  goesOn(nowUs: number): boolean {
    const awayUs = microsBetween(this.#lastUs, nowUs);
    this.#lastUs = nowUs;
    if (awayUs > AWAY_US && this.#preemptions() !== this.#lastPreemptions) {
      this.#restBeginUs = nowUs;
      this.#restUs = Math.min(awayUs * this.#awayRest, MAX_AWAY_REST_US);
      this.#awayRest = Math.min(2 * this.#awayRest, MAX_AWAY_REST);
      this.#looks = false;
    } else if (microsBetween(this.#beginUs, nowUs) >= this.#windowUs) {
      this.#creditUs -= this.#windowUs;
      this.#looks = false;
    }
    return this.#looks;
  }

  /** There is work again, or the time is up. */
  end(nowUs: number): void {
    const waitedUs = microsBetween(this.#beginUs, nowUs);
    this.#isSoon = waitedUs < this.#windowUs;
    if (!this.#looks) return;
    this.#looks = false;
    this.#earn(waitedUs * VAIN_SHARE_OF_GOOD);
    if (++this.#goodLooks % GOOD_LOOKS === 0) {
      this.#awayRest = Math.max(this.#awayRest >> 1, AWAY_REST);
    }
  }

  #earn(creditUs: number): void {
    this.#creditUs = Math.min(this.#creditUs + creditUs, VAIN_WINDOWS * this.#windowUs);
  }
}
