/**
 * The engine that executes guests in software.
 *
 * @module
 */

import type { Hypervisor } from "../types.ts";
import { SoftHypervisor } from "./vm.ts";

export { attachSoftVm } from "./vm.ts";

/** Opens the software engine. */
export function openSoft(): Hypervisor {
  return new SoftHypervisor();
}
