/**
 * Guests for the demonstration, the tests and the benchmarks.
 *
 * @module
 */

export { type CpioEntry, packCpio } from "./cpio.ts";
export { FetchError, fetchGuest, type FetchOptions, type Guest, tryFetchGuest } from "./debian.ts";
export { buildInitramfs, type GuestTerminal, type InitramfsOptions } from "./initramfs.ts";
export { writeVmlinux } from "./vmlinux.ts";
