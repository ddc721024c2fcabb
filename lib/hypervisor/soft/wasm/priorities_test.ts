import assert from "node:assert/strict";
import fc from "fast-check";
import { i32, ModuleBuilder, Priority, readPriorities, ValType, withPriorities } from "./mod.ts";

/** A module that exports functions `r0`, `r1`, ... that return their number. */
function makeModule(count: number, optimized: readonly number[] = []): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  module.importFunc("e", "f", { params: [], results: [] });
  for (let i = 0; i < count; i++) {
    const func = module.func([], [ValType.I32]);
    func.return(i32(i));
    func.unreachable();
    module.exportFunc(`r${i}`, func);
    if (optimized.includes(i)) module.optimize(func);
  }
  return module.finish();
}

function results(module: Uint8Array<ArrayBuffer>): number[] {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module), {
    e: { f: () => {} },
  });
  return Object.values(exports).map((f) => (f as () => number)());
}

const priorities = fc.dictionary(
  fc.integer({ min: 0, max: 9 }).map((i) => `r${i}`),
  fc.constantFrom(Priority.Compile, Priority.Optimize),
).map((names) => new Map(Object.entries(names)));

Deno.test("a module tells the priorities that it was given last, and is otherwise the same", () => {
  fc.assert(fc.property(priorities, priorities, (before, after) => {
    const plain = makeModule(10);
    const given = withPriorities(plain, before);
    assert.deepEqual(readPriorities(given), new Map([...before].sort()));
    const again = withPriorities(given, after);
    assert.deepEqual(readPriorities(again), new Map([...after].sort()));
    assert.deepEqual(results(again), results(plain));
    assert.deepEqual(withPriorities(again, new Map()), plain);
  }));
});

Deno.test("a builder says the same of functions that are to be optimized", () => {
  const module = makeModule(4, [1, 3]);
  assert.deepEqual(
    readPriorities(module),
    new Map([["r1", Priority.Optimize], ["r3", Priority.Optimize]]),
  );
  assert.deepEqual(results(module), [0, 1, 2, 3]);
});

Deno.test("names that a module does not export are left out", () => {
  const module = makeModule(1);
  assert.deepEqual(withPriorities(module, new Map([["r7", Priority.Optimize]])), module);
});

Deno.test("what is no module, or a damaged one, throws nothing and never grows", () => {
  const damaged = fc.record({ at: fc.nat(), value: fc.integer({ min: 1, max: 255 }) }).map(
    ({ at, value }) => {
      const module = withPriorities(makeModule(3), new Map([["r1", Priority.Optimize]]));
      module[at % module.length] = (module[at % module.length] ?? 0) ^ value;
      return module;
    },
  );
  const noise = fc.uint8Array({ maxLength: 100 }).map((bytes) => new Uint8Array(bytes));
  fc.assert(fc.property(fc.oneof(damaged, noise), (bytes) => {
    readPriorities(bytes);
    assert.ok(withPriorities(bytes, new Map()).length <= bytes.length);
  }));
});
