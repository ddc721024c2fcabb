import assert from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import { ValType } from "../wasm/mod.ts";
import { decodeImage, encodeImage, imageFor, type InterpreterImage } from "./interpreter_image.ts";

function image(seed: number): InterpreterImage {
  const one = (name: string) => ({ name, type: { params: [ValType.I64], results: [ValType.I32] } });
  return {
    bytes: new Uint8Array(1001).fill(seed),
    special: {
      addressWide: 0,
      addressMasked: 1,
      addressChecked: 2,
      goTo: 3,
      stop: 4,
      crossing: 5,
      refetch: 6,
      invalid: 7,
      tooLong: 8,
    },
    runtime: {
      loadSlow: new Map([[1, one("load1")]]),
      storeSlow: new Map([[8, one("store8")]]),
      modifySlow: new Map(),
      probeWrite: one("probeWrite"),
      jump: one("jump"),
      raise: one("raise"),
      ram: 0,
      smp: false,
      helpers: new Map([["help", one("helper:help")]]),
    },
  };
}

Deno.test("an image comes back from a file as it was", () => {
  assert.deepEqual(decodeImage(encodeImage(image(7))), image(7));
});

Deno.test("a damaged image, or a part of one, is none", () => {
  const file = encodeImage(image(7));
  fc.assert(fc.property(
    fc.nat({ max: file.length - 1 }),
    fc.integer({ min: 1, max: 255 }),
    (at, change) => {
      const damaged = file.slice();
      damaged[at] = (damaged[at] ?? 0) ^ change;
      assert.equal(decodeImage(damaged), undefined);
      assert.equal(decodeImage(file.slice(0, at)), undefined);
    },
  ));
});

Deno.test("images are made once for a key and a version", () => {
  const folder = Deno.makeTempDirSync();
  try {
    const files = { folder: join(folder, "new"), version: "v" };
    let made = 0;
    const emit = () => image(++made);
    assert.equal(imageFor("a 1", emit, files).bytes[0], 1);
    assert.equal(imageFor("a 1", emit, files).bytes[0], 1);
    assert.equal(imageFor("a 2", emit, files).bytes[0], 2);
    assert.equal(imageFor("a 1", emit, { ...files, version: "w" }).bytes[0], 3);
    for (let n = 0; n < 20; n++) imageFor(`many ${n}`, emit, files);
    assert.ok([...Deno.readDirSync(files.folder)].length <= 8);
    // Where nothing can be written it is made each time.
    assert.equal(imageFor("a", emit, { folder: "/dev/null/x", version: "v" }).bytes[0], 24);
    assert.equal(imageFor("a", emit, { folder: "/dev/null/x", version: "v" }).bytes[0], 25);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
