import assert from "node:assert/strict";
import { ImageReader } from "./image.ts";

Deno.test("a large image's memory goes with its reader", async () => {
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeFile(path, new Uint8Array(5 << 20).fill(7));
    let bytes: Uint8Array;
    {
      using reader = new ImageReader(path);
      bytes = reader.readAll(8 << 20);
      assert.equal(bytes.length, 5 << 20);
      assert(bytes.every((byte) => byte === 7));
    }
    assert.equal(bytes.length, 0);
  } finally {
    await Deno.remove(path);
  }
});
