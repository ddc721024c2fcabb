/**
 * Start info of a PVH guest (Xen public/arch-x86/hvm/start_info.h, version 1).
 *
 * @module
 */

import type { GuestMemory } from "../memory/mod.ts";
import type { MemoryMapEntry } from "./memory_map.ts";
import {
  ACPI_TABLES_ADDRESS,
  BOOT_CMDLINE_ADDRESS,
  PVH_START_INFO_ADDRESS,
} from "./platform_layout.ts";
import type { Range } from "./segments.ts";

const MAGIC = 0x336ec578;
const VERSION = 1;
const INFO_BYTES = 0x38;
const MODULE_BYTES = 0x20;
const ENTRY_BYTES = 24;

/** Writes the start info, the list of modules and the memory map behind each other. */
export function writePvhStartInfo(
  memory: GuestMemory,
  { memoryMap, initrd }: {
    readonly memoryMap: readonly MemoryMapEntry[];
    readonly initrd?: Range | undefined;
  },
): void {
  const bytes = new Uint8Array(INFO_BYTES + MODULE_BYTES + memoryMap.length * ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  const put64 = (offset: number, value: number) => view.setBigUint64(offset, BigInt(value), true);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  view.setUint32(12, initrd ? 1 : 0, true);
  put64(16, initrd ? PVH_START_INFO_ADDRESS + INFO_BYTES : 0);
  put64(24, BOOT_CMDLINE_ADDRESS);
  put64(32, ACPI_TABLES_ADDRESS);
  put64(40, PVH_START_INFO_ADDRESS + INFO_BYTES + MODULE_BYTES);
  view.setUint32(48, memoryMap.length, true);
  if (initrd) {
    put64(INFO_BYTES, initrd.start);
    put64(INFO_BYTES + 8, initrd.end - initrd.start);
  }
  for (const [index, entry] of memoryMap.entries()) {
    const at = INFO_BYTES + MODULE_BYTES + index * ENTRY_BYTES;
    put64(at, entry.address);
    put64(at + 8, entry.sizeBytes);
    view.setUint32(at + 16, entry.type, true);
  }
  memory.writeFrom(PVH_START_INFO_ADDRESS, bytes);
}
