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
import { gettid } from "../../host/mod.ts";

/** First message to the worker of a device. */
export interface DeviceWorkerStart {
  readonly role: "device";
  readonly name: string;
  /** Its descriptors are the worker's. */
  readonly spec: DeviceProcessSpec;
}

/** Messages from it: one when it begins, one when it has ended. */
export type DeviceWorkerMessage =
  | {
    readonly type: "started";
    /** Number of its thread. */
    readonly thread: number;
  }
  | {
    readonly type: "ended";
    /** What went wrong. */
    readonly error: string | undefined;
  };

/** Serves a device until its front end or the VMM goes. */
export async function runDeviceWorker(
  { spec }: DeviceWorkerStart,
  tell: (message: DeviceWorkerMessage) => void,
): Promise<void> {
  if (spec.logLevel !== undefined && isLogLevel(spec.logLevel)) setLogLevel(spec.logLevel);
  tell({ type: "started", thread: gettid() });
  let error: string | undefined;
  try {
    serveHandedDevice(await deviceKind(requireDeviceKind(spec.kind)), spec);
  } catch (reason) {
    error = describeError(reason);
  }
  tell({ type: "ended", error });
}
