/**
 * Puts the JavaScript runtime and the bundled module into one file.
 *
 * @module
 */

import { addSegment } from "./elf.ts";
import { makeLauncher } from "./launcher.ts";

/** `vmctl ARG…` becomes `vmctl run` with these, the module's path and `ARG…`. */
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
  "--ext=js",
];

/**
 * Keeps the runtime from reading or writing anything of the user's. A path below a device file can
 * never come to be, so there is no cache to fill, whoever runs this.
 */
const RUNTIME_ENVIRONMENT = [
  "DENO_DIR=/dev/null/vmctl",
  "DENO_NO_PACKAGE_JSON=1",
  "DENO_NO_UPDATE_CHECK=1",
];

/** What a developer has set for a runtime of their own is not meant for the one inside vmctl. */
const DROPPED_PREFIXES = ["DENO_", "NODE_", "OTEL_"];

/**
 * Writes an executable that runs `module`.
 *
 * @param output Path of the file; must not be a running program.
 * @param options `module`: the bundled JavaScript. `runtime`: path of the Deno program that goes in,
 * by default the one that runs this.
 * @throws {ElfError} when `runtime` cannot be extended.
 */
export function writeExecutable(
  output: string,
  options: { module: Uint8Array; runtime?: string },
): void {
  const runtime = Deno.readFileSync(options.runtime ?? Deno.execPath());
  const patch = addSegment(runtime, (placement) =>
    makeLauncher(
      {
        module: options.module,
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
