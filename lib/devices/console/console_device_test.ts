import assert from "node:assert/strict";
import { MIB } from "../../base/mod.ts";
import { Fd, openFile, OpenFlag, pipe, tryRead, writeAll } from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { DeviceRig } from "../../virtio/testing/device_rig.ts";
import { CONSOLE_DEVICE } from "./kind.ts";
import { ConsoleFeature, ControlEvent } from "./protocol.ts";

const RINGS = 4 * MIB;
const BUFFERS = 0x10_0000;
const encoder = new TextEncoder();

class Console implements Disposable {
  readonly memory = GuestMemory.create({ sizeBytes: 8 * MIB, backing: "mmap" });
  /** What the host reads from and writes to, by port. */
  readonly ports: { readonly output: Fd; readonly input: Fd }[] = [];
  readonly device;
  readonly rig: DeviceRig;

  constructor(portCount = 1) {
    const ports = Array.from({ length: portCount }, () => {
      const output = pipe({ nonblock: true });
      const input = pipe({ nonblock: true });
      this.ports.push({ output: output.reader, input: input.writer });
      return { output: output.writer, input: input.reader };
    });
    using opened = CONSOLE_DEVICE.open({ ports, size: { columns: 80, rows: 24 } });
    this.device = CONSOLE_DEVICE.make(opened.settings, opened.fds);
    this.rig = new DeviceRig(this.device, { memory: this.memory, ringsAt: RINGS });
  }

  /** Sends bytes by a transmit queue. */
  send(queue: number, bytes: Uint8Array, address = BUFFERS): void {
    this.memory.writeFrom(address, bytes);
    this.rig.send(queue, [{ address, length: bytes.byteLength }]);
  }

  offer(queue: number, length: number, address = BUFFERS): void {
    this.rig.send(queue, [{ address, length, writable: true }]);
  }

  text(length: number, address = BUFFERS): string {
    return new TextDecoder().decode(this.memory.read(address, length));
  }

  /** Reads what the host has got of port `port`. */
  output(port = 0): string {
    const bytes = new Uint8Array(1 << 20);
    const count = tryRead(this.ports[port]!.output, bytes);
    return new TextDecoder().decode(bytes.subarray(0, Math.max(count, 0)));
  }

  control(port: number, event: number, value: number): void {
    const view = new DataView(new ArrayBuffer(8));
    view.setUint32(0, port, true);
    view.setUint16(4, event, true);
    view.setUint16(6, value, true);
    this.send(3, new Uint8Array(view.buffer), 0x20_0000);
    assert.equal(this.rig.used(3), 0);
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.device[Symbol.dispose]();
    for (const { output, input } of this.ports) {
      output.close();
      input.close();
    }
    this.memory[Symbol.dispose]();
  }
}

Deno.test("console: output goes out, however slowly it is read, and none twice", () => {
  using console = new Console();
  const { rig } = console;
  assert.equal(console.device.features, ConsoleFeature.Size);
  console.send(1, encoder.encode("hello\n"));
  assert.equal(rig.used(1), 0);
  assert.equal(console.output(), "hello\n");

  // More than a pipe holds: the chain is held until the host has read.
  const long = encoder.encode("0123456789abcdef".repeat(16 * 1024));
  console.send(1, long);
  assert.equal(rig.used(1), -1);
  let got = console.output();
  // A stop in the middle repeats and loses nothing.
  rig.restart(1);
  for (let turn = 0; got.length < long.length; turn++) {
    assert(turn < 1000);
    got += console.output();
    if (got.length < long.length) rig.turn(1000);
  }
  assert.equal(got, new TextDecoder().decode(long));
  assert.equal(rig.used(1), 0);
  assert(rig.notified.has(1));
});

Deno.test("console: input waits for the guest's buffers, and buffers for input", () => {
  using console = new Console();
  const { rig } = console;
  const [port] = console.ports;
  writeAll(port!.input, encoder.encode("early"));
  console.offer(0, 3);
  assert.equal(rig.used(0), 3);
  assert.equal(console.text(3), "ear");
  console.offer(0, 64);
  assert.equal(rig.used(0), 2);
  assert.equal(console.text(2), "ly");

  console.offer(0, 64);
  assert.equal(rig.used(0), -1);
  assert.equal(rig.turn(0), false);
  rig.notified.clear();
  writeAll(port!.input, encoder.encode("late"));
  assert(rig.turn(1000));
  assert.equal(rig.used(0), 4);
  assert(rig.notified.has(0), "the driver hears of it");
  assert.equal(console.text(4), "late");

  // The end of the input is not the guest's concern, and nobody is woken for it again and again.
  console.offer(0, 64);
  port!.input.close();
  assert(rig.turn(1000));
  assert.equal(rig.used(0), -1);
  assert.equal(rig.turn(0), false);
});

