/**
 * Guards stand in the slots of regions and send the run loop there, so that every region is compared
 * with the interpreter: often when it is new, later now and then, in between it runs at full speed.
 *
 * @module
 */

/** Comparisons of a region before its guard goes for the first time. */
const AT_FIRST = 12;
/** Turns of the run loop that a region has without a guard at least. */
const REST = 32;

/** What the table holds. */
export type TableFunction = NonNullable<ReturnType<WebAssembly.Table["get"]>>;

interface Guarded {
  readonly slot: number;
  readonly region: TableFunction;
  /** Comparisons until the guard goes. */
  left: number;
  compared: number;
  /** The turn in which its guard went. */
  opened: number;
}

/** The guards of one vCPU's regions. */
export class Guards {
  readonly #table: WebAssembly.Table;
  readonly #guard: TableFunction;
  readonly #bySlot = new Map<number, Guarded>();
  /** Those without a guard, who was so for longest first. */
  readonly #open = new Set<Guarded>();
  #turn = 0;
  /** Regions that there were, and those of them that were compared. */
  readonly stats = { regions: 0, compared: 0 };

  /** @param guard A handler that leaves at its own instruction. */
  constructor(table: WebAssembly.Table, guard: TableFunction) {
    this.#table = table;
    this.#guard = guard;
  }

  /** Puts `region` in `slot`, behind a guard. */
  add(slot: number, region: TableFunction): void {
    this.#bySlot.set(slot, { slot, region, left: AT_FIRST, compared: 0, opened: 0 });
    this.#table.set(slot, this.#guard);
    this.stats.regions++;
  }

  /** Forgets the region in `slot`. */
  remove(slot: number): void {
    const guarded = this.#bySlot.get(slot);
    if (guarded === undefined) return;
    this.#open.delete(guarded);
    this.#bySlot.delete(slot);
  }

  /** Lets the region in `slot` run. */
  open(slot: number): void {
    const guarded = this.#bySlot.get(slot);
    if (guarded !== undefined) this.#table.set(slot, guarded.region);
  }

  /** Notes that the region in `slot` was compared; puts its guard back where it is to be once more. */
  compared(slot: number): void {
    const guarded = this.#bySlot.get(slot);
    // What it ran may have thrown its own code away.
    if (guarded === undefined) return;
    if (guarded.compared++ === 0) this.stats.compared++;
    if (--guarded.left > 0) {
      this.#table.set(slot, this.#guard);
      return;
    }
    guarded.opened = this.#turn;
    this.#open.add(guarded);
  }

  /** At each turn of the run loop: puts a guard before the region that ran without one for longest. */
  turn(): void {
    this.#turn++;
    for (const guarded of this.#open) {
      if (this.#turn - guarded.opened < REST) return;
      this.#open.delete(guarded);
      guarded.left = 1;
      this.#table.set(guarded.slot, this.#guard);
      return;
    }
  }
}
