/**
 * The licenses of all that goes into the executable: most of them ask that their text is passed on with it.
 *
 * @module
 */

import { join } from "node:path";

/** What `deno info --json` says of a program, as far as it matters here. */
interface ProgramInfo {
  readonly modules: readonly { readonly npmPackage?: string; readonly error?: string }[];
  readonly npmPackages: Readonly<Record<string, NpmPackage>>;
}

interface NpmPackage {
  readonly name: string;
  readonly version: string;
  readonly dependencies: readonly string[];
  readonly localPath: string;
}

/**
 * The license of this program, those of the npm packages that the modules `entries` of this folder lead to, as
 * they are installed, and those of the runtime.
 *
 * @throws {Error} where a package has no license, or is not installed.
 */
export async function collectLicenses(root: string, entries: readonly string[]): Promise<string> {
  const found = new Map<string, NpmPackage>();
  for (const entry of entries) {
    const { modules, npmPackages } = await infoOf(root, entry);
    const error = modules.find((module) => module.error !== undefined)?.error;
    if (error !== undefined) throw new Error(error);
    const wanted = modules.flatMap(({ npmPackage }) => npmPackage ?? []);
    for (let id; (id = wanted.pop()) !== undefined;) {
      const known = npmPackages[id];
      if (known === undefined) throw new Error(`${id}: deno info does not know where it is`);
      if (found.has(id)) continue;
      found.set(id, known);
      wanted.push(...known.dependencies);
    }
  }
  const parts = [titled("vmctl", await Deno.readTextFile(join(root, "LICENSE")))];
  for (const [, { name, version, localPath }] of [...found].sort(([a], [b]) => a < b ? -1 : 1)) {
    parts.push(titled(`${name} ${version}`, await licenseIn(localPath)));
  }
  parts.push(await Deno.readTextFile(join(root, "scripts/build/runtime_licenses.txt")));
  return parts.join("\n");
}

async function infoOf(root: string, entry: string): Promise<ProgramInfo> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", `scripts/build/${entry}`],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`deno info: ${decoder.decode(stderr)}`);
  return JSON.parse(decoder.decode(stdout));
}

async function licenseIn(folder: string): Promise<string> {
  for await (const { name, isFile } of Deno.readDir(folder)) {
    if (isFile && /^(licen[cs]e|copying)/i.test(name)) {
      return await Deno.readTextFile(join(folder, name));
    }
  }
  throw new Error(`${folder}: expected a license in it`);
}

function titled(title: string, text: string): string {
  return `${title}\n${"-".repeat(title.length)}\n\n${text.trim()}\n`;
}
