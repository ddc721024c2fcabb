/**
 * Translated modules with what is needed to use them again wherever the same code lies: in another
 * place, after it was thrown away, or in the next run (see store.ts).
 *
 * @module
 */

/** A piece of guest code that a region was made from. */
export interface CodeRange {
  /** Page offset of its first byte. */
  readonly start: number;
  readonly bytes: Uint8Array;
}

/** What a region has in one page. */
export interface UnitPart {
  /** Where the page was in RAM when the region was made, in pages: a hint where to look for it. */
  readonly pageNumber: number;
  /** Sum of the whole page as it was then, see {@link pageSum}. */
  readonly sum: number;
  /** Page offsets where the region may be entered, each with the upper half of its record's first word. */
  readonly entries: readonly { readonly offset: number; readonly block: number }[];
  /** All code that the region was made from: it stands only where these bytes are. */
  readonly code: readonly CodeRange[];
}

/** A function of a module, exported as `r` and its index. */
export interface UnitRegion {
  readonly parts: readonly UnitPart[];
}

/** A module. */
export interface Unit {
  readonly regions: readonly UnitRegion[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

const PAGE_WORDS = 1024;

/**
 * Sum of `count` words of `words` from index `at` on, as a whole number of 53 bits. It tells apart what
 * differs by chance; what is used is compared byte by byte where it matters.
 */
export function sumWords(words: Uint32Array, at: number, count: number): number {
  let a = 0x811c9dc5 | 0;
  let b = 0x9747b28c | 0;
  for (let i = at; i < at + count; i++) {
    const word = words[i] as number;
    a = Math.imul(a ^ word, 0x01000193);
    a ^= a >>> 15;
    b = Math.imul((b + word) ^ (b >>> 13), 0x5bd1e995);
  }
  return (a >>> 0) + (b & 0x1f_ffff) * 0x1_0000_0000;
}

/** Sum of the page at RAM offset `ram`. */
export function pageSum(ram: Uint32Array, at: number): number {
  return sumWords(ram, at >>> 2, PAGE_WORDS);
}

/** Whether the code of `part` is what the page at RAM offset `page` holds. */
export function isCodeThere(part: UnitPart, ram: Uint8Array, page: number): boolean {
  for (const { start, bytes } of part.code) {
    for (let i = 0; i < bytes.length; i++) {
      if (ram[page + start + i] !== bytes[i]) return false;
    }
  }
  return true;
}

/** The ranges that `pairs` of first byte and byte behind the last one cover, joined, with what is there. */
export function codeRanges(
  pairs: readonly (readonly [number, number])[],
  ram: Uint8Array,
  page: number,
): CodeRange[] {
  const ranges: CodeRange[] = [];
  let start = 0;
  let end = 0;
  const take = () => {
    if (end > start) ranges.push({ start, bytes: ram.slice(page + start, page + end) });
  };
  for (const [from, to] of [...pairs].sort((x, y) => x[0] - y[0])) {
    if (from > end || end === 0) {
      take();
      start = from;
      end = to;
    } else end = Math.max(end, to);
  }
  take();
  return ranges;
}
