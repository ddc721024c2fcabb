import assert from "node:assert/strict";
import { ModuleBuilder, Priority, readPriorities } from "../../wasm/mod.ts";
import { Ahead, Used } from "./ahead.ts";
import { withHeat } from "./heat.ts";
import { unitHeaders, writeUnits } from "./store_format.ts";
import type { Unit } from "./unit.ts";

const VERSION = "0123456789abcdef0123456789abcdef";

/** A unit of two regions; `samples` of the first one. */
function unitOf(samples: number): Unit {
  const module = new ModuleBuilder();
  for (const name of ["r0", "r1"]) {
    const func = module.func([]);
    func.return();
    module.exportFunc(name, func);
  }
  const unit = { regions: [{ parts: [] }, { parts: [] }], bytes: module.finish() };
  return samples === 0 ? unit : withHeat(unit, new Map([[0, samples]]));
}

function aheadOf(units: readonly Unit[]): { ahead: Ahead; used: Uint8Array } {
  const used = new Uint8Array(1000);
  return { ahead: new Ahead(unitHeaders(writeUnits(units, VERSION), VERSION), used), used };
}

/** Steps until it waits; the wait. */
function run(ahead: Ahead): number {
  for (let before = -1;;) {
    const pause = ahead.step();
    if (pause === Infinity || ahead.waiting === before) return pause;
    before = ahead.waiting;
  }
}

Deno.test("heat only grows, and a unit without news stays the same", () => {
  const [warm, hot] = [unitOf(1), unitOf(100)];
  assert.deepEqual(readPriorities(warm.bytes), new Map([["r0", Priority.Compile]]));
  assert.deepEqual(readPriorities(hot.bytes), new Map([["r0", Priority.Optimize]]));
  assert.equal(withHeat(hot, new Map([[0, 1]])), hot);
  assert.equal(withHeat(warm, new Map([[0, 1]])), warm);
  assert.deepEqual(
    readPriorities(withHeat(hot, new Map([[1, 1]])).bytes),
    new Map([["r0", Priority.Optimize], ["r1", Priority.Compile]]),
  );
});

Deno.test("what was hot is compiled, what was not is left, and what is in use is let go", () => {
  const { ahead, used } = aheadOf([unitOf(0), unitOf(100), unitOf(1), unitOf(0)]);
  assert.equal(run(ahead), Infinity);
  assert.equal(ahead.waiting, 2);
  used[1] = 1;
  assert.equal(ahead.step(), Infinity);
  assert.equal(ahead.waiting, 1);
  ahead.end();
  assert.equal(ahead.waiting, 0);
  assert.equal(ahead.step(), Infinity);
});

Deno.test("a vCPU that is there first has nothing compiled for it", () => {
  const { ahead, used } = aheadOf([unitOf(100)]);
  used[0] = 1;
  assert.equal(run(ahead), Infinity);
  assert.equal(ahead.waiting, 0);
});

Deno.test("it stays a bit ahead of what is used, and follows a guest that begins elsewhere", () => {
  const { ahead, used } = aheadOf(Array.from({ length: 900 }, () => unitOf(1)));
  assert.ok(run(ahead) < 1000, "waits for vCPUs");
  const window = ahead.waiting;
  assert.ok(window > 16 && window < 450, `${window}`);
  used.fill(1, 0, 10);
  run(ahead);
  assert.equal(ahead.waiting, window);
  // What came long before its turn is let go, and not followed.
  used[20] = Used.early;
  used[800] = Used.early;
  run(ahead);
  assert.equal(ahead.waiting, window);
  used[700] = Used.inTurn;
  run(ahead);
  assert.equal(ahead.waiting, Math.min(window, 900 - 701 - 1));
  used.fill(1);
  assert.equal(run(ahead), Infinity);
  assert.equal(ahead.waiting, 0);
});

Deno.test("units that are damaged, or no modules, are passed over", () => {
  const hot = unitOf(100);
  const [before, after] = [hot.bytes.slice(), hot.bytes.slice()];
  // One behind the sections that are read for heat: the code, which V8 refuses.
  after[after.length - 1] = 0x77;
  const file = writeUnits([hot, { ...hot, bytes: after }, { ...hot, bytes: before }], VERSION);
  const units = unitHeaders(file, VERSION);
  const last = units[2];
  assert.ok(last !== undefined);
  const word = last.at + last.byteLength / 4 - 2;
  last.words[word] = (last.words[word] ?? 0) ^ 1;
  const ahead = new Ahead(units, new Uint8Array(10));
  assert.equal(run(ahead), Infinity);
  assert.equal(ahead.waiting, 1);
});
