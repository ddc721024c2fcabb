import assert from "node:assert/strict";
import fc from "fast-check";
import { ShapeError } from "../../base/mod.ts";
import { Reactor, socketPair, UnixSocket } from "../../host/mod.ts";
import { type ControllableDevice, DeviceControlServer, type DeviceReply } from "./device_end.ts";
import { DeviceControlError } from "./errors.ts";
import { type DeviceEvent, parseDevicePacket, parseRequestPacket } from "./messages.ts";
import { DeviceControlClient } from "./vmm_end.ts";

/** Both ends in one thread: the device is served by the reactor. */
class Rig implements Disposable {
  readonly reactor = new Reactor();
  readonly events: DeviceEvent[] = [];
  readonly ended = Promise.withResolvers<DeviceControlError | undefined>();
  readonly client: DeviceControlClient;
  readonly peer: UnixSocket;
  readonly #stack = new DisposableStack();

  constructor(device?: ControllableDevice) {
    const [near, far] = socketPair("seqpacket", { nonblock: true });
    this.client = new DeviceControlClient(near, {
      reactor: this.reactor,
      device: "test",
      onEvent: (event) => this.events.push(event),
      onEnd: (error) => this.ended.resolve(error),
    });
    this.peer = far;
    if (device !== undefined) {
      const server = this.#stack.use(new DeviceControlServer(far, device));
      this.#stack.use(this.reactor.watch(server.fd, 1, () => server.receive()));
    } else this.#stack.use(far);
  }

  [Symbol.dispose](): void {
    this.client[Symbol.dispose]();
    this.#stack.dispose();
    this.reactor[Symbol.dispose]();
  }
}

Deno.test("control channel: answers now, later, and not at all", async () => {
  const waiting: DeviceReply[] = [];
  const device: ControllableDevice = {
    name: "test",
    control({ name, data }, reply) {
      switch (name) {
        case "resize":
          if (data.sizeBytes === 7) throw new ShapeError("seven is odd");
          reply.answer(null);
          return;
        case "balloonAdjust":
          waiting.push(reply);
          return;
        case "balloonStats":
          reply.answer({
            actualBytes: 4096,
            targetBytes: 8192,
            returnedBytes: 0,
            statistics: { freeMemory: 5 },
          });
          return;
        case "windowSize":
          reply.refuse(`no port ${data.port}`);
      }
    },
  };
  using rig = new Rig(device);
  const { client } = rig;
  const later = client.request("balloonAdjust", { targetBytes: 4096, wait: true });
  assert.equal(await client.request("resize", { sizeBytes: 1 << 30, shrink: false }), null);
  await assert.rejects(
    client.request("resize", { sizeBytes: 7, shrink: false }),
    /test: seven is odd/,
  );
  await assert.rejects(
    client.request("windowSize", { port: 3, columns: 80, rows: 25 }),
    /test: no port 3/,
  );
  assert.equal((await client.request("balloonStats", { fresh: true })).statistics.freeMemory, 5);
  device.tell?.({ name: "balloonSize", data: { actualBytes: 4096 } });
  waiting[0]!.answer(null);
  assert.equal(await later, null);
  assert.deepEqual(rig.events, [{ name: "balloonSize", data: { actualBytes: 4096 } }]);
  assert.throws(() => waiting[0]!.answer(null), /answered twice/);

  // Nobody answers in time; an answer that comes afterwards does no harm.
  const request = { targetBytes: 0, wait: true };
  await assert.rejects(client.request("balloonAdjust", request, { timeoutMs: 1 }), /within 1 ms/);
  const abort = new AbortController();
  const aborted = client.request("balloonAdjust", request, { signal: abort.signal });
  abort.abort(new Error("changed my mind"));
  await assert.rejects(aborted, /changed my mind/);
  // Packets keep their order: with this one answered, the others have come.
  await client.request("resize", { sizeBytes: 1, shrink: false });
  assert.equal(waiting.length, 3);
  for (const reply of waiting.slice(1)) reply.answer(null);
  await client.request("resize", { sizeBytes: 1, shrink: false });
  assert(client.open);
});

Deno.test("control channel: a device that dies fails what is asked", async () => {
  using rig = new Rig();
  const pending = rig.client.request("resize", { sizeBytes: 1, shrink: false });
  rig.peer[Symbol.dispose]();
  await assert.rejects(pending, /test: it is gone/);
  assert.equal(await rig.ended.promise, undefined);
  await assert.rejects(rig.client.request("resize", { sizeBytes: 1, shrink: false }), /it is gone/);
});

Deno.test("control channel: a hostile device ends the channel and nothing else", async () => {
  const text = (value: string) => new TextEncoder().encode(value);
  const cases: [Uint8Array, RegExp][] = [
    [text("{"), /not JSON/],
    [new Uint8Array([0xff, 0xfe]), /not UTF-8/],
    [text(`{"id":99,"answer":null}`), /answer to 99, not asked/],
    [text(`{"id":-1,"answer":null}`), /id/],
    [text(`{"id":1,"answer":7}`), /expected null, got 7/],
    [text(`{"event":{"shout":{}}}`), /unknown name/],
    [text(`{"event":{"balloonSize":{"actualBytes":-1}}}`), /actualBytes/],
    [new Uint8Array(17 * 1024), /beyond 16384 bytes/],
  ];
  for (const [packet, expected] of cases) {
    using rig = new Rig();
    const pending = rig.client.request("resize", { sizeBytes: 1, shrink: false });
    pending.catch(() => {});
    rig.peer.sendMessage(packet);
    const error = await rig.ended.promise;
    assert.match(error?.message ?? "", expected);
    await assert.rejects(pending);
    assert.equal(rig.client.open, false);
  }
});

Deno.test("control channel: a device that floods the VMM with events is cut off", async () => {
  using rig = new Rig();
  const packet = new TextEncoder().encode(`{"event":{"balloonSize":{"actualBytes":0}}}`);
  for (let sent = 0; rig.client.open; sent++) {
    assert(sent < 1_000_000);
    let full = true;
    try {
      full = rig.peer.sendMessage(packet) < 0;
    } catch {
      break;
    }
    if (full) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  assert.match((await rig.ended.promise)?.message ?? "", /flood of events/);
});

Deno.test("control channel: a VMM that breaks the rules ends the device", () => {
  for (const packet of [`{"id":1,"request":"burn"}`, `{"id":1,"request":{"resize":{}}}`, "7"]) {
    const [near, far] = socketPair("seqpacket", { nonblock: true });
    using _near = near;
    using server = new DeviceControlServer(far, { name: "test", control: () => assert.fail() });
    near.sendMessage(new TextEncoder().encode(packet));
    assert.throws(() => server.receive(), DeviceControlError);
  }
});

Deno.test("control channel: any packet is read or refused", () => {
  const parsers = [parseRequestPacket, parseDevicePacket];
  const values = fc.oneof(
    fc.json().map((text) => new TextEncoder().encode(text)),
    fc.uint8Array({ maxLength: 64 }),
    fc.record({ id: fc.anything(), request: fc.anything(), answer: fc.anything() }).map((value) =>
      new TextEncoder().encode(
        JSON.stringify(value, (_, part) => typeof part === "bigint" ? Number(part) : part),
      )
    ),
  );
  fc.assert(fc.property(values, fc.constantFrom(...parsers), (packet, parse) => {
    try {
      parse(packet);
    } catch (error) {
      assert(error instanceof ShapeError);
    }
  }));
});
