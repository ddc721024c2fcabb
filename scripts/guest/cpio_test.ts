import assert from "node:assert/strict";
import { type CpioEntry, packCpio } from "./cpio.ts";

const ENTRIES: readonly CpioEntry[] = [
  { type: "directory", path: "dev" },
  { type: "character-device", path: "dev/console", major: 5, minor: 1 },
  { type: "file", path: "init", data: "#!/bin/sh\n", mode: 0o755 },
  { type: "file", path: "odd", data: Uint8Array.of(1, 2, 3) },
  { type: "symlink", path: "bin", target: "/usr/bin" },
];

Deno.test("an archive has headers of 110 characters at multiples of four", () => {
  const archive = packCpio(ENTRIES);
  assert.equal(archive.length % 4, 0);
  const text = new TextDecoder("latin1").decode(archive);
  const names: string[] = [];
  for (let at = 0; at < archive.length;) {
    const field = (index: number) =>
      parseInt(text.slice(at + 6 + index * 8, at + 14 + index * 8), 16);
    assert.equal(text.slice(at, at + 6), "070701");
    const nameAt = at + 110;
    const name = text.slice(nameAt, nameAt + field(11) - 1);
    const dataAt = align4(nameAt + field(11));
    names.push(name);
    if (name === "init") {
      assert.equal(field(1), 0o100755);
      assert.equal(text.slice(dataAt, dataAt + field(6)), "#!/bin/sh\n");
    }
    if (name === "dev/console") assert.deepEqual([field(9), field(10)], [5, 1]);
    at = align4(dataAt + field(6));
  }
  assert.deepEqual(names, ["dev", "dev/console", "init", "odd", "bin", "TRAILER!!!"]);
});

Deno.test("paths that climb, are absolute or empty are refused", () => {
  for (const path of ["/init", "a/../b", "", "a//b", "."]) {
    assert.throws(() => packCpio([{ type: "directory", path }]), TypeError);
  }
});

const cpio = hasCpio();

Deno.test({
  name: "cpio lists what was packed" + (cpio ? "" : " (skipped: no cpio)"),
  ignore: !cpio,
  async fn() {
    const child = new Deno.Command("cpio", {
      args: ["-itv", "--quiet"],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(packCpio(ENTRIES));
    await writer.close();
    const { success, stdout, stderr } = await child.output();
    assert.ok(success, new TextDecoder().decode(stderr));
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    assert.match(lines[0]!, /^drwxr-xr-x .* dev$/);
    assert.match(lines[1]!, /^crw------- .* 5, +1 .* dev\/console$/);
    assert.match(lines[2]!, /^-rwxr-xr-x .* 10 .* init$/);
    assert.match(lines[4]!, /^lrwxrwxrwx .* bin -> \/usr\/bin$/);
  },
});

function hasCpio(): boolean {
  try {
    return new Deno.Command("cpio", { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch {
    return false;
  }
}

function align4(value: number): number {
  return (value + 3) & ~3;
}
