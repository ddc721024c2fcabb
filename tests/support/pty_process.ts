/**
 * A process on a terminal of its own, as from a terminal emulator.
 *
 * @module
 */

import {
  isHostError,
  openPty,
  PollEvent,
  type Pty,
  Reactor,
  setNonblocking,
  setWindowSize,
  terminalAttributes,
  tryRead,
  tryWrite,
  type WindowSize,
} from "../../lib/host/mod.ts";
import { PATIENCE_MS } from "./vm_bench.ts";
import { vmctlBinary } from "./vmctl.ts";

/** How to start a {@link PtyProcess}. */
export interface PtyOptions {
  readonly env: Record<string, string>;
  /** Program to start, the executable under test where absent. */
  readonly program?: string;
  /** Size of the terminal's window; unknown to it where absent. */
  readonly size?: WindowSize;
}

/** A process whose standard streams are a terminal. */
export class PtyProcess implements AsyncDisposable {
  readonly #pty: Pty;
  readonly #child: Deno.ChildProcess;
  readonly #reactor = new Reactor();
  /** Attributes of the terminal before the process started. */
  readonly before: Uint8Array;
  #output = "";
  #changed = Promise.withResolvers<void>();

  private constructor(pty: Pty, child: Deno.ChildProcess, before: Uint8Array) {
    this.#pty = pty;
    this.#child = child;
    this.before = before;
    setNonblocking(pty.controller, true);
    const decoder = new TextDecoder();
    const buffer = new Uint8Array(65536);
    const watch = this.#reactor.watch(pty.controller, PollEvent.In, () => {
      try {
        const count = tryRead(pty.controller, buffer);
        if (count > 0) this.#output += decoder.decode(buffer.subarray(0, count), { stream: true });
      } catch (error) {
        // Every process has closed the terminal.
        if (!isHostError(error, "EIO")) throw error;
        watch[Symbol.dispose]();
      }
      this.#notify();
    });
    child.status.then(() => this.#notify());
  }

  /** Starts `vmctl ARGS`; the terminal is its controlling one. */
  static async start(args: readonly string[], options: PtyOptions): Promise<PtyProcess> {
    const pty = openPty();
    if (options.size !== undefined) setWindowSize(pty.controller, options.size);
    const before = terminalAttributes(pty.terminal);
    const program = options.program ?? await vmctlBinary();
    // The leader of a new session gets the first terminal that it opens.
    const child = new Deno.Command("setsid", {
      args: ["sh", "-c", 'exec "$0" "$@" <>"$TTY" >&0 2>&1', program, ...args],
      env: { ...options.env, TTY: pty.path, TERM: "xterm" },
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    return new PtyProcess(pty, child, before);
  }

  /** Process id. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Everything that appeared on the terminal. */
  get output(): string {
    return this.#output;
  }

  /** Whether the terminal is as it was before. */
  get restored(): boolean {
    const now = terminalAttributes(this.#pty.terminal);
    return now.every((byte, at) => byte === this.before[at]);
  }

  /** Types `keys`, waiting whenever the terminal takes no more. */
  async type(keys: string | Uint8Array): Promise<void> {
    let rest = typeof keys === "string" ? new TextEncoder().encode(keys) : keys;
    while (rest.length > 0) {
      const count = tryWrite(this.#pty.controller, rest.subarray(0, 1024));
      if (count > 0) rest = rest.subarray(count);
      else await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** Waits until `pattern` has appeared, after `from` characters. */
  async waitFor(pattern: string | RegExp, from = 0): Promise<void> {
    await this.until(() => {
      const output = this.#output.slice(from);
      return typeof pattern === "string" ? output.includes(pattern) : pattern.test(output);
    }, String(pattern));
  }

  /** Waits until `condition` holds; it is looked at whenever something appears, and now and then. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (!condition()) {
      if (performance.now() > deadline) throw new Error(`no ${what} in:\n${this.#output}`);
      let timer: ReturnType<typeof setTimeout> | undefined;
      const pause = new Promise<void>((resolve) => timer = setTimeout(resolve, 20));
      await Promise.race([this.#changed.promise, pause]);
      clearTimeout(timer);
    }
  }

  /** Gives the terminal's window another size, of which the process is told. */
  resize(size: WindowSize): void {
    setWindowSize(this.#pty.controller, size);
  }

  /** Sends a signal. */
  signal(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  /** Waits for its end. */
  async end(): Promise<Deno.CommandStatus> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), PATIENCE_MS);
    const status = await this.#child.status;
    clearTimeout(timer);
    return status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await this.#child.status;
    this.#reactor[Symbol.dispose]();
    this.#pty[Symbol.dispose]();
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers<void>();
  }
}
