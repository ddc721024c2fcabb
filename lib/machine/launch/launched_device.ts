/**
 * What the machine has of a device that it started.
 *
 * @module
 */

import type { LogLevel } from "../../base/mod.ts";
import type { OpenedDevice } from "../../devices/mod.ts";
import type { UnixSocket } from "../../host/mod.ts";
import type { BackendLink } from "../virtio/device.ts";

/** A device that is to be started. What is open stays the caller's, for another start. */
export interface DeviceOrder {
  /** Who it is, for messages, such as `block device vda`. */
  readonly name: string;
  /** Name of its kind, such as `block`. */
  readonly kind: string;
  readonly opened: OpenedDevice;
  readonly logLevel: LogLevel;
}

/** A device of which nothing is lacking but its program's start. Disposed before that, it is given up. */
export interface PreparedLaunch extends Disposable {
  /** Starts it. */
  start(): Promise<LaunchedDevice>;
}

/** A device that was started. Its front end's socket is whoever's takes it. */
export interface LaunchedDevice extends BackendLink {
  /** The VMM's end of its control channel, non-blocking, taken over by whoever takes it. */
  readonly control: UnixSocket;
  /** Resolves when it has ended, with the reason. */
  readonly ended: Promise<string>;
  /** Its process, where it has one of its own. */
  readonly pid?: number;
}
