/**
 * The state memory of a vCPU.
 *
 * @module
 */

import { createGuardedMemory, type GuestMemory } from "../../../memory/mod.ts";
import type { CodeRegions } from "./code_cache.ts";
import { FIXED_END, PAGE_MAP } from "./state.ts";

/** Page maps and records kept, in bytes. */
const MAPS_BYTES = 6144 * PAGE_MAP;
const ARENA_BYTES = 96 << 20;
/** 64 KiB pages of a WebAssembly memory at most. */
const MAX_PAGES = 65536;

/** State memory of a vCPU: its layout follows from the size of RAM. */
export interface CpuLayout {
  readonly regions: CodeRegions;
  readonly pages: number;
}

/** Lays out the state memory for `ramBytes` of guest RAM. */
export function cpuLayout(ramBytes: number): CpuLayout {
  const codeMarks = FIXED_END;
  const codeIndex = codeMarks + (ramBytes / 4096) * 8;
  const codeSums = align(codeIndex + (ramBytes / 4096) * 4);
  const maps = align(codeSums + (ramBytes / 4096) * 8);
  const mapsEnd = maps + MAPS_BYTES;
  const arena = mapsEnd;
  const arenaEnd = arena + ARENA_BYTES;
  return {
    regions: { codeMarks, codeIndex, codeSums, maps, mapsEnd, arena, arenaEnd },
    pages: align(arenaEnd) / 65536,
  };
}

function align(n: number): number {
  return Math.ceil(n / 65536) * 65536;
}

/** Whether the state memory for `ramBytes` of RAM has room for that, too. */
export function holdsRam(layout: CpuLayout, ramBytes: number): boolean {
  return layout.pages + ramBytes / 65536 <= MAX_PAGES;
}

/**
 * Makes the state memory of a vCPU, with RAM behind the state where both fit in 4 GiB: so generated code
 * has one memory to address, whose base stays in a register.
 */
export function createCpuMemory(layout: CpuLayout, ram?: GuestMemory): WebAssembly.Memory {
  const holds = ram !== undefined && holdsRam(layout, ram.sizeBytes);
  const pages = layout.pages + (holds ? ram.sizeBytes / 65536 : 0);
  const memory = createGuardedMemory(pages);
  const { buffer } = memory;
  if (holds) ram.mapInto(buffer as SharedArrayBuffer, layout.pages * 65536);
  return memory;
}
