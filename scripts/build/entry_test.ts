import assert from "node:assert/strict";
import { join } from "node:path";
import { bundle } from "./build.ts";

Deno.test("the program loads none of Node's modules, which would take most of a start", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const output = join(folder, "vmctl.js");
    await bundle(output, { entry: "entry.ts", format: "cjs" });
    const loaded = (await Deno.readTextFile(output)).match(/\brequire\w*\(["'`]node:[^)]*\)/g);
    assert.equal(loaded, null);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
