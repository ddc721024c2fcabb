/**
 * Where disks are in the guest, and the one that its kernel finds its root file system on.
 *
 * @module
 */

import type { VmConfig } from "../config/mod.ts";
import { pciNumbers } from "./virtio/places.ts";

const LETTERS = 26;

/** The name that Linux gives to virtio disk `index`: vda to vdz, vdaa and so on. */
export function diskName(index: number): string {
  let letters = "";
  for (let rest = index; rest >= 0; rest = Math.floor(rest / LETTERS) - 1) {
    letters = String.fromCharCode(97 + rest % LETTERS) + letters;
  }
  return `vd${letters}`;
}

/** What names depend on. */
export type DiskPlaces = Pick<VmConfig, "disks" | "vhostUser">;

/** The names of the disks in their order: Linux counts those that it finds, from the first place on. */
export function diskNames({ disks, vhostUser }: DiskPlaces): string[] {
  const numbers = pciNumbers([...disks, ...vhostUser.map(() => ({}))]);
  const found = numbers
    .filter((_, index) => (vhostUser[index - disks.length]?.type ?? "block") === "block")
    .sort((a, b) => a - b);
  return disks.map((_, index) => diskName(found.indexOf(numbers[index]!)));
}

/** The kernel parameters by which it is told. */
export function rootParams(places: DiskPlaces): string[] {
  const index = places.disks.findIndex(({ root }) => root);
  const disk = places.disks[index];
  if (disk === undefined) return [];
  return [`root=/dev/${diskNames(places)[index]}`, disk.readOnly ? "ro" : "rw"];
}
