/**
 * Disk images beside QEMU's tools: what they make is read alike, what we write they find sound.
 */
import { strict as assert } from "node:assert";
import { checkDisk, createQcow2, DiskError, openDisk } from "../lib/disk/mod.ts";
import { IoVector } from "../lib/host/mod.ts";
import { runVmctl } from "./support/vmctl.ts";
import {
  assertClean,
  cutVector,
  firstDifference,
  HAS_QEMU_IMG,
  qemuCheck,
  qemuImg,
  qemuIo,
  Random,
  randomOperation,
  readAll,
  TemporaryFolder,
} from "./support/disk.ts";

const MIB = 2 ** 20;
const skipped = HAS_QEMU_IMG ? "" : " (skipped: no qemu-img)";

function test(name: string, run: () => void | Promise<void>): void {
  Deno.test({ name: `${name}${skipped}`, ignore: !HAS_QEMU_IMG, fn: run });
}

/** Options of `qemu-img create -o`, all combinations that say something different to a reader. */
const LAYOUTS: readonly string[] = [
  ...[512, 1024, 4096, 16384, 65536, 262144, 2097152].map((size) => `cluster_size=${size}`),
  "compat=0.10,cluster_size=512",
  "compat=0.10",
  ...[1, 2, 4, 8, 32, 64].map((bits) => `cluster_size=4096,refcount_bits=${bits}`),
  "cluster_size=512,refcount_bits=64",
  "cluster_size=65536,refcount_bits=1",
  "lazy_refcounts=on",
  "preallocation=metadata",
  "preallocation=falloc,cluster_size=4096",
  "preallocation=full",
];

/** `image`'s bytes as QEMU reads them. */
function qemuBytes(image: string, folder: TemporaryFolder): Uint8Array<ArrayBuffer> {
  const raw = folder.file("converted.raw");
  qemuImg("convert", "-f", "qcow2", "-O", "raw", image, raw);
  return Deno.readFileSync(raw);
}

function assertReadsAs(image: string, expected: Uint8Array, hint: string): void {
  using disk = openDisk(image, { readOnly: true });
  assert.equal(disk.sizeBytes, expected.length, hint);
  assert.equal(firstDifference(readAll(disk), expected), undefined, hint);
}

function sizeFor(layout: string): number {
  return /cluster_size=(\d{3,4})\b/.test(layout) ? 2 * MIB + 512 : 12 * MIB + 1536;
}

/** Commands of qemu-io that write, zero and discard at random. */
function randomCommands(random: Random, sizeBytes: number, count: number): string[] {
  return Array.from({ length: count }, () => {
    const offset = random.next(sizeBytes / 512) * 512;
    const length = Math.min(sizeBytes - offset, 512 + random.next(400) * 512);
    switch (random.next(6)) {
      case 0:
        return `write -z ${offset} ${length}`;
      case 1:
        return `write -z -u ${offset} ${length}`;
      case 2:
        return `discard ${offset} ${length}`;
      default:
        return `write -P ${1 + random.next(255)} ${offset} ${length}`;
    }
  });
}

test("images that qemu-io wrote read as QEMU reads them", () => {
  using folder = new TemporaryFolder();
  for (const [index, layout] of LAYOUTS.entries()) {
    const image = folder.file("image.qcow2");
    const size = sizeFor(layout);
    qemuImg("create", "-q", "-f", "qcow2", "-o", layout, image, String(size));
    qemuIo(image, randomCommands(new Random(index), size, 25), "-f", "qcow2", "-d", "unmap");
    assertReadsAs(image, qemuBytes(image, folder), layout);
    Deno.removeSync(image);
  }
});

