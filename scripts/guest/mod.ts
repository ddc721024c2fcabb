/**
 * Guests for the demonstration, the tests and the benchmarks.
 *
 * @module
 */

export { type CpioEntry, packCpio } from "./cpio.ts";
export {
  FetchError,
  fetchGuest,
  type FetchOptions,
  type Guest,
  type KernelFlavour,
  tryFetchGuest,
} from "./debian.ts";
export { buildInitramfs, type GuestTerminal, type InitramfsOptions } from "./initramfs.ts";
export { moduleEntries } from "./modules.ts";
export { fetchSystemDisk, SYSTEM_MARK } from "./system_disk.ts";
export { writeVmlinux } from "./vmlinux.ts";
export { fetchUserland, USERLAND_INIT, writeUserlandInitrd } from "./userland.ts";
