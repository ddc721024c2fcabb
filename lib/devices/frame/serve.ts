/**
 * Serves a device from the calling thread: one front end, or one after another.
 *
 * @module
 */

import { unlinkSync } from "node:fs";
import { describeError, log } from "../../base/mod.ts";
import {
  connectUnix,
  type Fd,
  type FdLike,
  isHostError,
  listenUnix,
  poll,
  PollEvent,
  type UnixListener,
  UnixSocket,
} from "../../host/mod.ts";
import { VhostUserBackend, VhostUserError } from "../../virtio/mod.ts";
import type { ServableDevice } from "./device_kind.ts";
import { DeviceError } from "./errors.ts";

/** What a device listens to besides its front end. */
export interface DeviceControl {
  /** Readable where {@link receive} has something to do. */
  readonly fd: FdLike;
  /** Handles what is there; false ends the device. */
  receive(device: ServableDevice): boolean;
}

/** Where front ends come from. */
export type FrontEnds =
  /** Those that connect here, one after another. */
  | { readonly listener: UnixListener }
  /** One that is connected: a stream socket, taken over. */
  | { readonly socket: Fd };

/** Settings of {@link serveDevice}. */
export interface ServeOptions {
  readonly frontEnds: FrontEnds;
  readonly control?: readonly DeviceControl[];
  /** As that of `VhostUserBackendOptions`. */
  readonly spinNs?: number;
}

/**
 * Serves `device`, which stays the caller's, until the only front end has gone, or a {@link DeviceControl}
 * ends it.
 *
 * @throws {VhostUserError} where the only front end breaks the rules; of several, the next may come.
 */
export function serveDevice(device: ServableDevice, options: ServeOptions): void {
  const { frontEnds, control = [] } = options;
  if ("socket" in frontEnds) {
    serveOne(device, new UnixSocket(frontEnds.socket), options);
    return;
  }
  const { listener } = frontEnds;
  for (;;) {
    const ready = poll([listener, ...control].map(({ fd }) => ({ fd, events: PollEvent.In })));
    for (const [index, part] of control.entries()) {
      if (ready[index + 1] !== 0 && !part.receive(device)) return;
    }
    if (ready[0] === 0) continue;
    const socket = listener.accept();
    if (socket === undefined) continue;
    try {
      if (!serveOne(device, socket, options)) return;
    } catch (error) {
      if (!(error instanceof VhostUserError)) throw error;
      log.error(`${device.name}: ${describeError(error)}`);
    }
  }
}

/** @returns false where a {@link DeviceControl} ended it */
function serveOne(device: ServableDevice, socket: UnixSocket, options: ServeOptions): boolean {
  const { control = [], spinNs = 0 } = options;
  using backend = new VhostUserBackend(socket, device, { spinNs });
  let goesOn = true;
  for (const part of control) {
    backend.watch(part.fd, PollEvent.In, () => {
      if (!part.receive(device)) goesOn = false;
    });
  }
  while (goesOn && backend.turn(-1));
  return goesOn;
}

/** A listener whose path goes away with it. */
export interface DeviceListener extends Disposable {
  readonly listener: UnixListener;
}

/**
 * Listens for front ends at `path`. What a program that was killed left there is replaced.
 *
 * @throws {DeviceError} where another program listens there, or something else is in the way.
 */
export function listenForFrontEnds(path: string): DeviceListener {
  let listener: UnixListener;
  try {
    removeDeadSocket(path);
    listener = listenUnix(path, "stream");
  } catch (cause) {
    throw new DeviceError(`${path}: cannot listen for front ends`, { cause });
  }
  return {
    listener,
    [Symbol.dispose]() {
      listener[Symbol.dispose]();
      try {
        unlinkSync(path);
      } catch {
        // Somebody else has removed it.
      }
    },
  };
}

function removeDeadSocket(path: string): void {
  try {
    connectUnix(path, "stream", { nonblock: true })[Symbol.dispose]();
  } catch (error) {
    if (isHostError(error, "ECONNREFUSED")) unlinkSync(path);
  }
}