test("random writes of ours leave images that QEMU finds sound and equal to a model", () => {
  using folder = new TemporaryFolder();
  for (const [index, layout] of LAYOUTS.entries()) {
    const image = folder.file("image.qcow2");
    const size = sizeFor(layout);
    qemuImg("create", "-q", "-f", "qcow2", "-o", layout, image, String(size));
    const random = new Random(index + 1000);
    const model = new Uint8Array(size);
    {
      // With few tables in memory, so that they come and go.
      using disk = openDisk(image, { cacheBytes: index % 2 === 0 ? 65_536 : 2 ** 25 });
      for (let step = 0; step < 120; step++) {
        randomOperation(disk, model, random, { longestBytes: 300_000 });
      }
      assert.equal(firstDifference(readAll(disk), model), undefined, layout);
    }
    assertClean(image, layout);
    const raw = folder.file("model.raw");
    Deno.writeFileSync(raw, model);
    qemuImg("compare", "-f", "qcow2", "-F", "raw", image, raw);
    Deno.removeSync(image);
  }
});

test("compressed images are read, and written over", () => {
  using folder = new TemporaryFolder();
  const random = new Random(7);
  const model = new Uint8Array(5 * MIB + 512);
  for (let at = 0; at < model.length; at += 100_000) {
    if (random.next(3) > 0) {
      model.set(random.bytes(Math.min(90_000, model.length - at)), at);
    }
  }
  const raw = folder.file("source.raw");
  Deno.writeFileSync(raw, model);
  for (const type of ["zlib", "zstd"]) {
    for (const cluster of [512, 4096, 65536, 2097152]) {
      const hint = `${type} ${cluster}`;
      const image = folder.file("packed.qcow2");
      const options = `compression_type=${type},cluster_size=${cluster}`;
      qemuImg("convert", "-c", "-O", "qcow2", "-f", "raw", "-o", options, raw, image);
      assertReadsAs(image, model, hint);
      const changed = model.slice();
      {
        using disk = openDisk(image);
        for (let step = 0; step < 40; step++) {
          randomOperation(disk, changed, random, { longestBytes: 100_000 });
        }
      }
      assertClean(image, hint);
      assertReadsAs(image, changed, hint);
      assert.equal(firstDifference(qemuBytes(image, folder), changed), undefined, hint);
    }
  }
});

test("an image over others reads through them and leaves them as they are", () => {
  using folder = new TemporaryFolder();
  const random = new Random(11);
  const layouts = [
    ["-o", "cluster_size=4096"],
    ["-o", "compat=0.10"],
    ["-o", "cluster_size=2097152"],
    [],
  ];
  for (const [index, base] of [300_032, 3 * MIB, 9 * MIB].entries()) {
    // A raw base, shorter or longer than what is on top of it.
    const bytes = random.bytes(base);
    Deno.writeFileSync(folder.file("base.raw"), bytes);
    const size = 5 * MIB + 512;
    const middle = folder.file("middle.qcow2");
    qemuImg(
      ...["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw"],
      ...["-o", "cluster_size=8192", middle, String(size - 70_000 * (index % 2))],
    );
    qemuIo(middle, randomCommands(random, 2 * MIB, 10), "-f", "qcow2");
    const before = Deno.readFileSync(middle);
    for (const layout of layouts) {
      const top = folder.file("top.qcow2");
      qemuImg(
        ...["create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2"],
        ...layout,
        ...[top, String(size)],
      );
      const model = qemuBytes(top, folder);
      assertReadsAs(top, model, layout.join(" "));
      {
        using disk = openDisk(top);
        for (let step = 0; step < 80; step++) {
          randomOperation(disk, model, random, { longestBytes: 200_000 });
        }
      }
      assertClean(top, layout.join(" "));
      assert.equal(firstDifference(qemuBytes(top, folder), model), undefined, layout.join(" "));
      assert.equal(firstDifference(Deno.readFileSync(middle), before), undefined);
    }
    assert.equal(firstDifference(Deno.readFileSync(folder.file("base.raw")), bytes), undefined);
  }
});

