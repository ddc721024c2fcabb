/**
 * Finds pages as 4-level paging says (Intel SDM vol. 3, 4.5), for hints: no access right is looked at, nothing
 * is noted, and what others write meanwhile may be half there.
 *
 * @module
 */

const TWO_32 = 0x1_0000_0000;
const HIGH_RAM = TWO_32;
const PRESENT = 1;
const LARGE = 0x80;

/** RAM, and how much of it is at guest physical 0 and at 4 GiB. */
export interface RamWords {
  readonly words: Int32Array;
  readonly lowBytes: number;
  readonly highBytes: number;
}

/**
 * Page number in RAM of the linear page whose address has these halves, in the tables at `root`; undefined
 * where there is none.
 */
export function findPage(
  ram: RamWords,
  at: { readonly root: number; readonly low: number; readonly high: number },
): number | undefined {
  const { low, high } = at;
  const indices = [high >>> 7, high << 2 | low >>> 30, low >>> 21, low >>> 12];
  let table = at.root - at.root % 4096;
  for (const [level, index] of indices.entries()) {
    const entry = ramOffset(ram, table + 8 * (index & 511));
    if (entry === undefined) return undefined;
    const entryLow = ram.words[entry >>> 2] ?? 0;
    const entryHigh = (ram.words[(entry >>> 2) + 1] ?? 0) & 0xf_ffff;
    if ((entryLow & PRESENT) === 0) return undefined;
    const ends = level === 3 || (level > 0 && (entryLow & LARGE) !== 0);
    // What the address itself says of where in a large page it is.
    const within = ends ? (1 << 12 + 9 * (3 - level)) - 4096 : 0;
    table = entryHigh * TWO_32 + (((entryLow & ~within | low & within) & ~0xfff) >>> 0);
    if (!ends) continue;
    const offset = ramOffset(ram, table);
    return offset === undefined ? undefined : offset / 4096;
  }
  return undefined;
}

function ramOffset(ram: RamWords, physical: number): number | undefined {
  if (physical < ram.lowBytes) return physical;
  const high = physical - HIGH_RAM;
  return high >= 0 && high < ram.highBytes ? ram.lowBytes + high : undefined;
}
