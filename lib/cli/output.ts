/**
 * Standard output and error of commands.
 *
 * @module
 */

import { CommandError } from "./errors.ts";

const encoder = new TextEncoder();

/** Whoever read our output has gone; the command ends quietly. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

/**
 * Writes all of `content`, text or bytes, to standard output.
 * @throws {OutputClosed} when nobody reads it any more
 * @throws {CommandError} when it cannot be written for another reason.
 */
export async function print(content: string | Uint8Array): Promise<void> {
  let rest = typeof content === "string" ? encoder.encode(content) : content;
  while (rest.length > 0) {
    try {
      rest = rest.subarray(await Deno.stdout.write(rest));
    } catch (error) {
      if (error instanceof Deno.errors.BrokenPipe) throw new OutputClosed();
      throw new CommandError("cannot write to standard output", { cause: error });
    }
  }
}

/** Writes `value` as indented JSON and a newline. */
export async function printJson(value: unknown): Promise<void> {
  await print(`${JSON.stringify(value, undefined, 2)}\n`);
}

/** Writes to standard error; that it is closed is no error of the command. */
export function printError(text: string): void {
  let rest = encoder.encode(text);
  try {
    while (rest.length > 0) rest = rest.subarray(Deno.stderr.writeSync(rest));
  } catch {
    // Nobody is left to be told.
  }
}

/** Styles for a stream that is a terminal; the text itself elsewhere and with NO_COLOR. */
export interface Style {
  bold(text: string): string;
  dim(text: string): string;
  red(text: string): string;
  green(text: string): string;
  yellow(text: string): string;
}

/** The styles for `stream`. */
export function styleFor(stream: { isTerminal(): boolean }): Style {
  const noColor = Deno.env.get("NO_COLOR");
  const isPlain = !stream.isTerminal() || (noColor !== undefined && noColor !== "") ||
    Deno.env.get("TERM") === "dumb";
  const wrap = (code: number) => (text: string) => isPlain ? text : `\x1b[${code}m${text}\x1b[0m`;
  return { bold: wrap(1), dim: wrap(2), red: wrap(31), green: wrap(32), yellow: wrap(33) };
}

/** Rows in columns as wide as their widest cell; the first row is the heading. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, column) => widths[column] = Math.max(widths[column] ?? 0, cell.length));
  }
  return rows.map((row) =>
    row.map((cell, column) => cell.padEnd(widths[column]!)).join("  ").trimEnd() + "\n"
  ).join("");
}