test("what internal snapshots refer to is copied before it is written", () => {
  using folder = new TemporaryFolder();
  for (const layout of ["cluster_size=512", "cluster_size=65536", "compat=0.10"]) {
    const image = folder.file("snapshots.qcow2");
    const size = 3 * MIB;
    const random = new Random(13);
    qemuImg("create", "-q", "-f", "qcow2", "-o", layout, image, String(size));
    const states: Uint8Array[] = [];
    const model = new Uint8Array(size);
    for (let snapshot = 0; snapshot < 3; snapshot++) {
      {
        using disk = openDisk(image);
        for (let step = 0; step < 60; step++) {
          randomOperation(disk, model, random, { longestBytes: 60_000 });
        }
      }
      assertClean(image, layout);
      states.push(model.slice());
      qemuImg("snapshot", "-c", `s${snapshot}`, image);
    }
    {
      using disk = openDisk(image);
      for (let step = 0; step < 60; step++) {
        randomOperation(disk, model, random, { longestBytes: 60_000 });
      }
    }
    assertClean(image, layout);
    assertReadsAs(image, model, layout);
    for (const [snapshot, state] of states.entries()) {
      qemuImg("snapshot", "-a", `s${snapshot}`, image);
      assertReadsAs(image, state as Uint8Array<ArrayBuffer>, `${layout} s${snapshot}`);
    }
    for (const snapshot of states.keys()) qemuImg("snapshot", "-d", `s${snapshot}`, image);
    assertClean(image, layout);
  }
});

test("a grown disk reads as zeros in its new part, whatever lies below", () => {
  using folder = new TemporaryFolder();
  Deno.writeFileSync(folder.file("base.raw"), new Uint8Array(8 * MIB).fill(0x55));
  for (const layout of ["cluster_size=512", "cluster_size=65536", "compat=0.10"]) {
    for (const backed of [false, true]) {
      const hint = `${layout} ${backed}`;
      const image = folder.file("grown.qcow2");
      qemuImg(
        ...["create", "-q", "-f", "qcow2", "-o", layout],
        ...(backed ? ["-b", "base.raw", "-F", "raw"] : []),
        ...[image, "1000448"],
      );
      const random = new Random(17);
      let model = new Uint8Array(1_000_448).fill(backed ? 0x55 : 0);
      for (const size of [1_200_128, 5 * MIB, 5 * MIB + 512, 33 * MIB]) {
        using disk = openDisk(image);
        for (let step = 0; step < 10; step++) {
          randomOperation(disk, model, random, { longestBytes: 60_000 });
        }
        disk.resize(size);
        const grown = new Uint8Array(size);
        grown.set(model);
        model = grown;
        for (let step = 0; step < 10; step++) {
          randomOperation(disk, model, random, { longestBytes: 60_000 });
        }
        assert.equal(firstDifference(readAll(disk), model), undefined, hint);
        assert.throws(() => disk.resize(size - 512), /at least/);
      }
      assertClean(image, hint);
      assert.equal(firstDifference(qemuBytes(image, folder), model), undefined, hint);
    }
  }
});

test("an image whose tables outgrow their places stays sound", () => {
  using folder = new TemporaryFolder();
  const image = folder.file("long.qcow2");
  // 64 counts a block and 64 blocks a cluster of the table: it moves every 2 MiB.
  createQcow2(folder.file("ours.qcow2"), { sizeBytes: 40 * MIB, clusterBytes: 512 });
  qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", image, "40M");
  for (const path of [image, folder.file("ours.qcow2")]) {
    const random = new Random(19);
    const model = new Uint8Array(40 * MIB);
    {
      using disk = openDisk(path, { cacheBytes: 2 ** 18 });
      for (let at = 0; at < model.length; at += MIB) {
        const bytes = random.bytes(MIB);
        model.set(bytes, at);
        disk.writeAt(at, IoVector.of(bytes));
      }
      disk.resize(400 * MIB);
      disk.writeAt(399 * MIB, IoVector.of(new Uint8Array(512).fill(1)));
    }
    assertClean(path);
    using disk = openDisk(path, { readOnly: true });
    assert.equal(firstDifference(readAll(disk).subarray(0, model.length), model), undefined);
  }
});

