/** What README.md says is held against the program. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ExitStatus } from "../lib/base/mod.ts";
import { LAYERS } from "../scripts/check/lint_plugin.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { runVmctl } from "./support/vmctl.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const README = await Deno.readTextFile(join(ROOT, "README.md"));

function codeBlocks(language: string): string[] {
  return [...README.matchAll(/```(\w+)\n(.*?)```/gs)]
    .filter(([, name]) => name === language)
    .map(([, , text]) => text ?? "");
}

Deno.test("the config files in the README are valid", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vmctl-readme-" });
  try {
    await Deno.writeTextFile(join(folder, "base.toml"), "");
    for (const name of ["vmlinuz", "initrd.img"]) {
      await Deno.writeFile(join(folder, name), tinyKernels.off());
    }
    const files: [name: string, text: string][] = [];
    for (const language of ["toml", "json"]) {
      for (const text of codeBlocks(language)) files.push([`${files.length}.${language}`, text]);
    }
    assert.equal(files.length, 2);
    for (const [name, text] of files) {
      await Deno.writeTextFile(join(folder, name), text);
      const { code, stderr } = await runVmctl(["config", "check", join(folder, name)]);
      assert.equal(code, 0, `${name}: ${stderr}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the commands and options in the README exist", async () => {
  const lines = codeBlocks("sh").join("\n").split("\n").flatMap((line) => line.split("|"));
  const commands = lines.map((line) => line.trim()).filter((line) => line.startsWith("vmctl "));
  assert.ok(commands.length > 5);
  for (const line of commands) {
    const [command = "", ...words] = line.replace(/ #.*/, "").split(/\s+/).slice(1);
    const group = ["config", "device", "disk", "policy"].includes(command) ? words.slice(0, 1) : [];
    const { code, stdout } = await runVmctl([command, ...group, "--help"]);
    assert.equal(code, 0, line);
    for (const option of words.filter((word) => /^--?[a-z]/.test(word))) {
      assert.ok(stdout.includes(option), `${line}: no ${option} in the help`);
    }
  }
});

Deno.test("the tasks in the README exist", async () => {
  const { tasks } = JSON.parse(await Deno.readTextFile(join(ROOT, "deno.json")));
  for (const [, task] of README.matchAll(/deno(?:@[\d.]+)? task ([a-z]+)/g)) {
    assert.ok(Object.hasOwn(tasks, task ?? ""), `task ${task}`);
  }
});

Deno.test("the README lists all exit statuses", () => {
  const listed = [...README.matchAll(/^\| (\d+) +\| /gm)].map(([, status]) => Number(status));
  const known = Object.values(ExitStatus).filter((value) => typeof value === "number");
  assert.deepEqual(listed, known);
});

Deno.test("the README lists the folders of lib/ in the order of imports", async () => {
  const listed = [...README.matchAll(/^\| `([a-z0-9]+)` +\| /gm)].map(([, name]) => name ?? "");
  assert.deepEqual(listed, LAYERS.filter((name) => listed.includes(name)));
  for await (const { name, isDirectory } of Deno.readDir(join(ROOT, "lib"))) {
    // A folder without modules is none of the project's.
    if (!isDirectory || [...Deno.readDirSync(join(ROOT, "lib", name))].length === 0) continue;
    assert.ok(listed.includes(name), `lib/${name} is not in the table`);
  }
});
