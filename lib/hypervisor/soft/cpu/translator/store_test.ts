import assert from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import { ModuleBuilder, Priority, readPriorities } from "../../wasm/mod.ts";
import { REGION_PAGES } from "../state.ts";
import { readUnit, unitHeaders, writeUnits } from "./store_format.ts";
import { TranslationStore } from "./store.ts";
import { CodeRanges, type Unit, UnitEntries } from "./unit.ts";

const VERSION = "0123456789abcdef0123456789abcdef";

const part = fc.record({
  pageNumber: fc.nat({ max: 0xfffff }),
  sum: fc.maxSafeNat(),
  entries: fc.array(fc.record({ offset: fc.nat({ max: 4095 }), block: fc.nat({ max: 0xffff }) }))
    .map((entries) => UnitEntries.of(entries)),
  code: fc.array(
    fc.nat({ max: 4095 }).chain((start) =>
      fc.uint8Array({ minLength: 1, maxLength: Math.min(64, 4096 - start) })
        .map((bytes) => ({ start, bytes }))
    ),
  ).map((ranges) => CodeRanges.of(ranges)),
});
const unit: fc.Arbitrary<Unit> = fc.record({
  regions: fc.array(fc.record({ parts: fc.array(part, { maxLength: REGION_PAGES }) })),
  bytes: fc.uint8Array({ maxLength: 100 }).map((bytes) => new Uint8Array(bytes)),
});

function read(file: Uint8Array<ArrayBuffer>, version = VERSION): (Unit | undefined)[] {
  return unitHeaders(file, version).map(readUnit);
}

/** The same thing whatever its arrays are views of. */
function plain(units: readonly (Unit | undefined)[]): unknown {
  return JSON.parse(JSON.stringify(units));
}

Deno.test("units come back from a file as they were, also through a second file", () => {
  fc.assert(fc.property(fc.array(unit, { maxLength: 5 }), (units) => {
    const file = writeUnits(units, VERSION);
    assert.deepEqual(plain(read(file)), plain(units));
    const again = writeUnits(unitHeaders(file, VERSION), VERSION);
    assert.deepEqual(again, file);
  }));
});

Deno.test("a damaged file gives only units that were written", () => {
  const damage = fc.record({
    units: fc.array(unit, { minLength: 1, maxLength: 4 }),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    value: fc.integer({ min: 1, max: 255 }),
  });
  fc.assert(fc.property(damage, ({ units, at, value }) => {
    const written = units.map((unit) => JSON.stringify(unit));
    const file = writeUnits(units, VERSION);
    const place = Math.min(Math.floor(at * file.length), file.length - 1);
    file[place] = (file[place] ?? 0) ^ value;
    const found = read(file).filter((unit) => unit !== undefined);
    for (const unit of found) assert.ok(written.includes(JSON.stringify(unit)));
  }));
});

Deno.test("a file that is cut off gives the units in front of the cut", () => {
  const cut = fc.record({
    units: fc.array(unit, { minLength: 1, maxLength: 4 }),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
  });
  fc.assert(fc.property(cut, ({ units, at }) => {
    const file = writeUnits(units, VERSION);
    const rest = file.slice(0, Math.floor(at * file.length));
    const found = read(rest).filter((unit) => unit !== undefined);
    assert.deepEqual(plain(found), plain(units.slice(0, found.length)));
  }));
});

Deno.test("noise and files of another version give nothing", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 500 }), (noise) => {
    assert.deepEqual(read(new Uint8Array(noise)), []);
  }));
  const file = writeUnits([{ regions: [], bytes: new Uint8Array(8) }], VERSION);
  assert.deepEqual(read(file, "another"), []);
});

Deno.test("a region of more pages than there is room for is none", () => {
  const [only] = unitAt(7).regions[0]?.parts ?? [];
  assert.ok(only !== undefined);
  const unitOf = (parts: number): Unit => ({
    regions: [{ parts: new Array(parts).fill(only) }],
    bytes: new Uint8Array(8),
  });
  const most = unitOf(REGION_PAGES);
  assert.deepEqual(plain(read(writeUnits([most], VERSION))), plain([most]));
  assert.deepEqual(read(writeUnits([unitOf(REGION_PAGES + 1)], VERSION)), [undefined]);
});

/** A unit of one region in one page. */
function unitAt(pageNumber: number, size = 16): Unit {
  const code = CodeRanges.of([
    { start: 0, bytes: Uint8Array.of(pageNumber & 255, pageNumber >> 8) },
  ]);
  const entries = UnitEntries.of([{ offset: 0, block: 0 }]);
  const parts = [{ pageNumber, sum: pageNumber, entries, code }];
  return { regions: [{ parts }], bytes: new Uint8Array(size).fill(pageNumber) };
}

