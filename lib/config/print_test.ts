import { deepStrictEqual } from "node:assert/strict";
import fc from "fast-check";
import { decodeArgument } from "./argument.ts";
import { mergeOptions } from "./merge.ts";
import type { OptionTable } from "./option_types.ts";
import { RUN_OPTIONS, type RunOptions } from "./options.ts";
import { printArguments } from "./print.ts";
import { type ConfigProblem, formatProblem } from "./problem.ts";

const path = fc.string({ minLength: 1, maxLength: 8 })
  .filter((text) => !/[/\0]/.test(text) && text !== "." && text !== "..").map((text) => `/${text}`);

const options: fc.Arbitrary<RunOptions> = fc.record({
  kernel: path,
  params: fc.array(fc.stringMatching(/^[ -~]{0,8}$/), { minLength: 1, maxLength: 3 }),
  cpus: fc.record({ "num-cores": fc.integer({ min: 1, max: 255 }) }, { noNullPrototype: true }),
  mem: fc.record({ size: fc.integer({ min: 16, max: 65536 }) }, { noNullPrototype: true }),
  hypervisor: fc.constantFrom("auto" as const, "kvm" as const, "soft" as const),
  serial: fc.array(
    fc.record({
      type: fc.constantFrom("sink" as const, "file" as const),
      num: fc.constantFrom(1, 2),
      path,
      console: fc.boolean(),
    }, { requiredKeys: ["type"], noNullPrototype: true }),
    { minLength: 1, maxLength: 2 },
  ),
  "disable-sandbox": fc.constant(true),
}, { requiredKeys: [], noNullPrototype: true });

/** Reads words of the form `--name=value` and `--flag`. */
function parse(words: readonly string[]): RunOptions {
  const problems: ConfigProblem[] = [];
  const table: OptionTable = RUN_OPTIONS;
  const parts = words.map((word) => {
    const [, name, , text] = /^--([a-z-]+)(=(.*))?$/s.exec(word)!;
    const value = decodeArgument(table[name!]!, text ?? "true", {
      name: name!,
      baseDir: "/",
      problems,
    });
    return { [name!]: value } as RunOptions;
  });
  deepStrictEqual(problems.map(formatProblem), []);
  return mergeOptions(RUN_OPTIONS, ...parts);
}

Deno.test("options are printed in words that parse to the same", () => {
  fc.assert(
    fc.property(options, (value) => {
      deepStrictEqual(parse(printArguments(RUN_OPTIONS, value)), value);
    }),
    { numRuns: 500 },
  );
});
