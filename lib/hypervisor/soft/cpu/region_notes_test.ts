import assert from "node:assert/strict";
import { newCodePage } from "./code_page.ts";
import { cpuLayout } from "./cpu_memory.ts";
import { RegionNotes } from "./region_notes.ts";
import { CodeMode, HANDLER_SLOTS, PAGE_MAP, RECORD, REGION_PAGES, REGION_PARTS } from "./state.ts";

/** Tables in a memory of their own, for a few page maps, records and slots. */
function bench() {
  const slots = HANDLER_SLOTS + 4;
  const [maps, arena] = [0, 8 * PAGE_MAP];
  const arenaEnd = arena + 16 * RECORD;
  const ownHandlers = arenaEnd;
  const regionParts = ownHandlers + (arenaEnd - arena) / (RECORD / 2);
  const buffer = new ArrayBuffer(regionParts + slots * REGION_PARTS);
  const u16 = new Uint16Array(buffer);
  const notes = new RegionNotes({ buffer }, {
    ...{ ...cpuLayout().regions, maps, mapsEnd: arena, arena, arenaEnd },
    ...{ ownHandlers, regionParts },
  });
  return {
    ...{ notes, arena },
    /** Page number `n`, from 1 on, as parts name it. */
    page: (n: number) =>
      newCodePage({ ram: 4096 * n, mode: CodeMode.bits64, map: maps + PAGE_MAP * (n - 1) }),
    /** What generated code finds of the region in `slot`: numbers of page maps by part. */
    partsOf(slot: number): number[] {
      const at = (regionParts + slot * REGION_PARTS) / 2;
      return [...u16.subarray(at, at + REGION_PAGES)];
    },
    handlerOf: (record: number) =>
      u16[(ownHandlers + (record - arena) / (RECORD / 2)) / 2] as number,
    /** Everything that is not zero. */
    noted: () => u16.reduce((count, word) => count + (word === 0 ? 0 : 1), 0),
  };
}

/** Numbers of a region's parts, where the first ones are `first`. */
function parts(...first: readonly number[]): number[] {
  return [...first, ...new Array<number>(REGION_PAGES - first.length).fill(0)];
}

Deno.test("each slot has the pages of its own region's parts", () => {
  const t = bench();
  const [before, slot, behind] = [HANDLER_SLOTS, HANDLER_SLOTS + 1, HANDLER_SLOTS + 2];
  t.notes.keepPart(slot, 0, t.page(1));
  t.notes.keepPart(slot, 1, t.page(8));
  t.notes.keepPart(slot, REGION_PAGES - 1, t.page(3));
  assert.deepEqual(t.partsOf(slot), [1, 8, ...parts().slice(3), 3]);
  assert.deepEqual([t.partsOf(before), t.partsOf(behind)], [parts(), parts()]);
  t.notes.keepPart(slot, 0, t.page(2));
  assert.equal(t.partsOf(slot)[0], 2);
});

Deno.test("a page whose code is gone holds no part of a region, however many it held, and others theirs", () => {
  const t = bench();
  const [slot, other] = [HANDLER_SLOTS, HANDLER_SLOTS + 1];
  for (const [part, number] of [4, 5, 4, 6].entries()) t.notes.keepPart(slot, part, t.page(number));
  t.notes.keepPart(other, 0, t.page(4));
  t.notes.dropParts(slot, t.page(4));
  assert.deepEqual(t.partsOf(slot), parts(0, 5, 0, 6));
  assert.deepEqual(t.partsOf(other), parts(4));
  t.notes.dropParts(slot, t.page(7));
  assert.deepEqual(t.partsOf(slot), parts(0, 5, 0, 6));
  for (const number of [5, 6]) t.notes.dropParts(slot, t.page(number));
  t.notes.dropParts(other, t.page(4));
  assert.equal(t.noted(), 0);
});

Deno.test("each record has the handler that a region stands in the place of", () => {
  const t = bench();
  const records = [0, 1, 15].map((n) => t.arena + n * RECORD);
  for (const [n, record] of records.entries()) t.notes.keepHandler(record, 100 + n);
  assert.deepEqual(records.map((record) => t.handlerOf(record)), [100, 101, 102]);
  assert.equal(t.noted(), 3);
});
