import assert from "node:assert/strict";
import { engineTest } from "./support/engines.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { VmBench } from "./support/vm_bench.ts";

const IN_SEQUENCE = 200;
const AT_ONCE = 8;

/** What the host has of what a VM could leak: nothing of it may be there because of one. */
function hostState(): readonly string[] {
  try {
    // Others may make theirs meanwhile.
    return [...Deno.readDirSync("/dev/shm")].map(({ name }) => name).filter((name) =>
      name.includes("vmctl") && !name.includes("vmctl-test-")
    );
  } catch {
    return [];
  }
}

engineTest(`stress: ${IN_SEQUENCE} VMs one after the other leave nothing`, async (engine) => {
  await using bench = new VmBench(engine);
  const before = hostState();
  const kernels = [
    tinyKernels.hello(),
    tinyKernels.reset(),
    tinyKernels.tripleFault(),
    tinyKernels.off(),
  ];
  for (let turn = 0; turn < IN_SEQUENCE; turn++) {
    const kernel = kernels[turn % kernels.length]!;
    // Each kind of end with jailed devices and without, which start in half the time.
    const devices = turn % 16 < kernels.length ? [] : ["--no-rng", "--no-balloon"];
    const { code, stderr } = await bench.run(kernel, [
      ...["--name", "stress", "--extended-status"],
      ...devices,
    ]);
    assert.equal(code, [0, 32, 32, 0][turn % kernels.length], `VM ${turn}: ${stderr}`);
  }
  await bench.checkClean();
  assert.deepEqual(hostState(), before);
});

engineTest(
  `stress: ${AT_ONCE} VMs at once, suspended, resumed and stopped, leave nothing`,
  async (engine) => {
    await using bench = new VmBench(engine);
    const before = hostState();
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: AT_ONCE }, async (_, index) => {
        const name = `vm${index}`;
        await using vm = await bench.start(tinyKernels.ticks(1000), ["--name", name]);
        await vm.waitFor(/ready\n\.{10}/);
        for (let turn = 0; turn < 3; turn++) {
          assert.equal(await bench.request(name, "SuspendVm"), "Ok");
          assert.equal(await bench.request(name, "ResumeVm"), "Ok");
        }
        if (index % 2 === 0) assert.equal(await bench.request(name, "Exit"), "Ok");
        else vm.signal("SIGTERM");
        const { code, stderr } = await vm.end();
        assert.equal(code, 0, stderr);
      }));
    }
    await bench.checkClean();
    assert.deepEqual(hostState(), before);
  },
);

engineTest(
  "stress: a VM that runs on keeps its descriptors, threads and mappings",
  async (engine) => {
    await using bench = new VmBench(engine);
    await using vm = await bench.start(tinyKernels.spin(), ["--name", "vm"]);
    await vm.waitFor("ready");
    const facts = () => ({
      descriptors: [...Deno.readDirSync(`/proc/${vm.pid}/fd`)].length,
      memfds: Deno.readTextFileSync(`/proc/${vm.pid}/maps`).match(/memfd:/g)?.length,
    });
    // The first ones load what is needed lazily.
    for (let turn = 0; turn < 20; turn++) {
      await bench.state("vm");
      await bench.request("vm", turn % 2 === 0 ? "SuspendVm" : "ResumeVm");
    }
    const before = facts();
    for (let turn = 0; turn < 200; turn++) {
      await bench.state("vm");
      await bench.request("vm", turn % 2 === 0 ? "SuspendVm" : "ResumeVm");
    }
    await bench.until(
      "as many descriptors as before",
      () => facts().descriptors <= before.descriptors,
    );
    // Before, the last request's connection may still have been open.
    assert.equal(facts().memfds, before.memfds);
    assert.equal(await bench.request("vm", "Exit"), "Ok");
    assert.equal((await vm.end()).code, 0);
  },
);
