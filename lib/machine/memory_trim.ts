/**
 * Gives back what putting the VM together left in this thread's heap, and what compiling guest code leaves
 * in the C library's arenas: V8's compiler threads free tens of MiB that would else stay with the process.
 *
 * @module
 */

import { Alarm } from "../base/mod.ts";
import { collectGarbage, releaseFreeMemory } from "../host/mod.ts";

/** Pauses between two times, in ms: short ones at first, when most is compiled. */
const FIRST_MS = 1_000;
const LONGEST_MS = 60_000;
const GROWTH = 1.2;
/** Which time garbage is collected: then the VM runs, and this thread has little left to do. */
const COLLECTING = 2;

/** Does so now and then until it is disposed. */
export class MemoryTrim implements Disposable {
  #alarm: Alarm;
  #times = 0;

  constructor() {
    this.#alarm = this.#after(FIRST_MS);
  }

  [Symbol.dispose](): void {
    this.#alarm[Symbol.dispose]();
  }

  #after(pauseMs: number): Alarm {
    return new Alarm(pauseMs, () => {
      if (++this.#times !== COLLECTING || !collectGarbage(true)) releaseFreeMemory();
      this.#alarm = this.#after(Math.min(GROWTH * pauseMs, LONGEST_MS));
    });
  }
}
