import assert from "node:assert/strict";
import type { FileResult } from "./run_file.ts";
import { fileReport, Tally } from "./tally.ts";

const FILE: FileResult = {
  path: "lib/a_test.ts",
  outcomes: [
    { name: "one", result: "passed" },
    { name: "two (skipped: no tail)", result: "skipped" },
    { name: "three", result: "failed" },
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
    "Failed:",
    "  lib/a_test.ts: three",
    "  lib/b_test.ts: ended with status 1",
    "1 skipped",
    "2 passed, 2 failed",
  ]);
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
