/**
 * Back ends that somebody else has started and that listen at a path.
 *
 * @module
 */

import { connectUnix } from "../../host/mod.ts";
import { MachineError } from "../errors.ts";
import type { BackendLink, VirtioDevice } from "./device.ts";

/** A device whose back end listens at `path`. */
export function foreignDevice(
  options: {
    readonly name: string;
    readonly deviceType: number;
    readonly path: string;
    readonly queueSize?: number | undefined;
    readonly packedQueues: boolean;
  },
): VirtioDevice {
  const { name, deviceType, path, queueSize, packedQueues } = options;
  return {
    name,
    deviceType,
    ...queueSize === undefined ? {} : { queueSize },
    ...packedQueues ? { packedQueues: "wanted" } : {},
    launch: () => Promise.try(() => connect(name, path)),
  };
}

function connect(name: string, path: string): BackendLink {
  try {
    const socket = connectUnix(path, "stream", { nonblock: true });
    return { socket, [Symbol.asyncDispose]: () => Promise.resolve() };
  } catch (cause) {
    throw new MachineError(`${name}: cannot connect to its back end at ${path}`, { cause });
  }
}
