import assert from "node:assert/strict";
import fc from "fast-check";
import { IoVector, memfdCreate } from "../../host/mod.ts";
import { createQcow2 } from "../create.ts";
import { DiskError } from "../errors.ts";
import { ImageFile } from "../image_file.ts";
import { openDisk } from "../open.ts";
import { MetadataMap } from "./metadata_map.ts";
import { RecoveryLog } from "./recovery_log.ts";
import { readCount, writeCount } from "./refcounts.ts";
import { Slice, TableCache } from "./table_cache.ts";

Deno.test("counts of all widths are read as written, and leave their neighbours alone", () => {
  for (const bits of [1, 2, 4, 8, 16, 32, 64]) {
    const most = Math.min(2 ** bits - 1, Number.MAX_SAFE_INTEGER);
    const length = 512 * 8 / bits;
    const writes = fc.array(fc.tuple(fc.nat(length - 1), fc.maxSafeNat()), { maxLength: 40 });
    fc.assert(fc.property(writes, (list) => {
      const slice = new Slice(0, 512);
      const model = new Array<number>(length).fill(0);
      for (const [at, value] of list) {
        const count = most === Number.MAX_SAFE_INTEGER ? value : value % (most + 1);
        writeCount(slice, at, bits, count);
        model[at] = count;
      }
      assert.deepEqual(model.map((_, at) => readCount(slice, at, bits)), model);
    }));
  }
});

Deno.test("a map of metadata finds the first overlap, as a set of clusters does", () => {
  const cluster = fc.nat(120);
  const steps = fc.array(
    fc.tuple(fc.constantFrom("add", "remove", "ask"), cluster, fc.integer({ min: 1, max: 9 })),
    { maxLength: 40 },
  );
  const ranges = fc.array(fc.tuple(cluster, fc.nat(12)), { maxLength: 5 });
  fc.assert(fc.property(fc.uniqueArray(cluster), ranges, steps, (points, parts, list) => {
    const map = new MetadataMap(
      Float64Array.from(points),
      parts.map(([start, length]) => ({ start, end: start + length })),
    );
    const model = new Set(points);
    for (const [start, length] of parts) {
      for (let at = start; at < start + length; at++) model.add(at);
    }
    for (const [what, start, count] of list) {
      if (what === "add") {
        for (let at = start; at < start + count; at++) {
          if (!model.has(at)) map.add(at);
          model.add(at);
        }
      } else if (what === "remove") {
        if (model.has(start)) map.remove(start);
        model.delete(start);
      }
      const overlaps = Array.from({ length: count }, (_, at) => start + at).filter((at) =>
        model.has(at)
      );
      const found = map.overlap(start, count);
      assert.equal(found !== undefined, overlaps.length > 0);
      if (found !== undefined) assert.ok(overlaps.includes(found));
    }
  }));
  assert.equal(new MetadataMap(Float64Array.of(5, 3, 5), []).duplicate, 5);
  assert.equal(new MetadataMap(Float64Array.of(5, 3, 4), []).duplicate, undefined);
});

Deno.test("a cache of tables holds no more than it may, and loses no change", () => {
  const steps = fc.array(fc.tuple(fc.nat(40), fc.option(fc.nat(255))), { maxLength: 200 });
  fc.assert(fc.property(steps, (list) => {
    using file = new ImageFile(memfdCreate("tables"), { path: "memory", readOnly: false });
    let cleaned = 0;
    const cache: TableCache = new TableCache(file, {
      sliceBytes: 64,
      capacity: 8,
      makeClean: () => {
        cleaned++;
        cache.writeDirty();
      },
    });
    const model = new Map<number, number>();
    for (const [index, value] of list) {
      const slice = cache.get(index * 64);
      assert.equal(slice.bytes[index], model.get(index) ?? 0);
      if (value === null) continue;
      slice.bytes[index] = value;
      cache.markDirty(slice);
      model.set(index, value);
    }
    cache.writeDirty();
    assert.equal(cache.dirty, false);
    assert.ok(cleaned <= list.length / 8);
    const bytes = new Uint8Array(41 * 64);
    file.read(bytes, 0);
    for (const [index, value] of model) assert.equal(bytes[index * 65], value);
  }));
});

