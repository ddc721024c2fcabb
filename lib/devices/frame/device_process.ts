/**
 * A device in a process of its own, as a VMM starts it: everything that it needs is open, and it is told
 * the numbers of its descriptors. In the executable this is a program by itself, small enough for many
 * of them.
 *
 * @module
 */

import { describeError, ExitStatus, isLogLevel, log, setLogLevel } from "../../base/mod.ts";
import { Fd, fstat, pread } from "../../host/mod.ts";
import { confineProcessWith } from "../../jail/mod.ts";
import type { DeviceKind, Json, PreparedDevice } from "./device_kind.ts";
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
  /** Where the process is to confine itself. */
  readonly jail?: {
    /** Number of a file that holds the filter: an array of struct sock_filter. */
    readonly filterFd: number;
    /** Number of the descriptor that a violation is reported to. */
    readonly violationFd: number;
  };
}

/** The arguments that make the program a device process. */
export function deviceProcessArguments(spec: DeviceProcessSpec): string[] {
  return [DEVICE_PROCESS_FLAG, JSON.stringify(spec)];
}

/**
 * Serves the device of `argument`, a {@link DeviceProcessSpec} as JSON, until its front end has gone.
 *
 * @param load gives the kind of that name; one of our own by default
 * @returns the exit status; what failed is in the log.
 */
export async function runDeviceProcess(
  argument: string,
  load: (name: string) => Promise<DeviceKind> = (name) => deviceKind(requireDeviceKind(name)),
): Promise<number> {
  let name = "device";
  try {
    // Who starts us is trusted: it could as well start another program.
    const spec = JSON.parse(argument) as DeviceProcessSpec;
    if (spec.logLevel !== undefined && isLogLevel(spec.logLevel)) setLogLevel(spec.logLevel);
    name = spec.kind;
    const kind = await load(name);
    const prepared = kind.prepare?.(spec.settings, spec.resourceFds);
    // What the device is made of, such as the tables of an image, is read under the filter already.
    if (spec.jail !== undefined) confine(spec.jail);
    serveHandedDevice(kind, spec, prepared);
    return ExitStatus.Stop;
  } catch (error) {
    log.error(`${name}: ${describeError(error)}`);
    return ExitStatus.Error;
  }
}

/**
 * Makes the device of `spec` and serves it from this thread until its front end has gone.
 *
 * @param prepared what the kind prepared
 */
export function serveHandedDevice(
  kind: DeviceKind,
  spec: DeviceProcessSpec,
  prepared: PreparedDevice | undefined = kind.prepare?.(spec.settings, spec.resourceFds),
): void {
  const { settings, resourceFds, frontEndFd, controlFd } = spec;
  using device = kind.make(settings, resourceFds.map((fd) => Fd.adopt(fd)), prepared);
  serveDevice(device, {
    frontEnds: { socket: Fd.adopt(frontEndFd) },
    control: controlFd === undefined ? undefined : Fd.adopt(controlFd),
  });
}

function confine({ filterFd, violationFd }: { filterFd: number; violationFd: number }): void {
  let filter: Uint8Array<ArrayBuffer>;
  {
    using file = Fd.adopt(filterFd);
    filter = new Uint8Array(fstat(file).sizeBytes);
    pread(file, filter, 0);
  }
  hideProgramPath();
  confineProcessWith(filter, { reportFd: violationFd });
}

/**
 * Answers where the program is: the runtime asks when Node's modules are first used, as for a disk with
 * compressed clusters on a host without the libraries for them, and panics where there is no /proc/self/exe, as
 * in a jail.
 */
function hideProgramPath(): void {
  Object.defineProperty(Deno, "execPath", { value: () => "/" });
}
