/**
 * What a command is. The tree of commands is data: parsing, help and completions all read it.
 *
 * @module
 */

import type { DecodedOptions, OptionTable } from "../config/mod.ts";

/** An argument that is not an option. */
export interface Positional {
  /** As help shows it, such as `KERNEL`. */
  readonly name: string;
  readonly help: string;
  readonly optional?: boolean;
  /** Whether any number of them may follow; only the last one. */
  readonly repeated?: boolean;
  /** What it names, for completions; words are the only ones that are taken. */
  readonly completes: "file" | "vm" | readonly string[];
}

/** A line that help shows. */
export interface Example {
  readonly command: string;
  readonly help: string;
}

/** What a command is called with. */
export interface CommandInput<Table extends OptionTable = OptionTable> {
  /** Values of the options that were given. */
  readonly options: DecodedOptions<Table>;
  /** Arguments that are not options, as many as the command takes. */
  readonly positionals: readonly string[];
}

/** A command, or a group of them. */
export interface Command {
  readonly name: string;
  /** What it does, in a line. */
  readonly help: string;
  /** More about it, in paragraphs. */
  readonly details?: readonly string[];
  readonly options: OptionTable;
  readonly positionals: readonly Positional[];
  readonly examples: readonly Example[];
  /** Commands below it. */
  readonly commands: readonly Command[];
  /** Does it and tells the exit status; a mere group has none. */
  readonly run: ((input: CommandInput) => Promise<number>) | undefined;
}

/** What a command without commands below it states. */
export interface LeafSpec<Table extends OptionTable> {
  readonly name: string;
  readonly help: string;
  readonly details?: readonly string[];
  readonly options: Table;
  readonly positionals?: readonly Positional[];
  readonly examples: readonly Example[];
  /** Loads the code on demand, so that short commands start fast. */
  readonly run: (input: CommandInput<Table>) => Promise<number>;
}

/** A command that does something. */
export function leaf<const Table extends OptionTable>(spec: LeafSpec<Table>): Command {
  const { run, positionals = [], ...rest } = spec;
  return {
    ...rest,
    positionals,
    commands: [],
    // The parser decodes with this very table.
    run: (input) => run(input as CommandInput<Table>),
  };
}

/** Another name of `command`; what it takes, prints and ends with is the same. */
export function alias(name: string, command: Command): Command {
  return {
    ...command,
    name,
    help: `another name of ${command.name}: ${command.help}`,
    examples: command.examples.map(({ help, command: line }) => ({
      help,
      command: line.replace(`vmctl ${command.name} `, `vmctl ${name} `),
    })),
  };
}

/** A command that only holds others. */
export function group(
  name: string,
  commands: readonly Command[],
  about: { readonly help: string; readonly examples: readonly Example[] },
): Command {
  return { ...about, name, options: {}, positionals: [], commands, run: undefined };
}
