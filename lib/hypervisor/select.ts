/**
 * Which engine runs a VM.
 *
 * @module
 */

import { log } from "../base/mod.ts";
import type { GuestMemory, MemoryBacking } from "../memory/mod.ts";
import { HypervisorError } from "./errors.ts";
import { attachKvmVm, type KvmFacts, openKvm, probeKvm } from "./kvm/mod.ts";
import { attachSoftVm, openSoft, type SoftOptions } from "./soft/mod.ts";
import type { EngineKind, Hypervisor, Vm, VmHandle } from "./types.ts";

/** What `--hypervisor` takes. */
export type EngineChoice = "auto" | EngineKind;

/** An engine and why it is this one. */
export interface EngineSelection {
  readonly kind: EngineKind;
  /** A sentence for the log and for `doctor`. */
  readonly reason: string;
  /** Something that the user should know, such as a KVM that is only an emulation. */
  readonly warning?: string;
}

/**
 * Decides without opening anything: KVM when it is there, accessible and real, else the software
 * engine. An explicit choice is taken as it is.
 *
 * @param facts what {@link probeKvm} found, when the caller has it already.
 */
export function chooseEngine(choice: EngineChoice, facts?: KvmFacts): EngineSelection {
  if (choice === "soft") return { kind: "soft", reason: "the software engine was asked for" };
  const found = facts ?? probeKvm();
  const rate = `${((found.instructionsPerSecond ?? 0) / 1e6).toFixed(1)} million instructions/s`;
  if (choice === "kvm") {
    const reason = "KVM was asked for";
    return found.execution !== "emulated" ? { kind: "kvm", reason } : {
      kind: "kvm",
      reason,
      warning:
        `KVM on this host is an emulation (${rate} in guest kernel code): stock kernels do ` +
        "not boot on it; --hypervisor soft is faster and complete",
    };
  }
  if (found.usable && found.execution === "hardware") {
    return { kind: "kvm", reason: "KVM is there and runs guests on the processor" };
  }
  if (found.execution === "emulated") {
    return { kind: "soft", reason: `KVM on this host is an emulation (${rate})` };
  }
  return { kind: "soft", reason: `no usable KVM: ${found.problem ?? "it did not answer"}` };
}

/**
 * Opens the engine that {@link chooseEngine} names, and logs why.
 *
 * @param soft settings for the software engine, where it is that one
 * @throws {HypervisorError} when it cannot be used on this host.
 */
export function selectHypervisor(choice: EngineChoice, soft: SoftOptions = {}): Hypervisor {
  const { kind, reason, warning } = chooseEngine(choice);
  if (warning !== undefined) log.warn(warning);
  log.debug(`engine ${kind}: ${reason}`);
  return openHypervisor(kind, soft);
}

/**
 * Opens an engine.
 *
 * @param soft settings for the software engine, where it is that one
 * @throws {HypervisorError} when it cannot be used on this host.
 */
export function openHypervisor(kind: EngineKind, soft: SoftOptions = {}): Hypervisor {
  return kind === "kvm" ? openKvm() : openSoft(soft);
}

/** The VM of `handle` in another worker of the process that made it; it does not own the VM. */
export function attachVm(handle: VmHandle, memory: GuestMemory): Vm {
  switch (handle.kind) {
    case "kvm":
      return attachKvmVm(handle, memory);
    case "soft":
      return attachSoftVm(handle, memory);
    default:
      throw new HypervisorError(`not a handle of a VM: kind ${String(handle.kind)}`);
  }
}

/** Where guest memory has to lie for an engine. */
export function memoryBackingFor(kind: EngineKind): MemoryBacking {
  return kind === "kvm" ? "mmap" : "wasm";
}
