/**
 * The virtio devices of foreign back ends that a configuration asks for.
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
 * The devices of foreign back ends that `config` asks for, in their order on the PCI bus, which is that of
 * their options. A guest may rely on it.
 */
export function virtioDevicesOf(config: VmConfig): VirtioDevice[] {
  return config.vhostUser.map(vhostUserDevice);
}

function vhostUserDevice(config: VhostUserConfig): VirtioDevice {
  const { type, socket, maxQueueSize, packedQueues } = config;
  return foreignDevice({
    name: `vhost-user ${type} device ${socket}`,
    deviceType: TYPES[type],
    path: socket,
    queueSize: maxQueueSize,
    packedQueues,
  });
}
