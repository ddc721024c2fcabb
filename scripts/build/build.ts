/**
 * Builds `dist/vmctl`.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { DEVICE_PROCESS_FLAG } from "../../lib/devices/mod.ts";
import { WASM_FLAGS, writeExecutable } from "./executable.ts";
import { collectLicenses } from "./licenses.ts";
import { splitScripts } from "./split.ts";

/** The checkout. */
export const ROOT: string = fileURLToPath(new URL("../../", import.meta.url));

/** Where the executable goes unless told otherwise. */
export const DEFAULT_OUTPUT: string = join(ROOT, "dist", "vmctl");

/** A build that failed. The message says which step and shows what it printed. */
export class BuildError extends Error {
  override name = "BuildError";
}

/** How to build. */
export interface BuildOptions {
  /** Path of the executable. */
  readonly output: string;
  /** With `deno compile` and its runtime stub, instead of with the runtime that runs this. */
  readonly compile: boolean;
}

/** What was built. */
export interface BuildResult {
  /** Length of the executable. */
  readonly bytes: number;
  /** Length of the bundle in it. */
  readonly bundleBytes: number;
}

async function runDeno(step: string, args: string[]): Promise<void> {
  const { success, code, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) {
    throw new BuildError(`${step} ended with ${code}:\n${new TextDecoder().decode(stderr)}`);
  }
}

/** Modules that a bundle has others for, by their URLs. */
type Replacements = Readonly<Record<string, string>>;

const urlOf = (path: string) => new URL(path, import.meta.url).href;

/** Ours in front of the runtime's. */
const ALWAYS_REPLACED: Replacements = { "node:path": urlOf("./posix_path.ts") };

/** The program without what only its workers need. */
const WITHOUT_VCPUS: Replacements = {
  [urlOf("../../lib/hypervisor/soft/vcpu.ts")]: urlOf("./no_vcpu.ts"),
  [urlOf("../../lib/hypervisor/soft/serve_translations.ts")]: urlOf("./no_vcpu.ts"),
  [urlOf("../../lib/boot/lz4_emit.ts")]: urlOf("./no_vcpu.ts"),
};

/** Workers that execute and translate guest code, by their names. */
const ENGINE_WORKERS = "^(?:vcpu\\d+|translator)$";

/** Those workers without what only devices need. */
const WITHOUT_DEVICES: Replacements = {
  [urlOf("../../lib/machine/launch/device_worker.ts")]: urlOf("./no_devices.ts"),
  [urlOf("../../lib/devices/frame/registry.ts")]: urlOf("./no_devices.ts"),
};

/** The project's imports, and in its modules those of `replaced`. */
async function writeImportMap(path: string, replaced: Replacements): Promise<void> {
  const { imports } = JSON.parse(await Deno.readTextFile(join(ROOT, "deno.json")));
  await Deno.writeTextFile(
    path,
    JSON.stringify({
      imports: { ...imports, ...ALWAYS_REPLACED },
      scopes: { [urlOf("../../lib/")]: replaced },
    }),
  );
}

/** What `vmctl run` comes to in any case, by names that the modules export. */
const RUN_LOADS = ["main", "run", "runVm", "controlService"];

/** Modules that others stand for until something wants them, and what is loaded then. */
const LOADED_LATE: Replacements = {
  [urlOf("../../lib/hypervisor/kvm/mod.ts")]: urlOf("./late_kvm.ts"),
  [urlOf("../../lib/jail/bpf/compile.ts")]: urlOf("./late_policies.ts"),
  [urlOf("../../lib/jail/device_policies.ts")]: urlOf("./late_policies.ts"),
};
const LATE_PARTS = ["kvm_part.ts", "policies_part.ts"];

/** What {@link bundle} makes. */
interface BundleOptions {
  /** A module of this folder. */
  readonly entry: string;
  readonly format: "esm" | "cjs";
  readonly replaced?: Replacements;
}

/** Makes one script of `entry` and everything that it imports. */
export async function bundle(
  output: string,
  { entry, format, replaced = {} }: BundleOptions,
): Promise<void> {
  await runBundler([entry], {
    importMap: `${output}.imports.json`,
    replaced,
    how: [`--format=${format}`, `--output=${output}`],
  });
}

async function runBundler(
  entries: readonly string[],
  { importMap, replaced, how }: {
    readonly importMap: string;
    readonly replaced: Replacements;
    readonly how: readonly string[];
  },
): Promise<void> {
  await writeImportMap(importMap, replaced);
  await runDeno("deno bundle", [
    "bundle",
    "--platform=deno",
    "--minify",
    "--keep-names",
    "--sourcemap=external",
    `--import-map=${importMap}`,
    ...how,
    ...entries.map((entry) => `scripts/build/${entry}`),
  ]);
}

/** Makes the program's script, and parts of it that few runs need, of which it gives the texts by names. */
async function bundleProgram(script: string): Promise<Readonly<Record<string, string>>> {
  const folder = `${script}.chunks`;
  await runBundler(["entry.ts", ...LATE_PARTS], {
    importMap: `${script}.imports.json`,
    replaced: { ...WITHOUT_VCPUS, ...LOADED_LATE },
    how: ["--format=esm", "--code-splitting", `--outdir=${folder}`],
  });
  const split = await splitScripts(folder, { entry: "./entry.js", eager: RUN_LOADS });
  await Deno.writeTextFile(script, split.script);
  await Deno.writeTextFile(`${script}.map`, split.map);
  return split.parts;
}

