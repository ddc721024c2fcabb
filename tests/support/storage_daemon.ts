/**
 * QEMU's storage daemon as a foreign vhost-user back end.
 *
 * @module
 */

import { hasProgram } from "../../lib/virtio/testing/programs.ts";

/** Ends the name of a test that needs the daemon. */
export const WITHOUT_STORAGE_DAEMON: string = hasProgram("qemu-storage-daemon")
  ? ""
  : " (skipped: no qemu-storage-daemon)";

/** A raw image and the socket to serve it at. */
export interface StorageExport {
  readonly image: string;
  readonly socket: string;
  readonly queueCount?: number;
}

/** The daemon; killed when disposed. */
export class StorageDaemon implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
  }

  /** Starts it, and waits until all sockets can be connected to, without doing so: each has one front end. */
  static async start(exports: readonly StorageExport[]): Promise<StorageDaemon> {
    const child = new Deno.Command("qemu-storage-daemon", {
      args: exports.flatMap(({ image, socket, queueCount = 1 }, index) => [
        ...["--blockdev", `driver=file,node-name=disk${index},filename=${image}`],
        "--export",
        `type=vhost-user-blk,id=export${index},addr.type=unix,addr.path=${socket},` +
        `node-name=disk${index},writable=on,num-queues=${queueCount}`,
      ]),
      stdin: "null",
      stdout: "null",
      stderr: "inherit",
    }).spawn();
    let ended = false;
    void child.status.then(() => ended = true);
    while (!exports.every(({ socket }) => isListening(socket))) {
      if (ended) throw new Error("qemu-storage-daemon has ended");
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return new StorageDaemon(child);
  }

  /** Ends it without a warning. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // It has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#child.status;
  }
}

/** Whether somebody listens at `path`; that it is there says only that it was bound (proc_net(5)). */
function isListening(path: string): boolean {
  const ACCEPTING = "00010000";
  return Deno.readTextFileSync("/proc/net/unix").split("\n").some((line) => {
    const [, , , flags, , , , ...rest] = line.trim().split(" ").filter((word) => word !== "");
    return flags === ACCEPTING && rest.join(" ") === path;
  });
}
