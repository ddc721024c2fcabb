import assert from "node:assert/strict";
import { listOpenFds } from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import type { VcpuIo } from "../types.ts";
import { openKvm, probeKvm } from "./mod.ts";

const facts = probeKvm();
const ignore = !facts.usable;
const why = ignore ? ` (skipped: ${facts.problem})` : "";

const IO: VcpuIo = {
  stopRequested: false,
  portIn() {},
  portOut() {},
  mmioRead() {},
  mmioWrite() {},
};

Deno.test("the probe tells what KVM is worth", () => {
  if (!facts.accessible) {
    assert.ok(facts.problem !== undefined && facts.remedy !== undefined);
    return;
  }
  assert.equal(facts.apiVersion, 12);
  if (!facts.usable) return;
  assert.ok(facts.execution === "hardware" || facts.execution === "emulated");
  assert.ok((facts.instructionsPerSecond ?? 0) > 1e5);
  assert.equal(facts.problem === undefined, facts.execution === "hardware");
});

Deno.test({
  name: `KVM: VMs made and ended leave no descriptor and no mapping${why}`,
  ignore,
  fn() {
    const mappings = () => Deno.readTextFileSync("/proc/self/maps").split("\n").length;
    const cycle = () => {
      using hypervisor = openKvm();
      using memory = GuestMemory.create({ sizeBytes: 64 << 20, backing: "mmap" });
      using vm = hypervisor.createVm(memory, { vcpuCount: 4 });
      using vcpu = vm.createVcpu(3);
      vm.kick(3);
      vcpu.run(IO);
    };
    cycle();
    const [fds, maps] = [listOpenFds(), mappings()];
    for (let round = 0; round < 20; round++) cycle();
    assert.deepEqual(listOpenFds(), fds);
    // The heap may have grown by a few.
    assert.ok(mappings() < maps + 20, `${maps} mappings became ${mappings()}`);
  },
});

Deno.test({
  name: `KVM: numbers of vCPUs that it cannot have are refused${why}`,
  ignore,
  fn() {
    using hypervisor = openKvm();
    using memory = GuestMemory.create({ sizeBytes: 1 << 20, backing: "mmap" });
    const { maxVcpus } = hypervisor.capabilities;
    for (const vcpuCount of [0, -1, 1.5, maxVcpus + 1]) {
      assert.throws(
        () => hypervisor.createVm(memory, { vcpuCount }),
        new RegExp(`runs 1 to ${maxVcpus} vCPUs here, got ${vcpuCount}`),
      );
    }
  },
});

Deno.test({
  name: `KVM: a VM outlives the object that opened KVM, a kick outlives the VM${why}`,
  ignore,
  fn() {
    const hypervisor = openKvm();
    using memory = GuestMemory.create({ sizeBytes: 1 << 20, backing: "mmap" });
    const vm = hypervisor.createVm(memory, { vcpuCount: 1 });
    hypervisor[Symbol.dispose]();
    const vcpu = vm.createVcpu(0);
    vm.kick(0);
    vcpu.run(IO);
    vcpu[Symbol.dispose]();
    vm[Symbol.dispose]();
    vm[Symbol.dispose]();
    vm.kick(0);
  },
});
