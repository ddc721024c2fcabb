/**
 * The virtio devices of foreign back ends that a configuration asks for.
 *
 * @module
 */

import type { VhostUserConfig, VhostUserType, VmConfig } from "../../config/mod.ts";
import { DeviceType } from "../../virtio/mod.ts";
import { MachineError } from "../errors.ts";
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
 *
 * @throws {MachineError} where two of them have one socket: its back end serves one of them, and the other
 *   would wait for it.
 */
export function virtioDevicesOf(config: VmConfig): VirtioDevice[] {
  requireOwnSockets(config.vhostUser);
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

/** @throws {MachineError} where two devices have one socket, whatever its paths are. */
function requireOwnSockets(devices: readonly VhostUserConfig[]): void {
  const seen = new Map<string, string>();
  for (const { type, socket } of devices) {
    const option = `--vhost-user type=${type},socket=${socket}`;
    const identity = identityOf(socket);
    const first = seen.get(identity);
    if (first === undefined) {
      seen.set(identity, option);
      continue;
    }
    const found = option === first
      ? `${option} is given twice`
      : `${option} is the same socket as ${first}`;
    throw new MachineError(
      `${found}: expected a back end of its own for each device, as one serves one device at a time`,
    );
  }
}

/** What `path` is on the host; itself where nothing is there, as connecting to it will tell. */
function identityOf(path: string): string {
  try {
    const { dev, ino } = Deno.statSync(path);
    return `${dev}:${ino}`;
  } catch {
    return path;
  }
}