function inFolder(body: (folder: string) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    body(join(folder, "new", "cache"));
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

function filled(folder: string, units: readonly Unit[], limitBytes?: number): TranslationStore {
  const store = new TranslationStore({ folder, version: VERSION, limitBytes });
  store.load();
  for (const unit of units) store.add(unit);
  return store;
}

function pagesIn(folder: string): number[] {
  const store = new TranslationStore({ folder, version: VERSION });
  store.load();
  const found: number[] = [];
  for (let page = 0; page < 2000; page++) {
    for (const { part } of store.candidates(page, -1)) found.push(part.pageNumber);
  }
  return found;
}

Deno.test("a store keeps for the next one, by page and by sum, and adds to what others wrote", () => {
  inFolder((folder) => {
    const [first, second] = [filled(folder, [unitAt(1)]), filled(folder, [unitAt(2)])];
    first.save();
    second.save();
    assert.deepEqual(pagesIn(folder), [1, 2]);
    const third = filled(folder, []);
    assert.deepEqual([...third.candidates(77, 2)].map(({ fromDisk }) => fromDisk), [true]);
    assert.equal([...third.candidates(77, 78)].length, 0);
    // Nothing new, nothing written.
    const path = join(folder, `translations-${VERSION}`);
    const { mtime, ino } = Deno.statSync(path);
    third.save();
    assert.deepEqual([Deno.statSync(path).mtime, Deno.statSync(path).ino], [mtime, ino]);
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), [
      `translations-${VERSION}`,
    ]);
  });
});

Deno.test("the file and the memory stay within the limit; what was of use stays", () => {
  inFolder((folder) => {
    const limit = 20_000;
    filled(folder, Array.from({ length: 10 }, (_, i) => unitAt(i, 1000)), limit).save();
    const store = filled(folder, [], limit);
    for (const page of [3, 7]) for (const { use } of store.candidates(page, -1)) use();
    for (let page = 100; page < 1000; page++) store.add(unitAt(page, 1000));
    store.save();
    const { size } = Deno.statSync(join(folder, `translations-${VERSION}`));
    assert.ok(size <= limit + 100, `${size} bytes`);
    const pages = pagesIn(folder);
    assert.ok(pages.includes(999), `${pages}`);
  });
});

Deno.test("what this run had no use for goes first where there is no room", () => {
  inFolder((folder) => {
    const limit = 40_000;
    const old = Array.from({ length: 10 }, (_, page) => page);
    filled(folder, old.map((page) => unitAt(page, 1000)), limit).save();
    const store = filled(folder, [], limit);
    for (const page of [0, 2]) for (const { use } of store.candidates(page, -1)) use();
    const oldOnes = () => old.filter((page) => [...store.candidates(page, -1)].length > 0);
    let next = 10;
    while (oldOnes().length === old.length) store.add(unitAt(next++, 1000));
    assert.deepEqual(oldOnes().slice(0, 2), [0, 2]);
    while (oldOnes().includes(0)) {
      assert.equal([...store.candidates(10, -1)].length, 1, "all of this run's is there");
      store.add(unitAt(next++, 1000));
    }
    assert.ok(oldOnes().every((page) => page === 2), `${oldOnes()}`);
  });
});

Deno.test("files that others can write, and those of other versions, are left alone", () => {
  inFolder((folder) => {
    filled(folder, [unitAt(1)]).save();
    const path = join(folder, `translations-${VERSION}`);
    Deno.chmodSync(path, 0o622);
    assert.deepEqual(pagesIn(folder), []);
    Deno.chmodSync(path, 0o600);
    Deno.writeTextFileSync(join(folder, "translations-of-another"), "x");
    filled(folder, [unitAt(2)]).save();
    assert.deepEqual(pagesIn(folder), [1, 2]);
    assert.equal(Deno.readTextFileSync(join(folder, "translations-of-another")), "x");
  });
});

Deno.test("a folder that cannot be is no error", () => {
  const folder = "/dev/null/cache";
  const store = filled(folder, [unitAt(1)]);
  store.save();
  assert.equal(store.unsaved, 1);
});

/** A unit with a module, of page `pageNumber`. */
function moduleAt(pageNumber: number): Unit {
  const module = new ModuleBuilder();
  const func = module.func([]);
  func.return();
  module.exportFunc("r0", func);
  return { ...unitAt(pageNumber), bytes: module.finish() };
}

