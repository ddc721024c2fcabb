import assert from "node:assert/strict";
import { setLogSink } from "../base/mod.ts";
import { Errno, eventfd, pipe, signalEvent, socketPair, takeEvent, tryRead } from "../host/mod.ts";
import { FlushResult, SerialOutput, type SerialOutputKind } from "./serial_output.ts";

const text = (value: string) => new TextEncoder().encode(value);

function put(output: SerialOutput, value: string): void {
  for (const byte of text(value)) output.write(byte);
}

function make(fd: number, wakeFd: number, kind: SerialOutputKind = "bytes"): SerialOutput {
  return SerialOutput.create({ kind, label: "ttyS0", fd, wakeFd, timestampOriginMs: undefined });
}

Deno.test("SerialOutput: bytes come out in order, from every worker's view", () => {
  using wake = eventfd(0, { nonblock: true });
  const { reader, writer } = pipe({ nonblock: true });
  using _reader = reader;
  using _writer = writer;
  const output = make(writer.raw, wake.raw);
  const other = SerialOutput.attach(output.handle());
  put(output, "one ");
  put(other, "two");
  assert(other.pending);
  assert.equal(output.flush(), FlushResult.Done);
  assert(!other.pending);
  const buffer = new Uint8Array(100);
  assert.equal(tryRead(reader, buffer), 7);
  assert.deepEqual(buffer.subarray(0, 7), text("one two"));
});

Deno.test("SerialOutput: a full pipe blocks until the wake descriptor is signalled, nothing is lost", () => {
  using wake = eventfd(0, { nonblock: true });
  const { reader, writer } = pipe({ nonblock: true });
  using _reader = reader;
  using _writer = writer;
  const output = make(writer.raw, wake.raw);
  signalEvent(wake);
  let sent = 0;
  while (output.flush() === FlushResult.Done) {
    for (let count = 0; count < 1000; count++) output.write(sent++ & 0xff);
  }
  takeEvent(wake);
  const received: number[] = [];
  const buffer = new Uint8Array(65536);
  for (let quiet = false; !quiet;) {
    const count = tryRead(reader, buffer);
    if (count > 0) received.push(...buffer.subarray(0, count));
    quiet = count < 0 && output.flush() === FlushResult.Done && !output.pending &&
      received.length === sent;
  }
  assert(received.every((byte, at) => byte === (at & 0xff)));
});

Deno.test("SerialOutput: a reader that left is a failure, once and for all", () => {
  using wake = eventfd(0, { nonblock: true });
  const { reader, writer } = pipe({ nonblock: true });
  using _writer = writer;
  reader.close();
  const output = make(writer.raw, wake.raw);
  put(output, "lost");
  assert.equal(output.flush(), FlushResult.Failed);
  assert.equal(output.failure, Errno.EPIPE);
  put(output, "more");
  assert.equal(output.flush(), FlushResult.Done);
  assert(!output.pending, "dropped");
});

Deno.test("SerialOutput: lines are sent whole, the last one at the end", () => {
  using wake = eventfd(0, { nonblock: true });
  const [ours, theirs] = socketPair("datagram", { nonblock: true });
  using _ours = ours;
  using _theirs = theirs;
  const output = make(ours.fd.raw, wake.raw, "lines");
  const receive = () => {
    const message = theirs.recvMessage(8192);
    return message && new TextDecoder().decode(message.bytes);
  };
  put(output, "first line\nsecond");
  assert.equal(output.flush(), FlushResult.Done);
  assert.equal(receive(), "first line\n");
  assert.equal(receive(), undefined);
  put(output, " line\n\nrest");
  assert.equal(output.flush(), FlushResult.Done);
  assert.equal(receive(), "second line\n");
  assert.equal(receive(), "\n");
  output.finish();
  assert.equal(receive(), "rest");
  put(output, "x".repeat(5000));
  assert.equal(output.flush(), FlushResult.Done);
  assert.equal(receive()?.length, 4096, "a line without an end is cut");
});

Deno.test("SerialOutput: lines of the log", () => {
  using wake = eventfd(0, { nonblock: true });
  const lines: string[] = [];
  setLogSink((line) => lines.push(line));
  try {
    const output = make(-1, wake.raw, "log");
    put(output, "hello\r\nworld\n");
    assert.equal(output.flush(), FlushResult.Done);
    assert.match(lines.join(""), /ttyS0: hello\n.*ttyS0: world\n/);
  } finally {
    setLogSink(undefined);
  }
});

Deno.test("SerialOutput: timestamps begin lines", () => {
  using wake = eventfd(0, { nonblock: true });
  const { reader, writer } = pipe({ nonblock: true });
  using _reader = reader;
  using _writer = writer;
  const originMs = Date.now() - 1500;
  const output = SerialOutput.create({
    kind: "bytes",
    label: "ttyS0",
    fd: writer.raw,
    wakeFd: wake.raw,
    timestampOriginMs: originMs,
  });
  put(output, "a\nb");
  output.flush();
  const buffer = new Uint8Array(100);
  const got = new TextDecoder().decode(buffer.subarray(0, tryRead(reader, buffer)));
  const stamps = /^\[ *(\d+\.\d{6})\] a\n\[ *(\d+\.\d{6})\] b$/.exec(got);
  assert.ok(stamps, got);
  assert.equal(got.indexOf("]"), 13);
  const [first, second] = stamps.slice(1).map(Number) as [number, number];
  assert.ok(1.5 <= first && first <= second && second <= (Date.now() - originMs) / 1000, got);
});
