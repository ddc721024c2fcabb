/**
 * The disk that the guest kernel finds its root file system on.
 *
 * @module
 */

import type { DiskConfig } from "../config/mod.ts";

const LETTERS = 26;

/** The name that Linux gives to virtio disk `index`: vda to vdz, vdaa and so on. */
export function diskName(index: number): string {
  let letters = "";
  for (let rest = index; rest >= 0; rest = Math.floor(rest / LETTERS) - 1) {
    letters = String.fromCharCode(97 + rest % LETTERS) + letters;
  }
  return `vd${letters}`;
}

/** The kernel parameters by which it is told. */
export function rootParams(disks: readonly DiskConfig[]): string[] {
  const index = disks.findIndex(({ root }) => root);
  const disk = disks[index];
  return disk === undefined ? [] : [`root=/dev/${diskName(index)}`, disk.readOnly ? "ro" : "rw"];
}
