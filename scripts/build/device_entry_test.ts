import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ENTRY = fileURLToPath(new URL("./device_entry.ts", import.meta.url));
/** Each process of a device holds all of it, read and compiled. */
const MOST_BYTES = 200_000;

Deno.test("the program of devices has what devices need, and nothing of VMs", () => {
  const bundle = (...options: string[]) => {
    const { success, stdout, stderr } = new Deno.Command(Deno.execPath(), {
      args: ["bundle", "--quiet", "--platform=deno", "--format=cjs", ...options, ENTRY],
    }).outputSync();
    const decoder = new TextDecoder();
    assert.ok(success, decoder.decode(stderr));
    return decoder.decode(stdout);
  };
  const folders = new Set(
    [...bundle().matchAll(/^\/\/ (?:.*\/)?lib\/(\w+)\//gm)].map((match) => match[1]),
  );
  assert.ok(folders.has("disk"), "the bundle names its modules");
  for (const folder of ["hypervisor", "boot", "machine", "control", "cli"]) {
    assert.equal(folders.has(folder), false, `lib/${folder} is part of it`);
  }
  const { length } = bundle("--minify", "--keep-names");
  assert.ok(length < MOST_BYTES, `${length} bytes`);
});
