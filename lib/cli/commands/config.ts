/**
 * `vmctl config check`, `show` and `schema`.
 *
 * @module
 */

import {
  ConfigError,
  ConfigLoader,
  type ConfigProblem,
  jsonSchema,
  printArguments,
  resolveLayers,
  RUN_OPTIONS,
  type RunOptions,
} from "../../config/mod.ts";
import type { CommandInput } from "../command.ts";
import { loadConfig } from "../load_config.ts";
import { shellQuote } from "../completions/words.ts";
import { print, printJson } from "../output.ts";
import type { CHECK_OPTIONS, SHOW_OPTIONS } from "../command_options.ts";

/** Checks files by themselves: each with its includes, whether or not they name a kernel. */
export async function checkConfig(input: CommandInput<typeof CHECK_OPTIONS>): Promise<number> {
  const reports: { file: string; problems: readonly ConfigProblem[] }[] = [];
  let extendedStatus = false;
  for (const file of input.positionals) {
    const problems: ConfigProblem[] = [];
    const loader = new ConfigLoader(problems);
    await loader.load(file);
    const { options } = resolveLayers(loader.layers, problems, {
      requireBoot: false,
      requireFiles: "paths",
    });
    extendedStatus ||= options["extended-status"] ?? false;
    reports.push({ file, problems });
  }
  const all = reports.flatMap(({ problems }) => problems);
  if (input.options.json === true) {
    await printJson(reports.map(({ file, problems }) => ({
      file,
      ok: problems.length === 0,
      problems: problems.map((problem) => ({
        file: problem.file ?? null,
        key: problem.key,
        message: problem.message,
        suggestion: problem.suggestion ?? null,
      })),
    })));
  } else {
    for (const { file, problems } of reports) {
      if (problems.length === 0) await print(`${file}: ok\n`);
    }
  }
  if (all.length > 0) throw new ConfigError(all, { extendedStatus });
  return 0;
}

/** Prints what the given files and options amount to, in a form that `--cfg` takes. */
export async function showConfig(input: CommandInput<typeof SHOW_OPTIONS>): Promise<number> {
  const { args, json, ...given } = input.options;
  const { options } = await loadConfig(
    { options: given, positionals: input.positionals },
    { requireBoot: false, requireFiles: "none" },
  );
  const ordered = inTableOrder(options);
  if (json === true) {
    await printJson(ordered);
  } else if (args === true) {
    const words = ["vmctl", "run", ...printArguments(RUN_OPTIONS, options)];
    await print(`${words.map(shellWord).join(" ")}\n`);
  } else {
    const { stringify } = await import("smol-toml");
    await print(`${stringify(ordered).trimEnd()}\n`);
  }
  return 0;
}

/** Prints the JSON Schema of config files. */
export async function printSchema(): Promise<number> {
  await printJson(jsonSchema(RUN_OPTIONS));
  return 0;
}

function inTableOrder(options: RunOptions): Record<string, unknown> {
  const values: Readonly<Record<string, unknown>> = options;
  const names = Object.keys(RUN_OPTIONS).filter((name) => values[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, values[name]]));
}

/** In quotes only where a shell would take it for something else. */
function shellWord(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : shellQuote(word);
}
