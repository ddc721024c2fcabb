/**
 * `deno task check`: format, lint (with the project's own rules, scripts/check/lint_plugin.ts), types.
 *
 * @module
 */

import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** What is checked, in the order in which a mistake is cheapest to find. */
const STEPS: readonly { readonly name: string; readonly args: readonly string[] }[] = [
  { name: "format", args: ["fmt", "--check"] },
  { name: "lint", args: ["lint"] },
  { name: "types", args: ["check", "--quiet", "."] },
];

async function main(): Promise<number> {
  const failed: string[] = [];
  for (const { name, args } of STEPS) {
    const started = performance.now();
    const { success } = await new Deno.Command(Deno.execPath(), {
      args: [...args],
      cwd: ROOT,
      stdin: "null",
      stdout: "inherit",
      stderr: "inherit",
    }).spawn().status;
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.error(`check ${name}: ${success ? "ok" : "FAILED"} (${seconds} s)`);
    if (!success) failed.push(name);
  }
  return failed.length === 0 ? 0 : 1;
}

if (import.meta.main) Deno.exit(await main());
