/**
 * The state memory of a vCPU.
 *
 * @module
 */

import type { CodeRegions } from "./code_cache.ts";
import { FIXED_END, PAGE_MAP } from "./state.ts";

/** Page maps and records kept, in bytes. */
const MAPS_BYTES = 6144 * PAGE_MAP;
const ARENA_BYTES = 96 << 20;

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

/** Makes the state memory of a vCPU. */
export function createCpuMemory(layout: CpuLayout): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: layout.pages, maximum: layout.pages, shared: true });
}
