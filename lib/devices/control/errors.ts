import { VmctlError } from "../../base/mod.ts";

/** A device cannot be told something, or refuses it. */
export class DeviceControlError extends VmctlError {
  override readonly name = "DeviceControlError";
}
