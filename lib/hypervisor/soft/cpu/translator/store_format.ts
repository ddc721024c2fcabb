/**
 * The file of translated modules: a head that names the version, then units, each with a sum of its own.
 * All numbers are 32-bit little-endian words; everything is padded to words.
 *
 *     head   magic, magic, version (32 bytes of ASCII)
 *     unit   MARK, words of the body, sum (2 words), body
 *     body   number of pages, pages (page number, sum in 2 words), number of regions, regions, bytes of
 *            the module, module
 *     region number of parts, parts
 *     part   index of the page, number of entries, entries (offset | block << 16), number of ranges,
 *            ranges (start | length << 16, bytes)
 *
 * @module
 */

import { REGION_PAGES } from "../state.ts";
import {
  CodeRanges,
  sumWords,
  type Unit,
  UnitEntries,
  type UnitPart,
  type UnitRegion,
  wordsOf,
} from "./unit.ts";

const MAGIC = [0x74636d76, 0x31746c72] as const;
const MARK = 0x74696e75;
const VERSION_BYTES = 32;
const HEAD_WORDS = 2 + VERSION_BYTES / 4;
const UNIT_HEAD_WORDS = 4;
const PAGE_BYTES = 4096;
const MAX_PAGES = 1 << 16;
const TWO_32 = 0x1_0000_0000;

/** A unit in a file, not yet looked into. */
export interface UnitHeader {
  /** The file. */
  readonly words: Uint32Array<ArrayBuffer>;
  /** Index of its mark. */
  readonly at: number;
  /** With its head. */
  readonly byteLength: number;
  /** The sum that it names. */
  readonly check: number;
  /** Page numbers and sums of the pages that its regions are made from. */
  readonly pages: readonly (readonly [number, number])[];
}

/** The units of a file of `version`; none where it is of another, and those in front of any nonsense. */
export function unitHeaders(file: Uint8Array<ArrayBuffer>, version: string): UnitHeader[] {
  const length = file.length >>> 2;
  const aligned = file.byteOffset % 4 === 0 ? file : file.slice();
  const words = new Uint32Array(aligned.buffer, aligned.byteOffset, length);
  const head = headWords(version);
  if (length < HEAD_WORDS || head.some((word, i) => words[i] !== word)) return [];
  const headers: UnitHeader[] = [];
  for (let at = HEAD_WORDS;;) {
    const header = headerAt(words, at);
    if (header === undefined) return headers;
    headers.push(header);
    at += header.byteLength / 4;
  }
}

/** The unit at index `at` of `words`; undefined where there is none. */
function headerAt(words: Uint32Array<ArrayBuffer>, at: number): UnitHeader | undefined {
  const get = (at: number) => words[at] ?? 0;
  const body = at + UNIT_HEAD_WORDS;
  if (body >= words.length) return undefined;
  const count = get(at + 1);
  if (get(at) !== MARK || count > words.length - body) return undefined;
  const pages: [number, number][] = [];
  const pageCount = get(body);
  if (pageCount > MAX_PAGES || 3 * pageCount + 1 > count) return undefined;
  for (let i = 0; i < pageCount; i++) {
    const page = body + 1 + 3 * i;
    pages.push([get(page), get(page + 1) + get(page + 2) * TWO_32]);
  }
  const check = get(at + 2) + get(at + 3) * TWO_32;
  return { words, at, byteLength: 4 * (UNIT_HEAD_WORDS + count), check, pages };
}

/** Turns units into words and back, for another thread. */
export class UnitCoder {
  readonly #writer = new Writer();

  /** Words that {@link decode} understands, until it is called again. */
  encode(unit: Unit): Uint32Array<ArrayBuffer> {
    this.#writer.clear();
    writeUnit(this.#writer, unit);
    return this.#writer.view();
  }

  /** The unit of `words`, which it goes on using; undefined where they are anything else. */
  static decode(words: Uint32Array<ArrayBuffer>): Unit | undefined {
    const header = headerAt(words, 0);
    return header === undefined ? undefined : readUnit(header);
  }
}

function headWords(version: string): Uint32Array {
  const bytes = new Uint8Array(4 * HEAD_WORDS);
  new Uint32Array(bytes.buffer).set(MAGIC);
  new TextEncoder().encodeInto(version, bytes.subarray(8));
  return new Uint32Array(bytes.buffer);
}

/** Reads words one by one; throws a RangeError behind the last one. */
class Reader {
  readonly #words: Uint32Array<ArrayBuffer>;
  #at: number;
  readonly #end: number;

  constructor(words: Uint32Array<ArrayBuffer>, at: number, end: number) {
    this.#words = words;
    this.#at = at;
    this.#end = end;
  }

