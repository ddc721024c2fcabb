import assert from "node:assert/strict";
import { join } from "node:path";
import { listenUnix } from "../lib/host/mod.ts";
import { engineTest } from "./support/engines.ts";
import { checksumLine, END_OF_INPUT, tinyKernels } from "./support/tiny_kernel.ts";
import { VmBench } from "./support/vm_bench.ts";
import { vmctlBinary } from "./support/vmctl.ts";

engineTest(
  "run: the guest's output comes out, and power-off ends with status 0",
  async (engine) => {
    await using bench = new VmBench(engine);
    const result = await bench.run(tinyKernels.hello("hello from the guest\n"));
    assert.equal(result.stdout, "hello from the guest\n");
    assert.equal(result.code, 0, result.stderr);
    await bench.checkClean();
  },
);

const statuses = [
  ["reset register", tinyKernels.reset(), 32],
  ["reset by the keyboard controller", tinyKernels.keyboardReset(), 32],
  ["triple fault", tinyKernels.tripleFault(), 32],
  ["panic device", tinyKernels.panic(), 34],
  ["power-off", tinyKernels.off(), 0],
] as const;
for (const [name, kernel, status] of statuses) {
  engineTest(
    `run: ${name} is status ${status} with --extended-status, 0 without`,
    async (engine) => {
      await using bench = new VmBench(engine);
      const extended = await bench.run(kernel, ["--extended-status"]);
      assert.equal(extended.code, status, extended.stderr);
      const plain = await bench.run(kernel);
      assert.equal(plain.code, 0, plain.stderr);
      await bench.checkClean();
    },
  );
}

engineTest("run: a vCPU that fails is status 33, with its registers", async (engine) => {
  await using bench = new VmBench(engine);
  const result = await bench.run(tinyKernels.breakpoint(), ["--extended-status"]);
  assert.equal(result.code, 33, result.stderr);
  assert.match(result.stderr, /vCPU 0 failed/);
  assert.match(result.stderr, /rip=0x0*10/);
  await bench.checkClean();
}, {
  unless: (engine) => engine.emulated ? undefined : "this engine runs every instruction",
});

engineTest(
  "run: what cannot be started is told, with status 1, and leaves nothing",
  async (engine) => {
    await using bench = new VmBench(engine);
    const garbage = await bench.run(new Uint8Array(100_000).fill(0x41));
    assert.equal(garbage.code, 1);
    assert.match(garbage.stderr, /vmctl: .*file0/);
    const truncated = await bench.run(tinyKernels.hello().subarray(0, 4100));
    assert.equal(truncated.code, 1, truncated.stderr);
    const port = await bench.run(tinyKernels.hello(), [
      "--serial",
      `type=file,path=${bench.path("no/such/folder")},num=1`,
    ]);
    assert.notEqual(port.code, 0);
    assert.match(port.stderr, /no\/such\/folder/);
    const counters = await bench.run(tinyKernels.hello(), [
      "--engine-stats",
      bench.path("no/such/folder/counters"),
    ]);
    assert.deepEqual([counters.code, counters.stdout], [1, ""]);
    assert.match(
      counters.stderr,
      /--engine-stats .*counters: cannot be opened for writing: no such/,
    );
    await bench.checkClean();
  },
);

engineTest(
  "run: serial output to a file, appended, with and without timestamps",
  async (engine) => {
    await using bench = new VmBench(engine);
    const path = bench.path("log");
    Deno.writeTextFileSync(path, "before\n");
    const result = await bench.run(tinyKernels.lines(3), ["--serial", `type=file,path=${path}`]);
    assert.equal(result.code, 0, result.stderr);
    assert.equal(result.stdout, "");
    const line = "0123456789abcde\n";
    assert.equal(Deno.readTextFileSync(path), `before\n${line}${line}${line}`);
    const stamped = await bench.run(tinyKernels.lines(2), [
      "--serial",
      "type=stdout,out-timestamp=true",
    ]);
    assert.match(stamped.stdout, /^(\[ +\d+\.\d{6}\] 0123456789abcde\n){2}$/);
  },
);

engineTest("run: serial output to nowhere and to the log", async (engine) => {
  await using bench = new VmBench(engine);
  const sink = await bench.run(tinyKernels.hello(), ["--serial", "type=sink"]);
  assert.equal(sink.code, 0, sink.stderr);
  assert.equal(sink.stdout, "");
  const log = await bench.run(tinyKernels.hello("to the log\n"), ["--serial", "type=syslog"]);
  assert.equal(log.stdout, "");
  assert.match(log.stderr, /ttyS0: to the log\n/);
});

engineTest("run: a stream socket as serial port, both ways", async (engine) => {
  await using bench = new VmBench(engine);
  const path = bench.path("tty");
  using listener = listenUnix(path, "stream");
  await using vm = await bench.start(tinyKernels.echo(), [
    "--serial",
    `type=unix-stream,path=${path}`,
  ]);
  await bench.until("connected", () => vm.stderr.includes("vCPUs start"));
  using peer = listener.accept()!;
  let received = "";
  const receive = async (wanted: string) => {
    await bench.until(wanted, () => {
      const message = peer.recvMessage(4096, 0, { dontWait: true });
      if (message !== undefined) received += new TextDecoder().decode(message.bytes);
      return received.includes(wanted);
    });
  };
  await receive("ready\n");
  peer.sendMessage(new TextEncoder().encode("over the socket"));
  await receive("over the socket");
  peer.sendMessage(Uint8Array.of(END_OF_INPUT));
  await receive("bye\n");
  assert.equal((await vm.end()).code, 0);
});

