/**
 * `vmctl device …` in a process of its own.
 *
 * @module
 */

import { connectUnix } from "../../lib/host/mod.ts";
import { vmctlBinary } from "./vmctl.ts";

/** A device that listens at a socket; killed when disposed. */
export class DeviceProcess implements AsyncDisposable {
  readonly child: Deno.ChildProcess;
  readonly #complaints: Promise<string>;

  private constructor(child: Deno.ChildProcess) {
    this.child = child;
    this.#complaints = new Response(child.stderr).text();
  }

  /**
   * Starts `vmctl device KIND --socket-path SOCKET ARGS…` and waits until front ends can connect.
   *
   * @param within words that start the words behind them, such as `["unshare", "-m"]`
   */
  static async start(
    kind: string,
    socket: string,
    args: readonly string[],
    within: readonly string[] = [],
  ): Promise<DeviceProcess> {
    const vmctl = [await vmctlBinary(), "device", kind, "--socket-path", socket, ...args];
    const [program = "", ...words] = [...within, ...vmctl];
    const child = new Deno.Command(program, {
      args: words,
      stdin: "null",
      stdout: "inherit",
      stderr: "piped",
    }).spawn();
    const process = new DeviceProcess(child);
    let ended = false;
    void child.status.then(() => ended = true);
    for (;;) {
      try {
        connectUnix(socket, "stream")[Symbol.dispose]();
        return process;
      } catch {
        if (ended) throw new Error(`vmctl device ${kind}: ${await process.#complaints}`);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }
  }

  /** Ends it and tells how it ended and what it said. */
  async end(signal: Deno.Signal): Promise<{ status: Deno.CommandStatus; complaints: string }> {
    try {
      this.child.kill(signal);
    } catch (error) {
      // It has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
    return { status: await this.child.status, complaints: await this.#complaints };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
  }
}