/** Lets the program say which one it is; at the end, so that the source map's lines stay right. */
async function nameBuild(script: string): Promise<void> {
  const text = await Deno.readTextFile(script);
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  const name = new Uint8Array(digest).toHex().slice(0, 32);
  await Deno.writeTextFile(script, `${text}\n;globalThis.VMCTL_BUILD=${JSON.stringify(name)};\n`);
}

/** The files of `folder` by their names. */
async function readAll(folder: string): Promise<Record<string, Uint8Array>> {
  const files: Record<string, Uint8Array> = {};
  for await (const { name } of Deno.readDir(folder)) {
    files[name] = await Deno.readFile(join(folder, name));
  }
  return files;
}

const encodeAll = (texts: Readonly<Record<string, string>>): Record<string, Uint8Array> =>
  Object.fromEntries(
    Object.entries(texts).map(([name, text]) => [name, new TextEncoder().encode(text)]),
  );

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function licensesOf(entries: readonly string[]): Promise<string> {
  try {
    return await collectLicenses(ROOT, entries);
  } catch (error) {
    throw new BuildError(`licenses: ${error instanceof Error ? error.message : error}`);
  }
}

/** One look whether the new file starts at all, away from everything that it must not need. */
async function checkStarts(path: string): Promise<void> {
  const { success, code, signal, stdout, stderr } = await new Deno.Command(path, {
    args: ["--version"],
    cwd: "/",
    clearEnv: true,
    stdin: "null",
  }).output();
  const said = new TextDecoder().decode(stdout);
  if (!success || !said.startsWith("vmctl ")) {
    const ending = signal === null ? `status ${code}` : signal;
    throw new BuildError(
      `the new executable's --version ended with ${ending} and said: ${said}` +
        new TextDecoder().decode(stderr),
    );
  }
}

/**
 * Bundles the program into one script, and its parts for workers and for processes of devices into others,
 * and makes an executable of them, which replaces an older one in one step. The program's script, its source
 * map and the licenses of all that is in it are left beside it.
 *
 * @throws {BuildError} when a step fails or the result does not start.
 */
export async function build(options: BuildOptions): Promise<BuildResult> {
  const { output } = options;
  const script = `${output}.js`;
  await Deno.mkdir(join(output, ".."), { recursive: true });
  const folder = await Deno.makeTempDir({ dir: join(output, ".."), prefix: ".build-" });
  try {
    const newScript = join(folder, "vmctl.js");
    const newOutput = join(folder, "vmctl");
    const licenses = await licensesOf(["entry.ts", "worker_entry.ts", "device_entry.ts"]);
    if (options.compile) {
      await bundle(newScript, { entry: "entry.ts", format: "esm" });
      await nameBuild(newScript);
      await runDeno("deno compile", [
        "compile",
        "--allow-all",
        "--no-check",
        "--no-config",
        `--output=${newOutput}`,
        newScript,
      ]);
    } else {
      const worker = join(folder, "worker.js");
      const engine = join(folder, "engine.js");
      const device = join(folder, "device.js");
      // The first one alone: where the bundler is not there yet, those that fetch it at once fail.
      const parts = await bundleProgram(newScript);
      await Promise.all([
        bundle(worker, { entry: "worker_entry.ts", format: "cjs" }),
        bundle(engine, { entry: "worker_entry.ts", format: "cjs", replaced: WITHOUT_DEVICES }),
        bundle(device, { entry: "device_entry.ts", format: "cjs" }),
      ]);
      await nameBuild(engine);
      const images = join(folder, "images");
      await runDeno("making the modules", [
        ...["run", "--allow-all", "--no-check", `--v8-flags=${WASM_FLAGS.join(",")}`],
        ...["scripts/build/wasm_modules.ts", images],
      ]);
      writeExecutable(newOutput, {
        script: await Deno.readTextFile(newScript),
        worker: await Deno.readTextFile(worker),
        namedWorkers: { [ENGINE_WORKERS]: await Deno.readTextFile(engine) },
        data: { ...await readAll(images), ...encodeAll({ ...parts, licenses }) },
        earlyWorker: { argument: "run", name: "vcpu0" },
        others: { [DEVICE_PROCESS_FLAG]: await Deno.readTextFile(device) },
      });
    }
    await checkStarts(newOutput);
    await Deno.writeTextFile(`${output}.licenses.txt`, licenses);
    await Deno.rename(newScript, script);
    await Deno.rename(`${newScript}.map`, `${script}.map`);
    await Deno.rename(newOutput, output);
  } finally {
    await removeIfThere(folder);
  }
  return { bytes: (await Deno.stat(output)).size, bundleBytes: (await Deno.stat(script)).size };
}

/** When `path` was changed, or undefined where there is no such file. */
async function changedAt(path: string): Promise<number | undefined> {
  try {
    return (await Deno.stat(path)).mtime?.getTime() ?? 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(folder)) {
    const path = join(folder, entry.name);
    if (entry.isDirectory) yield* sources(path);
    else if (!entry.name.endsWith("_test.ts")) yield path;
  }
}

/** Whether `output` is missing or older than something that goes into it. */
export async function isStale(output: string = DEFAULT_OUTPUT): Promise<boolean> {
  const built = await changedAt(output);
  if (built === undefined) return true;
  const newer = async (path: string) => (await changedAt(path) ?? 0) >= built;
  for (const name of ["deno.json", "deno.lock", "LICENSE"]) {
    if (await newer(join(ROOT, name))) return true;
  }
  for (const folder of ["lib", "policies", "scripts/build"]) {
    if ((await changedAt(join(ROOT, folder))) === undefined) continue;
    for await (const path of sources(join(ROOT, folder))) if (await newer(path)) return true;
  }
  return false;
}
