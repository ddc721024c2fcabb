import { VmctlError } from "../../base/mod.ts";

/** A device program cannot be set up or goes on no longer. */
export class DeviceError extends VmctlError {
  override readonly name = "DeviceError";
}
