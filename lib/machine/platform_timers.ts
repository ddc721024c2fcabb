/**
 * The platform's timers that no vCPU looks after (the real-time clock's alarms): main runs them when
 * they are due, and sleeps until then.
 *
 * @module
 */

import type { Platform } from "../devices/mod.ts";

/** setTimeout and its kin count in 31 bits. */
const LONGEST_WAIT_MS = 2 ** 31 - 1;

/** Runs the timers of a platform until it is disposed. */
export class PlatformTimers implements Disposable {
  readonly #platform: Platform;
  #closed = false;

  constructor(platform: Platform) {
    this.#platform = platform;
    void this.#run();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    const { words, index } = this.#platform.timerEvent;
    Atomics.notify(words, index);
  }

  async #run(): Promise<void> {
    const { words, index } = this.#platform.timerEvent;
    while (!this.#closed) {
      const seen = Atomics.load(words, index);
      this.#platform.runTimers();
      const dueMs = this.#platform.nextTimerMs();
      const wait = dueMs === Infinity
        ? Atomics.waitAsync(words, index, seen)
        : Atomics.waitAsync(words, index, seen, Math.min(Math.max(dueMs, 0), LONGEST_WAIT_MS));
      if (wait.async) await wait.value;
    }
  }
}
