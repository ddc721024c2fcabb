/**
 * The listening end of a control socket: made so that nobody else ever gets at it, in place of a stale
 * one but never of a live one, removed at the end.
 *
 * @module
 */

import { dirname } from "node:path";
import {
  clearSocketPath,
  Fd,
  flock,
  isHostError,
  listeningType,
  openFile,
  OpenFlag,
  setNonblocking,
  SocketFile,
  UnixListener,
  UnixSeqpacket,
  validateInheritedFd,
} from "../host/mod.ts";
import { ControlError } from "./errors.ts";
import { socketsIn } from "./run_directory.ts";

const BACKLOG = 256;
/**
 * How long other starts may hold the folder's lock, in ms. Each does so for less than one, but on a busy
 * host it may wait for a processor meanwhile.
 */
const LOCK_TIMEOUT_MS = 60_000;
const LOCK_RETRY_MS = 10;

/** A control socket that listens. Disposing closes it and removes its path. */
export class ControlListener implements Disposable {
  readonly #listener: UnixListener;
  readonly #file: SocketFile | undefined;

  private constructor(listener: UnixListener) {
    this.#listener = listener;
    this.#file = listener.path === undefined ? undefined : new SocketFile(listener.path);
  }

  /**
   * Listens at `path`, mode 0600.
   *
   * @throws {ControlError} when a VM listens there, when something else is there, or when the host
   * refuses.
   */
  static async open(path: string): Promise<ControlListener> {
    try {
      using _lock = await lockFolder(dirname(path));
      removeStale(path);
      const options = { nonblock: true, backlog: BACKLOG, mode: 0o600 };
      return new ControlListener(UnixSeqpacket.listen(path, options));
    } catch (error) {
      if (error instanceof ControlError) throw error;
      throw new ControlError(`cannot make the control socket ${path}`, { cause: error });
    }
  }

  /** Removes the sockets in `folder` that VMs left behind which were killed. */
  static async sweep(folder: string): Promise<void> {
    using _lock = await lockFolder(folder);
    for (const { path } of socketsIn(folder)) {
      try {
        removeStale(path);
      } catch {
        // It is alive, or it is somebody else's.
      }
    }
  }

  /**
   * Takes over a socket that the caller of this process opened, bound and listens on.
   *
   * @throws {ControlError} when the descriptor is not one.
   */
  static inherit(raw: number): ControlListener {
    try {
      using fd = validateInheritedFd(raw);
      if (listeningType(fd) !== "seqpacket") throw new ControlError("it is something else");
      setNonblocking(fd, true);
      return new ControlListener(new UnixListener(Fd.adopt(fd.take())));
    } catch (error) {
      throw new ControlError(
        `control socket: descriptor ${raw}: expected a listening SOCK_SEQPACKET socket`,
        { cause: error },
      );
    }
  }

  /** The socket. */
  get socket(): UnixListener {
    return this.#listener;
  }

  /** Where it listens; undefined for an inherited one. */
  get path(): string | undefined {
    return this.#listener.path;
  }

  [Symbol.dispose](): void {
    this.#file?.[Symbol.dispose]();
    this.#listener[Symbol.dispose]();
  }
}

/** Serializes starts that look for a stale socket in the same folder. */
async function lockFolder(path: string): Promise<Disposable | undefined> {
  let folder: Fd;
  try {
    folder = openFile(path, OpenFlag.ReadOnly | OpenFlag.Directory);
  } catch (error) {
    // A folder that cannot be listed: do without.
    if (isHostError(error, "EACCES")) return undefined;
    throw error;
  }
  const deadline = performance.now() + LOCK_TIMEOUT_MS;
  while (!flock(folder, "exclusive")) {
    if (performance.now() > deadline) {
      folder.close();
      throw new ControlError(`${path}: locked by another process for ${LOCK_TIMEOUT_MS} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, LOCK_RETRY_MS));
  }
  return folder;
}

function removeStale(path: string): void {
  switch (clearSocketPath(path, () => UnixSeqpacket.connect(path, { nonblock: true }))) {
    case "no socket":
      throw new ControlError(`${path} exists and is not a socket; it is left alone`);
    case "taken":
      throw new ControlError(
        `${path}: another process listens there; a VM needs a name or socket of its own`,
      );
  }
}