test("created images are what QEMU takes for images", () => {
  using folder = new TemporaryFolder();
  for (const clusterBytes of [512, 4096, 65536, 2097152]) {
    const image = folder.file("new.qcow2");
    for (const sizeBytes of [0, 512, 3 * MIB, clusterBytes === 512 ? 128 * MIB : 2 ** 36]) {
      createQcow2(image, { sizeBytes, clusterBytes });
      assertClean(image, `${clusterBytes} ${sizeBytes}`);
      const info = JSON.parse(qemuImg("info", "--output=json", image));
      assert.equal(info["virtual-size"], sizeBytes);
      assert.equal(info["cluster-size"], clusterBytes);
    }
    if (clusterBytes < 65536) {
      const tooLarge = { sizeBytes: 2 ** 52, clusterBytes };
      assert.throws(() => createQcow2(image, tooLarge), /expected at most/);
    }
  }
  Deno.writeFileSync(folder.file("base.raw"), new Uint8Array(70_000).fill(3));
  createQcow2(folder.file("over.qcow2"), { backingFile: "base.raw" });
  assertClean(folder.file("over.qcow2"));
  const info = JSON.parse(qemuImg("info", "--output=json", folder.file("over.qcow2")));
  assert.equal(info["virtual-size"], 70_144);
  assert.equal(info["backing-filename"], "base.raw");
  assert.equal(info["backing-filename-format"], "raw");
  const expected = new Uint8Array(70_144);
  expected.fill(3, 0, 70_000);
  assertReadsAs(folder.file("over.qcow2"), expected, "a created image over a raw one");
});

test("discarded clusters are given back to the host and used again", () => {
  using folder = new TemporaryFolder();
  const image = folder.file("sparse.qcow2");
  createQcow2(image, { sizeBytes: 64 * MIB });
  {
    using disk = openDisk(image);
    const bytes = new Uint8Array(32 * MIB).fill(9);
    disk.writeAt(0, IoVector.of(bytes));
    disk.flush();
    const { blocks: full } = Deno.statSync(image);
    disk.discard(0, 32 * MIB);
    disk.flush();
    const { blocks: empty } = Deno.statSync(image);
    assert.ok(empty! < full! / 20, `${empty} of ${full} blocks`);
    disk.writeAt(32 * MIB, IoVector.of(bytes));
  }
  assertClean(image);
  assert.ok(Deno.statSync(image).size < 34 * MIB);
});

test("raw disks, buffered and direct, hold what is written to them", () => {
  using folder = new TemporaryFolder();
  for (const direct of [false, true]) {
    const path = folder.file("disk.raw");
    const model = new Uint8Array(3 * MIB + 700);
    Deno.writeFileSync(path, model);
    const random = new Random(23);
    {
      using disk = openDisk(path, { format: "raw", direct });
      for (let step = 0; step < 150; step++) {
        randomOperation(disk, model, random, {
          longestBytes: 200_000,
          unitBytes: step % 3 === 0 ? 4096 : 1,
        });
      }
      disk.resize(4 * MIB);
    }
    assert.equal(
      firstDifference(Deno.readFileSync(path).subarray(0, model.length), model),
      undefined,
    );
    assert.equal(Deno.statSync(path).size, 4 * MIB);
  }
});

test("qcow2 with direct access is sound and equal, too", () => {
  using folder = new TemporaryFolder();
  const image = folder.file("direct.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", image, "20M");
  const model = new Uint8Array(20 * MIB);
  const random = new Random(29);
  {
    using disk = openDisk(image, { direct: true });
    for (let step = 0; step < 150; step++) {
      randomOperation(disk, model, random, { longestBytes: 200_000 });
    }
  }
  assertClean(image);
  assertReadsAs(image, model, "direct");
});

