/**
 * Disks: from what was written to what a device takes.
 *
 * @module
 */

import type { BLOCK } from "./device_options.ts";
import type { DecodedRecord } from "./option_types.ts";
import type { DiskConfig } from "./vm_config.ts";

/** A disk's options. */
export type BlockOptions = DecodedRecord<typeof BLOCK["fields"]>;

const DEFAULT_BLOCK_BYTES = 512;
const DEFAULT_QUEUES = 16;
/** On a bus. */
const PCI_DEVICES = 32;

/**
 * The disk that `options` describe, defaults filled in.
 *
 * @param problem told of everything that is wrong, with the key
 */
export function diskConfig(
  options: BlockOptions,
  problem: (key: keyof BlockOptions, message: string) => void,
): DiskConfig | undefined {
  const { path, "block-size": blockBytes = DEFAULT_BLOCK_BYTES } = options;
  if (path === undefined) {
    problem("path", "expected the path of a disk image, got none");
    return undefined;
  }
  if (!Number.isInteger(Math.log2(blockBytes))) {
    problem("block-size", `expected a power of two, got ${blockBytes}`);
  }
  const address = options["pci-address"];
  return {
    path,
    readOnly: options.ro ?? false,
    root: options.root ?? false,
    sparse: options.sparse ?? true,
    blockBytes,
    direct: options.direct ?? false,
    lock: options.lock ?? true,
    id: options.id ?? "",
    format: options.format ?? "probe",
    queueCount: options.queues ?? DEFAULT_QUEUES,
    packedQueues: options["packed-queue"] ?? false,
    executor: options["async-executor"] ?? "auto",
    pciDevice: address === undefined
      ? undefined
      : pciDevice(address, (message) => problem("pci-address", message)),
    bootIndex: options.bootindex,
  };
}

/** Number of the device at `address`, of which the grammar has seen to the form. */
function pciDevice(address: string, problem: (message: string) => void): number {
  const [func = 0, device = 0, bus = 0, domain = 0] = address.split(/[:.]/)
    .map((part) => Number.parseInt(part, 16)).reverse();
  if (domain !== 0 || bus !== 0) {
    problem(`expected an address on bus 00, the only one, got ${address}`);
  } else if (func !== 0) problem(`expected function 0, the only one of a device, got ${address}`);
  else if (device === 0) problem(`expected another device than the host bridge, got ${address}`);
  else if (device >= PCI_DEVICES) problem(`expected a device up to 1f, got ${address}`);
  return device;
}
