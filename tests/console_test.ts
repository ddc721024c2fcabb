import assert from "node:assert/strict";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { PtyProcess } from "./support/pty_process.ts";
import { checksumLine, END_OF_INPUT, tinyKernels } from "./support/tiny_kernel.ts";
import { VmBench } from "./support/vm_bench.ts";
import { vmctlBinary } from "./support/vmctl.ts";

/** Runs `body` with a VM on a terminal that prints `ready`, then checks that the terminal is as before. */
async function onTerminal(
  engine: TestEngine,
  kernel: Uint8Array,
  body: (vm: PtyProcess, bench: VmBench) => Promise<void>,
): Promise<void> {
  await using bench = new VmBench(engine);
  const args = bench.args(kernel, ["--name", "tty"]);
  await using vm = await PtyProcess.start(args, { env: bench.env });
  await vm.waitFor("ready");
  await vm.until(() => !vm.restored, "raw mode");
  await body(vm, bench);
  assert(vm.restored, "the terminal is as it was");
  await bench.checkClean();
}

engineTest("console: raw while the VM runs, restored at power-off", async (engine) => {
  await onTerminal(engine, tinyKernels.echo(), async (vm) => {
    const from = vm.output.length;
    // None of these may be treated specially on the way.
    await vm.type("a\x03b\x1ac\x1cd\x11e\x13f\r\n\x7f");
    await vm.waitFor("a\x03b\x1ac\x1cd\x11e\x13f\r\n\x7f", from);
    await vm.type(Uint8Array.of(END_OF_INPUT));
    assert.equal((await vm.end()).code, 0);
    assert(vm.output.includes("bye"));
  });
});

engineTest("console: Ctrl-a x ends the VM, also one that reads nothing", async (engine) => {
  for (const kernel of [tinyKernels.echo(), tinyKernels.spin(), tinyKernels.sleep()]) {
    await onTerminal(engine, kernel, async (vm) => {
      await vm.type("typed ahead");
      await vm.type("\x01x");
      assert.equal((await vm.end()).code, 0);
    });
  }
});

engineTest("console: Ctrl-a h helps, Ctrl-a Ctrl-a and Ctrl-a a send Ctrl-a", async (engine) => {
  await onTerminal(engine, tinyKernels.echo(), async (vm) => {
    await vm.type("\x01h");
    await vm.waitFor("Ctrl-a x       end the VM\r\n");
    const from = vm.output.length;
    await vm.type("<\x01\x01\x01a\x01q>");
    await vm.waitFor("<\x01\x01>", from);
    await vm.type("\x01x");
    assert.equal((await vm.end()).code, 0);
  });
});

engineTest("console: Ctrl-a p presses the power button", async (engine) => {
  await onTerminal(engine, tinyKernels.powerButton(), async (vm) => {
    await vm.type("\x01p");
    assert.equal((await vm.end()).code, 0);
    assert(vm.output.includes("button"));
  });
});

engineTest("console: Ctrl-a s suspends and resumes", async (engine) => {
  await onTerminal(engine, tinyKernels.ticks(), async (vm, bench) => {
    await vm.type("\x01s");
    await vm.waitFor(/suspended.*\r\n/);
    assert.equal((await bench.state("tty")).state, "suspended");
    await vm.type("\x01s");
    await vm.waitFor("resumed");
    await vm.waitFor(/\.{20}/, vm.output.length);
    await vm.type("\x01x");
    assert.equal((await vm.end()).code, 0);
  });
});

engineTest("console: a paste of 256 KiB arrives whole", async (engine) => {
  await onTerminal(engine, tinyKernels.checksum(), async (vm) => {
    const bytes = Uint8Array.from({ length: 256 * 1024 }, (_, at) => 32 + at * 7 % 90);
    await vm.type(bytes);
    await vm.type(Uint8Array.of(END_OF_INPUT));
    assert.equal((await vm.end()).code, 0);
    assert(vm.output.includes(checksumLine(bytes)), vm.output);
  });
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const) {
  engineTest(`console: ${signal} ends the VM and restores the terminal`, async (engine) => {
    await onTerminal(engine, tinyKernels.spin(), async (vm) => {
      vm.signal(signal);
      assert.equal((await vm.end()).code, 0);
    });
  });
}

engineTest("console: SIGTSTP gives the terminal back until SIGCONT", async (engine) => {
  await onTerminal(engine, tinyKernels.echo(), async (vm) => {
    vm.signal("SIGTSTP");
    const state = () => Deno.readTextFileSync(`/proc/${vm.pid}/stat`).split(") ")[1]![0];
    await vm.until(() => state() === "T", "stop");
    assert(vm.restored);
    vm.signal("SIGCONT");
    await vm.until(() => !vm.restored, "raw mode");
    const from = vm.output.length;
    await vm.type("still here");
    await vm.waitFor("still here", from);
    await vm.type("\x01x");
    assert.equal((await vm.end()).code, 0);
  });
});

engineTest("console: restored when a vCPU fails", async (engine) => {
  await using bench = new VmBench(engine);
  const args = bench.args(tinyKernels.breakpoint(), ["--extended-status"]);
  await using vm = await PtyProcess.start(args, { env: bench.env });
  assert.equal((await vm.end()).code, 33);
  assert(vm.restored);
  await bench.checkClean();
}, {
  unless: (engine) => engine.emulated ? undefined : "this engine runs every instruction",
});

engineTest("console: untouched when the start fails", async (engine) => {
  await using bench = new VmBench(engine);
  const args = bench.args(new Uint8Array(5000).fill(0x41));
  await using vm = await PtyProcess.start(args, { env: bench.env });
  assert.equal((await vm.end()).code, 1);
  assert(vm.restored);
  await bench.checkClean();
});

engineTest(
  "console: in the background the terminal is left alone, in the foreground taken",
  async (engine) => {
    await using bench = new VmBench(engine);
    const args = bench.args(tinyKernels.echo(), ["--name", "tty"]).map((arg) => `'${arg}'`);
    const env = { ...bench.env, VMCTL: await vmctlBinary(), PS1: "prompt> ", ENV: "" };
    await using shell = await PtyProcess.start(["-i"], { env, program: "sh" });
    await shell.waitFor("prompt> ");
    await shell.type(`"$VMCTL" ${args.join(" ")} &\r`);
    await shell.waitFor("ready");
    assert(shell.restored);
    await shell.type("echo still-$((1 + 1))-here\r");
    await shell.waitFor("still-2-here");
    assert.equal((await bench.state("tty")).state, "running");

    await shell.type("fg\r");
    await shell.until(() => !shell.restored, "raw mode");
    let from = shell.output.length;
    await shell.type("to the guest");
    await shell.waitFor("to the guest", from);
    await shell.type("\x01x");
    await shell.until(() => shell.restored, "the terminal's former mode");
    from = shell.output.length;
    await shell.type("echo status $?\r");
    await shell.waitFor("status 0", from);
    await shell.type("exit\r");
    await shell.end();
    await bench.checkClean();
  },
);
