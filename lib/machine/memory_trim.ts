/**
 * Gives back what putting the VM together left in this thread's heap, and what compiling guest code leaves
 * in the C library's arenas: V8's compiler threads free tens of MiB that would else stay with the process.
 *
 * @module
 */

import { collectGarbage, releaseFreeMemory } from "../host/mod.ts";

/** Pauses between two times, in ms: short ones at first, when most is compiled. */
const FIRST_MS = 1_000;
const LONGEST_MS = 60_000;
const GROWTH = 1.2;
/** Which time garbage is collected: then the VM runs, and this thread has little left to do. */
const COLLECTING = 2;

/** Does so now and then until it is disposed. */
export class MemoryTrim implements Disposable {
  #timer: ReturnType<typeof setTimeout>;
  #times = 0;

  constructor() {
    this.#timer = this.#after(FIRST_MS);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #after(pauseMs: number): ReturnType<typeof setTimeout> {
    return setTimeout(() => {
      if (++this.#times !== COLLECTING || !collectGarbage(true)) releaseFreeMemory();
      this.#timer = this.#after(Math.min(GROWTH * pauseMs, LONGEST_MS));
    }, pauseMs);
  }
}
