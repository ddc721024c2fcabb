/**
 * What a kind of virtio device is to whoever starts one: two steps, so that the process that serves the
 * device opens nothing.
 *
 * @module
 */

import type { Fd } from "../../host/mod.ts";
import type { VirtioDeviceBackend } from "../../virtio/mod.ts";

/** What JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | {
  readonly [key: string]: Json | undefined;
};

/**
 * A device with everything open that it needs: what goes to the process that serves it. Disposing closes
 * the descriptors.
 */
export interface OpenedDevice extends Disposable {
  /** How the device is to be. */
  readonly settings: Json;
  /** Its descriptors, in an order that the kind knows. */
  readonly fds: readonly Fd[];
}

/** A device that can be served, and told things while it is. */
export interface ServableDevice extends VirtioDeviceBackend, Disposable {
  /**
   * Does what the VMM asks for, such as `{"resize": 1048576}`; the result is the answer.
   *
   * @throws {VmctlError} with the reason, for the VMM.
   */
  control?(request: Json): Json;
}

/** A kind of device. */
export interface DeviceKind<Options = never> {
  /** Such as `block`. */
  readonly name: string;
  /**
   * Opens files and makes what else the device needs, where that is allowed: in the VMM, or in a device
   * program that stands alone. Relative paths are relative to the working directory.
   */
  open(options: Options): OpenedDevice;
  /**
   * Makes the device of what {@link open} gave, here or in another process. It takes the descriptors
   * over, also when it throws, and opens nothing itself.
   */
  make(settings: unknown, fds: readonly Fd[]): ServableDevice;
}
