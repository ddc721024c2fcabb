/**
 * Errors of this layer.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";

/** A VM cannot be put together or cannot go on. */
export class MachineError extends VmctlError {
  override readonly name: string = "MachineError";
}
