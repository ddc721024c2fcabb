import { NEXT_DEADLINE } from "./layout.ts";
import {
  LVT,
  LVT_TIMER,
  MASKED,
  TIMER_DEADLINE,
  TIMER_DEADLINE_MODE,
  TIMER_DIVIDE,
  TIMER_INITIAL,
  TIMER_PERIODIC,
  TIMER_START,
  TSC_DEADLINE,
  TSC_OFFSET,
} from "./lapic_layout.ts";

/**
 * The timers of the local APICs (Intel SDM vol. 3, 11.5.4): one-shot, periodic and TSC deadline. They
 * run on guest nanoseconds, as the bus clock is 1 GHz. Nothing is stepped: counts follow from the time
 * at which counting began. `a` is the first word of a local APIC everywhere.
 */
export class LapicTimer {
  readonly #w: Int32Array;
  readonly #f: Float64Array;

  /** @param words the shared state. */
  constructor(words: Int32Array) {
    this.#w = words;
    this.#f = new Float64Array(words.buffer, 0, words.buffer.byteLength >> 3);
  }

  /** Guest nanoseconds of the next interrupt, or Infinity. */
  deadlineNs(a: number): number {
    return this.#f[(a + TIMER_DEADLINE) >> 1] as number;
  }

  /** If the deadline is over: sets the next one and returns the vector to deliver, else -1. */
  expire(a: number, nowNs: number): number {
    const f = this.#f;
    if (nowNs < (f[(a + TIMER_DEADLINE) >> 1] as number)) return -1;
    f[(a + TIMER_DEADLINE) >> 1] = Infinity;
    const lvt = this.#w[a + LVT + LVT_TIMER] as number;
    if (this.#deadlineMode(a)) f[(a + TSC_DEADLINE) >> 1] = 0;
    else if ((lvt & TIMER_PERIODIC) !== 0) this.rearm(a, nowNs);
    return (lvt & MASKED) === 0 ? lvt & 0xff : -1;
  }

  /** Stops counting and disarms. */
  stop(a: number): void {
    this.#w[a + TIMER_INITIAL] = 0;
    this.#f[(a + TSC_DEADLINE) >> 1] = 0;
    this.#f[(a + TIMER_DEADLINE) >> 1] = Infinity;
  }

  /** Computes the next deadline of a counting timer, after its mode, mask, count or pace changed. */
  rearm(a: number, nowNs: number): void {
    if (this.#deadlineMode(a)) return;
    const f = this.#f;
    const lvt = this.#w[a + LVT + LVT_TIMER] as number;
    const period = this.#periodNs(a);
    let deadline = Infinity;
    if (period !== 0 && (lvt & MASKED) === 0) {
      const start = f[(a + TIMER_START) >> 1] as number;
      if ((lvt & TIMER_PERIODIC) !== 0) {
        deadline = start + (Math.floor((nowNs - start) / period) + 1) * period;
      } else if (start + period > nowNs) {
        deadline = start + period;
      }
    }
    f[(a + TIMER_DEADLINE) >> 1] = deadline;
    this.#noteDeadline(a);
  }

  /** The initial count register. */
  initialCount(a: number): number {
    return this.#deadlineMode(a) ? 0 : this.#w[a + TIMER_INITIAL] as number;
  }

  /** Starts counting from `value`; ignored in deadline mode. */
  writeInitialCount(a: number, value: number, nowNs: number): void {
    if (this.#deadlineMode(a)) return;
    this.#w[a + TIMER_INITIAL] = value;
    this.#f[(a + TIMER_START) >> 1] = nowNs;
    this.rearm(a, nowNs);
  }

  /** The current count register. */
  currentCount(a: number, nowNs: number): number {
    const period = this.#periodNs(a);
    if (period === 0 || this.#deadlineMode(a)) return 0;
    const elapsed = Math.max(0, nowNs - (this.#f[(a + TIMER_START) >> 1] as number));
    const periodic = ((this.#w[a + LVT + LVT_TIMER] as number) & TIMER_PERIODIC) !== 0;
    if (!periodic && elapsed >= period) return 0;
    return Math.ceil((period - elapsed % period) / (1 << this.#divideShift(a))) | 0;
  }

  /** Writes the divide configuration: the count stays what it is and goes on at the new pace. */
  writeDivide(a: number, value: number, nowNs: number): void {
    const shift = this.#divideShift(a);
    this.#w[a + TIMER_DIVIDE] = value & 0xb;
    const change = this.#divideShift(a) - shift;
    if (change === 0 || this.#deadlineMode(a) || this.#w[a + TIMER_INITIAL] === 0) return;
    const start = (a + TIMER_START) >> 1;
    const elapsed = nowNs - (this.#f[start] as number);
    this.#f[start] = nowNs - elapsed * 2 ** change;
    this.rearm(a, nowNs);
  }

  /** IA32_TSC_DEADLINE: 0 when disarmed or over. */
  readTscDeadline(a: number, nowNs: number): number {
    return this.#deadlineMode(a) && this.deadlineNs(a) > nowNs
      ? this.#f[(a + TSC_DEADLINE) >> 1] as number
      : 0;
  }

  /** Arms the deadline, or with 0 disarms it; ignored in the other modes. */
  writeTscDeadline(a: number, value: number): void {
    if (!this.#deadlineMode(a)) return;
    this.#f[(a + TSC_DEADLINE) >> 1] = value;
    this.#setDeadlineOfTsc(a);
  }

  /** Says by how many ticks the TSC is ahead of guest nanoseconds. */
  setTscOffset(a: number, ticks: number): void {
    this.#f[(a + TSC_OFFSET) >> 1] = ticks;
    if (this.#deadlineMode(a)) this.#setDeadlineOfTsc(a);
  }

  #setDeadlineOfTsc(a: number): void {
    const value = this.#f[(a + TSC_DEADLINE) >> 1] as number;
    this.#f[(a + TIMER_DEADLINE) >> 1] = value === 0
      ? Infinity
      : Math.max(0, value - (this.#f[(a + TSC_OFFSET) >> 1] as number));
    this.#noteDeadline(a);
  }

  #deadlineMode(a: number): boolean {
    return ((this.#w[a + LVT + LVT_TIMER] as number) & (TIMER_PERIODIC | TIMER_DEADLINE_MODE)) ===
      TIMER_DEADLINE_MODE;
  }

  #divideShift(a: number): number {
    const divide = this.#w[a + TIMER_DIVIDE] as number;
    return (((divide & 3) | ((divide >> 1) & 4)) + 1) & 7;
  }

  /** Nanoseconds of a whole count. */
  #periodNs(a: number): number {
    return ((this.#w[a + TIMER_INITIAL] as number) >>> 0) * (1 << this.#divideShift(a));
  }

  #noteDeadline(a: number): void {
    const deadline = this.deadlineNs(a);
    if (deadline < (this.#f[NEXT_DEADLINE >> 1] as number)) this.#f[NEXT_DEADLINE >> 1] = deadline;
  }
}
