import assert from "node:assert/strict";
import type { FileResult } from "./run_file.ts";
import { fileReport, Tally } from "./tally.ts";

const FILE: FileResult = {
  path: "lib/a_test.ts",
  outcomes: [
    { name: "one", result: "passed" },
    { name: "two (skipped: no tail)", result: "skipped" },
    { name: "three", result: "failed", errors: ["Error: no\n    at a_test.ts:1", "Error: step"] },
  ],
  trouble: undefined,
  output: "said\n",
  seconds: 1.25,
};

Deno.test("the last line counts passed and failed tests", () => {
  const tally = new Tally();
  tally.addStep("build", true);
  tally.addFile(FILE);
  tally.addFile({ ...FILE, path: "lib/b_test.ts", outcomes: [], trouble: "ended with status 1" });
  assert.equal(tally.ok, false);
  assert.deepEqual(tally.summary(), [
    "Skipped, no tail:",
    "  lib/a_test.ts: two",
    "Why lib/a_test.ts: three",
    "  | Error: no",
    "  |     at a_test.ts:1",
    "  | Error: step",
    "Why lib/b_test.ts: ended with status 1",
    "  | said",
    "Failed:",
    "  lib/a_test.ts: three",
    "  lib/b_test.ts: ended with status 1",
    "1 skipped",
    "2 passed, 2 failed",
  ]);
});

Deno.test("the end of the log stays short however much fails", () => {
  const tally = new Tally();
  const lines = Array.from({ length: 500 }, (_, i) => `${i} ${"x".repeat(5000)}`);
  const errors = [lines.join("\n")];
  const outcomes = lines.map((_, i) => ({ name: `test ${i}`, result: "failed" as const, errors }));
  tally.addFile({ ...FILE, outcomes, trouble: "ended with SIGSEGV", output: errors.join("") });
  const summary = tally.summary();
  assert.equal(summary.at(-1), "0 passed, 501 failed");
  const reasons = summary.slice(0, summary.indexOf("Failed:"));
  assert.ok(reasons.length <= 10 * 22 && reasons.join("").length <= 50_000, `${reasons.length}`);
  assert.match(reasons[1] ?? "", /^ {2}\| 0 x+\.\.\.$/);
  assert.match(reasons[15] ?? "", /^ {2}\| \(480 lines\)$/);
  assert.match(reasons[21] ?? "", /^ {2}\| 499 x+\.\.\.$/);
});

Deno.test("a failed file shows what it printed, a good one a line", () => {
  assert.equal(
    fileReport(FILE),
    "FAILED lib/a_test.ts: 1 passed, 1 failed, 1 skipped (1.3 s)\nsaid\n",
  );
  assert.equal(
    fileReport({ ...FILE, outcomes: FILE.outcomes.slice(0, 1) }),
    "ok     lib/a_test.ts: 1 passed (1.3 s)",
  );
});
