/**
 * Puts the JavaScript runtime and the bundle into one file.
 *
 * @module
 */

import { addSegment } from "./elf.ts";
import { makeLauncher } from "./launcher.ts";

/**
 * The main module, also of every worker. It evaluates one of the bundles, which are scripts, because the
 * runtime parses each module a second time to find its imports, and once more where it has no cache
 * to note them in: that takes longer than all the rest of a start.
 *
 * @param main how many bytes the main bundle has
 * @param others bundles by the first argument that chooses them: where they begin, and their bytes
 */
function mainModule(main: number, others: Record<string, readonly [number, number]>): string {
  return `const [path, home, ...args] = Deno.args;
if (!("WorkerGlobalScope" in globalThis)) {
  if (home === "") Deno.env.delete("HOME");
  else Deno.env.set("HOME", home.slice(5));
}
Object.defineProperty(Deno, "args", { value: args });
const others = ${JSON.stringify(others)};
const [at, bytes] = Object.hasOwn(others, args[0] ?? "") ? others[args[0]] : [0, ${main}];
const file = Deno.openSync(path);
const script = new Uint8Array(bytes);
file.seekSync(at, 0);
for (let done = 0; done < bytes;) done += file.readSync(script.subarray(done)) ?? bytes;
file.close();
const load = (name) => process.getBuiltinModule(name);
(0, eval)(new TextDecoder().decode(script))(load, {}, {});
`;
}

/** Makes a CommonJS script one expression: a function for {@link mainModule} to call. */
const SCRIPT_HEAD = "(function (require, exports, module) {";
const SCRIPT_TAIL = "\n})\n//# sourceURL=vmctl.js\n";

/** Guest code multiplies wide, and counting calls for inlining costs more than that gives. */
export const WASM_FLAGS: readonly string[] = [
  "--experimental-wasm-wide-arithmetic",
  "--no-wasm-inlining",
];

/** `vmctl ARG…` becomes `vmctl run` with these, the bundle's path and `ARG…`. */
const RUNTIME_ARGUMENTS = [
  "vmctl",
  "run",
  "--allow-all",
  "--no-config",
  "--no-lock",
  "--no-remote",
  "--no-npm",
  "--node-modules-dir=none",
  "--no-code-cache",
  // Young objects are few here, and each worker would keep 32 MiB for them: half of what a VM takes.
  `--v8-flags=--max-semi-space-size=4,${WASM_FLAGS.join(",")}`,
];

/**
 * Keeps the runtime from reading or writing anything of the user's: a cache, settings in the home
 * folder, of which a broken one would end it. There can never be such folders, whoever runs this.
 */
const RUNTIME_ENVIRONMENT = [
  "DENO_DIR=/dev/null/vmctl",
  // The missing cache is no news, on a terminal neither; any other error is.
  "DENO_LOG=error,deno::cache=off",
  "DENO_NO_PACKAGE_JSON=1",
  "DENO_NO_UPDATE_CHECK=1",
  "HOME=/proc/self/vmctl",
];

/** What a developer has set for a runtime of their own is not meant for the one inside vmctl. */
const DROPPED_PREFIXES = ["DENO_", "NODE_", "OTEL_", "HOME="];

/**
 * Writes an executable that runs `script`.
 *
 * @param output Path of the file; must not be a running program.
 * @param options `script`: CommonJS; it can load what is built into the runtime, and start
 * workers of itself with `Deno.mainModule`. `others`: scripts that run instead of it, by the first
 * argument that chooses them. `runtime`: path of the Deno program that goes in, by default the one
 * that runs this.
 * @throws {ElfError} when `runtime` cannot be extended.
 */
export function writeExecutable(
  output: string,
  options: { script: string; others?: Record<string, string>; runtime?: string },
): void {
  const encode = (script: string) => new TextEncoder().encode(SCRIPT_HEAD + script + SCRIPT_TAIL);
  const main = encode(options.script);
  const parts = [main];
  const places: Record<string, readonly [number, number]> = {};
  for (const [flag, script] of Object.entries(options.others ?? {})) {
    const bytes = encode(script);
    places[flag] = [parts.reduce((sum, part) => sum + part.length, 0), bytes.length];
    parts.push(bytes);
  }
  const module = encodeURIComponent(mainModule(main.length, places));
  const runtime = Deno.readFileSync(options.runtime ?? Deno.execPath());
  const patch = addSegment(runtime, (placement) =>
    makeLauncher(
      {
        bundle: concatenate(parts),
        argv: [...RUNTIME_ARGUMENTS, `data:text/javascript,${module}`],
        environment: RUNTIME_ENVIRONMENT,
        droppedPrefixes: DROPPED_PREFIXES,
      },
      placement,
    ));
  const image = new Uint8Array(patch.segmentOffset + patch.segment.length);
  image.set(runtime);
  image.set(patch.head);
  image.set(patch.segment, patch.segmentOffset);
  Deno.writeFileSync(output, image, { mode: 0o755 });
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
