/**
 * Has a vCPU's worker collect garbage. What modules take that were thrown away lies outside of the heap
 * that JavaScript's own collector watches; and a vCPU runs in one task, so that collector never sees an
 * idle thread, in which it would tidy up.
 *
 * @module
 */

import { collectGarbage } from "../../../host/mod.ts";

/** A timer of the guest this far away, in ms, makes it idle. */
export const IDLE_MS = 50;

/** Between two looks of an idle vCPU, in ms, and between two collections. */
const LOOK_MS = 250;
const PAUSE_MS = 10_000;
/** What an idle vCPU's heap may have beside what was in use lately, in bytes. */
const HEAP_GARBAGE_BYTES = 8 << 20;
/** What modules that were thrown away may take, about, in bytes. */
const MODULE_GARBAGE_BYTES = 32 << 20;

/** Collects in this worker at a bounded rate, where V8 runs with `--expose-gc`, as in the executable. */
export class Collector {
  #lastLook = -Infinity;
  #lastTime = -Infinity;
  /** What was in use behind the last collection. */
  #used = 0;
  /** What had been thrown away then. */
  #dropped = 0;

  /**
   * For a guest that has nothing to do for a while: everything goes that can, also pages of the heap that
   * are half empty. That takes some tens of milliseconds.
   *
   * @param droppedBytes What modules took, about, that were thrown away since the beginning.
   * @returns true where it was done.
   */
  idle(droppedBytes: number): boolean {
    const now = performance.now();
    if (now - this.#lastLook < LOOK_MS || now - this.#lastTime < PAUSE_MS) return false;
    this.#lastLook = now;
    return (Deno.memoryUsage().heapTotal - this.#used > HEAP_GARBAGE_BYTES ||
      this.#isMuch(droppedBytes)) && this.#run(true, droppedBytes);
  }

  /** For an idle guest behind work that leaves much, and that is seldom done: as {@link idle}, whatever there is. */
  behindWork(droppedBytes: number): void {
    this.#run(true, droppedBytes);
  }

  /** For a guest at work, which waits less; `droppedBytes` as for {@link idle}. */
  busy(droppedBytes: number): void {
    if (!this.#isMuch(droppedBytes)) return;
    if (performance.now() - this.#lastTime >= PAUSE_MS) this.#run(false, droppedBytes);
  }

  #isMuch(droppedBytes: number): boolean {
    return droppedBytes - this.#dropped >= MODULE_GARBAGE_BYTES;
  }

  #run(thoroughly: boolean, droppedBytes: number): boolean {
    if (!collectGarbage(thoroughly)) return false;
    this.#used = Deno.memoryUsage().heapUsed;
    this.#lastTime = performance.now();
    this.#dropped = droppedBytes;
    return true;
  }
}