Deno.test("guest data is never written over metadata that a hostile table names", () => {
  const path = Deno.makeTempFileSync({ prefix: "vmctl-qcow2-" });
  try {
    const cluster = 4096;
    createQcow2(path, { sizeBytes: 2 ** 20, clusterBytes: cluster });
    {
      using disk = openDisk(path);
      disk.writeAt(0, IoVector.of(new Uint8Array(cluster).fill(1)));
    }
    const sound = Deno.readFileSync(path);
    const view = new DataView(sound.buffer);
    const l1 = Number(view.getBigUint64(40));
    const l2 = Number(view.getBigUint64(l1) & 0xff_ffff_ffff_fe00n);
    const blocks = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    const targets = [blocks, l1, l2, Number(view.getBigUint64(48)), 2 ** 30];
    for (const target of targets) {
      // Its own entry, as if nothing else referred to the place, and one as if something did.
      for (const flag of [1n << 63n, 0n]) {
        const bytes = sound.slice();
        new DataView(bytes.buffer).setBigUint64(l2, flag | BigInt(target));
        Deno.writeFileSync(path, bytes);
        const hint = `${target} ${flag}`;
        const isRefused = flag !== 0n || target !== 2 ** 30;
        {
          using disk = openDisk(path);
          const write = () => disk.writeAt(0, IoVector.of(new Uint8Array(512).fill(0xee)));
          if (isRefused) assert.throws(write, /damaged/, hint);
          if (isRefused) assert.throws(() => disk.flush(), /damaged/, hint);
        }
        const after = Deno.readFileSync(path);
        if (!isRefused) continue;
        // Nothing changed but the mark.
        assert.equal(after[79], 2, hint);
        after[79] = 0;
        assert.deepEqual(after.subarray(0, bytes.length), bytes, hint);
        openDisk(path, { readOnly: true }).close();
      }
    }
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("a recovery log is read as written, and nothing else is taken for one", () => {
  const memory = new Uint8Array(32_768);
  const log = new RecoveryLog(memory);
  assert.deepEqual(log.entries, []);
  log.append(7, 0x8000_0001, 0x10000);
  log.append(2 ** 45, 0, 1);
  assert.deepEqual(new RecoveryLog(memory).entries, [
    { guest: 7, high: 0x8000_0001, low: 0x10000 },
    { guest: 2 ** 45, high: 0, low: 1 },
  ]);
  assert.equal(log.room, (32_768 - 16) / 16 - 2);
  log.clear();
  assert.deepEqual(new RecoveryLog(memory).entries, []);
  assert.throws(() => new RecoveryLog(new Uint8Array(64)), DiskError);
  assert.throws(() => new RecoveryLog(new Uint8Array(32_768).fill(1)), DiskError);
  const path = Deno.makeTempFileSync({ prefix: "vmctl-qcow2-" });
  try {
    createQcow2(path, { sizeBytes: 2 ** 20 });
    const before = Deno.readFileSync(path);
    for (
      const [guest, low] of [[9999, 0x20000], [0, 0x10000], [0.5, 0], [0, 0x7000_0000], [
        0,
        0x20200,
      ]] as const
    ) {
      log.clear();
      log.append(guest, 0x8000_0000, low);
      assert.throws(() => openDisk(path, { recovery: memory }), /another image/);
      assert.deepEqual(Deno.readFileSync(path), before);
    }
    assert.throws(() => openDisk(path, { recovery: memory }), /multiple of 65536, got 131584$/);
  } finally {
    Deno.removeSync(path);
  }
});
