/**
 * From the words of the command line to a command and its typed arguments.
 *
 * @module
 */

import {
  type ConfigProblem,
  decodeArgument,
  type DecodedOptions,
  mergeOptions,
  type Option,
  type OptionTable,
  RUN_OPTIONS,
  suggest,
} from "../config/mod.ts";
import type { Command } from "./command.ts";
import { UsageError } from "./errors.ts";

/** Options that every command takes, before or after its name. */
export const COMMON_OPTIONS = {
  "help": {
    type: { kind: "boolean" },
    short: "h",
    group: "Common",
    help: "show this help",
    commandLineOnly: true,
  },
  "extended-status": { ...RUN_OPTIONS["extended-status"], group: "Common" },
  "log-level": { ...RUN_OPTIONS["log-level"], group: "Common" },
} as const satisfies OptionTable;

/** Options that stand only before or without a command. */
export const ROOT_OPTIONS = {
  "version": {
    type: { kind: "boolean" },
    short: "V",
    group: "Common",
    help: "show the version",
    commandLineOnly: true,
  },
  "licenses": {
    type: { kind: "boolean" },
    group: "Common",
    help: "show the licenses of what the executable contains",
    commandLineOnly: true,
  },
} as const satisfies OptionTable;

/** What the words say. */
export interface ParsedArguments {
  /** The command and those above it, from the root on. */
  readonly path: readonly [Command, ...Command[]];
  /** Decoded values by option name. */
  readonly options: DecodedOptions<OptionTable>;
  readonly positionals: readonly string[];
  /** What is wrong with the values of options. */
  readonly problems: readonly ConfigProblem[];
}

/** All options that `command` takes. */
export function optionsOf(command: Command, isRoot: boolean): OptionTable {
  return { ...command.options, ...COMMON_OPTIONS, ...(isRoot ? ROOT_OPTIONS : {}) };
}

/** `vmctl config check` and the like. */
export function commandName(path: readonly Command[]): string {
  return path.map((command) => command.name).join(" ");
}

/**
 * Reads `words`. Options may stand anywhere after their command; after `--` every word is an argument.
 * @throws {UsageError} for an unknown command or option, a missing value, too many arguments.
 */
export function parseArguments(
  root: Command,
  words: readonly string[],
  baseDir: string,
): ParsedArguments {
  return new ArgumentParser(root, words, baseDir).parse();
}

/** Options of QEMU and older crosvm, and what there is here instead. */
const COUNTERPARTS: Readonly<Record<string, string>> = {
  append: "params",
  "enable-kvm": "hypervisor",
  accel: "hypervisor",
  smp: "cpus",
  disk: "block",
  rwdisk: "block",
  root: "block",
  rwroot: "block",
  drive: "block",
  hda: "block",
  chardev: "serial",
  console: "serial",
};

class ArgumentParser {
  readonly #words: readonly string[];
  readonly #baseDir: string;
  readonly #path: [Command, ...Command[]];
  readonly #problems: ConfigProblem[] = [];
  readonly #positionals: string[] = [];
  #options: DecodedOptions<OptionTable> = {};
  #at = 0;

  constructor(root: Command, words: readonly string[], baseDir: string) {
    this.#path = [root];
    this.#words = words;
    this.#baseDir = baseDir;
  }

  parse(): ParsedArguments {
    while (this.#at < this.#words.length) {
      const word = this.#words[this.#at++]!;
      if (word === "--") {
        for (const rest of this.#words.slice(this.#at)) this.#argument(rest);
        break;
      }
      if (word.startsWith("--")) this.#long(word);
      else if (word.startsWith("-") && word !== "-") this.#short(word);
      else this.#argument(word);
    }
    return {
      path: this.#path,
      options: this.#options,
      positionals: this.#positionals,
      problems: this.#problems,
    };
  }

  get #command(): Command {
    return this.#path.at(-1)!;
  }

  get #table(): OptionTable {
    return optionsOf(this.#command, this.#path.length === 1);
  }

