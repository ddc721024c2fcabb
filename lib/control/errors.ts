/**
 * Errors of this layer.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";

/** A control socket cannot be made or reached, or a message is not one. */
export class ControlError extends VmctlError {
  override readonly name: string = "ControlError";
}

/** A VM listens, but does not answer in time. */
export class NoAnswerError extends ControlError {
  override readonly name: string = "NoAnswerError";
}

/** Nobody listens at a control socket. */
export class NotRunningError extends ControlError {
  override readonly name: string = "NotRunningError";
}
