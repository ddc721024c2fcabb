/**
 * Puts the JavaScript runtime and the bundled module into one file.
 *
 * @module
 */

import { addSegment } from "./elf.ts";
import { makeLauncher } from "./launcher.ts";

/** More than any program's header and program headers take. */
const HEAD_BYTES = 4096;

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

function writeAllAt(file: Deno.FsFile, offset: number, bytes: Uint8Array): void {
  file.seekSync(offset, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}

/**
 * Writes an executable that runs `module`.
 *
 * @param output Path of the new file; must not be in use as a running program.
 * @param options `module`: the bundled JavaScript. `runtime`: path of the Deno program that goes in,
 * by default the one that runs this.
 * @throws {ElfError} when `runtime` cannot be extended.
 */
export function writeExecutable(
  output: string,
  options: { module: Uint8Array; runtime?: string },
): void {
  Deno.copyFileSync(options.runtime ?? Deno.execPath(), output);
  using file = Deno.openSync(output, { read: true, write: true });
  const head = new Uint8Array(HEAD_BYTES);
  const length = file.readSync(head) ?? 0;
  const patch = addSegment(head.subarray(0, length), {
    fileBytes: file.statSync().size,
    makeSegment: (placement) =>
      makeLauncher(
        {
          module: options.module,
          argv: RUNTIME_ARGUMENTS,
          environment: RUNTIME_ENVIRONMENT,
          droppedPrefixes: DROPPED_PREFIXES,
        },
        placement,
      ),
  });
  writeAllAt(file, 0, patch.head);
  writeAllAt(file, patch.segmentOffset, patch.segment);
  Deno.chmodSync(output, 0o755);
}
