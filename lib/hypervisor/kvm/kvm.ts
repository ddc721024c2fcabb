import { installNoopSignalHandler } from "../../host/mod.ts";
import { type GuestMemory, MAX_MEMORY_BYTES } from "../../memory/mod.ts";
import { HypervisorError } from "../errors.ts";
import type { Capabilities, Hypervisor, Vm, VmHandle, VmOptions } from "../types.ts";
import { KvmSystem } from "./system.ts";
import { KICK_SIGNAL, KvmVm } from "./vm.ts";

class Kvm implements Hypervisor {
  readonly kind = "kvm";
  readonly capabilities: Capabilities;
  readonly #system: KvmSystem;

  constructor(system: KvmSystem) {
    this.#system = system;
    this.capabilities = {
      maxVcpus: system.maxVcpus,
      maxMemoryBytes: MAX_MEMORY_BYTES,
      dirtyLog: true,
      tscKhz: undefined,
    };
  }

  createVm(memory: GuestMemory, options: VmOptions): Vm {
    const { vcpuCount } = options;
    const { maxVcpus } = this.capabilities;
    if (!Number.isInteger(vcpuCount) || vcpuCount < 1 || vcpuCount > maxVcpus) {
      throw new HypervisorError(`KVM runs 1 to ${maxVcpus} vCPUs here, got ${vcpuCount}`);
    }
    return KvmVm.create(this.#system, memory, options);
  }

  [Symbol.dispose](): void {
    this.#system[Symbol.dispose]();
  }
}

/**
 * Opens /dev/kvm. VMs made by it stay when it is disposed.
 *
 * @throws {HypervisorError} when it cannot be used; the message says what to do.
 */
export function openKvm(): Hypervisor {
  const system = KvmSystem.open();
  installNoopSignalHandler(KICK_SIGNAL);
  return new Kvm(system);
}

/** The VM of `handle` in another worker of the process that made it. */
export function attachKvmVm(handle: VmHandle, _memory: GuestMemory): Vm {
  if (handle.kind !== "kvm") throw new HypervisorError(`not a VM of KVM but of ${handle.kind}`);
  return KvmVm.attach(handle);
}
