/**
 * The configuration that a command line and the files it names amount to.
 *
 * @module
 */

import {
  ConfigError,
  type ConfigLayer,
  ConfigLoader,
  type ConfigProblem,
  decodeArgument,
  mergeOptions,
  type Resolved,
  resolveLayers,
  type ResolveOptions,
  RUN_OPTIONS,
  type RunOptions,
} from "../config/mod.ts";
import type { CommandInput } from "./command.ts";
import { currentFolder } from "./folder.ts";

/**
 * Loads the config files, lays the command line over them and checks the whole.
 * @throws {ConfigError} with all that is wrong.
 */
export async function loadConfig(
  input: CommandInput<typeof RUN_OPTIONS>,
  how: ResolveOptions,
): Promise<Resolved> {
  const problems: ConfigProblem[] = [];
  const { cfg = [], ...given } = input.options;
  const loader = new ConfigLoader(problems);
  for (const file of cfg) await loader.load(file);
  const options = withKernel(given, input.positionals[0], problems);
  const layers: ConfigLayer[] = [...loader.layers, { file: undefined, options }];
  // A file that cannot be read may have been the one that names the kernel.
  const requireBoot = how.requireBoot && problems.length === 0;
  const resolved = resolveLayers(layers, problems, { ...how, requireBoot });
  if (problems.length > 0) {
    throw new ConfigError(problems, {
      extendedStatus: resolved.options["extended-status"] ?? false,
    });
  }
  return resolved;
}

function withKernel(
  options: RunOptions,
  kernel: string | undefined,
  problems: ConfigProblem[],
): RunOptions {
  if (kernel === undefined) return options;
  if (options.kernel !== undefined) {
    problems.push({ key: "KERNEL", message: "the kernel is given twice, here and by --kernel" });
  }
  const decoded = decodeKernel(kernel, problems);
  return decoded === undefined ? options : mergeOptions(RUN_OPTIONS, options, { kernel: decoded });
}

function decodeKernel(text: string, problems: ConfigProblem[]): string | undefined {
  return decodeArgument(RUN_OPTIONS.kernel, text, {
    name: "KERNEL",
    baseDir: currentFolder(),
    problems,
  });
}
