import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import fc from "fast-check";
import { commandName, parseArguments, type ParsedArguments } from "./arguments.ts";
import { UsageError } from "./errors.ts";
import { ROOT } from "./tree.ts";

function parse(...words: string[]): ParsedArguments {
  return parseArguments(ROOT, words, "/base");
}

Deno.test("the command is found behind common options", () => {
  const { path, options, positionals } = parse(
    "--extended-status",
    "--log-level",
    "info,disk=warn",
    "config",
    "--log-level=debug",
    "check",
    "a",
    "--json",
    "b",
  );
  strictEqual(commandName(path), "vmctl config check");
  deepStrictEqual(options, { "extended-status": true, "log-level": "debug", json: true });
  deepStrictEqual(positionals, ["a", "b"]);
});

Deno.test("short options: apart, attached, with =, flags together", () => {
  for (const words of [["-m", "64"], ["-m64"], ["-m=64"], ["--mem", "64"], ["--mem=64"]]) {
    deepStrictEqual(parse("run", ...words).options, { mem: { size: 64 } });
  }
  deepStrictEqual(parse("-Vh").options, { version: true, help: true });
  deepStrictEqual(parse("run", "-hm64").options, { help: true, mem: { size: 64 } });
});

Deno.test("flags take no value, unless behind =", () => {
  deepStrictEqual(parse("run", "--disable-sandbox", "k").positionals, ["k"]);
  deepStrictEqual(parse("run", "--disable-sandbox=false").options, { "disable-sandbox": false });
  strictEqual(parse("run", "--disable-sandbox=maybe").problems.length, 1);
});

Deno.test("given again, scalars are replaced, lists grow, other names are the same option", () => {
  deepStrictEqual(
    parse("run", "-pa", "--name", "x", "--params", "b", "--name=y", "-p", "--", "--", "-k").options,
    { params: ["a", "b", "--"], name: "y" },
  );
  deepStrictEqual(parse("run", "--firmware", "f").options, { bios: "/base/f" });
});

Deno.test("a value may begin with a dash, unless it is an option", () => {
  deepStrictEqual(parse("run", "-p", "-x=1").options, { params: ["-x=1"] });
  deepStrictEqual(parse("run", "-p", "-").options, { params: ["-"] });
  deepStrictEqual(parse("run", "--params=--mem").options, { params: ["--mem"] });
  throws(() => parse("run", "-p", "--mem"), /-p: expected PARAMS, got "--mem"/);
  throws(() => parse("run", "-p", "-m"), UsageError);
});

Deno.test("options of QEMU and older crosvm are told what they are here", () => {
  const cases: [string, string][] = [
    ["-kernel", "--kernel"],
    ["-initrd", "--initrd"],
    ["-initrd=x", "--initrd"],
    ["-append", "--params"],
    ["-smp", "--cpus"],
    ["-name", "--name"],
    ["-help", "--help"],
    ["-drive", "--block"],
    ["--rwdisk", "--block"],
    ["--disk=x", "--block"],
  ];
  for (const [given, meant] of cases) {
    const message = `unknown option "${given.replace(/=.*/, "")}"; did you mean "${meant}"?`;
    throws(() => parse("run", given, "x"), { message });
  }
  throws(() => parse("stop", "--disk", "x"), (error) => !String(error).includes("--block"));
});

Deno.test("any words parse or give a UsageError", () => {
  const word = fc.oneof(
    fc.constantFrom(
      ...["run", "config", "show", "--", "-", "--mem", "-m", "64", "--serial", "stdout", "--cfg="],
      ...[
        "-h",
        "--help",
        "--json",
        "-c=",
        "--=",
        "--params",
        "=",
        "--extended-status",
        "--__proto__",
      ],
    ),
    fc.string({ maxLength: 6 }),
  );
  fc.assert(
    fc.property(fc.array(word, { maxLength: 6 }), (words) => {
      try {
        parse(...words);
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
      }
    }),
    { numRuns: 2000 },
  );
});
