/**
 * `vmctl doctor`.
 *
 * @module
 */

import type { CommandInput } from "../command.ts";
import { collectFacts, type HostFact } from "../doctor_facts.ts";
import { print, printJson, type Style, styleFor } from "../output.ts";
import type { DOCTOR_OPTIONS } from "../command_options.ts";

/** Shows the facts; 0 where a VM can run. */
export async function doctor(input: CommandInput<typeof DOCTOR_OPTIONS>): Promise<number> {
  const facts = collectFacts();
  const canRun = facts.every(({ level }) => level !== "fail");
  if (input.options.json === true) await printJson({ canRun, facts });
  else await print(renderFacts(facts, styleFor(Deno.stdout)));
  return canRun ? 0 : 1;
}

/** The facts as lines, and what to do about each lack below it. */
export function renderFacts(facts: readonly HostFact[], style: Style): string {
  const width = Math.max(...facts.map(({ title }) => title.length));
  const marks = { ok: style.green("ok  "), warn: style.yellow("warn"), fail: style.red("FAIL") };
  const lines = facts.map(({ level, title, value, advice }) => {
    const line = `${marks[level]}  ${title.padEnd(width)}  ${value}\n`;
    return advice === undefined ? line : `${line}${" ".repeat(width + 8)}-> ${advice}\n`;
  });
  const failed = facts.filter(({ level }) => level === "fail").length;
  const verdict = failed === 0
    ? "VMs can run on this host."
    : "VMs cannot run on this host before what failed is mended.";
  return `${lines.join("")}\n${style.bold(verdict)}\n`;
}
