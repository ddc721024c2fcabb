import assert from "node:assert/strict";
import { HostError } from "./errno.ts";
import { openFile, pipe, read, tryRead, writeAll } from "./file.ts";
import { setNonblocking } from "./fd.ts";
import { PollEvent, pollFd } from "./poll.ts";
import {
  isatty,
  openPty,
  setWindowSize,
  terminalAttributes,
  TerminalMode,
  windowSize,
} from "./terminal.ts";

const encode = (text: string) => new TextEncoder().encode(text);

function readText(fd: Parameters<typeof read>[0]): string {
  const into = new Uint8Array(100);
  return new TextDecoder().decode(into.subarray(0, read(fd, into)));
}

Deno.test("raw mode passes every byte, and the terminal returns to its settings", () => {
  using pty = openPty();
  assert.ok(isatty(pty.terminal));
  const cooked = terminalAttributes(pty.terminal);
  {
    using mode = TerminalMode.raw(pty.terminal);
    assert.ok(mode.isRaw);
    assert.notDeepEqual(terminalAttributes(pty.terminal), cooked);
    writeAll(pty.controller, encode("a\x03\r"));
    assert.equal(readText(pty.terminal), "a\x03\r", "no line discipline");
    writeAll(pty.terminal, encode("x\n"));
    assert.equal(readText(pty.controller), "x\n", "no echo before it, no carriage return");
    mode.restore();
    assert.deepEqual(terminalAttributes(pty.terminal), cooked);
    mode.setRaw();
  }
  assert.deepEqual(terminalAttributes(pty.terminal), cooked);
  writeAll(pty.terminal, encode("y\n"));
  assert.equal(readText(pty.controller), "y\r\n");
});

Deno.test("a terminal that went away does not disturb the restoring", () => {
  using pty = openPty();
  const mode = TerminalMode.raw(pty.terminal);
  pty.controller.close();
  mode.restore();
  pty.terminal.close();
  mode[Symbol.dispose]();
});

Deno.test("what is no terminal is told", () => {
  const { reader, writer } = pipe();
  using r = reader;
  using _w = writer;
  assert.ok(!isatty(r));
  assert.equal(windowSize(r), undefined);
  assert.throws(
    () => TerminalMode.raw(r),
    (error) => error instanceof HostError && error.code === "ENOTTY",
  );
});

Deno.test("the window's size is set and read", () => {
  using pty = openPty();
  setWindowSize(pty.controller, { rows: 50, columns: 132 });
  assert.deepEqual(windowSize(pty.terminal), { rows: 50, columns: 132 });
});

Deno.test("output to a non-blocking terminal that nobody reads waits and loses nothing", async () => {
  using pty = openPty();
  using mode = TerminalMode.raw(pty.terminal);
  assert.ok(mode.isRaw);
  using quick = openFile(pty.path, 0o2 | 0o400);
  setNonblocking(quick, true);
  const text = encode("0123456789abcdef".repeat(4096));
  const source = `
    import { PollEvent, pollFd, read } from ${
    JSON.stringify(new URL("./mod.ts", import.meta.url).href)
  };
    self.onmessage = (event) => {
      const into = new Uint8Array(512);
      let total = 0;
      while (total < event.data.length && pollFd(event.data.fd, PollEvent.In, 5000) !== 0) {
        total += read(event.data.fd, into);
      }
      self.postMessage(total);
    };`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const answer = new Promise<number>((resolve) => {
    worker.onmessage = (event: MessageEvent<number>) => resolve(event.data);
  });
  worker.postMessage({ fd: pty.controller.raw, length: text.length });
  writeAll(quick, text);
  assert.equal(await answer, text.length);
  worker.terminate();
  URL.revokeObjectURL(url);
  setNonblocking(pty.controller, true);
  assert.equal(pollFd(pty.controller, PollEvent.In, 0), 0);
  assert.equal(tryRead(pty.controller, new Uint8Array(1)), -1);
});
