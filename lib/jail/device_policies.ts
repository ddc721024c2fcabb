/**
 * The policies of our own devices, which are part of the program, and the user's in their place.
 *
 * @module
 */

import { join } from "node:path";
import commonDeviceFrequency from "../../policies/common_device.frequency" with { type: "text" };
import commonDevice from "../../policies/common_device.policy" with { type: "text" };
import type { Policy } from "./policy/ast.ts";
import { loadPolicy } from "./policy/load.ts";
import { memoryFiles, type PolicySource } from "./policy/source.ts";

/** Where the program's own policies seem to lie, and do lie in the project. */
const FOLDER = "policies";

const FILES: Readonly<Record<string, string>> = {
  "common_device.policy": commonDevice,
  "common_device.frequency": commonDeviceFrequency,
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