Deno.test("a file has units in the order of their first use, with how hot they were", () => {
  inFolder((folder) => {
    filled(folder, [1, 2, 3].map(moduleAt)).save();
    const store = filled(folder, []);
    const sampled = (samples: number) => {
      for (const page of [3, 1]) {
        for (const { unit, use, place } of store.candidates(page, -1)) {
          assert.equal(place, page - 1);
          use();
          for (let i = 0; i < samples; i++) store.sample(unit, 0);
        }
      }
    };
    sampled(0);
    store.save();
    const path = join(folder, `translations-${VERSION}`);
    const pages = () =>
      new TranslationStore({ folder, version: VERSION }).units().map((header) => {
        const bytes = readUnit(header)?.bytes ?? new Uint8Array();
        return [header.pages[0]?.[0], readPriorities(bytes).get("r0") ?? Priority.None];
      });
    // An order alone is not worth to be written.
    assert.deepEqual(pages(), [[1, Priority.None], [2, Priority.None], [3, Priority.None]]);
    sampled(100);
    store.save();
    const expected = [[3, Priority.Optimize], [1, Priority.Optimize], [2, Priority.None]];
    assert.deepEqual(pages(), expected);
    // The same again, by one that knows of nothing: no news, and nothing twice.
    const { ino } = Deno.statSync(path);
    const same = filled(folder, []);
    for (const { unit, use } of same.candidates(3, -1)) {
      use();
      same.sample(unit, 0);
    }
    same.save();
    assert.equal(Deno.statSync(path).ino, ino);
    // One that read the file before has older heat of the same units.
    store.add(moduleAt(4));
    filled(folder, [moduleAt(1)]).save();
    store.save();
    assert.deepEqual(pages().map(([page]) => page), [3, 1, 4, 2]);
  });
});

Deno.test("a file has small units joined, which fit the same pages, and nobody writes them twice", () => {
  inFolder((folder) => {
    const pages = Array.from({ length: 20 }, (_, n) => n + 1);
    const [one, other] = [filled(folder, []), filled(folder, [])];
    for (const page of pages) one.add(moduleAt(page));
    // Another has some of the same, and one of its own.
    for (const page of [...pages.slice(5, 15), 30]) other.add(moduleAt(page));
    one.save();
    const units = () => new TranslationStore({ folder, version: VERSION }).units();
    assert.equal(units().length, 1);
    assert.deepEqual(pagesIn(folder), pages);
    const store = filled(folder, []);
    const first = [...store.first(5)];
    assert.deepEqual(first.map(({ unit, place }) => [unit.regions.length, place]), [[20, 0]]);
    for (const page of pages) {
      const found = [...store.candidates(page, -1)];
      assert.deepEqual(found.map(({ part }) => part.pageNumber), [page]);
      assert.deepEqual(found.map(({ region }) => region), [page - 1]);
      assert.equal([...store.candidates(1000, page)].length, 1);
    }
    other.save();
    // All that one wrote has something that the other does not know.
    assert.deepEqual(new Set(pagesIn(folder)), new Set([...pages, 30]));
    const size = units().length;
    const third = filled(folder, pages.map(moduleAt));
    third.save();
    const fourth = filled(folder, []);
    fourth.add(moduleAt(31));
    fourth.save();
    assert.ok(units().length <= size + 2, `${units().length} units`);
  });
});

Deno.test("what a guest comes to once it has booted stays alone in the file, in its turn", () => {
  inFolder((folder) => {
    const store = filled(folder, []);
    const boot = Array.from({ length: 10 }, (_, n) => moduleAt(n + 1));
    for (const unit of boot) store.add(unit);
    for (let i = 0; i < 25_000; i++) store.sample(boot[0] as Unit, 0);
    for (let n = 11; n <= 20; n++) store.add(moduleAt(n));
    store.save();
    const pages = () =>
      new TranslationStore({ folder, version: VERSION }).units()
        .map((header) => header.pages.map(([page]) => page));
    const alone = Array.from({ length: 10 }, (_, n) => [n + 11]);
    assert.deepEqual(pages(), [boot.map((_, n) => n + 1), ...alone]);
    // A boot that needs one of them has it among its own the next time; the others stay as they are.
    const again = filled(folder, []);
    for (const { use } of again.candidates(1, -1)) use();
    for (const { use } of again.candidates(15, -1)) use();
    again.add(moduleAt(40));
    again.save();
    assert.deepEqual(pages().slice(0, 3), [boot.map((_, n) => n + 1), [15], [40]]);
    assert.equal(pages().length, 12);
  });
});

Deno.test("the file is there once a guest that has booted rests, and again much later", () => {
  inFolder((folder) => {
    const store = filled(folder, [moduleAt(1)]);
    assert.equal(store.rest(9_999), false);
    assert.deepEqual(pagesIn(folder), []);
    assert.equal(store.rest(10_000), true);
    assert.deepEqual(pagesIn(folder), [1]);
    store.add(moduleAt(2));
    assert.equal(store.rest(39_999), false);
    assert.equal(store.rest(50_000), true);
    // What it wrote itself is not somebody else's.
    assert.deepEqual(pagesIn(folder), [1, 2]);
    // Nothing is new.
    assert.equal(store.rest(1e9), false);
  });
  const store = new TranslationStore({ folder: undefined, version: VERSION });
  store.add(moduleAt(1));
  assert.equal(store.rest(1e9), false, "there is no file");
});

