/**
 * The virtio devices that a configuration asks for.
 *
 * @module
 */

import type { VhostUserConfig, VhostUserType, VmConfig } from "../../config/mod.ts";
import { DeviceType } from "../../virtio/mod.ts";
import type { VirtioDevice } from "./device.ts";
import { foreignDevice } from "./foreign.ts";

const TYPES: Readonly<Record<VhostUserType, number>> = {
  block: DeviceType.Block,
  console: DeviceType.Console,
  fs: DeviceType.Fs,
  gpu: DeviceType.Gpu,
  input: DeviceType.Input,
  net: DeviceType.Net,
  rng: DeviceType.Entropy,
  vsock: DeviceType.Vsock,
};

/**
 * The devices of `config` in the order in which they are on the PCI bus, from device number 1 on. The
 * order is part of what a guest may rely on: those of one kind are in the order in which they were asked
 * for, and a kind that is added later comes behind those that are there.
 */
export function virtioDevicesOf(config: VmConfig): VirtioDevice[] {
  return config.vhostUser.map(vhostUserDevice);
}

function vhostUserDevice({ type, socket, maxQueueSize }: VhostUserConfig): VirtioDevice {
  return foreignDevice({
    name: `vhost-user ${type} device ${socket}`,
    deviceType: TYPES[type],
    path: socket,
    queueSize: maxQueueSize,
  });
}
