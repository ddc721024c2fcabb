/**
 * Hostile qcow2 images: whatever stands in headers and tables, the only thing that is thrown is
 * `DiskError`, nothing takes long, and no file but the image changes.
 */
import { strict as assert } from "node:assert";
import { cpuUsage } from "node:process";
import fc from "fast-check";
import { checkDisk, createQcow2, DiskError, diskInfo, openDisk } from "../lib/disk/mod.ts";
import { parseHeader } from "../lib/disk/qcow2/header.ts";
import { compressedRange, zstdFrameBytes } from "../lib/disk/qcow2/compressed.ts";
import { IoVector, listOpenFds } from "../lib/host/mod.ts";
import { HAS_QEMU_IMG, qemuImg, TemporaryFolder } from "./support/disk.ts";

const skipped = HAS_QEMU_IMG ? "" : " (skipped: no qemu-img)";
const KIB = 1024;
const SIZE = 600 * KIB;

/** A change of an image: an integer of 1 to 8 bytes somewhere. */
interface Mutation {
  readonly at: number;
  readonly bytes: number;
  readonly value: bigint;
}

/** Numbers at which checks have their edges, and places of tables. */
const values = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(0n, 1n, 2n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 62n, 2n ** 63n, ~0n),
  fc.integer({ min: 0, max: 1200 }).map((cluster) => BigInt(cluster * 512)),
  fc.integer({ min: 0, max: 1200 }).map((cluster) => (1n << 63n) | BigInt(cluster * 512)),
  fc.integer({ min: 0, max: 1200 }).map((cluster) => (1n << 62n) | BigInt(cluster * 512 + 100)),
  fc.integer({ min: 0, max: 255 }).map(BigInt),
);

function mutations(places: readonly number[]): fc.Arbitrary<Mutation[]> {
  return fc.array(
    fc.record({
      // Near the header's fields and the starts of the tables, or anywhere.
      at: fc.oneof(
        fc.nat(112),
        fc.tuple(fc.constantFrom(...places), fc.nat(64)).map(([place, entry]) => place + entry * 8),
        fc.nat(60_000),
      ),
      bytes: fc.constantFrom(1, 4, 8),
      value: values,
    }),
    { minLength: 1, maxLength: 4 },
  );
}

function mutate(image: Uint8Array, list: readonly Mutation[]): Uint8Array<ArrayBuffer> {
  const result = image.slice();
  for (const { at, bytes, value } of list) {
    for (let index = 0; index < bytes && at + index < result.length; index++) {
      result[at + index] = Number((value >> BigInt(8 * (bytes - 1 - index))) & 255n);
    }
  }
  return result;
}

/** Runs `action`, in which only DiskError is allowed. */
function tolerate(action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!(error instanceof DiskError)) throw error;
  }
}

/** Uses an image for reading and writing in all ways, in small pieces. */
function use(path: string): void {
  const buffer = new Uint8Array(48 * KIB);
  tolerate(() => void diskInfo(path, { format: "qcow2" }));
  tolerate(() => void checkDisk(path, { format: "qcow2" }));
  for (const readOnly of [true, false]) {
    tolerate(() => {
      using disk = openDisk(path, { format: "qcow2", readOnly, lock: false });
      const places = [0, 70_000, 300_000, disk.sizeBytes - buffer.length].filter((at) =>
        at >= 0 && at + buffer.length <= disk.sizeBytes
      );
      for (const at of places) {
        tolerate(() => disk.readAt(at, IoVector.of(buffer)));
        if (readOnly) continue;
        tolerate(() => disk.writeAt(at + 100, IoVector.of(buffer.subarray(0, 20_000).fill(0xab))));
        tolerate(() => disk.writeZeroes(at + 20_000, 9000, { unmap: true }));
        tolerate(() => disk.discard(at, 8192));
        tolerate(() => disk.flush());
        tolerate(() => disk.writeAt(at, IoVector.of(buffer.subarray(0, 700))));
      }
      if (!readOnly) tolerate(() => disk.resize(disk.sizeBytes + 100_000));
    });
  }
}

function baseImages(
  folder: TemporaryFolder,
): { name: string; bytes: Uint8Array; tables: number[] }[] {
  const raw = folder.file("raw");
  const content = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE; at++) content[at] = (at * at) >> 9;
  Deno.writeFileSync(raw, content);
  return ([
    ["plain", ["-o", "cluster_size=512"]],
    ["wide", ["-o", "cluster_size=4096,refcount_bits=1"]],
    ["packed", ["-c", "-o", "cluster_size=512"]],
    ["zstd", ["-c", "-o", "cluster_size=4096,compression_type=zstd"]],
    ["old", ["-o", "compat=0.10,cluster_size=1024"]],
  ] as const).map(([name, options]) => {
    const image = folder.file(name);
    qemuImg("convert", "-O", "qcow2", "-f", "raw", ...options, raw, image);
    if (name === "plain" || name === "old") qemuImg("snapshot", "-c", "s", image);
    const bytes = Deno.readFileSync(image);
    const view = new DataView(bytes.buffer);
    const l1 = Number(view.getBigUint64(40));
    const counts = Number(view.getBigUint64(48));
    const tables = [
      l1,
      counts,
      Number(view.getBigUint64(l1) & 0x00ff_ffff_ffff_fe00n),
      Number(view.getBigUint64(counts)),
      Number(view.getBigUint64(64)),
    ];
    return { name, bytes, tables };
  });
}

