/**
 * Turns what was written into typed values, by the option's type, and collects everything that is
 * wrong on the way.
 *
 * @module
 */

import { resolve } from "node:path";
import { formatSize } from "../base/mod.ts";
import { type Entry, type GroupNode, groupOf, type Node } from "./grammar.ts";
import type {
  ChoiceType,
  Decoded,
  DecodedOptions,
  IntegerType,
  ListType,
  MibType,
  OptionTable,
  PathType,
  RecordType,
  StringType,
  ValueType,
} from "./option_types.ts";
import { alternatives, type ConfigProblem, describeValue, quote } from "./problem.ts";
import type { Span } from "./problem.ts";
import { suggest } from "./suggest.ts";

/** Where values come from. */
export interface DecodeSource {
  /** File, for messages; undefined for the command line. */
  readonly file: string | undefined;
  /** Absolute folder from which relative paths start. */
  readonly baseDir: string;
  /** The option's whole text, for excerpts. */
  readonly text?: string;
}

/** A value that does not fit; undefined is no value of any option. */
type Maybe<Type> = Type | undefined;

/** MiB in one of each unit. */
const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 2 ** -20,
  k: 2 ** -10,
  m: 1,
  g: 2 ** 10,
  t: 2 ** 20,
};

/** Sizes as text; also the pattern in the JSON Schema, hence no flags. */
export const MIB_PATTERN = /^[0-9]{1,15}(?:[bB]|[kKmMgGtT](?:i?[bB])?)?$/;

/** Descriptors that the caller passed on, by their paths. */
const FD_FOLDER = /^\/(?:proc\/self|dev)\/fd(?:\/|$)/;
const FD_PATH = /^\/(?:proc\/self|dev)\/fd\/([0-9]{1,9})$/;

/** The descriptor that `path` names, if it has the form for one. */
export function inheritedFd(path: string): number | undefined {
  const match = FD_PATH.exec(path);
  return match === null ? undefined : Number(match[1]);
}

/** Decodes the values of one source. */
export class Decoder {
  readonly #source: DecodeSource;
  readonly #problems: ConfigProblem[];

  /** Whatever is found wrong is pushed to `problems`. */
  constructor(source: DecodeSource, problems: ConfigProblem[]) {
    this.#source = source;
    this.#problems = problems;
  }

  /** The options of `table` that a config file's top level, `value`, holds. */
  options<Table extends OptionTable>(table: Table, value: unknown): DecodedOptions<Table> {
    const result: Record<string, unknown> = {};
    const group = groupOf({ kind: "value", value });
    if (group === undefined || group.form !== "object") {
      this.#problem("", `expected a table of options, got ${describeValue(value)}`);
      return result as DecodedOptions<Table>;
    }
    const known = Object.keys(table).filter((name) => table[name]!.commandLineOnly !== true);
    for (const entry of group.entries) {
      // Editors find the schema by this key.
      if (entry.key === "$schema") continue;
      const name = canonicalName(table, entry.key!);
      if (name === undefined || !known.includes(name)) {
        this.#unknownKey("", entry, { known, what: "option" });
      } else if (Object.hasOwn(result, name)) {
        this.#problem(entry.key!, `option "${name}" is given twice`);
      } else {
        const decoded = this.value(table[name]!.type, entry.value, entry.key!);
        if (decoded !== undefined) result[name] = decoded;
      }
    }
    return result as DecodedOptions<Table>;
  }

  /** The value at `node` as a `type`; undefined where it does not fit. `key` is for messages. */
  value<Type extends ValueType>(type: Type, node: Node, key: string): Maybe<Decoded<Type>> {
    return this.#any(type, node, key) as Maybe<Decoded<Type>>;
  }

