/**
 * qcow2 images on hosts without room.
 */
import { strict as assert } from "node:assert";
import { DiskError, openDisk } from "../lib/disk/mod.ts";
import { ImageFile } from "../lib/disk/image_file.ts";
import { Qcow2Image } from "../lib/disk/qcow2/qcow2_image.ts";
import { IoVector, mmap, openFile, OpenFlag } from "../lib/host/mod.ts";
import { BLOCK_DEVICE } from "../lib/devices/block/mod.ts";
import { setLogSink } from "../lib/base/mod.ts";
import { openDevice } from "./support/disk_rig.ts";
import {
  assertClean,
  firstDifference,
  HAS_QEMU_IMG,
  qemuCheck,
  qemuImg,
  Random,
  readAll,
  run,
  TemporaryFolder,
} from "./support/disk.ts";

const MIB = 2 ** 20;
const UNIT = 512;
const skipped = HAS_QEMU_IMG ? "" : " (skipped: no qemu-img)";

function isFull(error: unknown): boolean {
  return error instanceof DiskError && error.code === "ENOSPC";
}

/** An image's file whose host has no room now and then. */
class FullFile extends ImageFile {
  random: Random | undefined;

  /** Over a new image at `path`. */
  static create(path: string, options: string, sizeBytes: number): FullFile {
    qemuImg("create", "-q", "-f", "qcow2", "-o", options, path, String(sizeBytes));
    return FullFile.open(path);
  }

  static open(path: string): FullFile {
    return new FullFile(openFile(path, OpenFlag.ReadWrite), { path, readOnly: false });
  }

  override writeVector(vector: IoVector, offset: number): void {
    if (this.random?.next(4) === 0) {
      const some = new IoVector();
      some.pushSlice(vector, 0, this.random.next(vector.lengthBytes));
      super.writeVector(some, offset);
      throw new DiskError(`${this.path}: no space`, { code: "ENOSPC" });
    }
    super.writeVector(vector, offset);
  }

  override reserve(offset: number, length: number): void {
    if (this.random?.next(8) === 0) throw new DiskError("no space", { code: "ENOSPC" });
    super.reserve(offset, length);
  }
}

Deno.test({
  name: `an image on a host without room stays sound and goes on when there is some${skipped}`,
  ignore: !HAS_QEMU_IMG,
  fn: () => {
    using folder = new TemporaryFolder();
    for (let seed = 0; seed < 30; seed++) {
      const image = folder.file("image.qcow2");
      const layout = ["cluster_size=512,refcount_bits=64", "cluster_size=4096", "compat=0.10"];
      const size = 2 * MIB;
      const file = FullFile.create(image, layout[seed % 3]!, size);
      const random = new Random(seed);
      const model = new Uint8Array(size);
      {
        using disk = new Qcow2Image(file, { sparse: true, cacheBytes: 16_384 });
        for (let step = 0; step < 60; step++) {
          file.random = step % 20 > 10 ? random : undefined;
          const offset = random.next(size / UNIT) * UNIT;
          const length = Math.min(size - offset, UNIT * (1 + random.next(100)));
          const bytes = random.bytes(length);
          try {
            if (step % 7 === 0) disk.flush();
            else if (step % 5 === 0) disk.writeZeroes(offset, length, { unmap: true });
            else disk.writeAt(offset, IoVector.of(bytes));
            if (step % 7 !== 0) model.set(step % 5 === 0 ? new Uint8Array(length) : bytes, offset);
          } catch (error) {
            assert.ok(isFull(error), String(error));
            // Old or new bytes: ask which.
            file.random = undefined;
            disk.readAt(offset, IoVector.of(model.subarray(offset, offset + length)));
          }
          if (step % 10 === 0) assert.equal(firstDifference(readAll(disk), model), undefined);
        }
        file.random = undefined;
      }
      assert.equal(qemuCheck(image).corruptions, 0, `seed ${seed}`);
      using disk = openDisk(image, { readOnly: true });
      assert.equal(firstDifference(readAll(disk), model), undefined, `seed ${seed}`);
    }
  },
});

Deno.test({
  name:
    `a disk that cannot grow for lack of room stays sound, and grows when there is some${skipped}`,
  ignore: !HAS_QEMU_IMG,
  fn: () => {
    using folder = new TemporaryFolder();
    for (let seed = 0; seed < 12; seed++) {
      const image = folder.file("image.qcow2");
      // Few clusters have their counts in one block.
      const file = FullFile.create(image, "cluster_size=512,refcount_bits=64", MIB);
      const random = new Random(seed);
      {
        using disk = new Qcow2Image(file, { sparse: true, cacheBytes: 16_384 });
        for (let step = 0; step < 30; step++) {
          file.random = random;
          try {
            disk.resize(disk.sizeBytes + random.next(200) * MIB);
          } catch (error) {
            assert.ok(isFull(error), String(error));
          }
          file.random = undefined;
          disk.writeAt(random.next(1500) * UNIT, IoVector.of(random.bytes(random.next(90) * UNIT)));
        }
        disk.resize(disk.sizeBytes + 100 * MIB);
      }
      assert.equal(qemuCheck(image).corruptions, 0, `seed ${seed}`);
    }
  },
});

