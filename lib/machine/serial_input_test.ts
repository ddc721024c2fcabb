import assert from "node:assert/strict";
import { openFile, pipe, Reactor, writeAll } from "../host/mod.ts";
import { type InputPort, SerialInput } from "./serial_input.ts";

/** A port whose guest takes what it got whenever it likes. */
class FakePort implements InputPort {
  readonly received: number[] = [];
  readonly roomEvent = { words: new Int32Array(new SharedArrayBuffer(4)), index: 0 };
  #room = 16;

  receive(bytes: Uint8Array): number {
    const count = Math.min(this.#room, bytes.length);
    this.received.push(...bytes.subarray(0, count));
    this.#room -= count;
    return count;
  }

  drain(): void {
    this.#room = 16;
    Atomics.add(this.roomEvent.words, 0, 1);
    Atomics.notify(this.roomEvent.words, 0);
  }
}

function tick(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

async function drainUntil(port: FakePort, length: number): Promise<void> {
  while (port.received.length < length) {
    port.drain();
    await tick();
  }
}

Deno.test("SerialInput: a pipe's bytes arrive as fast as the port takes them, all of them", async () => {
  using reactor = new Reactor();
  const { reader, writer } = pipe({ nonblock: true });
  using _reader = reader;
  const port = new FakePort();
  using input = new SerialInput(reader.raw, { reactor, port, limitBytes: 1000 });
  input.start();
  const bytes = Uint8Array.from({ length: 5000 }, (_, at) => at * 7 & 0xff);
  writeAll(writer, bytes);
  writer.close();
  while (port.received.length < 16) await tick();
  for (let turn = 0; turn < 5; turn++) await tick();
  assert.equal(port.received.length, 16, "no more than there is room for");
  await drainUntil(port, bytes.length);
  assert.deepEqual(Uint8Array.from(port.received), bytes);
});

Deno.test("SerialInput: a regular file, which epoll refuses", async () => {
  using reactor = new Reactor();
  const path = Deno.makeTempFileSync({ prefix: "vmctl-input-" });
  const bytes = Uint8Array.from({ length: 3000 }, (_, at) => at * 13 & 0xff);
  Deno.writeFileSync(path, bytes);
  using file = openFile(path);
  const port = new FakePort();
  using input = new SerialInput(file.raw, { reactor, port, limitBytes: 100 });
  input.start();
  await drainUntil(port, bytes.length);
  assert.deepEqual(Uint8Array.from(port.received), bytes);
  Deno.removeSync(path);
});

Deno.test("SerialInput: paused, what comes waits in the pipe", async () => {
  using reactor = new Reactor();
  const { reader, writer } = pipe({ nonblock: true });
  using _reader = reader;
  using _writer = writer;
  const port = new FakePort();
  using input = new SerialInput(reader.raw, { reactor, port });
  input.start();
  writeAll(writer, Uint8Array.of(1));
  while (port.received.length < 1) await tick();
  input.pause();
  writeAll(writer, Uint8Array.of(2));
  for (let turn = 0; turn < 5; turn++) await tick();
  assert.deepEqual(port.received, [1]);
  input.start();
  while (port.received.length < 2) await tick();
  assert.deepEqual(port.received, [1, 2]);
});

Deno.test("SerialInput: a filter decides what the guest gets", async () => {
  using reactor = new Reactor();
  const { reader, writer } = pipe({ nonblock: true });
  using _reader = reader;
  using _writer = writer;
  const port = new FakePort();
  using input = new SerialInput(reader.raw, {
    reactor,
    port,
    filter: (bytes) => bytes.filter((byte) => byte !== 0),
  });
  input.start();
  writeAll(writer, Uint8Array.of(0, 1, 0, 2));
  while (port.received.length < 2) await tick();
  assert.deepEqual(port.received, [1, 2]);
});