  word(): number {
    if (this.#at >= this.#end) throw new RangeError("the end of the unit");
    return this.#words[this.#at++] as number;
  }

  /** A number of things of at least a word each. */
  count(): number {
    const count = this.word();
    if (count > this.#end - this.#at) throw new RangeError("more than there is room for");
    return count;
  }

  words(count: number): Uint32Array<ArrayBuffer> {
    if (count > this.#end - this.#at) throw new RangeError("more than there is room for");
    this.#at += count;
    return this.#words.subarray(this.#at - count, this.#at);
  }

  bytes(length: number): Uint8Array<ArrayBuffer> {
    const { buffer, byteOffset } = this.words(wordsOf(length));
    return new Uint8Array(buffer, byteOffset, length);
  }

  /** All words that `read` reads. */
  read(read: () => void): Uint32Array<ArrayBuffer> {
    const start = this.#at;
    read();
    return this.#words.subarray(start, this.#at);
  }

  /** @param most How many at most; a RangeError where there are more. */
  list<T>(item: () => T, most = Infinity): T[] {
    const length = this.count();
    if (length > most) throw new RangeError("more than there may be");
    return Array.from({ length }, item);
  }
}

/** The unit behind `header`; undefined where it is not what was written. */
export function readUnit(header: UnitHeader): Unit | undefined {
  const { words, at, byteLength, check, pages } = header;
  const body = at + UNIT_HEAD_WORDS;
  const end = at + byteLength / 4;
  if (sumWords(words, body, end - body) !== check) return undefined;
  try {
    const reader = new Reader(words, body + 1 + 3 * pages.length, end);
    const regions: UnitRegion[] = reader.list(() => ({
      parts: reader.list(() => readPart(reader, pages), REGION_PAGES),
    }));
    return { regions, bytes: reader.bytes(reader.word()) };
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function readPart(reader: Reader, pages: UnitHeader["pages"]): UnitPart {
  const page = pages[reader.word()];
  if (page === undefined) throw new RangeError("no such page");
  const entries = new UnitEntries(reader.words(reader.count()));
  for (const { offset } of entries) checkOffset(offset);
  const count = reader.count();
  const words = reader.read(() => {
    for (let i = 0; i < count; i++) {
      const word = reader.word();
      const [start, length] = [word & 0xffff, word >>> 16];
      checkOffset(start);
      checkOffset(start + length - 1);
      reader.words(wordsOf(length));
    }
  });
  const code = new CodeRanges(words, count);
  return { pageNumber: page[0], sum: page[1], entries, code };
}

function checkOffset(n: number): void {
  if (n < 0 || n >= PAGE_BYTES) throw new RangeError("not in a page");
}

/** Collects words. */
class Writer {
  #words = new Uint32Array(1 << 16);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  word(value: number): void {
    this.#room(1);
    this.#words[this.#length++] = value;
  }

  sum(value: number): void {
    this.word(value % TWO_32);
    this.word(Math.floor(value / TWO_32));
  }

  bytes(bytes: Uint8Array): void {
    const words = wordsOf(bytes.length);
    this.#room(words);
    new Uint8Array(this.#words.buffer).set(bytes, 4 * this.#length);
    this.#length += words;
  }

  words(words: Uint32Array): void {
    this.#room(words.length);
    this.#words.set(words, this.#length);
    this.#length += words.length;
  }

  set(at: number, value: number): void {
    this.#words[at] = value;
  }

  sumOf(at: number): number {
    return sumWords(this.#words, at, this.#length - at);
  }

  clear(): void {
    this.#length = 0;
  }

  view(): Uint32Array<ArrayBuffer> {
    return this.#words.subarray(0, this.#length);
  }

  finish(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#words.buffer, 0, 4 * this.#length);
  }

  #room(words: number): void {
    if (this.#length + words <= this.#words.length) return;
    const larger = new Uint32Array(Math.max(2 * this.#words.length, this.#length + words));
    larger.set(this.#words.subarray(0, this.#length));
    this.#words = larger;
  }
}

/** The contents of a file with `units`; those of another file are copied as they are. */
export function writeUnits(
  units: readonly (Unit | UnitHeader)[],
  version: string,
): Uint8Array<ArrayBuffer> {
  const writer = new Writer();
  writer.words(headWords(version));
  for (const unit of units) {
    if ("words" in unit) {
      writer.words(unit.words.subarray(unit.at, unit.at + unit.byteLength / 4));
    } else writeUnit(writer, unit);
  }
  return writer.finish();
}

function writeUnit(writer: Writer, unit: Unit): void {
  const at = writer.length;
  const body = at + UNIT_HEAD_WORDS;
  writer.words(new Uint32Array(UNIT_HEAD_WORDS));
  const pages = new Map<string, { index: number; part: UnitPart }>();
  const key = (part: UnitPart) => `${part.pageNumber} ${part.sum}`;
  for (const { parts } of unit.regions) {
    for (const part of parts) {
      if (!pages.has(key(part))) pages.set(key(part), { index: pages.size, part });
    }
  }
  writer.word(pages.size);
  for (const { part } of pages.values()) {
    writer.word(part.pageNumber);
    writer.sum(part.sum);
  }
  writer.word(unit.regions.length);
  for (const { parts } of unit.regions) {
    writer.word(parts.length);
    for (const part of parts) {
      writer.word(pages.get(key(part))?.index ?? 0);
      writer.word(part.entries.length);
      writer.words(part.entries.words);
      writer.word(part.code.length);
      writer.words(part.code.words);
    }
  }
  writer.word(unit.bytes.length);
  writer.bytes(unit.bytes);
  const sum = writer.sumOf(body);
  writer.set(at, MARK);
  writer.set(at + 1, writer.length - body);
  writer.set(at + 2, sum % TWO_32);
  writer.set(at + 3, Math.floor(sum / TWO_32));
}
