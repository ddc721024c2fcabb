import { monotonicNs } from "../../../host/mod.ts";
import { CLOCK_WORDS } from "./layout.ts";

/** Frequency of the guest's TSC in Hz: one tick is one guest nanosecond. */
export const GUEST_TSC_HZ = 1_000_000_000;
/** Frequency of the PIT's input in Hz. */
export const PIT_HZ = 1_193_182;
/** Frequency of the ACPI power management timer in Hz. */
export const PM_TIMER_HZ = 3_579_545;

// Words, relative to the first one.
const SEQUENCE = 0;
const PAUSED = 1;
/** Float64: host nanoseconds at which guest time was 0, all pauses counted. */
const ORIGIN = 2;
/** Float64: guest nanoseconds at which the clock was paused. */
const FROZEN_AT = 4;

/** From where another worker of this process attaches to a {@link GuestClock}. */
export interface GuestClockHandle {
  /** Shared words. */
  readonly buffer: SharedArrayBuffer;
  /** First word, an even number. */
  readonly wordIndex: number;
}

/**
 * Guest time: nanoseconds since the VM was made, less the time it was paused. All workers see the
 * same time, any of them may pause it. Reading takes no lock (a sequence counter guards it).
 */
export class GuestClock {
  /** Words that a clock takes in shared memory. */
  static readonly words = CLOCK_WORDS;
  readonly #words: Int32Array;
  readonly #numbers: Float64Array;
  readonly #base: number;
  readonly #origin: number;
  readonly #frozen: number;
  readonly #hostNow: () => number;

  /**
   * Attaches to a clock.
   * @param handle where it lies.
   * @param hostNow host time in nanoseconds; the same source in every worker.
   */
  constructor(handle: GuestClockHandle, hostNow: () => number = monotonicNs) {
    this.#words = new Int32Array(handle.buffer);
    this.#numbers = new Float64Array(handle.buffer, 0, handle.buffer.byteLength >> 3);
    this.#base = handle.wordIndex;
    this.#origin = (handle.wordIndex + ORIGIN) >> 1;
    this.#frozen = (handle.wordIndex + FROZEN_AT) >> 1;
    this.#hostNow = hostNow;
  }

  /** Makes a clock that runs from 0; in memory of its own, or at `place`. */
  static create(
    options: { place?: GuestClockHandle; hostNow?: () => number } = {},
  ): GuestClock {
    const place = options.place ??
      { buffer: new SharedArrayBuffer(CLOCK_WORDS * 4), wordIndex: 0 };
    const clock = new GuestClock(place, options.hostNow ?? monotonicNs);
    clock.#numbers[clock.#origin] = clock.#hostNow();
    return clock;
  }

  /** For another worker. */
  handle(): GuestClockHandle {
    return { buffer: this.#words.buffer as SharedArrayBuffer, wordIndex: this.#base };
  }

  /** Whether guest time stands still. */
  get paused(): boolean {
    return Atomics.load(this.#words, this.#base + PAUSED) !== 0;
  }

  /** Guest time in nanoseconds. */
  nowNs(): number {
    for (;;) {
      const sequence = Atomics.load(this.#words, this.#base + SEQUENCE);
      if ((sequence & 1) !== 0) continue; // A writer is between two stores.
      const now = this.#words[this.#base + PAUSED] !== 0
        ? this.#numbers[this.#frozen] ?? 0
        : this.#hostNow() - (this.#numbers[this.#origin] ?? 0);
      if (Atomics.load(this.#words, this.#base + SEQUENCE) === sequence) return now;
    }
  }

  /** Host time (of the same source) at which guest time is or was `guestNs`; only while it runs. */
  hostNs(guestNs: number): number {
    return guestNs + (this.#numbers[this.#origin] ?? 0);
  }

  /** Stops guest time. Does nothing when it stands. */
  pause(): void {
    const sequence = this.#beginWrite();
    if (this.#words[this.#base + PAUSED] === 0) {
      this.#numbers[this.#frozen] = this.#hostNow() - (this.#numbers[this.#origin] ?? 0);
      this.#words[this.#base + PAUSED] = 1;
    }
    Atomics.store(this.#words, this.#base + SEQUENCE, sequence + 2);
  }

  /** Lets guest time go on from where it stopped. Does nothing when it runs. */
  resume(): void {
    const sequence = this.#beginWrite();
    if (this.#words[this.#base + PAUSED] !== 0) {
      this.#numbers[this.#origin] = this.#hostNow() - (this.#numbers[this.#frozen] ?? 0);
      this.#words[this.#base + PAUSED] = 0;
    }
    Atomics.store(this.#words, this.#base + SEQUENCE, sequence + 2);
  }

  /** Makes the sequence odd, which shuts out readers and other writers, and returns the even one. */
  #beginWrite(): number {
    for (;;) {
      const sequence = Atomics.load(this.#words, this.#base + SEQUENCE) & ~1;
      const seen = Atomics.compareExchange(
        this.#words,
        this.#base + SEQUENCE,
        sequence,
        sequence + 1,
      );
      if (seen === sequence) return sequence;
    }
  }
}