/** Processor time of this process, whatever else the host does. */
function cpuMs(): number {
  const { user, system } = cpuUsage();
  return (user + system) / 1000;
}

Deno.test({
  name: `hostile headers and tables end in a DiskError or in bytes${skipped}`,
  ignore: !HAS_QEMU_IMG,
  fn: () => {
    using folder = new TemporaryFolder({ inMemory: true });
    const path = folder.file("hostile.qcow2");
    const neighbour = folder.file("raw");
    const runs = Number(Deno.env.get("VMCTL_FUZZ_RUNS") ?? 400);
    for (const { name, bytes, tables } of baseImages(folder)) {
      const before = Deno.readFileSync(neighbour);
      const fds = listOpenFds().length;
      fc.assert(
        fc.property(mutations(tables), (list) => {
          Deno.writeFileSync(path, mutate(bytes, list));
          const started = cpuMs();
          use(path);
          const took = cpuMs() - started;
          assert.ok(took < 5000, `${name}: took ${took} ms`);
          const { size } = Deno.statSync(path);
          assert.ok(size < bytes.length + 8 * KIB * KIB, `${name}: ${size} bytes long`);
        }),
        { numRuns: runs },
      );
      assert.deepEqual(Deno.readFileSync(neighbour), before);
      assert.equal(listOpenFds().length, fds, "descriptors leak");
    }
  },
});

Deno.test("any bytes as a header are a header or a DiskError", () => {
  const start = new Uint8Array(512);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 512 }), fc.boolean(), (bytes, looksReal) => {
      start.fill(0);
      start.set(bytes);
      if (looksReal) start.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3], 0);
      tolerate(() => void parseHeader(start, 1_000_000, "image"));
    }),
    { numRuns: 2000 },
  );
});

Deno.test("lengths of compressed data stay within their bounds", () => {
  fc.assert(
    fc.property(
      fc.nat(0x3fff_ffff),
      fc.integer({ min: 0, max: 0xffff_ffff }),
      fc.integer({ min: 9, max: 21 }),
      (high, low, clusterBits) => {
        const { offset, lengthBytes } = compressedRange(high, low, clusterBits);
        assert.ok(offset >= 0 && lengthBytes > 0 && lengthBytes <= 2 * 2 ** clusterBits);
      },
    ),
    { numRuns: 2000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      bytes.set([0x28, 0xb5, 0x2f, 0xfd].slice(0, bytes.length));
      const length = zstdFrameBytes(bytes, 65_536);
      assert.ok(length === undefined || length <= bytes.length);
    }),
    { numRuns: 5000 },
  );
});

Deno.test("a header names the field, what was expected and what was found", () => {
  using folder = new TemporaryFolder();
  const path = folder.file("image.qcow2");
  createQcow2(path, { sizeBytes: SIZE, clusterBytes: 4096 });
  const bytes = Deno.readFileSync(path);
  const cases: readonly (readonly [number, number, bigint, RegExp])[] = [
    [0, 4, 0x514649n, /magic: expected 0x514649fb, got 0x00514649/],
    [4, 4, 4n, /version: expected 2 or 3, got 4/],
    [8, 8, 5000n, /backing_file_offset: expected .*, got 5000/],
    [20, 4, 22n, /cluster_bits: expected 9 to 21, got 22/],
    [20, 4, 8n, /cluster_bits/],
    [24, 8, 2n ** 63n, /size: expected at most .*, got 9223372036854775808/],
    [24, 8, 2n ** 50n, /l1_size: expected at least/],
    [32, 4, 2n, /crypt_method: expected 0 .*encrypted.*, got 2/],
    [36, 4, 5_000_000n, /l1_size: expected at most 4194304, got 5000000/],
    [40, 8, 4097n, /l1_table_offset: expected a multiple of 4096/],
    [40, 8, 2n ** 40n, /l1_table_offset/],
    [48, 8, 0n, /refcount_table_offset/],
    [56, 4, 0n, /refcount_table_clusters: expected 1 to 2048, got 0/],
    [56, 4, 2n ** 31n, /refcount_table_clusters/],
    [60, 4, 65_537n, /nb_snapshots: expected at most 65536, got 65537/],
    [72, 8, 4n, /external data file/],
    [72, 8, 8n, /compression_type/],
    [72, 8, 16n, /subclusters/],
    [72, 8, 2n ** 40n, /bit 40/],
    [96, 4, 7n, /refcount_order: expected 0 to 6, got 7/],
    [100, 4, 100n, /header_length/],
    [104, 1, 2n, /compression_type: expected 0 \(zlib\) or 1 \(zstd\), got 2/],
    [112, 8, (0xe2792acan << 32n) | 5000n, /extension 0xe2792aca: expected at most/],
  ];
  for (const [at, width, value, pattern] of cases) {
    Deno.writeFileSync(path, mutate(bytes, [{ at, bytes: width, value }]));
    const options = { format: "qcow2", readOnly: true } as const;
    assert.throws(() => openDisk(path, options), pattern, `${at}: ${value}`);
  }
});
