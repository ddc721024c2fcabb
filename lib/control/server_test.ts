import assert from "node:assert/strict";
import { join } from "node:path";
import { describeError } from "../base/mod.ts";
import {
  eventfd,
  type Fd,
  isHostError,
  listOpenFds,
  PollEvent,
  pollFd,
  Reactor,
  UnixSeqpacket,
  type UnixSocket,
} from "../host/mod.ts";
import { ControlClient, listRunning, requestVm, stopVm } from "./client.ts";
import { ControlError, NoAnswerError, NotRunningError } from "./errors.ts";
import { ControlListener } from "./listener.ts";
import {
  encodeMessage,
  MAX_REQUEST_BYTES,
  MAX_REQUEST_FDS,
  parseResponse,
  type VmRequest,
  type VmResponse,
  type VmState,
} from "./protocol.ts";
import { ensureRunDirectory, socketPathOfName } from "./run_directory.ts";
import { ControlServer, type RequestHandler } from "./server.ts";

const STATE: VmState = {
  name: "test",
  pid: 1,
  engine: "none",
  state: "running",
  uptime_ms: 0,
  vcpus: [],
  memory: { size_bytes: 0, resident_bytes: 0, balloon_bytes: null },
  cpu_time_ms: 0,
  devices: [],
};

type Handle = RequestHandler["handle"];

function standard(request: VmRequest): VmResponse {
  if (typeof request === "object" && "Vmctl" in request) return { Vmctl: { State: STATE } };
  return "Ok";
}

/** Runs `body` with a server in a folder of its own, and checks that nothing is left over. */
async function withServer(
  handle: Handle,
  body: (path: string, reactor: Reactor, server: ControlServer) => Promise<void>,
): Promise<void> {
  const before = listOpenFds().length;
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  {
    using reactor = new Reactor();
    const path = join(folder, "vm.sock");
    const listeners = [await ControlListener.open(path)];
    using server = new ControlServer({ reactor, listeners, handler: { handle } });
    await body(path, reactor, server);
  }
  assert.deepEqual([...Deno.readDirSync(folder)], []);
  Deno.removeSync(folder);
  // The reactor's thread lets its descriptors go a moment later, on a busy host a long one.
  const deadline = performance.now() + 120_000;
  while (listOpenFds().length > before && performance.now() < deadline) await tick(5);
  assert.equal(listOpenFds().length, before);
}

