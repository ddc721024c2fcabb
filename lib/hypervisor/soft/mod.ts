/**
 * The engine that executes guests in software.
 *
 * @module
 */

import type { Hypervisor } from "../types.ts";
import { SoftHypervisor, type SoftOptions } from "./vm.ts";

export { attachSoftVm, type SoftOptions } from "./vm.ts";
export type { SoftVcpu } from "./vcpu.ts";
export type { Tier } from "./cpu/translator/tier.ts";

/** Opens the software engine. */
export function openSoft(options: SoftOptions = {}): Hypervisor {
  return new SoftHypervisor(options);
}