engineTest("run: input of any amount arrives, from a file and from a pipe", async (engine) => {
  await using bench = new VmBench(engine);
  const bytes = Uint8Array.from({ length: 100_000 }, (_, at) => 32 + at * 7 % 90);
  const input = new Uint8Array([...bytes, END_OF_INPUT]);
  const fromFile = await bench.run(tinyKernels.checksum(), [
    "--serial",
    `type=stdout,input=${bench.file(input)}`,
  ]);
  assert.equal(fromFile.stdout, `ready\n${checksumLine(bytes)}\n`, fromFile.stderr);
  const fromPipe = await bench.run(tinyKernels.checksum(), [], {
    stdin: new TextDecoder().decode(input),
  });
  assert.equal(fromPipe.stdout, `ready\n${checksumLine(bytes)}\n`, fromPipe.stderr);
});

engineTest("run: stdin at its end goes on running", async (engine) => {
  await using bench = new VmBench(engine);
  await using vm = await bench.start(tinyKernels.ticks(), ["--name", "eof"]);
  await vm.waitFor("ready");
  await vm.closeStdin();
  await vm.waitFor(/\.{20}/);
  assert.equal(await bench.request("eof", "Exit"), "Ok");
  assert.equal((await vm.end()).code, 0);
  await bench.checkClean();
});

engineTest(
  "run: a reader that leaves ends the VM, even a quiet one, with status 0",
  async (engine) => {
    await using bench = new VmBench(engine);
    for (const [kernel, lines] of [[tinyKernels.flood(), 3], [tinyKernels.sleep(), 1]] as const) {
      const args = bench.args(kernel).map((arg) => `'${arg}'`).join(" ");
      const shell = new Deno.Command("sh", {
        args: ["-c", `{ "$VMCTL" ${args}; echo "status $?" >&2; } | head -n ${lines}`],
        env: { ...bench.env, VMCTL: await vmctlBinary() },
        stdin: "null",
      });
      const { stdout, stderr } = await shell.output();
      assert.equal(new TextDecoder().decode(stdout).split("\n").length, lines + 1);
      assert.match(new TextDecoder().decode(stderr), /^status 0$/m);
    }
    await bench.checkClean();
  },
);

engineTest(
  "run: a reader that does not read stops the guest, not suspend and stop",
  async (engine) => {
    await using bench = new VmBench(engine);
    const command = new Deno.Command(await vmctlBinary(), {
      args: bench.args(tinyKernels.flood(), ["--name", "blocked"]),
      env: bench.env,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    });
    const child = command.spawn();
    const complaints = new Response(child.stderr).text();
    await bench.until("started", async () => {
      try {
        return (await bench.state("blocked")).state === "running";
      } catch {
        return false;
      }
    });
    // Until the guest stands still: its vCPU uses no more processor time.
    let before = -1;
    await bench.until("blocked", async () => {
      const now = (await bench.state("blocked")).vcpus[0]!.cpu_time_ms;
      await new Promise((resolve) => setTimeout(resolve, 200));
      const still = now === before;
      before = now;
      return still;
    });
    assert.equal(await bench.request("blocked", "SuspendVm"), "Ok");
    assert.equal((await bench.state("blocked")).state, "suspended");
    assert.equal(await bench.request("blocked", "ResumeVm"), "Ok");
    assert.equal(await bench.request("blocked", "SuspendVm"), "Ok");
    assert.equal(await bench.request("blocked", "Exit"), "Ok");
    const status = await child.status;
    // None of it waited for the reader, who still has not read, or gave the guest up.
    await child.stdout.cancel();
    assert.equal(status.code, 0, await complaints);
    assert.doesNotMatch(await complaints, /did not stop/);
    await bench.checkClean();
  },
);

engineTest("run: two vCPUs start and stop", async (engine) => {
  await using bench = new VmBench(engine);
  const result = await bench.run(tinyKernels.hello(), ["--cpus", "2"]);
  assert.equal(result.code, 0, result.stderr);
  assert.equal(result.stdout, "hello\n");
});

engineTest("run: a cache of translations that cannot be is warned of", async (engine) => {
  await using bench = new VmBench(engine);
  // A folder that is there, in which nobody makes a file.
  const still = bench.path("still");
  Deno.mkdirSync(still);
  Deno.symlinkSync("/proc/self", join(still, "translations"));
  for (
    const [place, why] of [
      ["/proc/none", "no such file"],
      [bench.file(""), "a part of the path is not a folder"],
      [still, "no such file"],
    ] as const
  ) {
    const result = await bench.run(tinyKernels.hello(), ["--soft", `cache-dir=${place}`]);
    assert.equal(result.code, 0, result.stderr);
    assert(
      result.stderr.includes(`translated code is not kept in ${place}/translations: ${why}`),
      result.stderr,
    );
  }
}, { unless: ({ kind }) => kind === "soft" ? undefined : "only the software engine translates" });