function tick(ms = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function receive(socket: UnixSocket): Promise<VmResponse> {
  for (;;) {
    const message = socket.recvMessage(4096, 0, { dontWait: true });
    if (message !== undefined) return parseResponse(message.bytes);
    await tick(1);
  }
}

function errorOf(answer: VmResponse): string {
  assert(typeof answer === "object" && "ErrString" in answer, JSON.stringify(answer));
  return answer.ErrString;
}

Deno.test("ControlServer: answers requests, many on one connection", async () => {
  const seen: VmRequest[] = [];
  const handle: Handle = (request) => {
    seen.push(request);
    return standard(request);
  };
  await withServer(handle, async (path, reactor) => {
    assert.equal(Deno.lstatSync(path).mode! & 0o777, 0o600);
    using client = await ControlClient.connect(path, { reactor });
    assert.equal(await client.request("Powerbtn"), "Ok");
    for (let turn = 0; turn < 200; turn++) {
      assert.deepEqual(await client.request({ Vmctl: "State" }), { Vmctl: { State: STATE } });
    }
    assert.equal(seen.length, 201);
  });
});

Deno.test("ControlServer: garbage, oversized and surplus are answered with ErrString and do no harm", async () => {
  await withServer(standard, async (path) => {
    using socket = UnixSeqpacket.connect(path);
    const send = (bytes: Uint8Array, fds: Fd[] = []) => {
      socket.sendMessage(bytes, fds);
      return receive(socket);
    };
    const text = (value: string) => new TextEncoder().encode(value);
    assert.match(errorOf(await send(Uint8Array.of(0, 1, 2, 255))), /UTF-8/);
    assert.match(errorOf(await send(text(`{"BalloonCommand":`))), /not JSON/);
    assert.match(errorOf(await send(text(`"Explode"`))), /unknown request/);
    assert.match(
      errorOf(await send(new Uint8Array(MAX_REQUEST_BYTES + 1).fill(32))),
      /longer than/,
    );
    using event = eventfd();
    const surplus = new Array<Fd>(MAX_REQUEST_FDS + 1).fill(event);
    assert.match(errorOf(await send(text(`"Powerbtn"`), surplus)), /more than 16 descriptors/);
    const open = listOpenFds().length;
    assert.equal(await send(text(`"Powerbtn"`), surplus.slice(1)), "Ok");
    assert.equal(listOpenFds().length, open, "descriptors that nobody took are closed");
  });
});

Deno.test("ControlServer: who leaves before the answer is not waited for", async () => {
  let waiting = 0;
  const handle: Handle = (request, { signal }) => {
    if (request !== "SuspendVm") return standard(request);
    waiting++;
    return new Promise((_, reject) =>
      signal.addEventListener("abort", () => {
        waiting--;
        reject(signal.reason);
      })
    );
  };
  await withServer(handle, async (path, reactor, server) => {
    for (let round = 0; round < 20; round++) {
      using client = await ControlClient.connect(path, { reactor, timeoutMs: 1 });
      await assert.rejects(client.request("SuspendVm"), NoAnswerError);
    }
    assert.equal(await requestVm(path, "Powerbtn", { reactor }), "Ok");
    while (server.clientCount > 0 || waiting > 0) await tick(1);
  });
});

Deno.test("ControlServer: what a handler throws becomes an ErrString", async () => {
  const handle: Handle = (request) => {
    if (request === "Exit") throw new Error("cannot");
    if (request === "Powerbtn") return Promise.reject(new Error("not now"));
    return "Ok";
  };
  await withServer(handle, async (path, reactor) => {
    using client = await ControlClient.connect(path, { reactor });
    assert.equal(errorOf(await client.request("Exit")), "cannot");
    assert.equal(errorOf(await client.request("Powerbtn")), "not now");
    assert.equal(await client.request("Sleepbtn"), "Ok");
  });
});

Deno.test("ControlServer: a hundred clients at once", async () => {
  await withServer(standard, async (path, reactor, server) => {
    const clients = await Promise.all(
      Array.from({ length: 100 }, () => ControlClient.connect(path, { reactor })),
    );
    for (let turn = 0; turn < 3; turn++) {
      const answers = await Promise.all(clients.map((client) => client.request("Powerbtn")));
      assert(answers.every((answer) => answer === "Ok"));
    }
    assert.equal(server.clientCount, 100);
    for (const client of clients) client[Symbol.dispose]();
    while (server.clientCount > 0) await tick(1);
  });
});

Deno.test("ControlServer: a client that does not read, and one that waits, block nobody", async () => {
  const slow = Promise.withResolvers<VmResponse>();
  const handle: Handle = (request) => request === "SuspendVm" ? slow.promise : standard(request);
  await withServer(handle, async (path, reactor) => {
    using mute = UnixSeqpacket.connect(path, { nonblock: true });
    const request = new TextEncoder().encode(`{"Vmctl":"State"}`);
    // Until neither side takes any more.
    let sent = 0;
    for (let quiet = 0; quiet < 20;) {
      if (mute.sendMessage(request) > 0) {
        sent++;
        quiet = 0;
      } else {
        quiet++;
        await tick(1);
      }
    }
    assert(sent > 10);
    using waiting = await ControlClient.connect(path, { reactor });
    const suspended = waiting.request("SuspendVm");
    using other = await ControlClient.connect(path, { reactor });
    for (let turn = 0; turn < 50; turn++) assert.equal(await other.request("Powerbtn"), "Ok");
    slow.resolve("Ok");
    assert.equal(await suspended, "Ok");
    // The mute one gets all its answers once it reads.
    for (let index = 0; index < sent; index++) await receive(mute);
  });
});

for (const [when, ticks] of [["before that was noticed", 0], ["and was noticed", 20]] as const) {
  Deno.test(`ControlServer: requests of a client that left ${when} are still carried out`, async () => {
    const seen: VmRequest[] = [];
    const gate = Promise.withResolvers<VmResponse>();
    const handle: Handle = (request) => {
      seen.push(request);
      return request === "SuspendVm" ? gate.promise : "Ok";
    };
    await withServer(handle, async (path, _reactor, server) => {
      const sent: VmRequest[] = [];
      {
        using socket = UnixSeqpacket.connect(path, { nonblock: true });
        const send = (request: VmRequest) => {
          const taken = socket.sendMessage(encodeMessage(request)) > 0;
          if (taken) sent.push(request);
          return taken;
        };
        // Those before it are answered, which it does not read; as many are behind it as there is room for.
        for (const request of ["Powerbtn", "SuspendVm"] as const) assert(send(request));
        while (sent.length < 40 && send("ResumeVm"));
        while (seen.length < 2) await tick(1);
      }
      for (let left = ticks; left > 0; left--) await tick(1);
      gate.resolve("Ok");
      while (server.clientCount > 0) await tick(1);
      assert.deepEqual(seen, sent);
    });
  });
}

Deno.test("ControlServer: who reads no answers cannot go on asking", async () => {
  const most = 2000;
  let seen = 0;
  let ask: () => void = () => {};
  const handle: Handle = () => {
    // As a client on another processor that is as fast.
    if (++seen < most) ask();
    return "Ok";
  };
  await withServer(handle, async (path, _reactor, server) => {
    using socket = UnixSeqpacket.connect(path, { nonblock: true });
    socket.shutdown("read");
    ask = () => {
      try {
        socket.sendMessage(encodeMessage("Powerbtn"));
      } catch (error) {
        assert(isHostError(error, "EPIPE"), `${error}`);
      }
    };
    ask();
    while (seen === 0 || server.clientCount > 0) await tick(1);
    assert(seen < most, `${seen} requests`);
  });
});

Deno.test("ControlListener: replaces a stale socket, refuses a live one and other files", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  const path = join(folder, "vm.sock");
  {
    using _stale = UnixSeqpacket.listen(path);
  }
  assert(Deno.lstatSync(path).isSocket);
  {
    using listener = await ControlListener.open(path);
    assert.equal(listener.path, path);
    await assert.rejects(ControlListener.open(path), /another process listens there/);
    assert(Deno.lstatSync(path).isSocket, "the live one stays");
  }
  assert.throws(() => Deno.lstatSync(path), Deno.errors.NotFound);
  Deno.writeTextFileSync(path, "precious");
  await assert.rejects(ControlListener.open(path), /not a socket/);
  assert.equal(Deno.readTextFileSync(path), "precious");
  await assert.rejects(ControlListener.open(join(folder, "none", "vm.sock")), ControlError);
  const long = ControlListener.open(join(folder, "x".repeat(108)));
  await assert.rejects(long, (error) => /ENAMETOOLONG/.test(describeError(error)));
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("ControlListener.sweep: dead sockets go, live ones and other files stay", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  {
    using _dead = UnixSeqpacket.listen(join(folder, "dead.sock"));
    using _live = await ControlListener.open(join(folder, "live.sock"));
    Deno.writeTextFileSync(join(folder, "file.sock"), "");
    _dead[Symbol.dispose]();
    await ControlListener.sweep(folder);
    const left = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
    assert.deepEqual(left, ["file.sock", "live.sock"]);
  }
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("ControlListener: of many starts at once on a stale socket exactly one wins", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  const path = join(folder, "vm.sock");
  {
    using _stale = UnixSeqpacket.listen(path);
  }
  const starts = await Promise.allSettled(
    Array.from({ length: 8 }, () => ControlListener.open(path)),
  );
  const won = starts.filter((start) => start.status === "fulfilled");
  assert.equal(won.length, 1);
  won[0]?.value[Symbol.dispose]();
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("ControlListener: another's socket at the path is not removed at the end", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  const path = join(folder, "vm.sock");
  {
    using _listener = await ControlListener.open(path);
    Deno.removeSync(path);
    Deno.writeTextFileSync(path, "other");
  }
  assert.equal(Deno.readTextFileSync(path), "other");
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("ControlListener: an inherited socket is taken only if it listens", () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  using event = eventfd();
  assert.throws(() => ControlListener.inherit(event.raw), ControlError);
  assert.throws(() => ControlListener.inherit(9999), ControlError);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("requestVm: nobody there is a NotRunningError", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  const path = join(folder, "vm.sock");
  await assert.rejects(requestVm(path, "Exit"), NotRunningError);
  {
    using _stale = UnixSeqpacket.listen(path);
  }
  await assert.rejects(requestVm(path, "Exit"), NotRunningError);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("ControlClient: a VM that does not answer is given up after the time", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  const path = join(folder, "vm.sock");
  using listener = UnixSeqpacket.listen(path);
  using client = await ControlClient.connect(path, { timeoutMs: 50 });
  await assert.rejects(client.request("Exit"), /did not answer within 50 ms/);
  assert.equal(pollFd(listener.fd, PollEvent.In, 0), PollEvent.In);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("stopVm: a VM that ends meanwhile has ended", async () => {
  const path = join(Deno.makeTempDirSync({ prefix: "vmctl-control-" }), "vm.sock");
  using reactor = new Reactor();
  using listener = UnixSeqpacket.listen(path);
  for (const reads of [false, true]) {
    const stopped = stopVm(path, { reactor });
    while (pollFd(listener.fd, PollEvent.In, 0) === 0) await tick(1);
    const socket = listener.accept({ nonblock: true });
    assert(socket !== undefined);
    // Closed with something unread, it is reset.
    while (pollFd(socket.fd, PollEvent.In, 0) === 0) await tick(1);
    if (reads) socket.recvMessage(4096);
    socket[Symbol.dispose]();
    assert.equal(await stopped, "Ok");
  }
  Deno.removeSync(join(path, ".."), { recursive: true });
});

Deno.test("listRunning: live VMs by name, dead ones not", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  {
    using _stale = UnixSeqpacket.listen(socketPathOfName("dead", folder));
    using reactor = new Reactor();
    const names = ["b", "a"];
    const listeners = await Promise.all(
      names.map((name) => ControlListener.open(socketPathOfName(name, folder))),
    );
    using _server = new ControlServer({ reactor, listeners, handler: { handle: standard } });
    _stale[Symbol.dispose]();
    const found = await listRunning(folder);
    assert.throws(() => Deno.lstatSync(socketPathOfName("dead", folder)), Deno.errors.NotFound);
    assert.deepEqual(found.map(({ name, state }) => [name, state?.state]), [
      ["a", "running"],
      ["b", "running"],
    ]);
  }
  assert.deepEqual(await listRunning(join(folder, "none")), []);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("ensureRunDirectory: made private, and refused where others can write", () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-control-" });
  const facts = { xdgRuntimeDir: folder, uid: Deno.uid()! };
  const path = ensureRunDirectory(facts);
  assert.equal(path, join(folder, "vmctl"));
  assert.equal(Deno.lstatSync(path).mode! & 0o777, 0o700);
  assert.equal(ensureRunDirectory(facts), path);
  Deno.chmodSync(path, 0o777);
  assert.throws(() => ensureRunDirectory(facts), /only user/);
  Deno.chmodSync(path, 0o700);
  assert.throws(() => ensureRunDirectory({ ...facts, uid: 4_000_000 }), /only user 4000000/);
  Deno.removeSync(path);
  Deno.symlinkSync("/tmp", path);
  assert.throws(() => ensureRunDirectory(facts), /something else/);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("socketPathOfName: only names", () => {
  assert.equal(socketPathOfName("a-1.b_c", "/run"), "/run/a-1.b_c.sock");
  for (const name of ["", "..", ".x", "a/b", "a b", "x".repeat(65), "ä"]) {
    assert.throws(() => socketPathOfName(name, "/run"), ControlError, name);
  }
});
