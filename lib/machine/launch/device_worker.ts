/**
 * What the worker of a device does.
 *
 * @module
 */

import { describeError, isLogLevel, setLogLevel } from "../../base/mod.ts";
import {
  deviceKind,
  type DeviceProcessSpec,
  requireDeviceKind,
  serveHandedDevice,
} from "../../devices/mod.ts";

/** First message to the worker of a device. */
export interface DeviceWorkerStart {
  readonly role: "device";
  readonly name: string;
  /** Its descriptors are the worker's. */
  readonly spec: DeviceProcessSpec;
}

/** Only message from it. */
export interface DeviceWorkerEnd {
  /** What went wrong. */
  readonly error: string | undefined;
}

/** Serves a device until its front end or the VMM goes. */
export async function runDeviceWorker({ spec }: DeviceWorkerStart): Promise<DeviceWorkerEnd> {
  if (spec.logLevel !== undefined && isLogLevel(spec.logLevel)) setLogLevel(spec.logLevel);
  try {
    serveHandedDevice(await deviceKind(requireDeviceKind(spec.kind)), spec);
    return { error: undefined };
  } catch (error) {
    return { error: describeError(error) };
  }
}
