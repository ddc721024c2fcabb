import assert from "node:assert/strict";
import { parseJunit, skipReason } from "./junit.ts";

Deno.test("tests are counted, steps belong to their test", () => {
  const xml = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="deno test" tests="5" failures="2" errors="0" time="0.031">
    <testsuite name="./a_test.ts" tests="5" disabled="1" errors="0" failures="2">
        <testcase name="&lt;fine&gt; &amp; &#x41;&#66;" classname="./a_test.ts" time="0.001" line="1">
        </testcase>
        <testcase name="no machine (skipped: no &quot;kvm&quot;)" classname="./a_test.ts" time="0.0">
            <skipped/>
        </testcase>
        <testcase name="bad" classname="./a_test.ts" time="0.001" line="3" col="6">
            <failure message="1 test step failed">&lt;skipped/&gt;</failure>
        </testcase>
        <testcase name="short" classname="./a_test.ts" time="0.001"/>
        <testcase name="bad &gt; inner" classname="./a_test.ts" time="0.000" line="1" col="49">
            <failure message="Uncaught Error: q">Error: &lt;q&gt;
    at a_test.ts:1:49</failure>
        </testcase>
    </testsuite>
</testsuites>`;
  assert.deepEqual(parseJunit(xml), [
    { name: "<fine> & AB", result: "passed" },
    { name: 'no machine (skipped: no "kvm")', result: "skipped" },
    {
      name: "bad",
      result: "failed",
      errors: ["<skipped/>", "Error: <q>\n    at a_test.ts:1:49"],
    },
    { name: "short", result: "passed" },
  ]);
});

Deno.test("a report without tests is empty", () => {
  assert.deepEqual(parseJunit(`<testsuites name="deno test" tests="0"></testsuites>`), []);
});

Deno.test("a skipped test's name says why", () => {
  assert.equal(
    skipReason("boots (skipped: no /dev/kvm (or no access))"),
    "no /dev/kvm (or no access)",
  );
  assert.equal(skipReason("boots"), undefined);
});
