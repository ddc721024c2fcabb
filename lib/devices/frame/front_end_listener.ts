/**
 * The socket at which a device waits for front ends: in place of one that was left behind, but never of
 * one where somebody listens, nor of any other file.
 *
 * @module
 */

import {
  clearSocketPath,
  connectUnix,
  listenUnix,
  SocketFile,
  type UnixListener,
} from "../../host/mod.ts";
import { DeviceError } from "./errors.ts";

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
  const file = new SocketFile(path);
  return {
    listener,
    [Symbol.dispose]() {
      file[Symbol.dispose]();
      listener[Symbol.dispose]();
    },
  };
}

function removeDeadSocket(path: string): void {
  switch (clearSocketPath(path, () => connectUnix(path, "stream", { nonblock: true }))) {
    case "no socket":
      throw new DeviceError("something else than a socket is there; it stays");
    case "taken":
      throw new DeviceError("another process listens there");
  }
}
