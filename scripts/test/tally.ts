/**
 * Counts tests and says what became of them.
 *
 * @module
 */

import { skipReason } from "./junit.ts";
import type { FileResult } from "./run_file.ts";

/** The results so far. */
export class Tally {
  #passed = 0;
  readonly #failed: string[] = [];
  readonly #skipped: { readonly name: string; readonly path: string }[] = [];

  /** Whether nothing has failed. */
  get ok(): boolean {
    return this.#failed.length === 0;
  }

  /** Counts a step that is no test file, such as the build. */
  addStep(name: string, passed: boolean): void {
    if (passed) this.#passed++;
    else this.#failed.push(name);
  }

  /** Counts the tests of a file. */
  addFile(file: FileResult): void {
    for (const { name, result } of file.outcomes) {
      if (result === "passed") this.#passed++;
      else if (result === "failed") this.#failed.push(`${file.path}: ${name}`);
      else this.#skipped.push({ path: file.path, name });
    }
    if (file.trouble !== undefined) this.#failed.push(`${file.path}: ${file.trouble}`);
  }

  /** The end of the log; its last line is `N passed, N failed`. */
  summary(): string[] {
    const byReason = Map.groupBy(
      this.#skipped,
      ({ name }) => skipReason(name) ?? "no reason given",
    );
    const lines: string[] = [];
    for (const [reason, tests] of byReason) {
      lines.push(`Skipped, ${reason}:`);
      for (const { path, name } of tests) {
        lines.push(`  ${path}: ${name.replace(/ \(skipped: .*$/, "")}`);
      }
    }
    if (!this.ok) lines.push("Failed:", ...this.#failed.map((name) => `  ${name}`));
    lines.push(
      `${this.#skipped.length} skipped`,
      `${this.#passed} passed, ${this.#failed.length} failed`,
    );
    return lines;
  }
}

/** One line for a finished file, and its output where something failed. */
export function fileReport(file: FileResult): string {
  const count = (wanted: string) => file.outcomes.filter(({ result }) => result === wanted).length;
  const failed = count("failed");
  const skipped = count("skipped");
  const parts = [`${count("passed")} passed`];
  if (failed > 0) parts.push(`${failed} failed`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  if (file.trouble !== undefined) parts.push(file.trouble);
  const good = failed === 0 && file.trouble === undefined;
  const line = `${good ? "ok    " : "FAILED"} ${file.path}: ${parts.join(", ")} (${
    file.seconds.toFixed(1)
  } s)`;
  return good ? line : `${line}\n${file.output.trimEnd()}\n`;
}