Deno.test("console: a reader that leaves costs the output, not the guest", () => {
  using console = new Console();
  console.ports[0]!.output.close();
  console.send(1, encoder.encode("into the void"));
  assert.equal(console.rig.used(1), 0);
  console.send(1, encoder.encode("more"));
  assert.equal(console.rig.used(1), 0);
});

Deno.test("console: files and descriptors that wait are served without waiting", () => {
  const path = Deno.makeTempFileSync();
  try {
    Deno.writeTextFileSync(path, "from a file");
    const slow = pipe();
    using reader = slow.reader;
    using memory = GuestMemory.create({ sizeBytes: 8 * MIB, backing: "mmap" });
    using opened = CONSOLE_DEVICE.open({
      ports: [{ input: openFile(path, OpenFlag.ReadOnly), output: slow.writer }],
    });
    using device = CONSOLE_DEVICE.make(opened.settings, opened.fds);
    using rig = new DeviceRig(device, { memory, ringsAt: RINGS });
    rig.send(0, [{ address: BUFFERS, length: 64, writable: true }]);
    assert.equal(rig.used(0), 11);
    rig.send(0, [{ address: BUFFERS, length: 64, writable: true }]);
    assert.equal(rig.used(0), -1);
    rig.send(1, [{ address: 0, length: MIB }]);
    const bytes = new Uint8Array(1 << 20);
    let got = 0;
    for (let turn = 0; rig.used(1) < 0; turn++) {
      assert(turn < 1000);
      got += tryRead(reader, bytes);
      rig.turn(1000);
    }
    assert(got > MIB - 128 * 1024);
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("console: the size of the window is in the configuration space", () => {
  using console = new Console();
  const { device, rig } = console;
  const view = new DataView(device.config.buffer);
  assert.deepEqual([view.getUint16(0, true), view.getUint16(2, true)], [80, 24]);
  assert.equal(view.getUint32(4, true), 1);
  const answers: unknown[] = [];
  const reply = { answer: (value: unknown) => answers.push(value), refuse: () => assert.fail() };
  device.control?.({ name: "windowSize", data: { port: 0, columns: 132, rows: 50 } }, reply);
  assert.deepEqual([view.getUint16(0, true), view.getUint16(2, true)], [132, 50]);
  assert.equal(rig.configChanges, 1);
  assert.deepEqual(answers, [null]);
  assert.throws(
    () => device.control?.({ name: "windowSize", data: { port: 1, columns: 1, rows: 1 } }, reply),
    /port below 1/,
  );
});

Deno.test("console: several ports, announced and used by the driver", () => {
  using console = new Console(3);
  const { rig, device } = console;
  assert.equal(device.features, ConsoleFeature.Size | ConsoleFeature.Multiport);
  assert.equal(device.queueCount, 8);
  const messages = (count: number) => {
    const all: number[][] = [];
    for (let index = 0; index < count; index++) {
      console.offer(2, 16);
      const length = rig.used(2);
      if (length < 0) break;
      const view = new DataView(console.memory.read(BUFFERS, length).buffer);
      const rest = length === 12 ? [view.getUint16(8, true), view.getUint16(10, true)] : [];
      all.push([
        view.getUint32(0, true),
        view.getUint16(4, true),
        view.getUint16(6, true),
        ...rest,
      ]);
    }
    return all;
  };
  console.control(0, ControlEvent.DeviceReady, 1);
  assert.deepEqual(messages(3), [0, 1, 2].map((port) => [port, ControlEvent.PortAdd, 0]));
  console.control(0, ControlEvent.PortReady, 1);
  assert.deepEqual(messages(3), [
    [0, ControlEvent.ConsolePort, 1],
    [0, ControlEvent.PortOpen, 1],
    [0, ControlEvent.Resize, 0, 80, 24],
  ]);
  console.control(2, ControlEvent.PortReady, 1);
  assert.deepEqual(messages(2), [[2, ControlEvent.ConsolePort, 1], [2, ControlEvent.PortOpen, 1]]);
  // A buffer waits; a new size comes without being asked for.
  console.offer(2, 16);
  rig.notified.clear();
  const reply = { answer() {}, refuse: () => assert.fail() };
  device.control?.({ name: "windowSize", data: { port: 2, columns: 40, rows: 10 } }, reply);
  assert.equal(rig.used(2), 12);
  assert(rig.notified.has(2));
  // Ports have queues of their own.
  console.send(5, encoder.encode("one"));
  console.send(7, encoder.encode("two"));
  assert.deepEqual([console.output(0), console.output(1), console.output(2)], ["", "one", "two"]);
  console.offer(6, 16);
  writeAll(console.ports[2]!.input, encoder.encode("in"));
  assert(rig.turn(1000));
  assert.equal(rig.used(6), 2);
  // Words of a driver that make no sense, in any number.
  for (let index = 0; index < 2000; index++) console.control(index, index % 9, 1);
});
