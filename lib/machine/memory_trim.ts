/**
 * Gives back what compiling guest code left in the C library's arenas: V8's compiler threads free tens of
 * MiB that would else stay with the process.
 *
 * @module
 */

import { releaseFreeMemory } from "../host/mod.ts";

/** Pauses between two times, in ms: short ones at first, when most is compiled. */
const FIRST_MS = 1_000;
const LONGEST_MS = 60_000;
const GROWTH = 1.2;

/** Does so now and then until it is disposed. */
export class MemoryTrim implements Disposable {
  #timer: ReturnType<typeof setTimeout>;

  constructor() {
    this.#timer = this.#after(FIRST_MS);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #after(pauseMs: number): ReturnType<typeof setTimeout> {
    return setTimeout(() => {
      releaseFreeMemory();
      this.#timer = this.#after(Math.min(GROWTH * pauseMs, LONGEST_MS));
    }, pauseMs);
  }
}
