import assert from "node:assert/strict";
import { ModuleBuilder, Priority, readPriorities } from "../../wasm/mod.ts";
import { withHeat } from "./heat.ts";
import { joinSmall, joinUnits } from "./join_units.ts";
import { CodeRanges, type Unit, UnitEntries } from "./unit.ts";

/** A unit whose regions have the pages `pages`, and a module of at least `bytes`. */
function unitOf(pages: readonly number[], bytes = 0): Unit {
  const module = new ModuleBuilder();
  pages.forEach((page, n) => {
    const func = module.func([]);
    func.return();
    module.nameFunc(func, `page ${page} ${"x".repeat(n === 0 ? bytes : 0)}`);
    module.exportFunc(`r${n}`, func);
  });
  const regions = pages.map((pageNumber) => ({
    parts: [{
      ...{ pageNumber, sum: pageNumber },
      entries: UnitEntries.of([{ offset: 1, block: 2 }]),
      code: CodeRanges.of([{ start: 0, bytes: Uint8Array.of(pageNumber) }]),
    }],
  }));
  return { regions, bytes: module.finish() };
}

const pagesOf = ({ regions }: Unit) => regions.map(({ parts }) => parts[0]?.pageNumber);

Deno.test("a joined unit has the regions of all, in order, each with its function", () => {
  const hot = withHeat(unitOf([3, 4]), new Map([[1, 1000]]));
  const joined = joinUnits([unitOf([1]), hot, unitOf([5, 6, 7])]);
  assert.ok(joined !== undefined);
  assert.deepEqual(pagesOf(joined), [1, 3, 4, 5, 6, 7]);
  const names = WebAssembly.Module.exports(new WebAssembly.Module(joined.bytes));
  assert.deepEqual(names.map(({ name }) => name), ["r0", "r1", "r2", "r3", "r4", "r5"]);
  assert.deepEqual(readPriorities(joined.bytes), new Map([["r2", Priority.Optimize]]));
});

Deno.test("what is no module, or has functions of no region, is not joined", () => {
  assert.equal(joinUnits([unitOf([1]), { regions: [], bytes: new Uint8Array(9) }]), undefined);
  assert.equal(joinUnits([unitOf([1]), { ...unitOf([2, 3]), regions: [] }]), undefined);
});

Deno.test("small ones are joined in their order, large and few ones stay", () => {
  interface Item {
    readonly unit: Unit;
    readonly from: readonly Item[];
  }
  const item = (unit: Unit): Item => ({ unit, from: [] });
  const small = Array.from({ length: 105 }, (_, n) => item(unitOf([n], 4000)));
  const large = item(unitOf([1000], 100_000));
  const items = [...small.slice(0, 10), large, ...small.slice(10)];
  const joined = joinSmall(items, ({ unit }) => unit, (unit, from) => ({ unit, from }));
  assert.deepEqual(joined.map(({ from }) => from.length > 0), [true, false, true, true, true]);
  assert.equal(joined[1], large);
  const found = joined.flatMap(({ unit }) => pagesOf(unit));
  assert.deepEqual(
    found.filter((page) => page !== 1000),
    small.map((_, n) => n),
  );
  for (const { unit } of joined) assert.ok(unit.bytes.length < 200_000);
  const few = small.slice(0, 3);
  assert.deepEqual(joinSmall(few, ({ unit }) => unit, (unit, from) => ({ unit, from })), few);
  // Nothing is lost where one of them cannot be joined.
  const bad = [...small.slice(0, 20), item({ ...unitOf([7]), regions: [] })];
  assert.deepEqual(joinSmall(bad, ({ unit }) => unit, (unit, from) => ({ unit, from })), bad);
});
