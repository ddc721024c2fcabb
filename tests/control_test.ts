import assert from "node:assert/strict";
import { ControlClient, parseResponse, queryState, type VmResponse } from "../lib/control/mod.ts";
import { eventfd, isHostError, Reactor, UnixSeqpacket, type UnixSocket } from "../lib/host/mod.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { VmBench } from "./support/vm_bench.ts";
import { startVmctl, vmctlBinary, type VmctlProcess } from "./support/vmctl.ts";

/** Runs `body` with a VM named `vm` that prints `ready`, ends it, and checks that nothing is left. */
async function withVm(
  engine: TestEngine,
  kernel: Uint8Array,
  body: (bench: VmBench, vm: VmctlProcess) => Promise<void>,
): Promise<void> {
  await using bench = new VmBench(engine);
  await using vm = await bench.start(kernel, ["--name", "vm"]);
  await vm.waitFor("ready");
  await body(bench, vm);
  const stopped = await bench.vmctl("stop", "vm");
  const { code, stderr } = await vm.end();
  assert.equal(code, 0, `${stopped.stderr}${stderr}`);
  await bench.checkClean();
}

/** Connects, also where the VM has a backlog. */
async function connect(path: string): Promise<UnixSocket> {
  for (;;) {
    try {
      return UnixSeqpacket.connect(path, { nonblock: true });
    } catch (error) {
      if (!isHostError(error, "EAGAIN")) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

async function answer(socket: UnixSocket): Promise<VmResponse> {
  for (;;) {
    const message = socket.recvMessage(65536, 0, { dontWait: true });
    if (message !== undefined) return parseResponse(message.bytes);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

engineTest("control: state, list and status tell of the VM", async (engine) => {
  await withVm(engine, tinyKernels.spin(), async (bench, vm) => {
    await bench.until("time passes", async () => {
      const state = await bench.state("vm");
      return state.uptime_ms >= 100 && state.vcpus[0]!.cpu_time_ms > 0;
    });
    const state = await bench.state("vm");
    assert.equal(state.name, "vm");
    assert.equal(state.pid, vm.pid);
    assert.equal(state.engine, engine.kind);
    assert.equal(state.state, "running");
    assert.equal(state.vcpus[0]!.state, "running");
    assert.equal(state.memory.size_bytes, 64 << 20);
    assert(state.memory.resident_bytes > 0 && state.memory.resident_bytes < 32 << 20);
    const list = JSON.parse((await bench.vmctl("list", "--json")).stdout);
    assert.deepEqual(list.map(({ name }: { name: string }) => name), ["vm"]);
    const status = await bench.vmctl("status", "vm");
    assert.equal(status.code, 0, status.stderr);
    assert.match(status.stdout, /running/);
    const alias = await bench.vmctl("state", "--json", "vm");
    assert.equal(alias.code, 0, alias.stderr);
    assert.deepEqual(Object.keys(JSON.parse(alias.stdout)), Object.keys(state));
    for (const name of ["status", "state"]) {
      assert.equal((await bench.vmctl(name, "another")).code, 1);
    }
    assert.deepEqual(await bench.request("vm", "VcpuPidTid"), {
      VcpuPidTidResponse: { pid_tid_map: { "0": [state.pid, state.vcpus[0]!.tid] } },
    });
  });
});

engineTest("control: suspend stops the guest, resume lets it go on", async (engine) => {
  await withVm(engine, tinyKernels.ticks(), async (bench, vm) => {
    await vm.waitFor(/\.{5}/);
    assert.equal((await bench.vmctl("suspend", "vm")).code, 0);
    const state = await bench.state("vm");
    assert.equal(state.state, "suspended");
    assert.equal(state.vcpus[0]!.state, "suspended");
    // What was on its way may still arrive, nothing else.
    const pause = () => new Promise((resolve) => setTimeout(resolve, 300));
    let printed: number;
    do {
      printed = vm.stdout.length;
      await pause();
    } while (vm.stdout.length !== printed);
    await pause();
    const later = await bench.state("vm");
    assert(later.vcpus[0]!.cpu_time_ms - state.vcpus[0]!.cpu_time_ms <= 1);
    assert.equal(vm.stdout.length, printed);
    assert.equal(await bench.request("vm", "SuspendVm"), "Ok", "suspending twice is fine");
    assert.equal((await bench.vmctl("resume", "vm")).code, 0);
    await bench.until("it goes on", () => vm.stdout.length > printed + 20);
    assert.equal(await bench.request("vm", "ResumeVcpus"), "Ok", "so is resuming twice");
  });
});

for (
  const [name, kernel] of [["spins", tinyKernels.spin()], ["sleeps", tinyKernels.sleep()]] as const
) {
  engineTest(`control: suspend, resume and stop a guest that ${name}`, async (engine) => {
    await withVm(engine, kernel, async (bench) => {
      using client = await ControlClient.connect(bench.socket("vm"));
      for (let turn = 0; turn < 50; turn++) {
        assert.equal(await client.request("SuspendVcpus"), "Ok");
        assert.equal(await client.request("ResumeVcpus"), "Ok");
      }
      assert.equal(await client.request("SuspendVm"), "Ok");
      // It is stopped while it is suspended.
    });
  });
}

engineTest("control: suspends and resumes of many clients at once", async (engine) => {
  await withVm(engine, tinyKernels.spin(), async (bench) => {
    using reactor = new Reactor();
    const clients = await Promise.all(
      Array.from({ length: 10 }, () => ControlClient.connect(bench.socket("vm"), { reactor })),
    );
    await Promise.all(clients.map(async (client, index) => {
      for (let turn = 0; turn < 10; turn++) {
        assert.equal(await client.request(index % 2 === 0 ? "SuspendVm" : "ResumeVm"), "Ok");
      }
      client[Symbol.dispose]();
    }));
    assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
    assert.equal((await bench.state("vm")).state, "running");
  });
});

engineTest("control: the power button reaches the guest", async (engine) => {
  await using bench = new VmBench(engine);
  await using vm = await bench.start(tinyKernels.powerButton(), ["--name", "vm"]);
  await vm.waitFor("ready");
  assert.equal(await bench.request("vm", "Powerbtn"), "Ok");
  const { code, stdout } = await vm.end();
  assert.equal(code, 0);
  assert.match(stdout, /button/);
  await bench.checkClean();
});

engineTest(
  "control: garbage and what is not supported gets an ErrString and does no harm",
  async (engine) => {
    await withVm(engine, tinyKernels.spin(), async (bench) => {
      using socket = UnixSeqpacket.connect(bench.socket("vm"));
      using event = eventfd();
      const packets: (string | Uint8Array)[] = [
        "hello",
        `"Explode"`,
        `{"Exit":`,
        `{"Exit":1}`,
        `{"BalloonCommand":"WorkingSet"}`,
        `{"DiskCommand":{"disk_index":0,"command":{"Resize":{"new_size":1}}}}`,
        `{"Snapshot":{"Take":{"snapshot_path":"/x","compress_memory":false,"encrypt":false}}}`,
        `{"UnregisterMemory":{"region_id":1}}`,
        `"MakeRT"`,
        Uint8Array.of(0xff, 0xfe, 0, 1),
        new Uint8Array(100_000).fill(0x20),
        "[".repeat(50_000),
      ];
      for (const packet of packets) {
        const bytes = typeof packet === "string" ? new TextEncoder().encode(packet) : packet;
        socket.sendMessage(bytes, [event, event]);
        const got = await answer(socket);
        assert(typeof got === "object" && "ErrString" in got, JSON.stringify([packet, got]));
      }
      assert.equal((await bench.state("vm")).state, "running");
    });
  },
);

engineTest(
  "control: waiting for a balloon that no driver serves ends, and harms nobody",
  async (engine) => {
    await withVm(engine, tinyKernels.spin(), async (bench) => {
      const wait = () => bench.vmctl("balloon", "--wait", "--timeout", "1", "16M", "vm");
      const late = await wait();
      assert.equal(late.code, 1, late.stderr);
      assert.match(late.stderr, /expected 16 MiB within 1 s, got 0 B: no driver .*stays asked for/);
      assert.equal((await bench.state("vm")).memory.balloon_bytes, 16 << 20);
      assert.equal((await bench.vmctl("suspend", "vm")).code, 0);
      assert.match((await wait()).stderr, /got 0 B: the VM is suspended/);
      assert.equal((await bench.vmctl("resume", "vm")).code, 0);
      // More than the device takes at once, of clients that leave.
      const adjust = { Adjust: { num_bytes: 16 << 20, wait_for_success: true } };
      const packet = new TextEncoder().encode(JSON.stringify({ BalloonCommand: adjust }));
      for (let turn = 0; turn < 600; turn++) {
        using socket = await connect(bench.socket("vm"));
        socket.sendMessage(packet);
      }
      const { code, stderr } = await bench.vmctl("balloon", "0", "vm");
      assert.equal(code, 0, stderr);
      assert.equal((await bench.vmctl("balloon", "--timeout", "1", "0", "vm")).code, 1);
    });
  },
);

engineTest("control: a hundred clients at once, mute ones among them", async (engine) => {
  await withVm(engine, tinyKernels.spin(), async (bench) => {
    using stack = new DisposableStack();
    const state = new TextEncoder().encode(`{"Vmctl":"State"}`);
    for (let index = 0; index < 20; index++) {
      const mute = stack.use(UnixSeqpacket.connect(bench.socket("vm"), { nonblock: true }));
      while (mute.sendMessage(state) > 0);
    }
    const reactor = stack.use(new Reactor());
    const clients = await Promise.all(Array.from(
      { length: 100 },
      async () => stack.use(await ControlClient.connect(bench.socket("vm"), { reactor })),
    ));
    for (let turn = 0; turn < 5; turn++) {
      const answers = await Promise.all(
        clients.map((client) => client.request({ Vmctl: "State" })),
      );
      assert.equal(answers.length, 100);
    }
  });
});

engineTest(
  "control: a second VM of the same name is refused, the first one stays",
  async (engine) => {
    await withVm(engine, tinyKernels.spin(), async (bench) => {
      const second = await bench.run(tinyKernels.spin(), ["--name", "vm"]);
      assert.equal(second.code, 1, second.stderr);
      assert.match(second.stderr, /another process listens there/);
      assert.equal((await bench.state("vm")).state, "running");
    });
  },
);

engineTest("control: --socket, by path and in a folder", async (engine) => {
  await using bench = new VmBench(engine);
  const path = bench.path("control");
  await using vm = await bench.start(tinyKernels.spin(), ["--socket", path]);
  await vm.waitFor("ready");
  assert.equal(Deno.lstatSync(path).mode! & 0o777, 0o600);
  const stopped = await bench.vmctl("stop", path);
  assert.equal(stopped.code, 0, stopped.stderr);
  assert.equal((await vm.end()).code, 0);
  assert.throws(() => Deno.lstatSync(path), Deno.errors.NotFound);

  Deno.mkdirSync(path);
  await using other = await bench.start(tinyKernels.spin(), ["--socket", path]);
  await other.waitFor("ready");
  assert.equal((await bench.vmctl("stop", `${path}/vmctl-${other.pid}.sock`)).code, 0);
  assert.equal((await other.end()).code, 0);
  await bench.checkClean();
});

engineTest("control: stop waits until the VM is gone, so that its name is free", async (engine) => {
  await using bench = new VmBench(engine);
  for (let turn = 0; turn < 5; turn++) {
    await using vm = await bench.start(tinyKernels.spin(), ["--name", "vm"]);
    await vm.waitFor("ready");
    assert.equal((await bench.vmctl("stop", "vm")).code, 0);
    assert.throws(() => Deno.lstatSync(bench.socket("vm")), Deno.errors.NotFound);
    assert.equal((await vm.end()).code, 0);
  }
  const gone = await bench.vmctl("stop", "vm");
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /no VM listens/);
  await bench.checkClean();
});

/** Starts a program with a listening SOCK_SEQPACKET socket as descriptor 9, bound to the first argument. */
const LISTEN_AND_EXEC = `
  use Socket; use POSIX ();
  my $path = shift @ARGV;
  socket(my $s, AF_UNIX, SOCK_SEQPACKET, 0) or die $!;
  bind($s, sockaddr_un($path)) or die $!;
  listen($s, 16) or die $!;
  POSIX::dup2(fileno($s), 9) or die $!;
  exec @ARGV;`;

engineTest("control: a listening socket that the caller passes on", async (engine) => {
  await using bench = new VmBench(engine);
  const path = bench.path("inherited");
  const args = bench.args(tinyKernels.spin(), ["--name", "heir", "--socket", "/proc/self/fd/9"]);
  const perl = ["-e", LISTEN_AND_EXEC, path, await vmctlBinary()];
  await using vm = await startVmctl([...perl, ...args], { env: bench.env, program: "perl" });
  await vm.waitFor("ready");
  const { name } = await queryState(path);
  assert.equal(name, "heir");
  assert.equal((await bench.state("heir")).name, "heir", "it is found by its name, too");
  assert.equal((await bench.vmctl("stop", path)).code, 0);
  assert.equal((await vm.end()).code, 0);
  assert(Deno.lstatSync(path).isSocket, "whoever made the socket removes it");
  await bench.checkClean();
}, { unless: () => hasPerl() ? undefined : "no perl" });

function hasPerl(): boolean {
  try {
    return new Deno.Command("perl", { args: ["-MSocket", "-e", "1"] }).outputSync().success;
  } catch {
    return false;
  }
}
