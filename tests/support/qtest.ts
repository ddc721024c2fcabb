/**
 * QEMU as a bench of real devices: its processor stands still, and a test reads and writes its ports
 * and memory through the qtest protocol (QEMU, docs/devel/qtest).
 *
 * @module
 */

/** Why QEMU cannot be used here, or undefined. */
export const qemuMissing: string | undefined = (() => {
  try {
    const { success } = new Deno.Command("qemu-system-x86_64", {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).outputSync();
    return success ? undefined : "qemu-system-x86_64 does not start";
  } catch {
    return "no qemu-system-x86_64";
  }
})();

/** A QEMU whose devices wait for commands. */
export class QemuBench implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  #rest = "";

  /** @param args options beyond those of a bare PC. */
  constructor(args: readonly string[]) {
    this.#child = new Deno.Command("qemu-system-x86_64", {
      args: [
        ...["-machine", "pc,accel=tcg", "-S", "-display", "none", "-nodefaults", "-m", "16"],
        ...["-qtest", "stdio", "-qtest-log", "none", "-monitor", "none", ...args],
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    this.#writer = this.#child.stdin.getWriter();
    this.#reader = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Executes `commands` in order and returns the value of each, 0 where it has none. */
  async run(commands: readonly string[]): Promise<number[]> {
    const written = this.#writer.write(
      new TextEncoder().encode(commands.map((command) => `${command}\n`).join("")),
    );
    const values: number[] = [];
    while (values.length < commands.length) {
      const line = await this.#line();
      if (line.startsWith("OK")) values.push(Number(line.slice(3).trim() || 0));
      else if (!line.startsWith("IRQ")) {
        throw new Error(`${commands[values.length]}: ${line}`);
      }
    }
    await written;
    return values;
  }

  async #line(): Promise<string> {
    for (;;) {
      const end = this.#rest.indexOf("\n");
      if (end >= 0) {
        const line = this.#rest.slice(0, end);
        this.#rest = this.#rest.slice(end + 1);
        return line;
      }
      const { value, done } = await this.#reader.read();
      if (done) throw new Error("QEMU ended");
      this.#rest += value;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await this.#reader.cancel();
    await this.#writer.abort().catch(() => {});
  }
}
