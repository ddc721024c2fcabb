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
  if (options["packed-queue"] === true) {
    problem("packed-queue", "expected false, got true: queues are split ones");
  }
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
    executor: options["async-executor"] ?? "auto",
  };
}
