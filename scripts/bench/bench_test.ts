import assert from "node:assert/strict";
import { median } from "./bench.ts";
import { privateDirtyBytes } from "./programs.ts";
import { json, type NamedResult, table } from "./report.ts";

const RESULTS: NamedResult[] = [
  {
    name: "boot",
    measures: [
      { what: "a", unit: "s", vmctl: 30, reference: { name: "QEMU", value: 1.5 }, limit: 19 },
      { what: "b", unit: "MiB", vmctl: 123.4 },
    ],
    notes: ["no such thing here"],
  },
];

Deno.test("the median is the middle one", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([10, 1, 2, 4]), 3);
  assert.equal(median([]), NaN);
});

Deno.test("the table shows ratios and which are over", () => {
  assert.equal(
    table(RESULTS),
    [
      "   vmctl    reference      ratio  at most",
      "a  30.0 s   1.50 s (QEMU)  20.0x  19x      OVER",
      "b  123 MiB",
      "",
      "boot: no such thing here",
    ].join("\n"),
  );
});

Deno.test("the JSON has the same figures", () => {
  const { host, benches } = JSON.parse(json(RESULTS, { cpu: "x" }));
  assert.deepEqual(host, { cpu: "x" });
  assert.equal(benches[0].measures[0].ratio, 20);
  assert.equal(benches[0].measures[1].ratio, undefined);
});

Deno.test("the guest's memory is left out of private dirty memory, and what files have", () => {
  const mapping = (range: string, name: string, kib: { dirty: number; anonymous: number }) =>
    `${range} 00000000 00:01 1046                       ${name}\nSize:               8192 kB\n` +
    `Private_Dirty:      ${kib.dirty} kB\nAnonymous:          ${kib.anonymous} kB\n` +
    "Swap:                  0 kB\n";
  const smaps = [
    mapping("7f0000000000-7f0008000000 rw-s", "/memfd:guest (deleted)", {
      dirty: 5000,
      anonymous: 0,
    }),
    mapping("7f0010000000-7f0010001000 rw-s", "/memfd:guest (deleted)", { dirty: 3, anonymous: 0 }),
    mapping("ffff0010000000-ffff0010001000 rw-p", "", { dirty: 4, anonymous: 4 }),
    // A file that was written lately, of which the process has changed 8 KiB in its own memory.
    mapping("7f0020000000-7f0022000000 rw-p", "/tmp/vmlinux", { dirty: 45000, anonymous: 8 }),
  ].join("");
  assert.equal(
    privateDirtyBytes(smaps, (name, length) => name.startsWith("/memfd:") && length > 0x1000),
    15 * 1024,
  );
});
