import assert from "node:assert/strict";
import { engineTest } from "./support/engines.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { VmBench } from "./support/vm_bench.ts";
import { vmctlBinary } from "./support/vmctl.ts";

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const) {
  engineTest(`signals: ${signal} ends the VM with status 0 and leaves nothing`, async (engine) => {
    await using bench = new VmBench(engine);
    for (const kernel of [tinyKernels.spin(), tinyKernels.sleep(), tinyKernels.flood()]) {
      await using vm = await bench.start(kernel);
      await vm.waitFor(/ready|0123456789/);
      vm.signal(signal);
      const result = await vm.end();
      assert.deepEqual([result.code, result.signal], [0, null], result.stderr);
    }
    await bench.checkClean();
  });
}

engineTest("signals: at any moment of the start", async (engine) => {
  await using bench = new VmBench(engine);
  for (let delay = 0; delay < 200; delay += 20) {
    await using vm = await bench.start(tinyKernels.spin());
    await new Promise((resolve) => setTimeout(resolve, delay));
    vm.signal("SIGTERM");
    const { code, signal, stderr } = await vm.end();
    // Before the handler is there, the signal itself ends the process.
    assert(code === 0 || signal === "SIGTERM", `${code} ${signal} ${stderr}`);
  }
  await bench.until("no process left", () => bench.processes().length === 0);
});

engineTest("signals: one that was ignored at the start stays ignored", async (engine) => {
  await using bench = new VmBench(engine);
  const child = new Deno.Command("nohup", {
    args: [await vmctlBinary(), ...bench.args(tinyKernels.ticks(), ["--name", "nohup"])],
    env: bench.env,
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  child.kill("SIGHUP");
  for (let chunk = 0; chunk < 5; chunk++) assert((await reader.read()).value!.length > 0);
  assert.equal((await bench.state("nohup")).state, "running");
  assert.equal(await bench.request("nohup", "Exit"), "Ok");
  while (!(await reader.read()).done);
  assert.equal((await child.status).code, 0);
  await bench.checkClean();
});

engineTest(
  "signals: a VM killed outright leaves a socket that the next one replaces",
  async (engine) => {
    await using bench = new VmBench(engine);
    {
      await using vm = await bench.start(tinyKernels.spin(), ["--name", "again"]);
      await vm.waitFor("ready");
      vm.signal("SIGKILL");
      assert.equal((await vm.end()).signal, "SIGKILL");
    }
    assert(Deno.lstatSync(bench.socket("again")).isSocket);
    assert.deepEqual(JSON.parse((await bench.vmctl("list", "--json")).stdout), []);
    await using vm = await bench.start(tinyKernels.spin(), ["--name", "again"]);
    await vm.waitFor("ready");
    assert.equal(await bench.request("again", "Exit"), "Ok");
    assert.equal((await vm.end()).code, 0);
    await bench.checkClean();
  },
);

engineTest("signals: the socket of a VM killed outright is removed by list", async (engine) => {
  await using bench = new VmBench(engine);
  await using vm = await bench.start(tinyKernels.spin(), ["--name", "dead"]);
  await vm.waitFor("ready");
  vm.signal("SIGKILL");
  await vm.end();
  assert.deepEqual(JSON.parse((await bench.vmctl("list", "--json")).stdout), []);
  await bench.checkClean();
});