  #any(type: ValueType, node: Node, key: string): unknown {
    switch (type.kind) {
      case "list":
        return this.#list(type, node, key);
      case "record":
        return this.#record(type, node, key);
      case "boolean":
        return this.#boolean(node, key);
      case "integer":
        return this.#integer(type, node, key);
      case "mib":
        return this.#mib(type, node, key);
      case "string":
        return this.#string(type, node, key);
      case "path":
        return this.#path(type, node, key);
      case "choice":
        return this.#choice(type, node, key);
    }
  }

  #list(type: ListType, node: Node, key: string): Maybe<unknown[]> {
    const group = groupOf(node);
    if (group === undefined || group.form === "object") {
      return this.#mismatch("a list", node, key);
    }
    const items: unknown[] = [];
    group.entries.forEach((entry, index) => {
      const at = `${key}[${index}]`;
      if (entry.key !== undefined) {
        this.#problem(at, `expected an item of a list, got a key`, { span: entry.keySpan });
        return;
      }
      const item = this.#any(type.item, entry.value, at);
      if (item !== undefined) items.push(item);
    });
    return items;
  }

  #record(type: RecordType, node: Node, key: string): Maybe<Record<string, unknown>> {
    const group = groupOf(node);
    if (group === undefined || group.form === "array") return this.#shorthand(type, node, key);
    if (group.form === "args" && group.entries.length === 0) {
      this.#problem(key, `expected ${describeRecord(type)}, got nothing`, { span: group.span });
      return undefined;
    }
    return this.#fields(type, group, key);
  }

  /** A record whose first key alone is given, by its plain value. */
  #shorthand(type: RecordType, node: Node, key: string): Maybe<Record<string, unknown>> {
    const { type: firstType } = type.fields[type.first]!;
    const isScalar = node.kind === "value" && (typeof node.value !== "object");
    if (!isScalar) return this.#mismatch("a table of keys", node, key);
    const isKeyValues = typeof node.value === "string" && node.value.includes("=");
    if (isKeyValues) {
      return this.#mismatch(
        `a table such as {"${type.first}": …} instead of key=value text`,
        node,
        key,
      );
    }
    const value = this.#any(firstType, node, key);
    return value === undefined ? undefined : { [type.first]: value };
  }

  #fields(type: RecordType, group: GroupNode, key: string): Record<string, unknown> {
    const result: Record<string, unknown> = {};
    const known = Object.keys(type.fields);
    group.entries.forEach((entry, index) => {
      const bare = entry.key === undefined && entry.value.kind === "text" ? entry.value : undefined;
      let word = entry.key;
      let value: Node = entry.value;
      // Where the first key is a flag itself, its name is no value of it.
      const isFlag = bare?.text === type.first && type.fields[type.first]?.type.kind === "boolean";
      if (word === undefined && index === 0 && !isFlag) {
        word = type.first;
      } else if (bare !== undefined) {
        // Any other bare word is a flag.
        word = bare.text;
        value = { kind: "value", value: true };
      } else if (word === undefined) {
        this.#problem(key, `expected key=value, got a list`, { span: spanOf(entry.value) });
        return;
      }
      const name = fieldName(type, word);
      // A value without a key is what the whole option is about.
      const at = entry.key === undefined && bare === entry.value && index === 0
        ? key
        : `${key}.${word}`;
      if (name === undefined) {
        this.#unknownKey(key, { ...entry, key: word, keySpan: entry.keySpan ?? bare?.span }, {
          known,
          what: "key",
        });
        return;
      }
      const field = type.fields[name]!;
      if (Object.hasOwn(result, name)) {
        this.#problem(at, `key "${name}" is given twice`, { span: entry.keySpan ?? bare?.span });
        return;
      }
      if (value !== entry.value && field.type.kind !== "boolean") {
        this.#problem(at, `expected ${name}=${describeType(field.type)}, got no value`, {
          span: bare?.span,
        });
        return;
      }
      const decoded = this.#any(field.type, value, at);
      if (decoded !== undefined) result[name] = decoded;
    });
    return result;
  }

  #boolean(node: Node, key: string): Maybe<boolean> {
    if (node.kind === "value" && typeof node.value === "boolean") return node.value;
    if (node.kind === "text" && (node.text === "true" || node.text === "false")) {
      return node.text === "true";
    }
    return this.#mismatch("true or false", node, key);
  }

  #integer(type: IntegerType, node: Node, key: string): Maybe<number> {
    const number = wholeNumber(node);
    if (number === undefined || number < type.min || number > type.max) {
      return this.#mismatch(describeType(type), node, key);
    }
    return number;
  }

  #mib(type: MibType, node: Node, key: string): Maybe<number> {
    const number = wholeNumber(node) ?? mibOfText(textOf(node));
    if (number === undefined) return this.#mismatch(describeType(type), node, key);
    if (!Number.isInteger(number)) return this.#mismatch("a whole number of MiB", node, key);
    if (number < type.min || number > type.max) {
      return this.#mismatch(
        `a size from ${formatMib(type.min)} to ${formatMib(type.max)}`,
        node,
        key,
      );
    }
    return number;
  }

  #string(type: StringType, node: Node, key: string): Maybe<string> {
    const text = textOf(node);
    const fits = text !== undefined && (type.pattern === undefined || type.pattern.test(text));
    return fits ? text : this.#mismatch(describeType(type), node, key);
  }

  #path(type: PathType, node: Node, key: string): Maybe<string> {
    const text = textOf(node);
    if (text === undefined || text === "" || text.includes("\0")) {
      return this.#mismatch(describeType(type), node, key);
    }
    if (FD_FOLDER.test(text)) {
      if (inheritedFd(text) === undefined) {
        return this.#mismatch("a descriptor's number as the last part of the path", node, key);
      }
      return text;
    }
    return resolve(this.#source.baseDir, text);
  }

  #choice(type: ChoiceType, node: Node, key: string): Maybe<string> {
    const text = textOf(node);
    if (text !== undefined && Object.hasOwn(type.choices, text)) return text;
    return this.#mismatch(describeType(type), node, key, {
      suggestion: suggest(text ?? "", Object.keys(type.choices)),
    });
  }

  #mismatch(
    expected: string,
    node: Node,
    key: string,
    options: { suggestion?: string | undefined } = {},
  ): undefined {
    this.#problem(key, `expected ${expected}, got ${describeNode(node)}`, {
      span: spanOf(node),
      suggestion: options.suggestion,
    });
    return undefined;
  }

  #unknownKey(
    key: string,
    entry: Entry,
    options: { known: readonly string[]; what: string },
  ): void {
    const word = entry.key!;
    const suggestion = suggest(word, options.known);
    const expected = suggestion === undefined ? `; expected ${alternatives(options.known)}` : "";
    this.#problem(
      key === "" ? word : `${key}.${word}`,
      `unknown ${options.what} ${quote(word)}${expected}`,
      { span: entry.keySpan, suggestion },
    );
  }

  #problem(
    key: string,
    message: string,
    options: { span?: Span | undefined; suggestion?: string | undefined } = {},
  ): void {
    const { text } = this.#source;
    const { span } = options;
    // Where all of it is wrong, showing it below a message that quotes it says nothing new.
    const isPart = span !== undefined && text !== undefined &&
      (span.start > 0 || span.end < text.length);
    const excerpt = isPart ? { text, span } : undefined;
    const { suggestion } = options;
    this.#problems.push({ file: this.#source.file, key, message, suggestion, excerpt });
  }
}

