/**
 * Errors of this layer.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";

/** The command line names no command, an unknown one, or arguments that the command does not take. */
export class UsageError extends VmctlError {
  override readonly name = "UsageError";
  /** The command whose help tells more, such as `vmctl run`. */
  readonly command: string;

  constructor(message: string, options: { command?: string } = {}) {
    super(message);
    this.command = options.command ?? "vmctl";
  }
}

/** A command cannot do what it was asked. */
export class CommandError extends VmctlError {
  override readonly name = "CommandError";
}
