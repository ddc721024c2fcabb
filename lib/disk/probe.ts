/**
 * Which format an image has, by its first bytes.
 *
 * @module
 */

import { DiskError } from "./errors.ts";
import type { DiskFormat } from "./image.ts";

/** Bytes from the start of an image that {@link probeFormat} looks at. */
export const PROBE_BYTES = 68;

const MAGICS: readonly { readonly name: string; readonly at: number; readonly magic: string }[] = [
  { name: "qcow2", at: 0, magic: "QFI\xfb" },
  { name: "VMDK", at: 0, magic: "KDMV" },
  { name: "VHDX", at: 0, magic: "vhdxfile" },
  { name: "VHD", at: 0, magic: "conectix" },
  { name: "QED", at: 0, magic: "QED\0" },
  { name: "VDI", at: 64, magic: "\x7f\x10\xda\xbe" },
  { name: "LUKS", at: 0, magic: "LUKS\xba\xbe" },
  { name: "Android sparse", at: 0, magic: "\x3a\xff\x26\xed" },
  { name: "composite", at: 0, magic: "composite_disk\x1d" },
];

/** The name of the format that `start`, an image's first {@link PROBE_BYTES} bytes, shows. */
export function formatName(start: Uint8Array): string {
  const found = MAGICS.find(({ at, magic }) => {
    for (let index = 0; index < magic.length; index++) {
      if (start[at + index] !== magic.charCodeAt(index)) return false;
    }
    return true;
  });
  return found?.name ?? "raw";
}

/**
 * The format of an image that nobody stated the format of.
 *
 * @throws {DiskError} EINVAL for a format that is known but not read.
 */
export function probeFormat(start: Uint8Array, path: string): DiskFormat {
  const name = formatName(start);
  if (name === "raw" || name === "qcow2") return name;
  throw new DiskError(
    `${path}: expected a raw or qcow2 image, got a ${name} one; convert it (qemu-img convert), or ` +
      "state format=raw if the guest is to see it as it is",
    { code: "EINVAL" },
  );
}
