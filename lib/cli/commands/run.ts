/**
 * `vmctl run`.
 *
 * @module
 */

import { setLogLevels } from "../../base/mod.ts";
import type { RUN_OPTIONS } from "../../config/mod.ts";
import type { CommandInput } from "../command.ts";
import { CommandError } from "../errors.ts";
import { loadConfig } from "../load_config.ts";

/** Runs a VM until it ends and tells how it ended. */
export async function run(input: CommandInput<typeof RUN_OPTIONS>): Promise<number> {
  const { config } = await loadConfig(input, { requireBoot: true, requireFiles: "all" });
  if (config === undefined) throw new CommandError("the configuration is incomplete");
  setLogLevels({ level: config.logLevel, modules: config.logModules });
  const [{ runVm }, { controlService }] = await Promise.all([
    import("../../machine/mod.ts"),
    import("../../control/mod.ts"),
  ]);
  return await runVm(config, { services: [controlService(config)] });
}
