/**
 * Starts the built executable for whole-program tests: `VMCTL_BIN` where that is set, otherwise
 * `dist/vmctl`, which is built when it is missing or older than the sources.
 *
 * @module
 */

import { build, DEFAULT_OUTPUT, isStale } from "../../scripts/build/build.ts";

/** How to start a process. */
export interface StartOptions {
  /** Working directory. */
  readonly cwd?: string;
  /** Added to the environment. */
  readonly env?: Record<string, string>;
  /** Begins with an empty environment. */
  readonly clearEnv?: boolean;
  /** Program to start, the executable under test where absent. */
  readonly program?: string;
}

/** How to run a process to its end. */
export interface RunOptions extends StartOptions {
  /** Everything on its standard input, which then ends. */
  readonly stdin?: string;
  /** After this time the process is killed and the run fails, in milliseconds. */
  readonly timeoutMs?: number;
}

/** How a process ended. */
export interface RunResult {
  /** Exit status; 128 + n after signal n. */
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly stdout: string;
  readonly stderr: string;
}

const DEFAULT_TIMEOUT_MS = 240_000;

let binary: Promise<string> | undefined;

async function findBinary(): Promise<string> {
  const given = Deno.env.get("VMCTL_BIN");
  if (given !== undefined && given !== "") return given;
  if (await isStale()) await build({ output: DEFAULT_OUTPUT, compile: false });
  return DEFAULT_OUTPUT;
}

/** Path of the executable under test. */
export function vmctlBinary(): Promise<string> {
  binary ??= findBinary();
  return binary;
}

class Output {
  readonly done: Promise<void>;
  #text = "";
  #ended = false;
  #wake: (() => void)[] = [];

  constructor(stream: ReadableStream<Uint8Array>) {
    this.done = this.#collect(stream);
  }

  get text(): string {
    return this.#text;
  }

  get ended(): boolean {
    return this.#ended;
  }

  changed(): Promise<void> {
    return new Promise((resolve) => this.#wake.push(resolve));
  }

  async #collect(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of stream) {
      this.#text += decoder.decode(bytes, { stream: true });
      this.#notify();
    }
    this.#ended = true;
    this.#notify();
  }

  #notify(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** A running process. Leaving its scope kills it where it still runs. */
export class VmctlProcess implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #stdout: Output;
  readonly #stderr: Output;
  #running = true;

  constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#stdin = child.stdin.getWriter();
    this.#stdout = new Output(child.stdout);
    this.#stderr = new Output(child.stderr);
    child.status.then(() => (this.#running = false));
  }

  /** Process id. */
  get pid(): number {
    return this.#child.pid;
  }

  /** What it has written to standard output so far. */
  get stdout(): string {
    return this.#stdout.text;
  }

  /** What it has written to standard error so far. */
  get stderr(): string {
    return this.#stderr.text;
  }

  /** Writes to its standard input. */
  async write(text: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(text));
  }

  /** Ends its standard input. */
  async closeStdin(): Promise<void> {
    try {
      await this.#stdin.close();
    } catch (error) {
      // It may have closed its side, or ended.
      if (!(error instanceof Deno.errors.BrokenPipe) && !(error instanceof TypeError)) throw error;
    }
  }

  /** Sends a signal; does nothing once it has ended. */
  signal(signal: Deno.Signal): void {
    if (this.#running) this.#child.kill(signal);
  }

  /**
   * Waits until its output contains `pattern`, and returns the match.
   *
   * @param options `from`: which stream. `timeoutMs`: how long to wait.
   * @throws {Error} when the stream ends or the time is up first, with what was printed.
   */
  async waitFor(
    pattern: string | RegExp,
    options: { from?: "stdout" | "stderr"; timeoutMs?: number } = {},
  ): Promise<RegExpMatchArray> {
    const output = options.from === "stderr" ? this.#stderr : this.#stdout;
    const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const wanted = typeof pattern === "string" ? new RegExp(RegExp.escape(pattern)) : pattern;
    const late = Promise.withResolvers<void>();
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      late.resolve();
    }, timeoutMs);
    try {
      while (true) {
        const match = output.text.match(wanted);
        if (match !== null) return match;
        if (output.ended || timedOut) {
          throw new Error(
            `expected ${wanted} on ${options.from ?? "stdout"}, ` +
              `${timedOut ? `not there after ${timeoutMs} ms` : "which ended"}\n` +
              `--- stdout\n${this.stdout}\n--- stderr\n${this.stderr}`,
          );
        }
        await Promise.race([output.changed(), late.promise]);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Waits for its end.
   *
   * @throws {Error} when it still runs after `timeoutMs`; it is killed then.
   */
  async end(options: { timeoutMs?: number } = {}): Promise<RunResult> {
    const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.signal("SIGKILL");
    }, timeoutMs);
    const { code, signal } = await this.#child.status;
    await Promise.all([this.#stdout.done, this.#stderr.done]);
    clearTimeout(timer);
    if (late) {
      throw new Error(
        `still running after ${timeoutMs} ms\n` +
          `--- stdout\n${this.stdout}\n--- stderr\n${this.stderr}`,
      );
    }
    return { code, signal, stdout: this.stdout, stderr: this.stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.signal("SIGKILL");
    await this.#child.status;
    await Promise.all([this.#stdout.done, this.#stderr.done]);
    await this.closeStdin();
  }
}

/** Starts `vmctl ARGS`, with pipes on its standard streams. */
export async function startVmctl(
  args: readonly string[],
  options: StartOptions = {},
): Promise<VmctlProcess> {
  const command = new Deno.Command(options.program ?? (await vmctlBinary()), {
    args: [...args],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
    clearEnv: options.clearEnv ?? false,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  });
  return new VmctlProcess(command.spawn());
}

/**
 * Runs `vmctl ARGS` to its end.
 *
 * @throws {Error} when it takes longer than `timeoutMs`.
 */
export async function runVmctl(
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  await using process = await startVmctl(args, options);
  if (options.stdin !== undefined) await process.write(options.stdin);
  await process.closeStdin();
  return await process.end(
    options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs },
  );
}
