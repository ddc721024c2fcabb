import { strict as assert } from "node:assert";
import { join } from "node:path";
import { deflateRawSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { openFile, OpenFlag } from "../../host/mod.ts";
import { DiskError } from "../errors.ts";
import { ImageFile } from "../image_file.ts";
import { Decompressor } from "./compressed.ts";
import {
  type Compression,
  type DecoderMaker,
  hostDecoder,
  loadDecoder,
  openDecoder,
  RuntimeDecoder,
} from "./decoders.ts";

const CLUSTER_BITS = 12;
const CLUSTER_BYTES = 2 ** CLUSTER_BITS;
const COMPRESSIONS: readonly Compression[] = ["zlib", "zstd"];

const MAKERS: Readonly<Record<string, DecoderMaker>> = {
  host: (compression, buffers) => {
    const decoder = hostDecoder(compression, buffers);
    assert.ok(decoder !== undefined, `no library for ${compression} here`);
    return decoder;
  },
  runtime: (compression, buffers) => new RuntimeDecoder(compression, buffers),
};

/** A file of the test, and what expands what is in it, by both kinds of decoders. */
class Bench implements Disposable {
  readonly #folder = Deno.makeTempDirSync({ dir: "/dev/shm" });
  readonly #path = join(this.#folder, "image");
  readonly #file: ImageFile;
  readonly #all: readonly (readonly [string, Decompressor])[];

  constructor(compression: Compression) {
    Deno.writeFileSync(this.#path, new Uint8Array());
    const { ReadOnly } = OpenFlag;
    this.#file = new ImageFile(openFile(this.#path, ReadOnly), {
      path: this.#path,
      readOnly: true,
    });
    const header = { clusterBits: CLUSTER_BITS, clusterBytes: CLUSTER_BYTES, compression };
    this.#all = Object.entries(MAKERS).map(([name, maker]) =>
      [name, new Decompressor(this.#file, header, maker)] as const
    );
  }

  /**
   * The cluster that `bytes` expand to, undefined where they are none, which is an EIO.
   *
   * @param alike Whether all decoders have to say the same.
   */
  expand(bytes: Uint8Array, alike = true): Uint8Array | undefined {
    // Behind another offset each time, for the last cluster stays in memory.
    const offset = 512 * (1 + this.#turn++ % 2);
    const image = new Uint8Array(offset + bytes.length);
    image.set(bytes, offset);
    Deno.writeFileSync(this.#path, image);
    const sectors = Math.min(2 * CLUSTER_BYTES / 512, Math.ceil(bytes.length / 512)) - 1;
    const entry = BigInt(offset) | BigInt(sectors) << BigInt(62 - (CLUSTER_BITS - 8));
    const found = this.#all.map(([name, decompressor]) => {
      try {
        return {
          name,
          cluster: decompressor.expand(Number(entry >> 32n), Number(entry & 0xffff_ffffn)),
        };
      } catch (error) {
        if (!(error instanceof DiskError)) throw error;
        assert.equal(error.code, "EIO");
        assert.match(error.message, /compressed cluster at \d+: expected /);
        return { name, cluster: undefined };
      }
    });
    const [host, runtime] = found;
    if (alike) assert.deepEqual(host?.cluster, runtime?.cluster);
    return host?.cluster;
  }

  #turn = 0;

  [Symbol.dispose](): void {
    for (const [, decompressor] of this.#all) decompressor[Symbol.dispose]();
    this.#file.close();
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

function pack(compression: Compression, bytes: Uint8Array): Uint8Array {
  return compression === "zlib"
    ? deflateRawSync(bytes, { windowBits: 12 })
    : zstdCompressSync(bytes);
}

/** Bytes between those that cannot be made shorter and zeros. */
function content(lengthBytes: number): fc.Arbitrary<Uint8Array<ArrayBuffer>> {
  return fc.tuple(fc.integer(), fc.integer({ min: 0, max: 8 }), fc.nat(64)).map(
    ([seed, bits, step]) => {
      let number = seed;
      return new Uint8Array(lengthBytes).map((_, at) => {
        number = Math.imul(number, 1_103_515_245) + 12_345 | 0;
        return (number >>> 24 & (1 << bits) - 1) + (step === 0 ? 0 : Math.floor(at / step));
      });
    },
  );
}

const lengths = fc.oneof(
  fc.integer({ min: 0, max: 3 * CLUSTER_BYTES }),
  fc.constantFrom(0, 1, CLUSTER_BYTES - 1, CLUSTER_BYTES + 1),
).filter((length) => length !== CLUSTER_BYTES);

for (const compression of COMPRESSIONS) {
  Deno.test(`${compression}: clusters are expanded, whatever follows them`, () => {
    using bench = new Bench(compression);
    fc.assert(
      fc.property(content(CLUSTER_BYTES), fc.uint8Array({ maxLength: 600 }), (bytes, rest) => {
        const packed = pack(compression, bytes);
        assert.deepEqual(bench.expand(Uint8Array.from([...packed, ...rest])), bytes);
      }),
      { numRuns: 300 },
    );
  });

  Deno.test(`${compression}: what is cut off, too long or too short is an I/O error`, () => {
    using bench = new Bench(compression);
    fc.assert(
      fc.property(
        content(CLUSTER_BYTES),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (bytes, part) => {
          const packed = pack(compression, bytes);
          const cut = Math.min(packed.length - 1, Math.floor(part * packed.length));
          assert.equal(bench.expand(packed.subarray(0, cut)), undefined);
          assert.equal(bench.expand(packed.subarray(0, -1)), undefined);
        },
      ),
      { numRuns: 300 },
    );
    fc.assert(
      fc.property(lengths.chain(content), (bytes) => {
        assert.equal(bench.expand(pack(compression, bytes)), undefined);
      }),
      { numRuns: 300 },
    );
  });

  Deno.test(`${compression}: any bytes end in a cluster or an I/O error`, () => {
    using bench = new Bench(compression);
    // What of damaged data without a checksum is found depends on the version of Zstandard.
    const alike = compression === "zlib";
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2 * CLUSTER_BYTES }), (bytes) => {
        if (compression === "zstd") bytes.set([0x28, 0xb5, 0x2f, 0xfd].slice(0, bytes.length));
        bench.expand(bytes, alike);
      }),
      { numRuns: 1000 },
    );
    const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(content(CLUSTER_BYTES), changes, (bytes, changed) => {
        const packed = pack(compression, bytes);
        for (const [at, value] of changed) packed[at % packed.length] = value;
        bench.expand(packed, alike);
      }),
      { numRuns: 1000 },
    );
  });

  Deno.test(`${compression}: a library is loaded from its file`, () => {
    const file = openDecoder(compression);
    assert.ok(file !== undefined);
    loadDecoder(compression, file);
    file.close();
    const buffers = { input: new Uint8Array(64), output: new Uint8Array(8) };
    buffers.input.set(pack(compression, Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1)));
    using decoder = hostDecoder(compression, buffers);
    const { length } = pack(compression, Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1));
    assert.equal(decoder?.expand(length), 8);
    assert.deepEqual(buffers.output, Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1));
    assert.throws(() => decoder?.expand(65), RangeError);
    assert.throws(() => decoder?.expand(-1), RangeError);
  });
}
