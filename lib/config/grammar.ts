/**
 * The notation of structured options on the command line, `first,key=value,flag`, as crosvm's users
 * know it:
 *
 *     group  = [ entry { "," entry } ]
 *     entry  = key "=" value | value
 *     value  = "[" group "]" | quoted | bare
 *     quoted = '"' … '"' | "'" … "'"          \ before a quote or a \ takes it literally
 *     bare   = characters other than , [ ]    (and no = where it could be a key)
 *
 * What an entry without a key means (the first key's value, a flag, a list's item) is for the type to
 * say that the group is decoded with.
 *
 * @module
 */

import type { Span } from "./problem.ts";

/** A scalar as it was written; its type is yet to be known. */
export interface TextNode {
  readonly kind: "text";
  readonly text: string;
  /** Whether it stood in quotes. */
  readonly quoted: boolean;
  readonly span: Span;
}

/** One part of a group. */
export interface Entry {
  /** Undefined where only a value was written. */
  readonly key: string | undefined;
  readonly keySpan: Span | undefined;
  readonly value: Node;
}

/** Entries in the order in which they were written. */
export interface GroupNode {
  readonly kind: "group";
  /** Written as key-values, or as an object or array of a file. */
  readonly form: "args" | "object" | "array";
  readonly entries: readonly Entry[];
  readonly span: Span | undefined;
}

/** What a JSON or TOML file held, with types of its own. */
export interface ValueNode {
  readonly kind: "value";
  readonly value: unknown;
}

/** What options are decoded from. */
export type Node = TextNode | GroupNode | ValueNode;

/** The text does not follow the grammar. */
export class GrammarError extends Error {
  override readonly name = "GrammarError";
  /** What is wrong in the text. */
  readonly span: Span;

  constructor(message: string, span: Span) {
    super(message);
    this.span = span;
  }
}

const MAX_DEPTH = 16;
const MAX_LENGTH = 64 * 1024;
const KEY = /^[A-Za-z][A-Za-z0-9_-]*$/;

/**
 * Reads `text`.
 * @throws {GrammarError} with the place in `text`.
 */