Deno.test({
  name:
    `a disk whose process was killed on a host without room has it all when there is some${skipped}`,
  ignore: !HAS_QEMU_IMG,
  fn: () => {
    using folder = new TemporaryFolder();
    let refused = 0;
    for (let seed = 0; seed < 20; seed++) {
      const image = folder.file("image.qcow2");
      const layout = "cluster_size=512,refcount_bits=64";
      const file = FullFile.create(image, layout, 2 * MIB);
      const options = { sparse: true, cacheBytes: 16_384, recovery: new Uint8Array(16_400) };
      const killed = new Qcow2Image(file, options);
      const random = new Random(seed);
      const model = new Uint8Array(2 * MIB);
      for (let step = 0; step < 20; step++) {
        const bytes = random.bytes(UNIT * (1 + random.next(60)));
        const offset = random.next((model.length - bytes.length) / UNIT) * UNIT;
        killed.writeAt(offset, IoVector.of(bytes));
        model.set(bytes, offset);
      }
      killed.abandon();
      // The next one is killed as well.
      for (let turn = 0; turn < 2; turn++) {
        const full = FullFile.open(image);
        full.random = random;
        const disk = new Qcow2Image(full, options);
        const uses = [
          () => disk.readAt(0, IoVector.of(new Uint8Array(UNIT))),
          () => disk.locate(0, UNIT),
          () => disk.writeAt(0, IoVector.of(model.slice(0, UNIT))),
          () => disk.beginWrite(0, UNIT),
          () => disk.flush(),
          () => disk.beginFlush(),
          () => disk.resize(3 * MIB),
        ];
        const before = refused;
        for (const use of uses) {
          try {
            use();
            break;
          } catch (error) {
            assert.ok(isFull(error), String(error));
            refused++;
          }
        }
        full.random = undefined;
        if (refused - before < uses.length && turn === 0) {
          assert.equal(firstDifference(readAll(disk).subarray(0, model.length), model), undefined);
        }
        disk.abandon();
      }
      {
        using disk = new Qcow2Image(FullFile.open(image), options);
        const content = readAll(disk).subarray(0, model.length);
        assert.equal(firstDifference(content, model), undefined, `seed ${seed}`);
      }
      assert.equal(qemuCheck(image).corruptions, 0, `seed ${seed}`);
    }
    assert.ok(refused > 20, String(refused));
  },
});

const canMount = HAS_QEMU_IMG && Deno.uid() === 0;

/** A test of a file system that has room for `size`. */
function smallHostTest(
  name: string,
  { size, fn }: { readonly size: string; readonly fn: (mount: string) => void },
): void {
  Deno.test({
    name: `${name}${canMount ? "" : " (skipped: needs root)"}`,
    ignore: !canMount,
    fn: () => {
      using folder = new TemporaryFolder();
      const mount = folder.file("small");
      Deno.mkdirSync(mount);
      const mounted = run("mount", "-t", "tmpfs", "-o", `size=${size}`, "none", mount);
      if (mounted.code !== 0) return;
      try {
        fn(mount);
      } finally {
        run("umount", mount);
      }
    },
  });
}

/** Gives back what zeros stand in, such as the room for tables that a process has not written when it is killed. */
function giveBackZeros(path: string): void {
  assert.equal(run("fallocate", "--dig-holes", path).code, 0);
}

smallHostTest("a full file system ends in ENOSPC and in a sound image", {
  size: "4m",
  fn: (mount) => {
    const image = `${mount}/image.qcow2`;
    qemuImg("create", "-q", "-f", "qcow2", image, "64M");
    Deno.writeFileSync(`${mount}/ballast`, new Uint8Array(MIB));
    const bytes = new Uint8Array(65536).fill(1);
    let written = 0;
    {
      using disk = openDisk(image);
      const fill = () => {
        for (; written < 1024; written++) {
          disk.writeAt(written * 65536, IoVector.of(bytes));
        }
      };
      assert.throws(fill, isFull);
      assert.ok(written > 20 && written < 64, String(written));
      Deno.removeSync(`${mount}/ballast`);
      disk.writeAt(written++ * 65536, IoVector.of(bytes));
      assert.throws(fill, /ENOSPC|space/);
      disk.discard(0, 65536 * 4);
      disk.flush();
      disk.writeAt(written++ * 65536, IoVector.of(bytes));
    }
    assertClean(image);
    using disk = openDisk(image, { readOnly: true });
    const all = readAll(disk).subarray(65536 * 4, written * 65536);
    assert.ok(all.every((byte) => byte === 1));
  },
});

