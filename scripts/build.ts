/**
 * `deno task build`: makes `dist/vmctl`, one executable that needs nothing else.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { resolve } from "node:path";
import { build, BuildError, DEFAULT_OUTPUT } from "./build/build.ts";

const USAGE = `usage: deno task build [--compile] [--output FILE]

Makes dist/vmctl: the Deno that runs this, the bundled program and a small launcher in one file.

  --compile       use "deno compile", which needs its runtime stub: from the network, or the file
                  that DENORT_BIN names (which implies this option)
  --output FILE   write FILE instead of dist/vmctl
`;

async function main(): Promise<number> {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      compile: { type: "boolean", default: Deno.env.has("DENORT_BIN") },
      output: { type: "string", default: DEFAULT_OUTPUT },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const output = resolve(values.output);
  const started = performance.now();
  try {
    const { bytes, bundleBytes } = await build({ output, compile: values.compile });
    const seconds = (performance.now() - started) / 1000;
    console.error(
      `${output}: ${(bytes / 1e6).toFixed(1)} MB, of which ${(bundleBytes / 1e3).toFixed(0)} kB ` +
        `are vmctl (${seconds.toFixed(1)} s)`,
    );
    return 0;
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    console.error(`build: ${error.message}`);
    return 1;
  }
}

if (import.meta.main) Deno.exit(await main());
