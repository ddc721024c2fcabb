import assert from "node:assert/strict";
import { join } from "node:path";
import type { ConsoleConfig } from "../config/mod.ts";
import { type Fd, Reactor, tryWrite, writeAll } from "../host/mod.ts";
import { type ConsolePorts, openConsolePorts } from "./console_ports.ts";

/** Longest that anything may take that ends at all, however busy the host. */
const PATIENCE_MS = 120_000;

class Rig implements Disposable {
  readonly originMs = Date.now() - 65_000;
  readonly folder = Deno.makeTempDirSync();
  readonly errors: unknown[] = [];
  readonly reactor = new Reactor((error) => this.errors.push(error));
  readonly failures: string[] = [];
  readonly #stack = new DisposableStack();

  open(...configs: readonly Partial<ConsoleConfig>[]): ConsolePorts {
    const ports = openConsolePorts(
      configs.map((config, index): ConsoleConfig => ({
        num: index + 1,
        output: { type: "sink" },
        input: undefined,
        console: false,
        outTimestamp: false,
        ...config,
      })),
      {
        reactor: this.reactor,
        originMs: this.originMs,
        onOutputFailed: (label, errno) => this.failures.push(`${label} ${errno}`),
      },
    );
    // What the device takes over elsewhere.
    for (const { output, input } of ports.ports) {
      if (output !== undefined) this.#stack.use(output);
      if (input !== undefined) this.#stack.use(input);
    }
    return ports;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
    this.reactor[Symbol.dispose]();
    Deno.removeSync(this.folder, { recursive: true });
  }
}

function write(fd: Fd | undefined, text: string): void {
  assert(fd !== undefined);
  writeAll(fd, new TextEncoder().encode(text));
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!condition()) {
    assert(performance.now() < deadline);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

Deno.test("console ports: files and descriptors go to the device as they are", () => {
  using rig = new Rig();
  const path = rig.path("out");
  Deno.writeTextFileSync(path, "before ");
  using ports = rig.open(
    { output: { type: "file", file: { kind: "path", path } } },
    { input: { type: "file", file: { kind: "path", path } } },
  );
  const [first, second] = ports.ports;
  write(first?.output, "after");
  assert.equal(Deno.readTextFileSync(path), "before after");
  assert.equal(first?.input, undefined);
  assert.equal(second?.output, undefined);
  assert(second?.input !== undefined);
  assert.equal(ports.terminal, undefined);
});

Deno.test("console ports: lines get the time on their way, the last one at the end", async () => {
  using rig = new Rig();
  const path = rig.path("out");
  {
    using ports = rig.open({
      output: { type: "file", file: { kind: "path", path } },
      outTimestamp: true,
    });
    write(ports.ports[0]?.output, "one\ntw");
    await until(() => Deno.readTextFileSync(path).includes("one"));
    write(ports.ports[0]?.output, "o\nthree");
  }
  const lines = Deno.readTextFileSync(path).split("\n");
  const latest = (Date.now() - rig.originMs) / 1000;
  assert.deepEqual(lines.map((line) => line.replace(/^\[ +\d+\.\d{6}\] /, "> ")), [
    "> one",
    "> two",
    "> three",
  ]);
  for (const line of lines) {
    const seconds = Number(line.slice(1, line.indexOf("]")));
    assert(seconds >= 65 && seconds <= latest, line);
  }
});

Deno.test("console ports: a reader that is slow holds the device up, not this process", async () => {
  using rig = new Rig();
  const fifo = rig.path("fifo");
  assert((await new Deno.Command("mkfifo", { args: [fifo] }).output()).success);
  using slow = await Deno.open(fifo, { read: true, write: true });
  using ports = rig.open({
    output: { type: "file", file: { kind: "path", path: fifo } },
    outTimestamp: true,
  });
  const [port] = ports.ports;
  const block = new TextEncoder().encode(`${"x".repeat(99)}\n`.repeat(40));
  let taken = 0;
  const sent = 2000;
  const writer = (async () => {
    for (let left = sent / 40; left > 0; left--) {
      // The other end of the pipe is read by this very thread; 4000 bytes go at once or not at all.
      while (tryWrite(port!.output!, block) < 0) {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    }
  })();
  const bytes = new Uint8Array(1 << 16);
  const decoder = new TextDecoder();
  while (taken < sent) {
    const count = (await slow.read(bytes)) ?? 0;
    taken += decoder.decode(bytes.subarray(0, count)).split("\n").length - 1;
  }
  await writer;
  assert.deepEqual(rig.failures, []);
});

Deno.test("console ports: what a device wrote that is gone waits for a slow reader, too", async () => {
  using rig = new Rig();
  const fifo = rig.path("fifo");
  assert((await new Deno.Command("mkfifo", { args: [fifo] }).output()).success);
  using slow = await Deno.open(fifo, { read: true, write: true });
  using ports = rig.open({
    output: { type: "file", file: { kind: "path", path: fifo } },
    outTimestamp: true,
  });
  const output = ports.ports[0]!.output!;
  const line = new TextEncoder().encode(`${"x".repeat(99)}\n`);
  // Until all on the way is full: both pipes, and what is held between them.
  let sent = 0;
  for (let quiet = 0; quiet < 100;) {
    if (tryWrite(output, line) > 0) {
      sent++;
      quiet = 0;
    } else {
      quiet++;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
  output.close();
  const bytes = new Uint8Array(1 << 16);
  const decoder = new TextDecoder();
  for (let taken = 0; taken < sent;) {
    const count = (await slow.read(bytes)) ?? 0;
    taken += decoder.decode(bytes.subarray(0, count)).split("\n").length - 1;
    assert(taken <= sent);
  }
  assert.deepEqual(rig.errors, []);
  assert.deepEqual(rig.failures, []);
});
