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

/** A device did what its jail forbids, before it served. Another attempt would end the same way, or worse. */
export class DeviceViolationError extends MachineError {
  override readonly name: string = "DeviceViolationError";
}
