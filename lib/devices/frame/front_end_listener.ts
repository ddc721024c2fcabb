/**
 * The socket at which a device waits for front ends: in place of one that was left behind, but never of
 * one where somebody listens, nor of any other file.
 *
 * @module
 */

import { describeFileError } from "../../base/mod.ts";
import { connectUnix, isHostError, listenUnix, type UnixListener } from "../../host/mod.ts";
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
  const identity = identityOf(path);
  return {
    listener,
    [Symbol.dispose]() {
      // Not if somebody has put another socket there meanwhile.
      if (identityOf(path) === identity) removeQuietly(path);
      listener[Symbol.dispose]();
    },
  };
}

function removeDeadSocket(path: string): void {
  let status: Deno.FileInfo;
  try {
    status = Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw new DeviceError(describeFileError(error));
  }
  // Connecting to a file fails just as connecting to a socket does that nobody listens at.
  if (!status.isSocket) throw new DeviceError("something else than a socket is there; it stays");
  try {
    connectUnix(path, "stream", { nonblock: true })[Symbol.dispose]();
  } catch (error) {
    if (isHostError(error, "ECONNREFUSED")) {
      Deno.removeSync(path);
      return;
    }
    // EAGAIN is a full backlog, EPROTOTYPE another kind of server: somebody is there in both cases.
    if (!isHostError(error, "EAGAIN", "EPROTOTYPE")) throw error;
  }
  throw new DeviceError("another process listens there");
}

function identityOf(path: string): string | undefined {
  try {
    const status = Deno.lstatSync(path);
    return `${status.dev}:${status.ino}`;
  } catch {
    return undefined;
  }
}

function removeQuietly(path: string): void {
  try {
    Deno.removeSync(path);
  } catch {
    // The folder has become read-only: nothing more to be done at the end.
  }
}
