/**
 * What a function has of the bus that it is on.
 *
 * @module
 */

/** A function's place on a PCI bus. */
export interface PciSlot {
  /** Its configuration space, live. */
  readonly config: Uint8Array;
  /** Number of the 4 KiB page at which BAR `index` is decoded now, 0 where it is not. */
  barPage(index: number): number;
  /** Asserts its interrupt pin, or no longer. */
  interrupt(level: boolean): void;
}
