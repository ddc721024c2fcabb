/**
 * What takes the place of virtio devices in the bundle of the workers that execute guest code: none of them
 * serves a device.
 *
 * @module
 */

import { VmctlError } from "../../lib/base/mod.ts";

/** None. */
export const DEVICE_KINDS: readonly never[] = [];

/** Cannot be had. */
export function deviceKind(name: string): never {
  throw new VmctlError(`only workers and processes of devices have the device ${name}`);
}

/** Cannot be had. */
export const requireDeviceKind: (name: string) => never = deviceKind;

/** Cannot be done. */
export function runDeviceWorker(): never {
  throw new VmctlError("only workers of devices serve them");
}
