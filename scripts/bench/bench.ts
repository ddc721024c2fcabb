/**
 * What a benchmark is: something that measures, next to a reference that it measures in the same run
 * on the same machine.
 *
 * @module
 */

/** One figure. Smaller is better. */
export interface Measure {
  /** What was measured. */
  readonly what: string;
  /** Unit of the values: `s`, `ms`, `us`, `MiB` … */
  readonly unit: string;
  /** vmctl's value. */
  readonly vmctl: number;
  /** What it is compared with. */
  readonly reference?: { readonly name: string; readonly value: number } | undefined;
  /** The ratio to the reference is to be at most this. */
  readonly limit?: number | undefined;
}

/** What a benchmark found. */
export interface BenchResult {
  readonly measures: readonly Measure[];
  /** What could not be measured here, and why. */
  readonly notes: readonly string[];
}

/** What a benchmark is given. */
export interface BenchContext {
  /** Path of the executable to measure. */
  readonly vmctl: string;
  /** How often to repeat each measurement, the benchmark's own choice where absent. */
  readonly runs: number | undefined;
  /** Which of the benchmark's parts to measure; all where it is empty. */
  readonly parts: ReadonlySet<string>;
  /** A folder for temporary files, removed afterwards. */
  readonly folder: string;
  /** Says what is going on, for people who wait. */
  progress(message: string): void;
}

/** A benchmark. Another one is a module that exports such an object and a line in scripts/bench.ts. */
export interface Bench {
  readonly name: string;
  /** One line for the usage message. */
  readonly summary: string;
  /** Parts that can be asked for one by one. */
  readonly parts?: readonly string[];
  run(context: BenchContext): Promise<BenchResult>;
}

/** The middle value; the mean of the two middle ones where there is none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  const at = (index: number) => sorted[index] ?? NaN;
  return Number.isInteger(middle) ? (at(middle - 1) + at(middle)) / 2 : at(Math.floor(middle));
}
