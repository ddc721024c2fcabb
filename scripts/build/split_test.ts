import assert from "node:assert/strict";
import { join } from "node:path";
import { NEED } from "./late.ts";
import { readChunk, splitScripts } from "./split.ts";

/** As the bundler writes them. */
const CHUNKS: Readonly<Record<string, string>> = {
  "entry.js":
    `import"./chunk-SIDE.js";log.push("entry");import("./mod-EAGER.js").then(({begin:e})=>e());`,
  "mod-EAGER.js": `import{a as t,b}from"./chunk-BOTH.js";import*as n from"./chunk-BOTH.js";` +
    `async function o(){log.push(t,b,n.a);let{late:r}=await import("./mod-LATE.js");return r()}` +
    `export{o as begin,t as default};\n/*! a licence */\n`,
  "mod-LATE.js": `import{b as x}from"./chunk-BOTH.js";import{default as y}from"./mod-EAGER.js";` +
    `import{a as z}from"./chunk-REST.js";function w(){log.push("late",x,y,z)}export{w as late};`,
  "chunk-BOTH.js": `log.push("both");var q=1,b=2;export{q as a,b};`,
  "chunk-SIDE.js": `log.push("side");`,
  "chunk-REST.js": `var k=3;export{k as a};`,
};

Deno.test("modules that run early are one script, others come when they are loaded", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, text] of Object.entries(CHUNKS)) {
      await Deno.writeTextFile(join(folder, name), text);
      const map = { version: 3, sources: [name], names: [], mappings: "AAAA" };
      await Deno.writeTextFile(join(folder, `${name}.map`), JSON.stringify(map));
    }
    const split = await splitScripts(folder, { entry: "./entry.js", eager: ["begin"] });
    assert.deepEqual(Object.keys(split.parts).sort(), ["./chunk-REST.js", "./mod-LATE.js"]);

    const log: unknown[] = [];
    const done = Promise.withResolvers<void>();
    const push = (...items: unknown[]) => {
      log.push(...items);
      if (items[0] === "late") done.resolve();
    };
    const read: string[] = [];
    const scope = globalThis as unknown as Record<string, unknown>;
    scope["VMCTL_PART"] = (name: string) => {
      read.push(name);
      return new TextEncoder().encode(split.parts[name]!);
    };
    scope["log"] = { push };
    (0, eval)(`(function(){${split.script}})`)();
    await done.promise;
    assert.deepEqual(log, ["side", "entry", "both", 1, 2, 1, "late", 2, 1, 3]);
    assert.deepEqual(read, ["./mod-LATE.js", "./chunk-REST.js"]);
    const need = scope[NEED] as (name: string) => Record<string, unknown>;
    assert.equal(need("./chunk-REST.js")["a"], 3);
    for (const name of ["VMCTL_PART", "log", NEED]) delete scope[name];

    // Each section begins where its module does, at the same columns.
    const lines = split.script.split("\n");
    const { sections } = JSON.parse(split.map);
    assert.equal(sections.length, 4);
    for (const { offset, map } of sections) {
      const code = CHUNKS[map.sources[0]]!.replace(
        /^(?:import[^;(]*;)*/,
        (head) => " ".repeat(head.length),
      );
      const text = code.slice(0, code.search(/import\(|export\{|$/));
      assert.equal(lines[offset.line]!.slice(0, text.length), text);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a module of another form than the bundler's is refused", () => {
  for (const text of [`import a from"b";`, `export*from"./c.js";`, `var a;export{a};var b;`]) {
    assert.throws(() => readChunk(text), TypeError, text);
  }
  assert.deepEqual(readChunk(`var a=";export";export{a};`).exports, ["a"]);
});

Deno.test("a loaded module that is looked for must be there, and be one", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(folder, "entry.js"), `import("./a.js");`);
    await Deno.writeTextFile(join(folder, "a.js"), `var a;export{a};`);
    await assert.rejects(splitScripts(folder, { entry: "./entry.js", eager: ["b"] }), TypeError);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
