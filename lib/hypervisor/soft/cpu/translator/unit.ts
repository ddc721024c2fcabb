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

/** Where a region may be entered. */
export interface UnitEntry {
  readonly offset: number;
  /** Upper half of its record's first word. */
  readonly block: number;
}

/** Entries in a word each, as files have them: thousands of units are kept for long. */
export class UnitEntries implements Iterable<UnitEntry> {
  /** `offset | block << 16` of each. */
  readonly words: Uint32Array;

  /** @param words What {@link UnitEntries.words} gave before. */
  constructor(words: Uint32Array) {
    this.words = words;
  }

  /** Packs `entries`. */
  static of(entries: readonly UnitEntry[]): UnitEntries {
    return new UnitEntries(Uint32Array.from(entries, ({ offset, block }) => offset | block << 16));
  }

  /** How many. */
  get length(): number {
    return this.words.length;
  }

  *[Symbol.iterator](): Generator<UnitEntry> {
    for (const word of this.words) yield { offset: word & 0xffff, block: word >>> 16 };
  }
}

/** Ranges of code in one array of words, as files have them. */
export class CodeRanges implements Iterable<CodeRange> {
  /** How many. */
  readonly length: number;
  /** Of each `start | length << 16`, then its bytes, padded. */
  readonly words: Uint32Array<ArrayBuffer>;

  /** @param words What {@link CodeRanges.words} gave before, of `length` ranges. */
  constructor(words: Uint32Array<ArrayBuffer>, length: number) {
    this.words = words;
    this.length = length;
  }

  /** Packs `ranges`. */
  static of(ranges: readonly CodeRange[]): CodeRanges {
    const count = ranges.reduce((sum, { bytes }) => sum + 1 + wordsOf(bytes.length), 0);
    const words = new Uint32Array(count);
    const all = new Uint8Array(words.buffer);
    let at = 0;
    for (const { start, bytes } of ranges) {
      words[at++] = start | bytes.length << 16;
      all.set(bytes, 4 * at);
      at += wordsOf(bytes.length);
    }
    return new CodeRanges(words, ranges.length);
  }

  *[Symbol.iterator](): Generator<CodeRange> {
    const { words } = this;
    for (let at = 0; at < words.length;) {
      const word = words[at++] as number;
      const length = word >>> 16;
      const bytes = new Uint8Array(words.buffer, words.byteOffset + 4 * at, length);
      yield { start: word & 0xffff, bytes };
      at += wordsOf(length);
    }
  }

  /** Whether the byte at a page's offset is one of these. */
  hold(offset: number): boolean {
    // Asked of all that is known of a page, for many samples: nothing is allocated.
    const { words } = this;
    for (let at = 0; at < words.length;) {
      const word = words[at++] as number;
      const length = word >>> 16;
      if (offset - (word & 0xffff) >>> 0 < length) return true;
      at += wordsOf(length);
    }
    return false;
  }

  /** Whether these bytes are what the page at offset `page` of `ram` holds. */
  areIn(ram: Uint8Array, page: number): boolean {
    const { words } = this;
    const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    for (let at = 0; at < words.length;) {
      const word = words[at++] as number;
      const to = page + (word & 0xffff) - 4 * at;
      const end = 4 * at + (word >>> 16);
      for (let i = 4 * at; i < end; i++) if (ram[to + i] !== bytes[i]) return false;
      at += wordsOf(word >>> 16);
    }
    return true;
  }
}

/** Words that so many bytes take. */
export function wordsOf(bytes: number): number {
  return (bytes + 3) >>> 2;
}

/** What a region has in one page. */
export interface UnitPart {
  /** Where the page was in RAM when the region was made, in pages: a hint where to look for it. */
  readonly pageNumber: number;
  /** Sum of the whole page as it was then, see {@link pageSum}. */
  readonly sum: number;
  /** Page offsets where the region may be entered. */
  readonly entries: UnitEntries;
  /** All code that the region was made from: it stands only where these bytes are. */
  readonly code: CodeRanges;
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

/** Sum of what `region` stands for, whatever it was made into. */
export function regionSum({ parts }: UnitRegion): number {
  const sums: number[] = [];
  for (const { pageNumber, sum, entries, code } of parts) {
    sums.push(parts.length, pageNumber, sum, sumWords(entries.words, 0, entries.length));
    sums.push(sumWords(code.words, 0, code.words.length));
  }
  const words = new Uint32Array(new Float64Array(sums).buffer);
  return sumWords(words, 0, words.length);
}

/** Sum of the page at RAM offset `ram`. */
export function pageSum(ram: Uint32Array, at: number): number {
  return sumWords(ram, at >>> 2, PAGE_WORDS);
}

/** Whether the code of `part` is what the page at RAM offset `page` holds. */
export function isCodeThere(part: UnitPart, ram: Uint8Array, page: number): boolean {
  return part.code.areIn(ram, page);
}

/** The ranges that `pairs` of first byte and byte behind the last one cover, joined, with what is there. */
export function codeRanges(
  pairs: readonly (readonly [number, number])[],
  ram: Uint8Array,
  page: number,
): CodeRanges {
  const ranges: CodeRange[] = [];
  let start = 0;
  let end = 0;
  const take = () => {
    if (end > start) ranges.push({ start, bytes: ram.subarray(page + start, page + end) });
  };
  for (const [from, to] of [...pairs].sort((x, y) => x[0] - y[0])) {
    if (from > end || end === 0) {
      take();
      start = from;
      end = to;
    } else end = Math.max(end, to);
  }
  take();
  return CodeRanges.of(ranges);
}
