/**
 * A device in a process of its own, as a VMM starts it: everything that it needs is open, and it is told
 * the numbers of its descriptors. In the executable this is a program by itself, small enough for many
 * of them.
 *
 * @module
 */

import { describeError, ExitStatus, isLogLevel, log, setLogLevel } from "../../base/mod.ts";
import { Fd } from "../../host/mod.ts";
import type { Json } from "./device_kind.ts";
import { deviceKind, requireDeviceKind } from "./registry.ts";
import { serveDevice } from "./serve.ts";

/** First argument of a device process; the second one is a {@link DeviceProcessSpec} as JSON. */
export const DEVICE_PROCESS_FLAG = "--device-process";

/** What a device process is to do. */
export interface DeviceProcessSpec {
  /** Name of a kind of device, such as `block`. */
  readonly kind: string;
  /** Of `OpenedDevice`. */
  readonly settings: Json;
  /** Numbers of the descriptors of `OpenedDevice`, in their order. */
  readonly resourceFds: readonly number[];
  /** Number of a connected stream socket, with the front end at its other end. */
  readonly frontEndFd: number;
  /** Number of the device's end of its control channel. */
  readonly controlFd?: number;
  /** Least important level that is logged. */
  readonly logLevel?: string;
}

/** The arguments that make the program a device process. */
export function deviceProcessArguments(spec: DeviceProcessSpec): string[] {
  return [DEVICE_PROCESS_FLAG, JSON.stringify(spec)];
}

/**
 * Serves the device of `argument`, a {@link DeviceProcessSpec} as JSON, until its front end has gone.
 *
 * @returns the exit status; what failed is in the log.
 */
export async function runDeviceProcess(argument: string): Promise<number> {
  let name = "device";
  try {
    // Who starts us is trusted: it could as well start another program.
    const spec = JSON.parse(argument) as DeviceProcessSpec;
    const { settings, resourceFds, frontEndFd, controlFd, logLevel } = spec;
    if (logLevel !== undefined && isLogLevel(logLevel)) setLogLevel(logLevel);
    name = requireDeviceKind(spec.kind);
    const kind = await deviceKind(requireDeviceKind(name));
    const prepared = kind.prepare?.(settings);
    using device = kind.make(settings, resourceFds.map((fd) => Fd.adopt(fd)), prepared);
    serveDevice(device, {
      frontEnds: { socket: Fd.adopt(frontEndFd) },
      control: controlFd === undefined ? undefined : Fd.adopt(controlFd),
    });
    return ExitStatus.Stop;
  } catch (error) {
    log.error(`${name}: ${describeError(error)}`);
    return ExitStatus.Error;
  }
}
