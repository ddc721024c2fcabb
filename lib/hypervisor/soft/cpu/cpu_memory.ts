/**
 * The state memory of a vCPU.
 *
 * @module
 */

import { mmapReadWriteOver } from "../../../host/mod.ts";
import { createGuardedMemory, type GuestMemory } from "../../../memory/mod.ts";
import { FIXED_END, PAGE_MAP, RECORD, REGION_PARTS } from "./state.ts";

/** Page maps and records kept, in bytes. */
const MAPS_BYTES = 6144 * PAGE_MAP;
const ARENA_BYTES = 96 << 20;
/** Slots of the handler table: records name them in 16 bits. */
const TABLE_SLOTS = 1 << 16;
/** 64 KiB pages of a WebAssembly memory at most. */
const MAX_PAGES = 65536;

/** Pages of RAM that there may be. What is kept of each takes no memory where it is not used. */
export const MAX_RAM_PAGES = 1 << 20;

/** Where in the state memory page maps and records lie, in bytes. */
export interface CodeRegions {
  readonly codeMarks: number;
  readonly codeIndex: number;
  readonly codeSums: number;
  /** An i32 a page map: offset of the page in RAM where generated code decodes it, else NOT_HERE. */
  readonly mapPages: number;
  readonly maps: number;
  readonly mapsEnd: number;
  readonly arena: number;
  readonly arenaEnd: number;
  /** A u16 a record of the arena: its handler, where a region stands in its place. */
  readonly ownHandlers: number;
  /** {@link REGION_PARTS} a slot of the handler table. */
  readonly regionParts: number;
}

/** State memory of a vCPU: the same for each size of RAM, so that one interpreter does for all. */
export interface CpuLayout {
  readonly regions: CodeRegions;
  /** An u16 a page of RAM, see MemoryMap. */
  readonly writers: number;
  readonly pages: number;
}

/** Lays out the state memory. */
export function cpuLayout(): CpuLayout {
  const codeMarks = FIXED_END;
  const codeIndex = codeMarks + MAX_RAM_PAGES * 8;
  const codeSums = align(codeIndex + MAX_RAM_PAGES * 4);
  const mapPages = align(codeSums + MAX_RAM_PAGES * 8);
  const maps = align(mapPages + (MAPS_BYTES / PAGE_MAP) * 4);
  const mapsEnd = maps + MAPS_BYTES;
  const arena = mapsEnd;
  const arenaEnd = arena + ARENA_BYTES;
  const ownHandlers = align(arenaEnd);
  const regionParts = align(ownHandlers + ARENA_BYTES / (RECORD / 2));
  const writers = align(regionParts + TABLE_SLOTS * REGION_PARTS);
  return {
    regions: {
      ...{ codeMarks, codeIndex, codeSums, mapPages },
      ...{ maps, mapsEnd, arena, arenaEnd, ownHandlers, regionParts },
    },
    writers,
    pages: align(writers + MAX_RAM_PAGES * 2) / 65536,
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
  const { maps, mapsEnd } = layout.regions;
  // What is looked for there for the first time is written next.
  mmapReadWriteOver(buffer, maps, mapsEnd - maps);
  if (holds) ram.mapInto(buffer as SharedArrayBuffer, layout.pages * 65536);
  return memory;
}