test("an image with what is not supported is refused by name", () => {
  using folder = new TemporaryFolder();
  const refused = (name: string, pattern: RegExp, options = {}) => {
    assert.throws(() => openDisk(folder.file(name), options), pattern);
  };
  qemuImg("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", folder.file("sub.qcow2"), "1M");
  refused("sub.qcow2", /subclusters/);
  const data = `data_file=${folder.file("data.raw")}`;
  qemuImg("create", "-q", "-f", "qcow2", "-o", data, folder.file("ext.qcow2"), "1M");
  refused("ext.qcow2", /external data file/);
  qemuImg("create", "-q", "-f", "vmdk", folder.file("disk.vmdk"), "1M");
  refused("disk.vmdk", /VMDK/);
  for (let attempt = 1;; attempt++) {
    try {
      qemuImg(
        ...["create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x"],
        ...["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"],
        ...[folder.file("luks.qcow2"), "1M"],
      );
      break;
    } catch (error) {
      // It times itself, and sometimes finds that no time has passed.
      if (attempt === 5 || !String(error).includes("CPU usage")) throw error;
    }
  }
  refused("luks.qcow2", /encrypted/);
  createQcow2(folder.file("dirty.qcow2"), { sizeBytes: MIB });
  for (const [bit, pattern] of [[1, /dirty/], [2, /corrupt/]] as const) {
    const bytes = Deno.readFileSync(folder.file("dirty.qcow2"));
    bytes[79] = bit;
    Deno.writeFileSync(folder.file("dirty.qcow2"), bytes);
    refused("dirty.qcow2", pattern);
    openDisk(folder.file("dirty.qcow2"), { readOnly: true }).close();
  }
});

test("a probed raw disk cannot be made a qcow2 image by its guest", () => {
  using folder = new TemporaryFolder();
  const path = folder.file("disk.raw");
  Deno.writeFileSync(path, new Uint8Array(MIB));
  createQcow2(folder.file("evil.qcow2"), { sizeBytes: MIB });
  const evil = Deno.readFileSync(folder.file("evil.qcow2")).slice(0, 1024);
  {
    using disk = openDisk(path);
    assert.throws(() => disk.writeAt(0, cutVector(evil, new Random(1))), /start/);
    disk.writeAt(0, IoVector.of(evil.slice(0, 2)));
    disk.writeAt(3, IoVector.of(evil.slice(3)));
    assert.throws(() => disk.writeAt(2, IoVector.of(evil.slice(2, 3))), /start/);
  }
  using disk = openDisk(path, { format: "raw" });
  disk.writeAt(0, IoVector.of(evil));
});

test("bitmaps that QEMU keeps in an image are given up when it is written to", () => {
  using folder = new TemporaryFolder();
  const image = folder.file("bitmap.qcow2");
  qemuImg("create", "-q", "-f", "qcow2", image, "4M");
  qemuImg("bitmap", "--add", image, "b0");
  {
    using disk = openDisk(image);
    disk.writeAt(0, IoVector.of(new Uint8Array(65536).fill(1)));
  }
  assert.equal(qemuCheck(image).corruptions, 0);
});

