/**
 * Programs that tests of vhost-user run.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { connectUnix } from "../../host/mod.ts";

/** Whether `program --version` can be run. */
export function hasProgram(program: string): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch {
    return false;
  }
}

/** Waits until `socket` can be connected to. */
export async function listening(socket: string): Promise<void> {
  for (;;) {
    try {
      connectUnix(socket, "stream")[Symbol.dispose]();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

/** A program of this folder in a process of its own; killed when disposed. */
export class TestProgram implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #reader: ReadableStreamDefaultReader<string>;
  #output = "";

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Starts the module `name` of this folder, and waits until it says "ready". */
  static async start(name: string, args: readonly string[]): Promise<TestProgram> {
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-prompt", "--quiet"],
        ...[fileURLToPath(new URL(`./${name}.ts`, import.meta.url)), ...args],
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const program = new TestProgram(child);
    await program.said("ready");
    return program;
  }

  /** Waits until it has said `text`. */
  async said(text: string): Promise<void> {
    while (!this.#output.includes(text)) {
      const { done, value } = await this.#reader.read();
      if (done) throw new Error(`expected "${text}" of the program, got "${this.#output}"`);
      this.#output += value;
    }
  }

  /** How it ended. */
  get status(): Promise<Deno.CommandStatus> {
    return this.#child.status;
  }

  /** Ends it without a warning. */
  async kill(): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // It has ended already.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#child.status;
    await this.#reader.cancel();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}
