/**
 * When a thread that serves queues looks for more work before it sleeps. To be woken up costs both sides more
 * time than a small request takes: one the interrupt of another processor, the other one the way out of its
 * sleep.
 *
 * @module
 */

import { microsBetween } from "../../host/mod.ts";

/** How long it does not look any more after it has looked in vain. */
const VAIN_REST_US = 10_000;
/** Between two looks for longer, somebody else had the processor: it is wanted. */
const AWAY_US = 50;
/** How long it does not look then: it would come late, and nobody wakes up who looks. */
const AWAY_REST_US = 100_000;

/** Decides whether to look, and for how long. Times are those of `monotonicMicros32`: it is asked very often. */
export class BusyPoll {
  readonly #windowUs: number;
  /** Whether the last work came soon enough for looking to be worth it. */
  #worthIt = false;
  #beginUs = 0;
  #lastUs = 0;
  #restBeginUs = 0;
  #restUs = 0;

  /** @param windowUs how long to look at most, in microseconds; 0 is never */
  constructor(windowUs: number) {
    this.#windowUs = windowUs;
  }

  /** Whether it is ever looked. */
  get enabled(): boolean {
    return this.#windowUs > 0;
  }

  /** There is nothing to do any more. @returns whether to look for work */
  begin(nowUs: number): boolean {
    this.#beginUs = nowUs;
    this.#lastUs = nowUs;
    return this.#worthIt && microsBetween(this.#restBeginUs, nowUs) >= this.#restUs;
  }

  /** Told after each look that found nothing. @returns whether to look once more */
  goesOn(nowUs: number): boolean {
    const isAway = microsBetween(this.#lastUs, nowUs) > AWAY_US;
    this.#lastUs = nowUs;
    if (!isAway && microsBetween(this.#beginUs, nowUs) < this.#windowUs) return true;
    this.#restBeginUs = nowUs;
    this.#restUs = isAway ? AWAY_REST_US : VAIN_REST_US;
    return false;
  }

  /** There is work again, or the time is up. */
  end(nowUs: number): void {
    this.#worthIt = microsBetween(this.#beginUs, nowUs) < this.#windowUs;
  }
}
