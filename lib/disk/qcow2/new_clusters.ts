/**
 * Clusters of an image's file that are being written and that no table names so far.
 *
 * @module
 */

/** Clusters that follow each other. */
export interface TakenClusters {
  readonly count: number;
  /** Number of the first one in the file. */
  readonly cluster: number;
}

/** Those of all writes under way, by the first cluster of the disk that they are for. */
export class NewClusters {
  readonly #taken = new Map<number, TakenClusters>();

  /** Whether one of `count` clusters of the disk from `guest` on is about to become another. */
  overlaps(guest: number, count: number): boolean {
    for (const [first, taken] of this.#taken) {
      if (first < guest + count && guest < first + taken.count) return true;
    }
    return false;
  }

  /** A write to them begins. */
  add(guest: number, taken: TakenClusters): void {
    this.#taken.set(guest, taken);
  }

  /** It has ended: takes them out; undefined for a write to clusters that the disk has. */
  take(guest: number): TakenClusters | undefined {
    const taken = this.#taken.get(guest);
    this.#taken.delete(guest);
    return taken;
  }
}
