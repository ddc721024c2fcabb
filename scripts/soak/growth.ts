/**
 * Judges whether a process grew, from samples of its memory over a long run.
 *
 * @module
 */

import { median } from "../bench/bench.ts";

/** What a process took at a time. */
export interface MemorySample {
  /** Since the start, in minutes. */
  readonly minute: number;
  readonly mib: number;
}

/** The part of a run in which caches fill; growth is judged after it. */
export const WARM_UP = 0.25;
/** Samples in the first and in the last third of the rest that a judgement needs. */
const ENOUGH = 5;
/** More than this is growth: a part of what it was, and some MiB for where it was little. */
const ALLOWED_PART = 0.1;
const ALLOWED_MIB = 8;

/** What came of it. */
export interface Growth {
  /** Undefined where there are too few samples. */
  readonly grew: boolean | undefined;
  /** A line that says it, with its figures. */
  readonly text: string;
}

/**
 * Compares the median of the first third of `samples` after the warm-up with that of the last third:
 * between two collections of garbage a process takes more and more, which is no growth, and neither is a
 * load that takes much while it runs.
 *
 * @param minutes How long the run was.
 */
export function judgeGrowth(samples: readonly MemorySample[], minutes: number): Growth {
  const begin = minutes * WARM_UP;
  const third = (minutes - begin) / 3;
  const between = (from: number, to: number) =>
    samples.filter(({ minute }) => minute >= from && minute < to).map(({ mib }) => mib);
  const first = between(begin, begin + third);
  const last = between(minutes - third, Infinity);
  if (first.length < ENOUGH || last.length < ENOUGH) {
    const count = Math.min(first.length, last.length);
    return { grew: undefined, text: `not judged: ${count} samples in a third, ${ENOUGH} needed` };
  }
  const [before, after] = [median(first), median(last)];
  const most = Math.max(...samples.map(({ mib }) => mib));
  const allowed = before * (1 + ALLOWED_PART) + ALLOWED_MIB;
  const grew = after > allowed;
  const range = (from: number, to: number) => `minutes ${from.toFixed(0)} to ${to.toFixed(0)}`;
  return {
    grew,
    text: `${grew ? "grew" : "passed"}: ${before.toFixed(1)} MiB in ` +
      `${range(begin, begin + third)}, ${after.toFixed(1)} MiB in ` +
      `${range(minutes - third, minutes)} (medians), ${most.toFixed(1)} MiB at most; ` +
      `up to ${allowed.toFixed(1)} MiB is no growth`,
  };
}
