/**
 * The policies of our own devices, which are part of the program, and the user's in their place.
 *
 * @module
 */

import { join } from "node:path";
import balloonDevice from "../../policies/balloon_device.policy" with { type: "text" };
import blockDevice from "../../policies/block_device.policy" with { type: "text" };
import commonDeviceFrequency from "../../policies/common_device.frequency" with { type: "text" };
import commonDevice from "../../policies/common_device.policy" with { type: "text" };
import consoleDevice from "../../policies/console_device.policy" with { type: "text" };
import rngDevice from "../../policies/rng_device.policy" with { type: "text" };
import type { Policy } from "./policy/ast.ts";
import { loadPolicy } from "./policy/load.ts";
import { memoryFiles, type PolicySource } from "./policy/source.ts";

/** Where the program's own policies seem to lie, and do lie in the project. */
const FOLDER = "policies";

const FILES: Readonly<Record<string, string>> = {
  "common_device.policy": commonDevice,
  "common_device.frequency": commonDeviceFrequency,
  "balloon_device.policy": balloonDevice,
  "block_device.policy": blockDevice,
  "console_device.policy": consoleDevice,
  "rng_device.policy": rngDevice,
};

/** Names of the program's own policy files. */
export function embeddedPolicyNames(): string[] {
  return Object.keys(FILES);
}

/** The program's own policy files, as files in the folder `policies`. */
export function embeddedPolicies(): PolicySource {
  const entries = Object.entries(FILES).map(([name, text]) => [`${FOLDER}/${name}`, text]);
  return memoryFiles(Object.fromEntries(entries));
}

/**
 * Loads the policy `name`, such as `common_device`: of the folder that the user gave, otherwise the
 * program's own.
 *
 * @throws {PolicyError} with all that is wrong.
 */
export function loadDevicePolicy(
  name: string,
  options: { folder?: string | undefined } = {},
): Policy {
  const file = `${name}.policy`;
  if (options.folder !== undefined) return loadPolicy(join(options.folder, file));
  return loadPolicy(`${FOLDER}/${file}`, { source: embeddedPolicies() });
}
