/**
 * What the programs of `deno task` have in common: how their command lines are read, and how they end.
 *
 * @module
 */

import { MAX_TEAM } from "../../lib/hypervisor/soft/cpu/cpu_team.ts";
import { BuildError } from "../build/build.ts";
import { FetchError } from "../guest/mod.ts";

/** A program of `deno task`. */
export interface Task<Settings> {
  /** Its name, such as `soak`. */
  readonly name: string;
  readonly usage: string;
  /**
   * Reads the command line.
   *
   * @throws {TypeError} where it is wrong, as `parseArgs` does.
   */
  readonly parse: () => Settings | "help";
  /** Does it; the result is the exit status. */
  readonly run: (settings: Settings) => Promise<number>;
}

/**
 * Runs `task`; the result is the exit status. It is 2 where the command line is wrong, 1 where something that
 * the task needs cannot be fetched or built; either is told in a line. Other errors are faults.
 */
export async function runTask<Settings>(task: Task<Settings>): Promise<number> {
  let settings: Settings | "help";
  try {
    settings = task.parse();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    console.error(`${task.name}: ${error.message}\n\n${task.usage}`);
    return 2;
  }
  if (settings === "help") {
    console.log(task.usage);
    return 0;
  }
  try {
    return await task.run(settings);
  } catch (error) {
    if (!(error instanceof FetchError) && !(error instanceof BuildError)) throw error;
    console.error(`${task.name}: ${error.message}`);
    return 1;
  }
}

/**
 * The value of option `--NAME`, a positive whole number.
 *
 * @throws {TypeError} where `text` is none.
 */
export function positive(name: string, text: string): number {
  const value = Number(text);
  if (/^[0-9]+$/.test(text) && Number.isSafeInteger(value) && value > 0) return value;
  throw new TypeError(`--${name}: expected a positive whole number, got "${text}"`);
}

/**
 * The value of option `--cpus`: vCPUs of a guest on the software engine.
 *
 * @throws {TypeError} where it has not so many.
 */
export function vcpuCount(text: string): number {
  const value = positive("cpus", text);
  if (value <= MAX_TEAM) return value;
  throw new TypeError(`--cpus: expected 1 to ${MAX_TEAM} vCPUs, got ${value}`);
}
