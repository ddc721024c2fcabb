/**
 * The memory map that a guest is told (E820; ACPI 6.5, 15).
 *
 * @module
 */

import type { GuestMemory } from "../memory/mod.ts";
import {
  ACPI_TABLES_END,
  EBDA_ADDRESS,
  HIGH_MEMORY_START,
  IOAPIC_ADDRESS,
  KVM_IDENTITY_MAP_ADDRESS,
  LOCAL_APIC_ADDRESS,
  PCI_ECAM_SIZE_BYTES,
  PCI_ECAM_START,
} from "./platform_layout.ts";

/** What a range of addresses is, by its number in E820. */
export enum MemoryType {
  /** Usable. */
  Ram = 1,
  /** Not to be touched. */
  Reserved = 2,
}

/** A range of guest physical addresses. */
export interface MemoryMapEntry {
  /** First address. */
  readonly address: number;
  /** Length in bytes. */
  readonly sizeBytes: number;
  /** What is there. */
  readonly type: MemoryType;
}

/** Where conventional memory ends and adapters begin on a PC. */
const ADAPTERS_ADDRESS = 0xa_0000;
const BIOS_AREA_ADDRESS = 0xe_0000;
const PAGE_BYTES = 0x1000;

/**
 * The map of a machine with `memory`, in ascending order.
 * @param options.ecam whether memory-mapped PCI configuration is there: a kernel believes in it only
 * where the map reserves it.
 */
export function buildMemoryMap(
  memory: GuestMemory,
  options: { readonly ecam?: boolean | undefined } = {},
): MemoryMapEntry[] {
  const map: MemoryMapEntry[] = [];
  const add = (start: number, end: number, type: MemoryType) => {
    if (end > start) map.push({ address: start, sizeBytes: end - start, type });
  };
  for (const { guestAddress, sizeBytes } of memory.regions) {
    const end = guestAddress + sizeBytes;
    if (guestAddress !== 0) {
      add(guestAddress, end, MemoryType.Ram);
      continue;
    }
    add(0, Math.min(end, EBDA_ADDRESS), MemoryType.Ram);
    add(EBDA_ADDRESS, ADAPTERS_ADDRESS, MemoryType.Reserved);
    add(BIOS_AREA_ADDRESS, ACPI_TABLES_END, MemoryType.Reserved);
    add(HIGH_MEMORY_START, end, MemoryType.Ram);
  }
  if (options.ecam) {
    add(PCI_ECAM_START, PCI_ECAM_START + PCI_ECAM_SIZE_BYTES, MemoryType.Reserved);
  }
  add(IOAPIC_ADDRESS, IOAPIC_ADDRESS + PAGE_BYTES, MemoryType.Reserved);
  add(LOCAL_APIC_ADDRESS, LOCAL_APIC_ADDRESS + PAGE_BYTES, MemoryType.Reserved);
  add(KVM_IDENTITY_MAP_ADDRESS, 2 ** 32, MemoryType.Reserved);
  return map.sort((a, b) => a.address - b.address);
}
