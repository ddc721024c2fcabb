/// <reference lib="deno.unstable" />

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import plugin, { importProblem, LAYERS } from "./lint_plugin.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

function lint(path: string, source: string): string[] {
  return Deno.lint.runPlugin(plugin, `${ROOT}${path}`, source)
    .map(({ id, message }) => `${id}: ${message}`);
}

Deno.test("a folder may import from itself and through mod.ts from those above it", () => {
  assert.deepEqual(
    lint(
      "lib/boot/elf.ts",
      `import { GuestMemory } from "../memory/mod.ts";
       import type { Vcpu } from "../hypervisor/mod.ts";
       import { parse } from "./parse.ts";
       import { join } from "node:path";
       import * as v from "valibot";
       import { x } from "@optique/core/parser";
       export * from "./acpi/mod.ts";
       export { a } from "../base/mod.ts";
       const later = await import("../base/mod.ts");`,
    ),
    [],
  );
});

Deno.test("every kind of import is held to the direction", () => {
  for (
    const statement of [
      `import { a } from "../devices/mod.ts";`,
      `import type { a } from "../devices/mod.ts";`,
      `import "../devices/mod.ts";`,
      `export { a } from "../devices/mod.ts";`,
      `export * from "../devices/mod.ts";`,
      `const a = await import("../devices/mod.ts");`,
      `type A = import("../devices/mod.ts").A;`,
    ]
  ) {
    const problems = lint("lib/boot/elf.ts", statement);
    assert.equal(problems.length, 1, statement);
    assert.match(problems[0] ?? "", /import-direction: lib\/boot imports from lib\/devices, which/);
  }
});

Deno.test("each folder may import from exactly those above it", () => {
  for (const [own, from] of LAYERS.entries()) {
    for (const [other, to] of LAYERS.entries()) {
      const problem = importProblem(`lib/${from}/a.ts`, `../${to}/mod.ts`);
      assert.equal(problem === undefined, other <= own, `${from} -> ${to}: ${problem}`);
    }
  }
});

Deno.test("another folder is reached through its mod.ts only, also from deep below", () => {
  assert.match(importProblem("lib/boot/elf.ts", "../host/fd.ts") ?? "", /through its mod\.ts/);
  assert.match(
    importProblem("lib/devices/platform/rtc.ts", "../../base/x/mod.ts") ?? "",
    /through its mod\.ts/,
  );
  assert.equal(importProblem("lib/devices/platform/rtc.ts", "../../base/mod.ts"), undefined);
  assert.equal(importProblem("lib/devices/platform/rtc.ts", "../block/mod.ts"), undefined);
  assert.match(importProblem("main.ts", "./lib/cli/commands.ts") ?? "", /through its mod\.ts/);
  assert.equal(importProblem("main.ts", "./lib/cli/mod.ts"), undefined);
});

Deno.test("lib/ imports nothing from outside, its tests may use test helpers", () => {
  assert.match(importProblem("lib/boot/a.ts", "../../scripts/x.ts") ?? "", /outside of lib/);
  assert.match(importProblem("lib/boot/a.ts", "../../../x.ts") ?? "", /outside of the project/);
  assert.match(importProblem("lib/new/a.ts", "../base/mod.ts") ?? "", /no folder of the design/);
  assert.equal(importProblem("lib/boot/a_test.ts", "../../tests/support/x.ts"), undefined);
  assert.equal(importProblem("lib/jail/a.ts", "../../policies/a_device.policy"), undefined);
  assert.match(importProblem("lib/boot/a.ts", "../../policies/a.policy") ?? "", /outside of lib/);
});

Deno.test("libraries come from deno.json", () => {
  for (const specifier of ["npm:a@1", "jsr:@std/path", "https://a/b.ts", "/abs.ts", "file:///a"]) {
    assert.match(importProblem("lib/boot/a.ts", specifier) ?? "", /deno\.json pins/, specifier);
  }
});

Deno.test("foreign functions are opened in lib/host only", () => {
  const source = `using libc = Deno.dlopen("libc.so.6", {});`;
  assert.deepEqual(lint("lib/host/libc.ts", source), []);
  assert.deepEqual(lint("lib/boot/elf.ts", source), [
    "vmctl/dlopen-in-host: Deno.dlopen outside of lib/host",
  ]);
});

Deno.test("default exports and names in other styles are found", () => {
  assert.deepEqual(lint("lib/boot/elf.ts", "export default 1;"), [
    "vmctl/no-default-export: export by name, not by default",
  ]);
  assert.deepEqual(lint("lib/boot/elfFile.ts", "const a = 1;"), [
    "vmctl/file-name: lib/boot/elfFile.ts: expected a snake_case name ending in .ts",
  ]);
  assert.deepEqual(lint("lib/boot/elf_file_test.ts", "const a = 1;"), []);
});

Deno.test("exported declarations of lib/ carry a JSDoc comment", () => {
  const source = `/** What it is. */
export const a = 1;
export const shared = 2;

// Something.
export function b() {}
export class C {}
/* No. */
export interface D {}
/** Not for the next one. */
const e = 1;
export type F = number;
export { e };
`;
  assert.equal(lint("lib/boot/elf.ts", source).length, 4);
  assert.deepEqual(lint("lib/boot/elf_test.ts", source), []);
  assert.deepEqual(lint("scripts/bench/a.ts", source), []);
});