test("a check of ours finds what QEMU's finds", () => {
  using folder = new TemporaryFolder({ inMemory: true });
  const image = folder.file("image.qcow2");
  const damaged = folder.file("damaged.qcow2");
  let corrupt = 0;
  let leaking = 0;
  for (const layout of ["cluster_size=512", "cluster_size=1024,refcount_bits=2", "compat=0.10"]) {
    const random = new Random(31);
    qemuImg("create", "-q", "-f", "qcow2", "-o", layout, image, "1M");
    for (const name of ["a", "b"]) {
      using disk = openDisk(image);
      const model = readAll(disk);
      for (let step = 0; step < 30; step++) {
        randomOperation(disk, model, random, { longestBytes: 30_000 });
      }
      disk.close();
      qemuImg("snapshot", "-c", name, image);
    }
    assert.deepEqual([checkDisk(image).corruptions, checkDisk(image).leaks], [0, 0], layout);
    const bytes = Deno.readFileSync(image);
    const view = new DataView(bytes.buffer);
    const l1 = Number(view.getBigUint64(40));
    const counts = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    let l2 = 0;
    for (let at = l1; l2 === 0; at += 8) {
      l2 = Number(view.getBigUint64(at) & 0x00ff_ffff_ffff_fe00n);
    }
    for (let round = 0; round < 25; round++) {
      const copy = bytes.slice();
      const place = [l2, counts, l1][random.next(3)]! + random.next(160);
      copy[place] = random.next(2) === 0 ? copy[place]! ^ (1 << random.next(8)) : random.next(256);
      Deno.writeFileSync(damaged, copy);
      const theirs = qemuCheck(damaged);
      let ours = { corruptions: 1, leaks: 0 };
      try {
        ours = checkDisk(damaged);
      } catch (error) {
        assert.ok(error instanceof DiskError);
      }
      const hint = `${layout}, byte ${place}: ${JSON.stringify(ours)} ${theirs.text}`;
      assert.equal(ours.corruptions > 0, theirs.corruptions > 0, hint);
      if (theirs.corruptions === 0) assert.equal(ours.leaks, theirs.leaks, hint);
      if (theirs.corruptions > 0) corrupt++;
      if (theirs.leaks > 0) leaking++;
    }
  }
  assert.ok(corrupt > 10 && leaking > 5, `${corrupt} ${leaking}`);
});

test("the command line makes, shows and checks images", async () => {
  using folder = new TemporaryFolder();
  const vmctl = async (...args: string[]) => await runVmctl(args, { cwd: folder.path });
  assert.equal((await vmctl("create_qcow2", "base.qcow2", "3M")).code, 0);
  const made = await vmctl("create_qcow2", "--backing-file", "base.qcow2", "top.qcow2");
  assert.deepEqual([made.code, made.stdout], [0, "top.qcow2: 3 MiB\n"]);
  assertClean(folder.file("top.qcow2"));
  const info = JSON.parse((await vmctl("disk", "info", "--json", "top.qcow2")).stdout);
  assert.equal(info.length, 2);
  assert.equal(info[0].size_bytes, 3 * MIB);
  assert.equal(info[0].qcow2.backing_file, "base.qcow2");
  assert.match((await vmctl("disk", "info", "top.qcow2")).stdout, /based on +base.qcow2 \(qcow2\)/);
  assert.equal((await vmctl("disk", "check", "top.qcow2")).stdout.trim().endsWith(": ok"), true);
  {
    using _disk = openDisk(folder.file("top.qcow2"));
    const busy = await vmctl("disk", "check", "top.qcow2");
    assert.equal(busy.code, 1);
    assert.match(busy.stderr, /another program uses it/);
    const replaced = await vmctl("create_qcow2", "top.qcow2", "1M");
    assert.equal(replaced.code, 1);
    assert.match(replaced.stderr, /another program uses it/);
  }
  const bytes = Deno.readFileSync(folder.file("top.qcow2"));
  // The count of the header's cluster.
  bytes[2 * 65536 + 1] = 0;
  Deno.writeFileSync(folder.file("top.qcow2"), bytes);
  const damaged = await vmctl("disk", "check", "top.qcow2");
  assert.equal(damaged.code, 1);
  assert.match(damaged.stdout, /cluster 0 has 1 references, but counts 0\n.*DAMAGED in 1 places/);
  assert.equal(JSON.parse((await vmctl("disk", "check", "--json", "top.qcow2")).stdout).ok, false);
  assert.match((await vmctl("create_qcow2", "x.qcow2")).stderr, /SIZE or --backing-file/);
});
