/**
 * Boot parameters of the Linux boot protocol, the "zero page" (Documentation/arch/x86/boot.rst and
 * zero-page.rst).
 *
 * @module
 */

import type { GuestMemory } from "../memory/mod.ts";
import { SETUP_HEADER_OFFSET } from "./bzimage.ts";
import type { MemoryMapEntry } from "./memory_map.ts";
import {
  ACPI_TABLES_ADDRESS,
  BOOT_CMDLINE_ADDRESS,
  BOOT_PARAMS_ADDRESS,
} from "./platform_layout.ts";
import type { Range } from "./segments.ts";

const BOOT_PARAMS_BYTES = 0x1000;
const ACPI_RSDP_OFFSET = 0x070;
const E820_COUNT_OFFSET = 0x1e8;
const E820_TABLE_OFFSET = 0x2d0;
const E820_ENTRY_BYTES = 20;
const E820_MAX_ENTRIES = 128;
/** Boot loaders without a number of their own. */
const LOADER_UNDEFINED = 0xff;
const LOADED_HIGH = 1;
const PROTOCOL_2_15 = 0x020f;

/** What {@link writeBootParams} writes down. */
export interface BootParams {
  /** The setup header of the image; absent for a plain vmlinux, which has none. */
  readonly setupHeader?: Uint8Array | undefined;
  /** Memory of the guest. */
  readonly memoryMap: readonly MemoryMapEntry[];
  /** Bytes of the command line, without its NUL. */
  readonly cmdlineBytes: number;
  /** Where the initrd is, if any. */
  readonly initrd?: Range | undefined;
}

/** Fills the boot parameters at {@link BOOT_PARAMS_ADDRESS}. */
export function writeBootParams(memory: GuestMemory, params: BootParams): void {
  const page = new Uint8Array(BOOT_PARAMS_BYTES);
  const view = new DataView(page.buffer);
  if (params.setupHeader) {
    page.set(params.setupHeader, SETUP_HEADER_OFFSET);
  } else {
    view.setUint16(0x1fe, 0xaa55, true);
    view.setUint32(0x202, 0x53726448, true);
    view.setUint16(0x206, PROTOCOL_2_15, true);
    view.setUint8(0x211, LOADED_HIGH);
    view.setUint32(0x230, 0x20_0000, true); // kernel_alignment
  }
  view.setUint8(0x210, LOADER_UNDEFINED);
  view.setUint32(0x228, BOOT_CMDLINE_ADDRESS, true);
  view.setUint32(0x238, params.cmdlineBytes, true);
  view.setUint32(0x250, 0, true); // setup_data, none
  view.setUint32(0x254, 0, true);
  if (params.initrd) {
    view.setUint32(0x218, params.initrd.start, true);
    view.setUint32(0x21c, params.initrd.end - params.initrd.start, true);
  }
  view.setUint32(ACPI_RSDP_OFFSET, ACPI_TABLES_ADDRESS, true);
  const map = params.memoryMap.slice(0, E820_MAX_ENTRIES);
  view.setUint8(E820_COUNT_OFFSET, map.length);
  for (const [index, entry] of map.entries()) {
    const at = E820_TABLE_OFFSET + index * E820_ENTRY_BYTES;
    view.setBigUint64(at, BigInt(entry.address), true);
    view.setBigUint64(at + 8, BigInt(entry.sizeBytes), true);
    view.setUint32(at + 16, entry.type, true);
  }
  memory.writeFrom(BOOT_PARAMS_ADDRESS, page);
}
