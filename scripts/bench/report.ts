/**
 * Prints what benchmarks found.
 *
 * @module
 */

import type { BenchResult, Measure } from "./bench.ts";

/** A benchmark's result with its name. */
export type NamedResult = BenchResult & { readonly name: string };

function figure(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** vmctl's value as a multiple of the reference's. */
export function ratio(measure: Measure): number | undefined {
  return measure.reference && measure.vmctl / measure.reference.value;
}

function row(measure: Measure): string[] {
  const times = ratio(measure);
  const { reference, limit, unit } = measure;
  return [
    measure.what,
    `${figure(measure.vmctl)} ${unit}`,
    reference === undefined ? "" : `${figure(reference.value)} ${unit} (${reference.name})`,
    times === undefined ? "" : `${figure(times)}x`,
    limit === undefined ? "" : `${limit}x`,
    times === undefined || limit === undefined ? "" : times <= limit ? "ok" : "OVER",
  ];
}

/** The results as a table with notes below it. */
export function table(results: readonly NamedResult[]): string {
  const rows = [["", "vmctl", "reference", "ratio", "at most", ""]];
  for (const { measures } of results) rows.push(...measures.map(row));
  const widths = [0, 1, 2, 3, 4].map((at) => Math.max(...rows.map((cells) => cells[at]!.length)));
  const lines = rows.map((cells) =>
    cells.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join("  ").trimEnd()
  );
  const notes = results.flatMap(({ name, notes }) => notes.map((note) => `${name}: ${note}`));
  return [...lines, ...(notes.length === 0 ? [] : ["", ...notes])].join("\n");
}

/** The results for programs. */
export function json(results: readonly NamedResult[], host: Record<string, unknown>): string {
  const benches = results.map(({ name, measures, notes }) => ({
    name,
    measures: measures.map((measure) => ({ ...measure, ratio: ratio(measure) })),
    notes,
  }));
  return JSON.stringify({ host, benches }, null, 2);
}
