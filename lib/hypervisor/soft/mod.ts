/**
 * The engine that executes guests in software.
 *
 * @module
 */

import type { GuestMemory } from "../../memory/mod.ts";
import { HypervisorError } from "../errors.ts";
import type { Hypervisor, Vm, VmHandle } from "../types.ts";

/** Opens the software engine. */
export function openSoft(): Hypervisor {
  throw new HypervisorError("the software engine is not there yet");
}

/** The VM of `handle` in another worker of the process that made it. */
export function attachSoftVm(_handle: VmHandle, _memory: GuestMemory): Vm {
  throw new HypervisorError("the software engine is not there yet");
}
