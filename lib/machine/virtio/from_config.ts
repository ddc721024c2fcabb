/**
 * The virtio devices that a configuration asks for.
 *
 * @module
 */

import type { VmConfig } from "../../config/mod.ts";
import type { VirtioDevice } from "./device.ts";

/**
 * The devices of `config` in the order in which they are on the PCI bus, from device number 1 on. The
 * order is part of what a guest may rely on: those of one kind are in the order in which they were asked
 * for, and a kind that is added later comes behind those that are there.
 */
export function virtioDevicesOf(_config: VmConfig): VirtioDevice[] {
  return [];
}
