/**
 * Has V8 compile the modules of the last run before vCPUs come to them: in the order in which that run
 * used them first, a bit ahead of what this one has used so far. V8 gives a vCPU that compiles the same
 * bytes what is there already. A guest that runs other code than the last one leaves it behind: then
 * little is compiled for nothing.
 *
 * @module
 */

import { Priority, readPriorities } from "../../wasm/mod.ts";
import { readUnit, type UnitHeader } from "./store_format.ts";

/** Units that are compiled ahead of those used, and bytes of their modules. */
const WINDOW = 160;
const WINDOW_BYTES = 384 << 10;

/** About what V8 takes for a byte of a module that it optimizes, and how long is waited for more at most, in ms. */
const MS_PER_BYTE = 0.0006;
const MAX_PAUSE_MS = 50;
/** Between two looks how far vCPUs are, in ms. */
const LOOK_MS = 20;

/** What is noted of units that vCPUs have. */
export const Used = {
  /** In its turn: those behind it may be next. */
  inTurn: 1,
  /** Long before the last run came to it: that says nothing of what is next. */
  early: 2,
} as const;

/** Compiles ahead. */
export class Ahead {
  readonly #units: readonly UnitHeader[];
  readonly #used: Uint8Array;
  /** Modules that V8 shall find, by the places of their units. */
  readonly #modules = new Map<number, WebAssembly.Module>();
  /** Bytes of their units. */
  #bytes = 0;
  #next = 0;

  /**
   * @param units What a file has.
   * @param used By place: one of {@link Used} where a vCPU has that unit, else 0.
   */
  constructor(units: readonly UnitHeader[], used: Uint8Array) {
    this.#units = units;
    this.#used = used;
  }

  /** Modules that are kept for vCPUs at present. */
  get waiting(): number {
    return this.#modules.size;
  }

  /** Compiles one more where it is time; returns in how many ms to come again, Infinity for never. */
  step(): number {
    for (const place of this.#modules.keys()) {
      if (this.#used[place] !== 0 && this.#modules.delete(place)) {
        this.#bytes -= this.#units[place]?.byteLength ?? 0;
      }
    }
    if (this.#isFar) this.#jump();
    while (this.#next < this.#units.length) {
      if (this.#isFar) return LOOK_MS;
      const pause = this.#compile(this.#next++);
      if (pause > 0) return pause;
    }
    return Infinity;
  }

  /** Whether enough is compiled that no vCPU has come to. */
  get #isFar(): boolean {
    return this.#modules.size >= WINDOW || this.#bytes >= WINDOW_BYTES;
  }

  /** Lets go of all modules, and compiles no more. */
  end(): void {
    this.#modules.clear();
    this.#bytes = 0;
    this.#next = this.#units.length;
  }

  /** Goes to where the guest is, which runs what comes later in the file. */
  #jump(): void {
    const limit = Math.min(this.#units.length, this.#used.length);
    let found = -1;
    for (let place = this.#next; place < limit; place++) {
      if (this.#used[place] === Used.inTurn) found = place;
    }
    if (found < 0) return;
    this.#modules.clear();
    this.#bytes = 0;
    this.#next = found + 1;
  }

  /** Has V8 compile what is hot of the unit at `place`; returns about how many ms it is busy with that. */
  #compile(place: number): number {
    if (this.#used[place] !== 0) return 0;
    const header = this.#units[place] as UnitHeader;
    const unit = readUnit(header);
    if (unit === undefined) return 0;
    const priorities = [...readPriorities(unit.bytes).values()];
    if (priorities.length === 0) return 0;
    try {
      this.#modules.set(place, new WebAssembly.Module(unit.bytes));
      this.#bytes += header.byteLength;
    } catch {
      // It is looked at again where it is used.
      return 0;
    }
    const optimized = priorities.filter((priority) => priority === Priority.Optimize).length;
    const bytes = unit.bytes.length * optimized / unit.regions.length;
    return Math.min(MS_PER_BYTE * bytes, MAX_PAUSE_MS);
  }
}
