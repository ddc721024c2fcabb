import assert from "node:assert/strict";
import { deflateRawSync, zstdCompressSync } from "node:zlib";
import { memfdCreate, pwrite } from "../../host/mod.ts";
import { createQcow2 } from "../create.ts";
import { DiskError } from "../errors.ts";
import { ImageFile } from "../image_file.ts";
import { Decompressor } from "./compressed.ts";
import { parseHeader, type Qcow2Header } from "./header.ts";

const CLUSTER = 4096;
/** Bytes of the file for each packed cluster. */
const PACKED = 1024;

function newHeader(compression: Qcow2Header["compression"]): Qcow2Header {
  const path = Deno.makeTempFileSync();
  try {
    createQcow2(path, { sizeBytes: 2 ** 20, clusterBytes: CLUSTER });
    const bytes = Deno.readFileSync(path);
    return { ...parseHeader(bytes.subarray(0, 512), bytes.length, path), compression };
  } finally {
    Deno.removeSync(path);
  }
}

for (
  const [compression, pack] of [["zlib", deflateRawSync], ["zstd", zstdCompressSync]] as const
) {
  Deno.test(`a cluster that is damaged leaves others as they are, ${compression}`, () => {
    const contents = [1, 2].map((seed) =>
      new Uint8Array(CLUSTER).map((_, at) => at * seed >>> 5 & 0xff)
    );
    const damaged = pack(contents[0]!);
    damaged.fill(0xff, damaged.length >>> 1);
    const longer = pack(new Uint8Array(CLUSTER + 1));
    const shorter = pack(new Uint8Array(CLUSTER - 1));
    const bad = [damaged, damaged.subarray(0, 20), longer, shorter];
    const fd = memfdCreate("packed");
    for (const [index, packed] of [...contents.map((bytes) => pack(bytes)), ...bad].entries()) {
      const place = new Uint8Array(PACKED);
      assert.ok(packed.length <= PACKED);
      place.set(packed);
      pwrite(fd, place, index * PACKED);
    }
    using file = new ImageFile(fd, { path: "packed", readOnly: true, direct: false });
    const decompressor = new Decompressor(file, newHeader(compression));
    // The number of sectors behind the first one stands above the offset's 58 bits.
    const expand = (index: number) => decompressor.expand(1 << 26, index * PACKED);
    for (const [index, bytes] of contents.entries()) {
      for (const at of bad.keys()) {
        assert.deepEqual(new Uint8Array(expand(index)), bytes);
        assert.throws(() => expand(contents.length + at), DiskError);
        assert.deepEqual(new Uint8Array(expand(index)), bytes);
      }
    }
  });
}
