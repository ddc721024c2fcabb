/**
 * Counts tests and says what became of them.
 *
 * @module
 */

import { skipReason } from "./junit.ts";
import type { FileResult } from "./run_file.ts";

/** How many failures the end of the log tells the reasons of, and how many lines of each. */
const REASONS = 10;
const FIRST_LINES = 14;
const LAST_LINES = 6;
const LINE_CHARS = 200;

interface Failure {
  readonly name: string;
  /** What it threw, or what its file printed last. */
  readonly reason: readonly string[];
}

/** The results so far. */
export class Tally {
  #passed = 0;
  readonly #failed: Failure[] = [];
  readonly #skipped: { readonly name: string; readonly path: string }[] = [];

  /** Whether nothing has failed. */
  get ok(): boolean {
    return this.#failed.length === 0;
  }

  /** Counts a step that is no test file, such as the build. */
  addStep(name: string, passed: boolean): void {
    if (passed) this.#passed++;
    else this.#failed.push({ name, reason: [] });
  }

  /** Counts the tests of a file. */
  addFile(file: FileResult): void {
    for (const { name, result, errors = [] } of file.outcomes) {
      if (result === "passed") this.#passed++;
      else if (result === "skipped") this.#skipped.push({ path: file.path, name });
      else this.#failed.push({ name: `${file.path}: ${name}`, reason: errors.flatMap(excerpt) });
    }
    if (file.trouble === undefined) return;
    const lines = file.output.trimEnd().split("\n").slice(-LAST_LINES);
    this.#failed.push({
      name: `${file.path}: ${file.trouble}`,
      reason: lines.flatMap(excerpt),
    });
  }

  /**
   * The end of the log; its last line is `N passed, N failed`. Who sees only the end of it still
   * reads why tests failed.
   */
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
    for (const { name, reason } of this.#failed.slice(0, REASONS)) {
      if (reason.length > 0) lines.push(`Why ${name}`, ...reason.map((line) => `  | ${line}`));
    }
    if (!this.ok) lines.push("Failed:", ...this.#failed.map(({ name }) => `  ${name}`));
    lines.push(
      `${this.#skipped.length} skipped`,
      `${this.#passed} passed, ${this.#failed.length} failed`,
    );
    return lines;
  }
}

/** The lines that tell most of an error: its message comes first, its place last. */
function excerpt(text: string): string[] {
  const lines = text.split("\n").map((line) =>
    line.length > LINE_CHARS ? `${line.slice(0, LINE_CHARS)}...` : line
  );
  const cut = lines.length - FIRST_LINES - LAST_LINES;
  if (cut <= 1) return lines;
  return [...lines.slice(0, FIRST_LINES), `(${cut} lines)`, ...lines.slice(-LAST_LINES)];
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
