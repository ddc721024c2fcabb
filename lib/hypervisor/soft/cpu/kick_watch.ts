/**
 * Looks for the answer of a device soon after it was kicked. A disk's is mostly there before the guest has
 * made itself ready to sleep; who learns of it only in HLT does all of that for nothing, and undoes it.
 *
 * @module
 */

/** Fuel between looks, a twentieth of a full load. */
const SLICE = 400;
/** Looks at most, each of about a microsecond, before it is left to HLT and to the fuel's end. */
const LOOKS = 8;

/** Divides the fuel that is left into slices for a while. */
export class KickWatch {
  #looks = 0;
  #held = 0;

  /**
   * A device was kicked.
   *
   * @param fuel What is left.
   * @returns what to go on with.
   */
  begin(fuel: number): number {
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
}
