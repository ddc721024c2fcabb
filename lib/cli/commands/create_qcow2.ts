/**
 * `vmctl create_qcow2`.
 *
 * @module
 */

import { resolve } from "node:path";
import { formatSize, parseSize } from "../../base/mod.ts";
import { createQcow2 as create } from "../../disk/mod.ts";
import type { CommandInput } from "../command.ts";
import { UsageError } from "../errors.ts";
import { currentFolder } from "../folder.ts";
import { print } from "../output.ts";
import type { CREATE_QCOW2_OPTIONS } from "../command_options.ts";

/** Makes the image. */
export async function createQcow2(
  input: CommandInput<typeof CREATE_QCOW2_OPTIONS>,
): Promise<number> {
  const [path = "", size] = input.positionals;
  const { "backing-file": backingFile, "backing-format": backingFormat } = input.options;
  if (size === undefined && backingFile === undefined) {
    throw new UsageError("expected SIZE or --backing-file, got neither", {
      command: "vmctl create_qcow2",
    });
  }
  const sizeBytes = create(resolve(currentFolder(), path), {
    sizeBytes: size === undefined ? undefined : parseSize(size, { what: "SIZE" }),
    backingFile,
    backingFormat,
  });
  await print(`${path}: ${formatSize(sizeBytes)}\n`);
  return 0;
}
