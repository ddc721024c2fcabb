import assert from "node:assert/strict";
import fc from "fast-check";
import { formatSize, GIB, KIB, MIB, parseSize, SizeError, TIB } from "./units.ts";

Deno.test("sizes are read with every suffix, case and spacing", () => {
  const cases: [string, number][] = [
    ["0", 0],
    ["4096", 4096],
    ["4096B", 4096],
    ["1k", KIB],
    ["512M", 512 * MIB],
    ["512m", 512 * MIB],
    ["512 MiB", 512 * MIB],
    ["512mb", 512 * MIB],
    ["2GiB", 2 * GIB],
    ["1.5G", 1.5 * GIB],
    ["1T", TIB],
    ["  7K ", 7 * KIB],
  ];
  for (const [text, bytes] of cases) assert.equal(parseSize(text), bytes, text);
});

Deno.test("a number alone counts in the default unit, one with B does not", () => {
  assert.equal(parseSize("256", { defaultUnit: MIB }), 256 * MIB);
  assert.equal(parseSize("0.5", { defaultUnit: MIB }), MIB / 2);
  assert.equal(parseSize("1G", { defaultUnit: MIB }), GIB);
  assert.equal(parseSize("4096B", { defaultUnit: MIB }), 4096);
});

Deno.test("what is no size is refused, and the message says what it was for", () => {
  const wrong = [
    "",
    " ",
    "-1",
    "+1",
    "1e3",
    "0x10",
    "M",
    "1X",
    "1iB",
    "1Mi",
    "1.M",
    "1,5G",
    "١",
    "1 2",
  ];
  for (const text of wrong) assert.throws(() => parseSize(text), SizeError, text);
  assert.throws(() => parseSize("1.3", { what: "--mem" }), /--mem: 1\.3 is not a whole number/);
  assert.throws(() => parseSize("9".repeat(40)), /more than this program can count/);
  assert.throws(() => parseSize("8193T"), SizeError);
});

Deno.test("any text gives a safe whole number or a SizeError", () => {
  const text = fc.oneof(
    fc.string(),
    fc.stringMatching(/^[0-9]{1,20}([.][0-9]{1,4})?[kKmMgGtT]?[iI]?[bB]?$/),
  );
  fc.assert(fc.property(text, (input) => {
    try {
      const bytes = parseSize(input);
      return Number.isSafeInteger(bytes) && bytes >= 0;
    } catch (error) {
      return error instanceof SizeError;
    }
  }));
});

Deno.test("an exact size survives showing and reading", () => {
  const size = fc.tuple(fc.integer({ min: 1, max: 1023 }), fc.constantFrom(1, KIB, MIB, GIB, TIB));
  fc.assert(
    fc.property(size, ([count, unit]) => parseSize(formatSize(count * unit)) === count * unit),
  );
  assert.equal(formatSize(0), "0 B");
  assert.equal(formatSize(1.5 * GIB), "1.5 GiB");
  assert.equal(formatSize(1100), "1.1 KiB");
});
