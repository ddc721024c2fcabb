/**
 * Finds the command, runs it, and turns whatever happens into messages and an exit status.
 *
 * @module
 */

import { resolve } from "node:path";
import { describeError, ExitStatus, setLogLevels, VmctlError } from "../base/mod.ts";
import {
  ConfigError,
  ConfigLoader,
  logLevels,
  mergeOptions,
  printable,
  RUN_OPTIONS,
} from "../config/mod.ts";
import { commandName, parseArguments, type ParsedArguments } from "./arguments.ts";
import type { Command } from "./command.ts";
import { UsageError } from "./errors.ts";
import { currentFolder } from "./folder.ts";
import { OutputClosed, print, printError, styleFor } from "./output.ts";
import { ROOT } from "./tree.ts";
import { VERSION } from "./version.ts";

/** Runs the command that `args` names and tells the exit status of the process. */
export async function main(args: readonly string[]): Promise<number> {
  try {
    return await dispatch(args);
  } catch (error) {
    if (error instanceof OutputClosed) return ExitStatus.Stop;
    return report(error, await asksExtendedStatus(args));
  }
}

async function dispatch(args: readonly string[]): Promise<number> {
  // Who asks "vmctl help run" means the same as "vmctl run --help".
  const words = args[0] === "help" ? [...args.slice(1), "--help"] : args;
  const parsed = parseArguments(ROOT, words, currentFolder());
  const command = parsed.path.at(-1)!;
  if (parsed.options["help"] === true) {
    await print(await helpOf(parsed.path, Deno.stdout));
    return ExitStatus.Stop;
  }
  if (parsed.options["version"] === true) {
    await print(`vmctl ${VERSION}\n`);
    return ExitStatus.Stop;
  }
  if (parsed.options["licenses"] === true) {
    const { licenses } = await import("./licenses.ts");
    await print(licenses());
    return ExitStatus.Stop;
  }
  if (parsed.problems.length > 0) {
    const extendedStatus = parsed.options["extended-status"] === true;
    throw new ConfigError(parsed.problems, { extendedStatus });
  }
  if (command.run === undefined) {
    printError(await helpOf(parsed.path, Deno.stderr));
    throw new UsageError("expected a command", { command: commandName(parsed.path) });
  }
  requirePositionals(command, parsed);
  const logLevel = parsed.options["log-level"];
  if (typeof logLevel === "string") {
    const levels = logLevels(logLevel);
    setLogLevels({ level: levels.logLevel, modules: levels.logModules });
  }
  return await command.run(parsed);
}

async function helpOf(
  path: readonly Command[],
  stream: { isTerminal(): boolean },
): Promise<string> {
  const { renderHelp } = await import("./help.ts");
  return renderHelp(path, styleFor(stream));
}

function requirePositionals(command: Command, parsed: ParsedArguments): void {
  const missing = command.positionals[parsed.positionals.length];
  if (missing === undefined || missing.optional === true) return;
  if (missing.repeated === true && parsed.positionals.length >= command.positionals.length) return;
  throw new UsageError(`expected ${missing.name} (${missing.help}), got nothing`, {
    command: commandName(parsed.path),
  });
}

/** Prints what went wrong and tells the exit status. */
function report(error: unknown, extendedStatus: boolean): number {
  const style = styleFor(Deno.stderr);
  const prefix = `${style.red("vmctl")}: `;
  const lines = (text: string) =>
    text.split("\n").map((line) => `${line.startsWith("  ") ? "" : prefix}${printable(line)}\n`)
      .join("");
  if (error instanceof ConfigError) {
    printError(lines(error.message));
    return extendedStatus || error.extendedStatus ? ExitStatus.InvalidArgs : ExitStatus.Error;
  }
  if (error instanceof UsageError) {
    printError(lines(`${error.message}\nsee "${error.command} --help"`));
    return extendedStatus ? ExitStatus.InvalidArgs : ExitStatus.Error;
  }
  if (error instanceof VmctlError) {
    printError(lines(describeError(error)));
    return ExitStatus.Error;
  }
  const stack = error instanceof Error ? error.stack ?? error.message : String(error);
  printError(`${prefix}internal error: ${stack}\n`);
  return ExitStatus.Error;
}

/**
 * Whether `args` ask for extended statuses anywhere: where they cannot be read to their end, the option
 * or the config file that has it may stand behind what is wrong.
 */
async function asksExtendedStatus(args: readonly string[]): Promise<boolean> {
  const end = args.indexOf("--");
  const words = end < 0 ? args : args.slice(0, end);
  if (words.some((word) => /^--extended-status(?:=true)?$/.test(word))) return true;
  const loader = new ConfigLoader([]);
  for (const [at, word] of words.entries()) {
    if (word.startsWith("--cfg=")) await loader.load(resolve(currentFolder(), word.slice(6)));
    const next = words[at + 1];
    if (word === "--cfg" && next !== undefined) await loader.load(resolve(currentFolder(), next));
  }
  const { "extended-status": asked } = mergeOptions(
    RUN_OPTIONS,
    ...loader.layers.map(({ options }) => options),
  );
  return asked === true;
}
