/**
 * When a thread that serves queues looks for more work before it sleeps. To be woken up costs both sides more
 * time than a small request takes: one the interrupt of another processor, the other one the way out of its
 * sleep.
 *
 * @module
 */

/** How long it does not look any more after it has looked in vain. */
const VAIN_REST_NS = 10e6;
/** Between two looks for longer, somebody else had the processor: it is wanted. */
const AWAY_NS = 50_000;
/** How long it does not look then: it would come late, and nobody wakes up who looks. */
const AWAY_REST_NS = 100e6;

/** Decides whether to look, and for how long. */
export class BusyPoll {
  readonly #windowNs: number;
  /** Whether the last work came soon enough for looking to be worth it. */
  #worthIt = false;
  #restsUntilNs = 0;
  #beginNs = 0;
  #lastNs = 0;

  /** @param windowNs how long to look at most; 0 is never */
  constructor(windowNs: number) {
    this.#windowNs = windowNs;
  }

  /** Whether it is ever looked. */
  get enabled(): boolean {
    return this.#windowNs > 0;
  }

  /** There is nothing to do any more. @returns whether to look for work */
  begin(nowNs: number): boolean {
    this.#beginNs = nowNs;
    this.#lastNs = nowNs;
    return this.#worthIt && nowNs >= this.#restsUntilNs;
  }

  /** Told after each look that found nothing. @returns whether to look once more */
  goesOn(nowNs: number): boolean {
    const awayNs = nowNs - this.#lastNs;
    this.#lastNs = nowNs;
    const isAway = awayNs > AWAY_NS;
    if (!isAway && nowNs - this.#beginNs < this.#windowNs) return true;
    this.#restsUntilNs = nowNs + (isAway ? AWAY_REST_NS : VAIN_REST_NS);
    return false;
  }

  /** There is work again, or the time is up. */
  end(nowNs: number): void {
    this.#worthIt = nowNs - this.#beginNs < this.#windowNs;
  }
}
