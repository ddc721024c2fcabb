import { deepStrictEqual, strictEqual } from "node:assert/strict";
import fc from "fast-check";
import { editDistance, suggest } from "./suggest.ts";

Deno.test("edit distance counts inserted, deleted, replaced and swapped characters", () => {
  const cases: [string, string, number][] = [
    ["", "", 0],
    ["", "abc", 3],
    ["abc", "abc", 0],
    ["abc", "ab", 1],
    ["abc", "abd", 1],
    ["abc", "acb", 1],
    ["kernel", "kenrel", 1],
    ["serial", "sreail", 2],
  ];
  for (const [a, b, distance] of cases) strictEqual(editDistance(a, b), distance, `${a} ${b}`);
});

Deno.test("edit distance is symmetric, zero only for equal words, and at most the longer length", () => {
  const word = fc.string({ maxLength: 12 });
  fc.assert(fc.property(word, word, (a, b) => {
    const distance = editDistance(a, b);
    strictEqual(distance, editDistance(b, a));
    strictEqual(distance === 0, a === b);
    strictEqual(distance <= Math.max(a.length, b.length), true);
  }));
});

Deno.test("suggestions are near misses, other spellings and cut words", () => {
  const names = ["kernel", "initrd", "params", "num-cores", "extended-status"];
  deepStrictEqual(
    ["kernl", "intird", "num_cores", "NUM-CORES", "extended", "extendedstatus"].map((word) =>
      suggest(word, names)
    ),
    ["kernel", "initrd", "num-cores", "num-cores", "extended-status", "extended-status"],
  );
  for (const far of ["", "x", "frobnicate", "k".repeat(100)]) {
    strictEqual(suggest(far, names), undefined, far);
  }
});