  #argument(word: string): void {
    const { commands, positionals } = this.#command;
    if (commands.length > 0) {
      const next = commands.find((command) => command.name === word);
      if (next === undefined) {
        throw this.#unknown(
          "command",
          word,
          commands.map(({ name }) => name),
        );
      }
      this.#path.push(next);
      return;
    }
    if (this.#positionals.length >= positionals.length && positionals.at(-1)?.repeated !== true) {
      const takes = positionals.length === 0
        ? "no arguments"
        : positionals.map((p) => p.name).join(" ");
      throw this.#usage(`unexpected argument "${word}": ${commandName(this.#path)} takes ${takes}`);
    }
    this.#positionals.push(word);
  }

  #long(word: string): void {
    const equals = word.indexOf("=");
    const written = equals < 0 ? word.slice(2) : word.slice(2, equals);
    const inline = equals < 0 ? undefined : word.slice(equals + 1);
    const table = this.#table;
    const name = Object.hasOwn(table, written)
      ? written
      : Object.keys(table).find((key) => table[key]!.aliases?.includes(written));
    if (name === undefined) throw this.#unknownOption(`--${written}`);
    this.#set(name, { written: `--${written}`, inline });
  }

  /** `-m 512`, `-m512`, `-m=512`; letters of flags may stand together. */
  #short(word: string): void {
    const table = this.#table;
    // QEMU's long options have one dash: read letter by letter, they would be something else.
    const whole = word.slice(1).replace(/=.*/s, "");
    if (whole.length > 1 && (this.#knows(`--${whole}`) || this.#counterpart(whole) !== undefined)) {
      throw this.#unknownOption(`-${whole}`);
    }
    for (let at = 1; at < word.length; at++) {
      const letter = word[at]!;
      const name = Object.keys(table).find((key) => table[key]!.short === letter);
      if (name === undefined) throw this.#unknownOption(`-${letter}`);
      const rest = word.slice(at + 1);
      const isFlag = table[name]!.type.kind === "boolean";
      if (!isFlag || rest.startsWith("=")) {
        const inline = rest === "" ? undefined : rest.replace(/^=/, "");
        this.#set(name, { written: `-${letter}`, inline });
        return;
      }
      this.#set(name, { written: `-${letter}`, inline: undefined });
    }
  }

  #set(name: string, given: { written: string; inline: string | undefined }): void {
    const { written, inline } = given;
    const table = this.#table;
    const option = table[name]!;
    const text = inline ?? (option.type.kind === "boolean" ? "true" : this.#next(option, written));
    const value = decodeArgument(option, text, {
      name: written,
      baseDir: this.#baseDir,
      problems: this.#problems,
    });
    if (value === undefined) return;
    this.#options = mergeOptions(table, this.#options, { [name]: value });
  }

  #next(option: Option, written: string): string {
    const word = this.#words[this.#at];
    // A word that is an option itself was hardly meant as a value; "--opt=-x" says so when it was.
    const isOption = word !== undefined && /^--?[A-Za-z]/.test(word) && this.#knows(word);
    if (word === undefined || isOption) {
      const got = word === undefined ? "nothing" : `"${word}"`;
      throw this.#usage(`${written}: expected ${option.valueName ?? "a value"}, got ${got}`);
    }
    this.#at++;
    return word;
  }

  #knows(word: string): boolean {
    const table = this.#table;
    const name = word.replace(/^--/, "").replace(/=.*/s, "");
    if (word.startsWith("--")) return Object.hasOwn(table, name);
    return word.length === 2 && Object.values(table).some((option) => option.short === word[1]);
  }

  #unknownOption(written: string): UsageError {
    const table = this.#table;
    const owner = this.#path.length === 1
      ? this.#command.commands.find((command) => Object.hasOwn(command.options, written.slice(2)))
      : undefined;
    if (owner !== undefined) {
      return this.#usage(
        `unknown option "${written}" before the command; it is one of "${owner.name}" and stands after that word`,
      );
    }
    const names = Object.entries(table).flatMap(([name, option]) => [
      `--${name}`,
      ...(option.aliases ?? []).map((alias) => `--${alias}`),
    ]);
    return this.#unknown("option", written, names);
  }

  #unknown(what: string, word: string, names: readonly string[]): UsageError {
    const isOption = what === "option";
    const near = (isOption ? this.#counterpart(word.replace(/^--?/, "")) : undefined) ??
      suggest(isOption ? word.replace(/^-(?=[^-].)/, "--") : word, names);
    const hint = near === undefined
      ? what === "command" ? `; expected one of ${names.join(", ")}` : ""
      : `; did you mean "${near}"?`;
    return this.#usage(`unknown ${what} "${word}"${hint}`);
  }

  /** The option here that stands for one of another VMM's, with its dashes. */
  #counterpart(name: string): string | undefined {
    const own = Object.hasOwn(COUNTERPARTS, name) ? COUNTERPARTS[name]! : undefined;
    return own !== undefined && this.#knows(`--${own}`) ? `--${own}` : undefined;
  }

  #usage(message: string): UsageError {
    return new UsageError(message, { command: commandName(this.#path) });
  }
}
