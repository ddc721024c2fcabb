/**
 * What there is to complete, in the form that the shells' scripts share.
 *
 * @module
 */

import type { OptionTable, RecordType, ScalarType, ValueType } from "../../config/mod.ts";
import { optionsOf } from "../arguments.ts";
import type { Command } from "../command.ts";

/** What can stand as a value. */
export type Values =
  | { readonly kind: "none" }
  | { readonly kind: "file" }
  | { readonly kind: "vm" }
  | { readonly kind: "words"; readonly words: Readonly<Record<string, string>> }
  | { readonly kind: "record"; readonly option: string; readonly type: RecordType };

/** An option with all its names. */
export interface CompletedOption {
  /** `-m`, `--mem`. */
  readonly names: readonly string[];
  readonly help: string;
  /** What help calls the value; undefined for a flag. */
  readonly valueName: string | undefined;
  /** Whether it may be repeated. */
  readonly repeated: boolean;
  readonly values: Values;
}

/** A command with everything that may follow it. */
export interface CompletedCommand {
  /** Names from below the root on, such as `config check`; empty for the root. */
  readonly path: readonly string[];
  readonly options: readonly CompletedOption[];
  /** Commands below it, with their help. */
  readonly commands: Readonly<Record<string, string>>;
  /** What its arguments name, one after the other. */
  readonly positionals: readonly CompletedPositional[];
}

/** An argument that is not an option. */
export interface CompletedPositional {
  readonly name: string;
  readonly values: Values;
  /** Whether any number of them may follow. */
  readonly repeated: boolean;
}

/** All commands, from the root on, parents before children. */
export function completedCommands(root: Command): CompletedCommand[] {
  return walk(root, []);
}

function walk(command: Command, path: readonly string[]): CompletedCommand[] {
  const commands = Object.fromEntries(command.commands.map(({ name, help }) => [name, help]));
  const own: CompletedCommand = {
    path,
    options: completedOptions(optionsOf(command, path.length === 0)),
    commands,
    positionals: command.positionals.map(({ name, completes, help, repeated = false }) => {
      const values: Values = completes === "file" || completes === "vm"
        ? { kind: completes }
        : { kind: "words", words: Object.fromEntries(completes.map((word) => [word, help])) };
      return { name, values, repeated };
    }),
  };
  return [own, ...command.commands.flatMap((child) => walk(child, [...path, child.name]))];
}

function completedOptions(table: OptionTable): CompletedOption[] {
  return Object.entries(table).map(([name, option]) => ({
    names: [
      ...(option.short === undefined ? [] : [`-${option.short}`]),
      ...[name, ...option.aliases ?? []].map((long) => `--${long}`),
    ],
    help: option.help,
    valueName: option.type.kind === "boolean" ? undefined : option.valueName ?? "VALUE",
    repeated: option.type.kind === "list",
    values: valuesOf(name, option.type),
  }));
}

/** What can stand as a value of option `name`. */
function valuesOf(name: string, type: ValueType): Values {
  if (type.kind === "list") return valuesOf(name, type.item);
  if (type.kind !== "record") return scalarValues(type);
  // A record of one key is completed as nothing in particular: a number has no completions.
  return Object.keys(type.fields).length > 1
    ? { kind: "record", option: name, type }
    : { kind: "none" };
}

/** What can stand as a value of a key. */
export function scalarValues(type: ScalarType): Values {
  switch (type.kind) {
    case "path":
      return { kind: "file" };
    case "choice":
      return { kind: "words", words: type.choices };
    case "integer":
      return type.max - type.min < 8 ? { kind: "words", words: numbers(type) } : { kind: "none" };
    default:
      return { kind: "none" };
  }
}

function numbers(range: { readonly min: number; readonly max: number }): Record<string, string> {
  const count = range.max - range.min + 1;
  return Object.fromEntries(Array.from({ length: count }, (_, at) => [String(range.min + at), ""]));
}

/** `text` in single quotes for a POSIX shell, fish included. */
export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
