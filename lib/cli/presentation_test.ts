import { deepStrictEqual, match, strictEqual } from "node:assert/strict";
import { formatDuration } from "./commands/control.ts";
import { renderFacts } from "./commands/doctor.ts";
import { collectFacts } from "./doctor_facts.ts";
import { table } from "./output.ts";

const plain = {
  bold: (text: string) => text,
  dim: (text: string) => text,
  red: (text: string) => text,
  green: (text: string) => text,
  yellow: (text: string) => text,
};

Deno.test("durations show their two greatest units", () => {
  deepStrictEqual(
    [0, 59_940, 60_000, 3_599_999, 3_600_000, 90_061_000].map(formatDuration),
    ["0.0 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 d 1 h"],
  );
});

Deno.test("tables have columns as wide as their widest cell", () => {
  strictEqual(table([["A", "LONG"], ["bbb", "c"]]), "A    LONG\nbbb  c\n");
});

Deno.test("what a host lacks is followed by what to do about it", () => {
  const text = renderFacts([
    { id: "a", title: "first", level: "ok", value: "here" },
    { id: "b", title: "b", level: "fail", value: "gone", advice: "get it" },
  ], plain);
  strictEqual(
    text,
    "ok    first  here\n" +
      "FAIL  b      gone\n" +
      "             -> get it\n" +
      "\nVMs cannot run on this host before what failed is mended.\n",
  );
});

Deno.test("every fact about this host has its own id", () => {
  const ids = collectFacts().map(({ id }) => id);
  strictEqual(new Set(ids).size, ids.length);
  match(ids.join(" "), /kvm/);
});