smallHostTest(
  "what a full file system took of a write that failed does not get into tables",
  {
    size: "1000k",
    fn: (mount) => {
      const image = `${mount}/image.qcow2`;
      // The file system's last page begins elsewhere in the last write each time.
      for (let sectors = 33; sectors < 63; sectors++) {
        qemuImg("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", image, "16M");
        const piece = new Uint8Array(sectors * UNIT).fill(0xa5);
        let written = 0;
        {
          using disk = openDisk(image);
          const fill = () => {
            for (; written < MIB; written += piece.length) {
              disk.writeAt(written, IoVector.of(piece));
            }
          };
          assert.throws(fill, isFull);
          // Each needs a table, for which there may be room where the last write was tried.
          for (let at = 8 * MIB; at < 9 * MIB; at += 32_768) {
            try {
              disk.writeAt(at, IoVector.of(piece.subarray(0, UNIT)));
            } catch (error) {
              assert.ok(isFull(error), String(error));
            }
          }
          assert.equal(readAll(disk).length, 16 * MIB);
          disk.discard(0, 4 * piece.length);
          disk.flush();
        }
        assert.equal(qemuCheck(image).corruptions, 0);
        using disk = openDisk(image, { readOnly: true });
        const kept = readAll(disk).subarray(4 * piece.length, written);
        assert.ok(kept.every((byte) => byte === 0xa5));
      }
    },
  },
);

smallHostTest(
  "a disk whose process was killed opens on a full file system, and fails reads until there is room",
  {
    size: "4m",
    fn: (mount) => {
      const image = `${mount}/image.qcow2`;
      qemuImg(
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4096,refcount_bits=64",
        image,
        "64M",
      );
      const recovery = new Uint8Array(MIB);
      const bytes = new Uint8Array(4096).fill(1);
      const count = 600;
      {
        const disk = openDisk(image, { recovery });
        // More clusters than one block counts.
        for (let at = 0; at < count; at++) disk.writeAt(at * 4096, IoVector.of(bytes));
        if (!(disk instanceof Qcow2Image)) assert.fail();
        disk.abandon();
      }
      giveBackZeros(image);
      using ballast = Deno.openSync(`${mount}/ballast`, { write: true, create: true });
      assert.throws(() => {
        while (ballast.writeSync(bytes) > 0);
      });
      using disk = openDisk(image, { recovery });
      assert.match(
        String(disk.trouble),
        /image\.qcow2: .*ENOSPC.* changes of 600 clusters .* up to about 16 KiB .* fails$/,
      );
      const read = () => disk.readAt(0, IoVector.of(new Uint8Array(512)));
      assert.throws(read, isFull);
      assert.throws(() => disk.flush(), isFull);
      Deno.removeSync(`${mount}/ballast`);
      ballast.close();
      assert.ok(readAll(disk).subarray(0, count * 4096).every((byte) => byte === 1));
      assert.equal(disk.trouble, undefined);
    },
  },
);

smallHostTest("a disk that is served from a full file system says so once, before any request", {
  size: "4m",
  fn: (mount) => {
    const image = `${mount}/image.qcow2`;
    const options = "cluster_size=4096,refcount_bits=64";
    qemuImg("create", "-q", "-f", "qcow2", "-o", options, image, "64M");
    const opened = openDevice({ path: image });
    const bytes = new Uint8Array(4096).fill(1);
    {
      // Behind the image's, and before those of libraries.
      const recovery = mmap(MIB, { fd: opened.fds[1]! }).bytes;
      const disk = openDisk(image, { recovery, lock: false });
      for (let at = 0; at < 600; at++) disk.writeAt(at * 4096, IoVector.of(bytes));
      if (!(disk instanceof Qcow2Image)) assert.fail();
      disk.abandon();
    }
    giveBackZeros(image);
    using ballast = Deno.openSync(`${mount}/ballast`, { write: true, create: true });
    assert.throws(() => {
      while (ballast.writeSync(bytes) > 0);
    });
    const lines: string[] = [];
    setLogSink((line) => lines.push(line));
    try {
      const device = BLOCK_DEVICE.make(opened.settings, opened.fds);
      assert.equal(lines.length, 1, lines.join(""));
      assert.match(lines[0]!, /warn .*block: .*image\.qcow2: .*ENOSPC.* no room on the host/);
      Deno.removeSync(`${mount}/ballast`);
      ballast.close();
      device[Symbol.dispose]();
    } finally {
      setLogSink(undefined);
    }
    using disk = openDisk(image);
    assert.ok(readAll(disk).subarray(0, 600 * 4096).every((byte) => byte === 1));
  },
});