export function parseKeyValues(text: string): GroupNode {
  if (text.length > MAX_LENGTH) {
    throw new GrammarError(`expected at most ${MAX_LENGTH} characters, got ${text.length}`, {
      start: MAX_LENGTH,
      end: MAX_LENGTH + 1,
    });
  }
  const parser = new Parser(text);
  const group = parser.group(0);
  parser.end();
  return group;
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  group(depth: number): GroupNode {
    if (depth > MAX_DEPTH) throw this.#error(`lists nested deeper than ${MAX_DEPTH}`);
    const start = this.#at;
    const entries: Entry[] = [];
    const keys = new Set<string>();
    if (this.#at < this.#text.length && this.#text[this.#at] !== "]") {
      do {
        const entry = this.#entry(depth);
        if (entry.key !== undefined) {
          if (keys.has(entry.key)) {
            throw new GrammarError(`key "${entry.key}" is given twice`, entry.keySpan!);
          }
          keys.add(entry.key);
        }
        entries.push(entry);
      } while (this.#take(","));
    }
    return { kind: "group", form: "args", entries, span: { start, end: this.#at } };
  }

  end(): void {
    if (this.#at < this.#text.length) {
      throw this.#error(`expected "," or the end, got "${this.#text[this.#at]}"`);
    }
  }

  #entry(depth: number): Entry {
    const start = this.#at;
    const value = this.#value(depth, { stopAtEquals: true });
    if (!this.#take("=")) return { key: undefined, keySpan: undefined, value };
    const keySpan = { start, end: this.#at - 1 };
    if (value.kind !== "text" || value.quoted || !KEY.test(value.text)) {
      throw new GrammarError(
        `expected a key before "=", got ${this.#text.slice(keySpan.start, keySpan.end)}`,
        keySpan,
      );
    }
    return { key: value.text, keySpan, value: this.#value(depth, { stopAtEquals: false }) };
  }

  #value(depth: number, options: { stopAtEquals: boolean }): TextNode | GroupNode {
    const start = this.#at;
    const first = this.#text[start];
    if (first === '"' || first === "'") return this.#quoted(first);
    if (first === "[") {
      this.#at++;
      const group = this.group(depth + 1);
      if (!this.#take("]")) {
        throw new GrammarError(`"[" is never closed`, { start, end: start + 1 });
      }
      return { ...group, span: { start, end: this.#at } };
    }
    while (this.#at < this.#text.length) {
      const char = this.#text[this.#at]!;
      if (char === "," || char === "]" || char === "[") break;
      if (char === "=" && options.stopAtEquals) break;
      this.#at++;
    }
    const span = { start, end: this.#at };
    if (span.end === start) {
      const what = options.stopAtEquals ? "a key or value" : 'a value after "="';
      throw this.#error(`expected ${what}, got ${this.#next()} (an empty value is written "")`);
    }
    return { kind: "text", text: this.#text.slice(start, this.#at), quoted: false, span };
  }

  #quoted(mark: string): TextNode {
    const start = this.#at++;
    let text = "";
    while (this.#at < this.#text.length) {
      const char = this.#text[this.#at++]!;
      if (char === mark) {
        return { kind: "text", text, quoted: true, span: { start, end: this.#at } };
      }
      const next = this.#text[this.#at];
      if (char === "\\" && (next === "\\" || next === '"' || next === "'")) {
        text += next;
        this.#at++;
      } else {
        text += char;
      }
    }
    throw new GrammarError(`the quote is never closed`, { start, end: start + 1 });
  }

  #take(char: string): boolean {
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #next(): string {
    const char = this.#text[this.#at];
    return char === undefined ? "the end" : `"${char}"`;
  }

  #error(message: string): GrammarError {
    return new GrammarError(message, { start: this.#at, end: this.#at + 1 });
  }
}

/** A value that the notation can hold. */
export type KeyValue =
  | string
  | number
  | boolean
  | readonly KeyValue[]
  | { readonly [key: string]: KeyValue | undefined };

/** Writes `record` in the notation, with quotes where they are needed. Undefined values are left out. */
export function printKeyValues(record: { readonly [key: string]: KeyValue | undefined }): string {
  return Object.entries(record).filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key}=${printValue(value!)}`).join(",");
}

function printValue(value: KeyValue): string {
  if (typeof value === "string") return printText(value);
  if (typeof value !== "object") return String(value);
  if (isList(value)) return `[${value.map(printItem).join(",")}]`;
  return `[${printKeyValues(value)}]`;
}

/** An item must not look like a key with its value. */
function printItem(value: KeyValue): string {
  return typeof value === "string" && value.includes("=") ? quoteText(value) : printValue(value);
}

function isList(value: object): value is readonly KeyValue[] {
  return Array.isArray(value);
}

function printText(text: string): string {
  return text === "" || /[,[\]]/.test(text) || /^["']/.test(text) ? quoteText(text) : text;
}

function quoteText(text: string): string {
  return `"${text.replace(/[\\"']/g, "\\$&")}"`;
}

/** `node` as a group: as it was written, or one level of a file's object or array. */
export function groupOf(node: Node): GroupNode | undefined {
  if (node.kind === "group") return node;
  if (node.kind === "text") return undefined;
  const { value } = node;
  // One level at a time: however deep a file nests, only what the schema knows is walked.
  if (Array.isArray(value)) {
    const entries = value.map((item: unknown) => entryOf(undefined, item));
    return { kind: "group", form: "array", entries, span: undefined };
  }
  const isTable = typeof value === "object" && value !== null && !(value instanceof Date);
  if (!isTable) return undefined;
  const entries = Object.entries(value).map(([key, item]) => entryOf(key, item));
  return { kind: "group", form: "object", entries, span: undefined };
}

function entryOf(key: string | undefined, value: unknown): Entry {
  return { key, keySpan: undefined, value: { kind: "value", value } };
}
