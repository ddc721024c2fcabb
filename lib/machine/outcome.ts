/**
 * How a VM ends.
 *
 * @module
 */

import { ExitStatus } from "../base/mod.ts";

/** Why a VM ended. */
export interface Outcome {
  /** What the process says to its parent. */
  readonly status: ExitStatus;
  /** A sentence for the log. */
  readonly why: string;
}

/**
 * The exit status of the process for `status`: without `extended` the caller is only told whether the
 * VM could be run, as crosvm does.
 */
export function processStatus(status: ExitStatus, extended: boolean): number {
  if (extended) return status;
  switch (status) {
    case ExitStatus.Reset:
    case ExitStatus.Crash:
    case ExitStatus.GuestPanic:
    case ExitStatus.Watchdog:
      return ExitStatus.Stop;
    case ExitStatus.InvalidArgs:
      return ExitStatus.Error;
    default:
      return status;
  }
}
