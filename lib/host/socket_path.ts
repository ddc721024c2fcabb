/**
 * The place of a listening socket in the file system: what was left behind there goes, but never a socket where
 * somebody listens, nor any other file.
 *
 * @module
 */

import { describeFileError, VmctlError } from "../base/mod.ts";
import { isHostError } from "./errno.ts";

/** What is in the way of a socket: nothing, somebody who listens, or a file that is no socket. */
export type SocketPlace = "free" | "taken" | "no socket";

/**
 * Looks at `path`, and removes a socket there at which nobody listens any more.
 *
 * @param connect connects to the socket, without waiting
 * @throws {VmctlError} where the place cannot be looked at, or what connecting fails with
 */
export function clearSocketPath(path: string, connect: () => Disposable): SocketPlace {
  try {
    return clear(path, connect);
  } catch (error) {
    if (error instanceof VmctlError) throw error;
    throw new VmctlError(describeFileError(error));
  }
}

function clear(path: string, connect: () => Disposable): SocketPlace {
  try {
    // Connecting to a file fails just as connecting to a socket does that nobody listens at.
    if (!Deno.lstatSync(path).isSocket) return "no socket";
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "free";
    throw error;
  }
  try {
    connect()[Symbol.dispose]();
  } catch (error) {
    if (isHostError(error, "ECONNREFUSED")) {
      Deno.removeSync(path);
      return "free";
    }
    // EAGAIN is a full backlog, EPROTOTYPE another kind of server: somebody is there in both cases.
    if (!isHostError(error, "EAGAIN", "EPROTOTYPE")) throw error;
  }
  return "taken";
}

/** The file of a socket that this process has bound. Disposing removes it, unless another is in its place. */
export class SocketFile implements Disposable {
  readonly #path: string;
  readonly #identity: string | undefined;

  constructor(path: string) {
    this.#path = path;
    this.#identity = identityOf(path);
  }

  [Symbol.dispose](): void {
    if (this.#identity === undefined || identityOf(this.#path) !== this.#identity) return;
    try {
      Deno.removeSync(this.#path);
    } catch {
      // Gone already, or the folder has become read-only: nothing more to be done at the end.
    }
  }
}

function identityOf(path: string): string | undefined {
  try {
    const status = Deno.lstatSync(path);
    return `${status.dev}:${status.ino}`;
  } catch {
    return undefined;
  }
}
