/**
 * What generated code reads of the regions that stand in the place of records: which pages hold the parts of
 * each, and what was in their place before.
 *
 * @module
 */

import type { CodePage } from "./code_page.ts";
import type { CodeRegions } from "./cpu_memory.ts";
import { PAGE_MAP, RECORD, REGION_PAGES, REGION_PARTS } from "./state.ts";

/** The tables of one vCPU, in its state memory. */
export class RegionNotes {
  readonly #u16: Uint16Array;
  readonly #regions: CodeRegions;

  /** @param regions Where in `cpu` the tables lie. */
  constructor(cpu: { readonly buffer: ArrayBufferLike }, regions: CodeRegions) {
    this.#u16 = new Uint16Array(cpu.buffer);
    this.#regions = regions;
  }

  /** Notes the handler of `record`, which a region is to stand in the place of, for who goes around that. */
  keepHandler(record: number, handler: number): void {
    const { arena, ownHandlers } = this.#regions;
    this.#u16[(ownHandlers + (record - arena) / (RECORD / 2)) >>> 1] = handler;
  }

  /** Notes that part number `part` of the region in `slot` is in `page`. */
  keepPart(slot: number, part: number, page: CodePage): void {
    this.#u16[this.#partsOf(slot) + part] = this.#numberOf(page);
  }

  /** Notes that no part of the region in `slot` is in `page` any more. */
  dropParts(slot: number, page: CodePage): void {
    const at = this.#partsOf(slot);
    const number = this.#numberOf(page);
    for (let part = 0; part < REGION_PAGES; part++) {
      if (this.#u16[at + part] === number) this.#u16[at + part] = 0;
    }
  }

  #partsOf(slot: number): number {
    return (this.#regions.regionParts + slot * REGION_PARTS) >>> 1;
  }

  /** Number of the page map of `page`, from 1 on. */
  #numberOf(page: CodePage): number {
    return (page.map - this.#regions.maps) / PAGE_MAP + 1;
  }
}
