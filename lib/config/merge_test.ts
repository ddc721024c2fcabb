import { deepStrictEqual } from "node:assert/strict";
import fc from "fast-check";
import { mergeOptions } from "./merge.ts";
import { RUN_OPTIONS, type RunOptions } from "./options.ts";
import { withDefaults } from "./resolve.ts";

Deno.test("later scalars win, lists append, records merge by key", () => {
  deepStrictEqual(
    mergeOptions(
      RUN_OPTIONS,
      { kernel: "/a", params: ["1"], mem: { size: 64 }, serial: [{ type: "sink" }] },
      {},
      { kernel: "/b", params: ["2", "3"], serial: [{ type: "stdout" }], "extended-status": false },
    ),
    {
      kernel: "/b",
      params: ["1", "2", "3"],
      mem: { size: 64 },
      serial: [{ type: "sink" }, { type: "stdout" }],
      "extended-status": false,
    },
  );
});

const options: fc.Arbitrary<RunOptions> = fc.record({
  kernel: fc.constantFrom("/a", "/b"),
  name: fc.constantFrom("x", "y"),
  params: fc.array(fc.string({ maxLength: 3 }), { maxLength: 3 }),
  cpus: fc.record({ "num-cores": fc.integer({ min: 1, max: 4 }) }, {
    requiredKeys: [],
    noNullPrototype: true,
  }),
  mem: fc.record({ size: fc.integer({ min: 16, max: 64 }) }, {
    requiredKeys: [],
    noNullPrototype: true,
  }),
  serial: fc.array(
    fc.record({
      type: fc.constantFrom("sink" as const, "stdout" as const),
      num: fc.constantFrom(1, 2),
      console: fc.boolean(),
    }, { requiredKeys: [], noNullPrototype: true }),
    { maxLength: 2 },
  ),
  "extended-status": fc.boolean(),
}, { requiredKeys: [], noNullPrototype: true });

Deno.test("merging is associative, and nothing is its neutral element", () => {
  fc.assert(fc.property(options, options, options, (a, b, c) => {
    const left = mergeOptions(RUN_OPTIONS, mergeOptions(RUN_OPTIONS, a, b), c);
    const right = mergeOptions(RUN_OPTIONS, a, mergeOptions(RUN_OPTIONS, b, c));
    deepStrictEqual(left, right);
    deepStrictEqual(mergeOptions(RUN_OPTIONS, a, b, c), left);
    deepStrictEqual(mergeOptions(RUN_OPTIONS, a, {}), mergeOptions(RUN_OPTIONS, {}, a));
    deepStrictEqual(mergeOptions(RUN_OPTIONS, {}, a), a);
  }));
});

Deno.test("filling in defaults twice changes nothing", () => {
  fc.assert(fc.property(options, (given) => {
    const filled = withDefaults(given);
    deepStrictEqual(withDefaults(filled), filled);
  }));
});