/** What `type` takes, after "expected". */
export function describeType(type: ValueType): string {
  switch (type.kind) {
    case "boolean":
      return "true or false";
    case "integer":
      return `a whole number from ${type.min} to ${type.max}`;
    case "mib":
      return `a size in MiB, or with a unit such as 512M or 2G`;
    case "string":
      return type.expected ?? "text";
    case "path":
      return "a path";
    case "choice":
      return alternatives(Object.keys(type.choices));
    case "record":
      return describeRecord(type);
    case "list":
      return "a list";
  }
}

function describeRecord(type: RecordType): string {
  return `keys of ${alternatives(Object.keys(type.fields))}`;
}

function describeNode(node: Node): string {
  if (node.kind === "text") return quote(node.text);
  if (node.kind === "value") return describeValue(node.value);
  return "a list";
}

function spanOf(node: Node): Span | undefined {
  return node.kind === "value" ? undefined : node.span;
}

function textOf(node: Node): string | undefined {
  if (node.kind === "text") return node.text;
  return node.kind === "value" && typeof node.value === "string" ? node.value : undefined;
}

/** Numbers of files, and text of the command line in the notations of C. */
function wholeNumber(node: Node): number | undefined {
  if (node.kind === "value") {
    return typeof node.value === "number" && Number.isSafeInteger(node.value)
      ? node.value
      : undefined;
  }
  if (node.kind !== "text") return undefined;
  const isNumber = /^-?(?:[0-9]{1,15}|0[xX][0-9a-fA-F]{1,12}|0[oO][0-7]{1,16}|0[bB][01]{1,48})$/
    .test(node.text);
  if (!isNumber) return undefined;
  return node.text.startsWith("-") ? -Number(node.text.slice(1)) : Number(node.text);
}

/** MiB, not always a whole number of them. */
function mibOfText(text: string | undefined): number | undefined {
  if (text === undefined || !MIB_PATTERN.test(text)) return undefined;
  const digits = /^[0-9]+/.exec(text)![0];
  const unit = text.slice(digits.length, digits.length + 1).toLowerCase();
  return Number(digits) * UNITS[unit]!;
}

function formatMib(mib: number): string {
  return formatSize(mib * 1024 * 1024);
}

function canonicalName(table: OptionTable, word: string): string | undefined {
  if (Object.hasOwn(table, word)) return word;
  return Object.keys(table).find((name) => table[name]!.aliases?.includes(word));
}

function fieldName(type: RecordType, word: string): string | undefined {
  if (Object.hasOwn(type.fields, word)) return word;
  return Object.keys(type.fields).find((name) => type.fields[name]!.aliases?.includes(word));
}
