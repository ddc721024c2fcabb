import { deepStrictEqual, match, strictEqual } from "node:assert/strict";
import { join } from "node:path";
import { ConfigLoader } from "./config_file.ts";
import { mergeOptions } from "./merge.ts";
import { RUN_OPTIONS, type RunOptions } from "./options.ts";
import { type ConfigProblem, formatProblem } from "./problem.ts";

/** A folder with these files, gone at the end of its scope. */
class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "vmctl-config-" });

  write(name: string, content: unknown): string {
    const path = join(this.path, name);
    Deno.mkdirSync(join(path, ".."), { recursive: true });
    Deno.writeTextFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
    return path;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

async function load(...paths: string[]): Promise<{
  options: RunOptions;
  problems: string[];
}> {
  const problems: ConfigProblem[] = [];
  const loader = new ConfigLoader(problems);
  for (const path of paths) await loader.load(path);
  return {
    options: mergeOptions(RUN_OPTIONS, ...loader.layers.map(({ options }) => options)),
    problems: problems.map(formatProblem),
  };
}

Deno.test("includes come first, then the file; paths are relative to the file that names them", async () => {
  using folder = new Folder();
  folder.write("base/base.toml", 'kernel = "vmlinuz"\nparams = ["base"]\n[mem]\nsize = "1G"\n');
  folder.write("base/more.json", { initrd: "initrd", params: ["more"], cfg: ["base.toml"] });
  const main = folder.write("vm.json", {
    cfg: ["base/more.json"],
    params: ["vm"],
    mem: 64,
  });
  const { options, problems } = await load(main);
  deepStrictEqual(problems, []);
  deepStrictEqual(options, {
    kernel: join(folder.path, "base/vmlinuz"),
    initrd: join(folder.path, "base/initrd"),
    params: ["base", "more", "vm"],
    mem: { size: 64 },
  });
});

Deno.test("several files in their order; a file without an ending is known by its text", async () => {
  using folder = new Folder();
  const a = folder.write("a", '  {\n"name": "a", "params": ["1"]}');
  const b = folder.write("b", '# text\nname = "b"\nparams = ["2"]\n');
  deepStrictEqual((await load(a, b)).options, { name: "b", params: ["1", "2"] });
  deepStrictEqual((await load(b, a)).options, { name: "a", params: ["2", "1"] });
});

Deno.test("an include that leads back is told with its way", async () => {
  using folder = new Folder();
  const a = folder.write("a.json", { cfg: ["b.json"] });
  const b = folder.write("b.json", { cfg: ["sub/../a.json"] });
  Deno.mkdirSync(join(folder.path, "sub"));
  Deno.symlinkSync(a, join(folder.path, "link.json"));
  deepStrictEqual((await load(a)).problems, [
    `${b}: cfg[0]: ${a} includes itself: ${a} -> ${b} -> ${a}`,
  ]);
  const self = folder.write("self.json", { cfg: ["self.json"] });
  strictEqual((await load(self)).problems.length, 1);
  strictEqual((await load(join(folder.path, "link.json"))).problems.length, 1);
});

Deno.test("includes may come to a file twice, but not without end", async () => {
  using folder = new Folder();
  folder.write("leaf.json", { params: ["x"] });
  const twice = folder.write("twice.json", { cfg: ["leaf.json", "leaf.json"] });
  deepStrictEqual((await load(twice)).options, { params: ["x", "x"] });
  for (let at = 0; at < 20; at++) {
    folder.write(`deep${at}.json`, { cfg: [`deep${at + 1}.json`] });
    folder.write(`wide${at}.json`, { cfg: [`wide${at + 1}.json`, `wide${at + 1}.json`] });
  }
  folder.write("wide9.json", {});
  const deep = await load(join(folder.path, "deep0.json"));
  strictEqual(deep.problems.length, 1);
  match(deep.problems[0]!, /deep15\.json: cfg\[0\]: expected includes at most 16 deep/);
  const wide = await load(join(folder.path, "wide0.json"));
  strictEqual(wide.problems.length, 1);
  match(wide.problems[0]!, /expected at most 256 files in all/);
});

Deno.test("what cannot be read or parsed is told with the place that names it", async () => {
  using folder = new Folder();
  const missing = folder.write("missing.json", { cfg: ["gone.json", "."], kernl: "x" });
  deepStrictEqual((await load(missing)).problems, [
    `${missing}: kernl: unknown option "kernl"; did you mean "kernel"?`,
    `${missing}: cfg[0]: cannot read ${join(folder.path, "gone.json")}: no such file`,
    `${missing}: cfg[1]: cannot read ${folder.path}: it is a folder`,
  ]);
  const cases: [string, string, RegExp][] = [
    ["a.json", '{"kernel": }', /a\.json: expected valid JSON: .*token '}'/],
    ["b.json", "", /b\.json: expected valid JSON/],
    ["c.toml", "kernel = \n", /c\.toml: expected valid TOML/],
    ["d.json", "[1]", /d\.json: expected a table of options, got a list of 1/],
    ["e.json", "x".repeat(1_100_000), /e\.json: expected at most 1 MiB/],
  ];
  for (const [name, text, expected] of cases) {
    const { problems } = await load(folder.write(name, text));
    strictEqual(problems.length, 1, name);
    match(problems[0]!, expected);
  }
  const binary = join(folder.path, "f.json");
  Deno.writeFileSync(binary, Uint8Array.of(0x7b, 0xff, 0x7d));
  match((await load(binary)).problems[0]!, /expected UTF-8 text/);
  match((await load("/dev/zero")).problems[0]!, /expected at most 1 MiB/);
});
