import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { collectLicenses } from "./licenses.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

Deno.test("licenses are those of all that is bundled, and of nothing else", async () => {
  const text = await collectLicenses(ROOT, ["entry.ts", "worker_entry.ts", "device_entry.ts"]);
  const titles = [...text.matchAll(/^(.+)\n-+\n\n/gm)].map((match) => match[1]);
  assert.deepEqual(titles, [
    "vmctl",
    "smol-toml 1.9.1",
    "Deno",
    "V8, which is a part of Deno",
  ]);
  assert.equal(text.split(/^Copyright /gm).length - 1, titles.length, "each says whose it is");
  await assert.rejects(collectLicenses(ROOT, ["none.ts"]));
});
