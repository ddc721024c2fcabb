/**
 * Where guest RAM lies in the guest's physical address space.
 *
 * @module
 */

import { formatSize, GIB, isAligned, MIB } from "../base/mod.ts";
import { GuestMemoryError } from "./errors.ts";

/** First address that is never RAM below 4 GiB: MMIO windows, I/O APIC, local APIC, ECAM. */
export const PCI_HOLE_START = 0xc000_0000;
/** First address of RAM above the PCI hole. */
export const HIGH_RAM_START = 4 * GIB;
/** Bytes of a page. */
export const PAGE_SIZE = 4096;
/** Least guest memory in bytes. */
export const MIN_MEMORY_BYTES: number = MIB;
/** Most guest memory in bytes with the `mmap` backing. */
export const MAX_MEMORY_BYTES: number = 64 * GIB;
/** Most guest memory in bytes with the `wasm` backing: what a 32-bit wasm memory holds. */
export const MAX_WASM_MEMORY_BYTES: number = 4 * GIB - 64 * 1024;
/** Granule of a wasm memory in bytes. */
export const WASM_PAGE_SIZE = 65536;

/** What the guest's memory lies in: a mapping of its own, or a shared `WebAssembly.Memory`. */
export type MemoryBacking = "mmap" | "wasm";

/** A contiguous piece of guest RAM. */
export interface MemoryRegion {
  /** Guest physical address of its first byte. */
  readonly guestAddress: number;
  /** Its length in bytes. */
  readonly sizeBytes: number;
  /** Where it begins in the memfd. */
  readonly fileOffset: number;
  /** Where it is mapped in this process. */
  readonly hostAddress: bigint;
}

/** Bytes of RAM below the PCI hole for a guest of `sizeBytes`. */
export function lowMemoryBytes(sizeBytes: number): number {
  return Math.min(sizeBytes, PCI_HOLE_START);
}

/** @throws {GuestMemoryError} when a guest cannot have `sizeBytes` of memory in `backing`. */
export function validateMemorySize(sizeBytes: number, backing: MemoryBacking): void {
  const most = backing === "wasm" ? MAX_WASM_MEMORY_BYTES : MAX_MEMORY_BYTES;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < MIN_MEMORY_BYTES || sizeBytes > most) {
    throw new GuestMemoryError(
      `guest memory: expected ${formatSize(MIN_MEMORY_BYTES)} to ${formatSize(most)}` +
        `${backing === "wasm" ? " with the software engine" : ""}, got ` +
        (Number.isSafeInteger(sizeBytes) && sizeBytes >= 0 ? formatSize(sizeBytes) : sizeBytes),
    );
  }
  const granule = backing === "wasm" ? WASM_PAGE_SIZE : PAGE_SIZE;
  if (!isAligned(sizeBytes, granule)) {
    throw new GuestMemoryError(
      `guest memory: expected a multiple of ${formatSize(granule)}, got ${sizeBytes} bytes`,
    );
  }
}
