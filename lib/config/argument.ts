/**
 * Values of options as the command line writes them.
 *
 * @module
 */

import { Decoder } from "./decode.ts";
import { GrammarError, type Node, parseKeyValues } from "./grammar.ts";
import type { Decoded, Option } from "./option_types.ts";
import type { ConfigProblem } from "./problem.ts";

/** How to read an option's value. */
export interface ArgumentOptions {
  /** As the user wrote it, such as `--serial` or `-m`; for messages. */
  readonly name: string;
  /** Absolute folder from which relative paths start. */
  readonly baseDir: string;
  /** Whatever is found wrong is pushed to it. */
  readonly problems: ConfigProblem[];
}

/**
 * The value of one occurrence of `option`, written as `text`: a list of one item for a list, which
 * the next occurrence appends to. Undefined where it does not fit.
 */
export function decodeArgument<Opt extends Option>(
  option: Opt,
  text: string,
  options: ArgumentOptions,
): Decoded<Opt["type"]> | undefined {
  return decode(option, text, options) as Decoded<Opt["type"]> | undefined;
}

function decode(option: Option, text: string, options: ArgumentOptions): unknown {
  const { name, problems, baseDir } = options;
  const isList = option.type.kind === "list";
  const type = option.type.kind === "list" ? option.type.item : option.type;
  const decoder = new Decoder({ file: undefined, baseDir, text }, problems);
  let node: Node = { kind: "text", text, quoted: false, span: { start: 0, end: text.length } };
  if (type.kind === "record") {
    try {
      node = parseKeyValues(text);
    } catch (error) {
      if (!(error instanceof GrammarError)) throw error;
      problems.push({ key: name, message: error.message, excerpt: { text, span: error.span } });
      return undefined;
    }
  }
  const value = decoder.value(type, node, name);
  return isList && value !== undefined ? [value] : value;
}
