/**
 * Puts the JavaScript runtime and the bundle into one file.
 *
 * @module
 */

import { addSegment } from "./elf.ts";
import { makeLauncher } from "./launcher.ts";

/**
 * The main module, also of every worker. It evaluates the bundle, which is a script, because the
 * runtime parses each module a second time to find its imports, and once more where it has no cache
 * to note them in: that takes longer than all the rest of a start.
 */
const MAIN_MODULE = `const [path, home, ...args] = Deno.args;
if (!("WorkerGlobalScope" in globalThis)) {
  if (home === "") Deno.env.delete("HOME");
  else Deno.env.set("HOME", home.slice(5));
}
Object.defineProperty(Deno, "args", { value: args });
(0, eval)(Deno.readTextFileSync(path))((name) => process.getBuiltinModule(name), {}, {});
`;

/** Makes a CommonJS script one expression: a function for {@link MAIN_MODULE} to call. */
const SCRIPT_HEAD = "(function (require, exports, module) {";
const SCRIPT_TAIL = "\n})\n//# sourceURL=vmctl.js\n";

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
  `data:text/javascript,${encodeURIComponent(MAIN_MODULE)}`,
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
 * workers of itself with `Deno.mainModule`. `runtime`: path of the Deno program that goes in,
 * by default the one that runs this.
 * @throws {ElfError} when `runtime` cannot be extended.
 */
export function writeExecutable(
  output: string,
  options: { script: string; runtime?: string },
): void {
  const runtime = Deno.readFileSync(options.runtime ?? Deno.execPath());
  const patch = addSegment(runtime, (placement) =>
    makeLauncher(
      {
        bundle: new TextEncoder().encode(SCRIPT_HEAD + options.script + SCRIPT_TAIL),
        argv: RUNTIME_ARGUMENTS,
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
