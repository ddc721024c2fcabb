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

/** Nobody listens at a control socket. */
export class NotRunningError extends ControlError {
  override readonly name: string = "NotRunningError";
}
