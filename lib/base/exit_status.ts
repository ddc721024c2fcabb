/**
 * Exit statuses of the process, the same numbers as crosvm's.
 *
 * @module
 */

/** How `vmctl` ends. Without `--extended-status` those from 32 up except InvalidArgs become 0. */
export enum ExitStatus {
  /** The VM stopped as asked. */
  Stop = 0,
  /** Any other error, such as a device that ended. */
  Error = 1,
  /** The guest asked for a reset. */
  Reset = 32,
  /** A vCPU failed. */
  Crash = 33,
  /** The guest reported a panic. */
  GuestPanic = 34,
  /** The command line or the config is invalid. */
  InvalidArgs = 35,
  /** A vCPU made no progress. */
  Watchdog = 36,
}