Deno.test("what turned out to be of no use does not stay in the file, whoever wrote it", () => {
  inFolder((folder) => {
    filled(folder, [unitAt(1), unitAt(2)]).save();
    const store = filled(folder, [unitAt(3), unitAt(4)]);
    store.save();
    assert.deepEqual(pagesIn(folder), [1, 2, 3, 4]);
    for (const page of [1, 3]) {
      for (const { unit } of [...store.candidates(page, -1)]) store.discard(unit);
    }
    // What others write meanwhile stays.
    filled(folder, [unitAt(5)]).save();
    store.add(unitAt(6));
    store.save();
    assert.deepEqual(pagesIn(folder), [2, 4, 5, 6]);
    store.add(unitAt(7));
    store.save();
    assert.deepEqual(pagesIn(folder), [2, 4, 5, 6, 7]);
  });
});

Deno.test("a unit that is damaged in the file is not written again", () => {
  inFolder((folder) => {
    filled(folder, [unitAt(1, 1000), unitAt(2, 1000)]).save();
    const path = join(folder, `translations-${VERSION}`);
    const file = Deno.readFileSync(path);
    file[file.length - 500] = 77;
    Deno.writeFileSync(path, file);
    const store = filled(folder, [unitAt(3)]);
    assert.equal([...store.candidates(2, -1)].length, 0);
    assert.equal(store.stats.badUnits, 1);
    store.save();
    const units = new TranslationStore({ folder, version: VERSION }).units();
    assert.deepEqual(units.map((header) => header.pages[0]?.[0]), [3, 1]);
  });
});

Deno.test("what was wanted before anything was made stands first in the file, in its turn", () => {
  inFolder((folder) => {
    const store = filled(folder, []);
    store.add(unitAt(1, 1000));
    store.add(unitAt(2, 1000), { early: true });
    store.add(unitAt(3, 1000), { early: false });
    store.add(unitAt(4, 1000), { early: true });
    store.save();
    const units = new TranslationStore({ folder, version: VERSION }).units();
    assert.deepEqual(units.flatMap(({ pages }) => pages.map(([page]) => page)), [2, 4, 1, 3]);
  });
});

Deno.test("joined units stay where many others have something of a page", () => {
  inFolder((folder) => {
    const store = filled(folder, []);
    const boot = Array.from({ length: 40 }, (_, n) => moduleAt(n + 1));
    for (const unit of boot) store.add(unit);
    store.save();
    const again = filled(folder, []);
    for (let i = 0; i < 60; i++) again.add(unitAt(1, 20 + i));
    assert.equal([...again.candidates(7, -1)].length, 1);
    const here = [...again.candidates(1, -1)];
    assert.ok(here.some(({ fromDisk }) => fromDisk));
    assert.ok(here.length < 30, `${here.length}`);
  });
});

Deno.test("what stands far behind in the file is left out where that is asked for, and said", () => {
  inFolder((folder) => {
    const store = filled(folder, [unitAt(1, 1000), unitAt(2, 1000), unitAt(3, 1000)]);
    store.save();
    const again = filled(folder, []);
    let left = 0;
    const late = { from: 500, isThere: () => left++ };
    assert.deepEqual([...again.candidates(1, -1, late)].length, 1);
    assert.equal(left, 0);
    assert.deepEqual([...again.candidates(2, 3, late)].length, 0);
    assert.equal(left, 2);
    const found = [...again.candidates(2, 3)].map(({ at }) => at);
    assert.ok(found.length === 2 && found.every((at) => at > 500), `${found}`);
    // What this run made stands in no file.
    again.add(unitAt(4));
    assert.equal([...again.candidates(4, -1, late)][0]?.at, -1);
  });
});

Deno.test("heat counts that comes soon after a unit's first use", () => {
  inFolder((folder) => {
    const store = filled(folder, []);
    const [early, late] = [moduleAt(1), moduleAt(2)];
    store.add(early);
    store.sample(early, 0);
    for (let i = 0; i < 20_000; i++) store.sample(early, 0);
    store.add(late);
    for (let i = 0; i < 10; i++) store.sample(late, 0);
    const cool = moduleAt(3);
    store.add(cool);
    for (let i = 0; i < 20_000; i++) store.sample(early, 0);
    for (let i = 0; i < 1000; i++) store.sample(cool, 0);
    store.save();
    const found = new TranslationStore({ folder, version: VERSION }).units().map((header) =>
      readPriorities(readUnit(header)?.bytes ?? new Uint8Array()).get("r0") ?? Priority.None
    );
    assert.deepEqual(found, [Priority.Optimize, Priority.Compile, Priority.None]);
  });
});
