/**
 * Looks for the answer of a device soon after it was kicked. A disk's is often there before the guest has
 * made itself ready to sleep; who learns of it only in HLT does all of that for nothing, and undoes it. Or
 * it comes soon after, where the host's thread does better not to sleep: waking it takes longer.
 *
 * @module
 */

import { BusyPoll } from "../../../host/mod.ts";

/** Fuel between looks, a twentieth of a full load. */
const SLICE = 400;
/** Looks at most, each of about a microsecond, before it is left to HLT and to the fuel's end. */
const LOOKS = 8;

/** How long an answer is awaited without sleep, at most, where others may have the processor meanwhile. */
const SPIN_NS = 30_000;

/** How long it is awaited in all, where nobody else wants the processor; KVM waits for 200 us (halt_poll_ns). */
const WINDOW_US = 300;

/** How often HLT may end without an answer until none is expected any more: by timers, or other vCPUs. */
const UNANSWERED = 8;

/** Divides the fuel that is left into slices for a while, and has HLT sleep a little later. */
export class KickWatch {
  #looks = 0;
  #held = 0;
  /** Whether a device was kicked since the last sleep. */
  #kicked = false;
  /**
   * For how many sleeps an answer is still to be expected: behind a kick or an answer, and on as long as they end
   * soon. A device with much to do looks for it by itself, and is not kicked any more; a guest whose timers come
   * as soon may have nothing to do with it any more.
   */
  #expected = 0;
  /** When HLT began, 0 where it has not. */
  #haltedNs = 0;
  /** Whether the last answer came soon. */
  #soon = true;
  /** For answers that take longer than that. */
  readonly #poll: BusyPoll;
  #polling: "not yet" | "polling" | "over" = "not yet";

  /** @param preemptions For tests, see {@link BusyPoll}. */
  constructor(preemptions?: () => number) {
    this.#poll = new BusyPoll(WINDOW_US, preemptions);
  }

  /**
   * A device was kicked.
   *
   * @param fuel What is left.
   * @returns what to go on with.
   */
  begin(fuel: number): number {
    this.#kicked = true;
    this.#expected = UNANSWERED;
    const all = fuel + this.#held;
    this.#looks = LOOKS;
    const slice = Math.min(SLICE, all);
    this.#held = Math.max(all - slice, 0);
    return slice;
  }

  /**
   * Fuel is used up.
   *
   * @returns what to go on with after a look around; 0 where all of it is used up.
   */
  next(): number {
    if (this.#held === 0) return 0;
    const fuel = --this.#looks > 0 ? Math.min(SLICE, this.#held) : this.#held;
    this.#held -= fuel;
    return fuel;
  }

  /** The guest sleeps: gives back what is held. */
  end(): number {
    const held = this.#held;
    this.#held = 0;
    return held;
  }

  /** Whether HLT is to look again instead of sleeping. */
  spins(nowNs: number): boolean {
    if (this.#haltedNs === 0) this.#haltedNs = nowNs;
    return this.#kicked && this.#soon && nowNs - this.#haltedNs < SPIN_NS;
  }

  /** Whether HLT is to look again all the same, and let nobody else have the processor: asked when it does not spin. */
  polls(nowNs: number): boolean {
    if (this.#expected === 0 || this.#polling === "over") return false;
    const nowUs = nowNs / 1000 | 0;
    const goesOn = this.#polling === "polling" ? this.#poll.goesOn(nowUs) : this.#poll.begin(nowUs);
    this.#polling = goesOn ? "polling" : "over";
    return goesOn;
  }

  /**
   * HLT is over. Where the answer came too late to be worth it, the next ones are not waited for so.
   *
   * @param answered Whether a device signalled meanwhile.
   */
  woken(nowNs: number, answered: boolean): void {
    const waitedNs = this.#haltedNs === 0 ? 0 : nowNs - this.#haltedNs;
    if (this.#polling !== "not yet") this.#poll.end(nowNs / 1000 | 0);
    this.#polling = "not yet";
    if (this.#kicked) this.#soon = waitedNs < 2 * SPIN_NS;
    this.#kicked = false;
    if (waitedNs >= WINDOW_US * 1000) this.#expected = 0;
    else if (answered) this.#expected = UNANSWERED;
    else if (this.#expected > 0) this.#expected--;
    this.#haltedNs = 0;
  }
}
