import assert from "node:assert/strict";
import {
  dupFd,
  Fd,
  flock,
  IoVector,
  listOpenFds,
  openFile,
  OpenFlag,
  setCloseOnExec,
} from "../host/mod.ts";
import { FileClaims } from "./claims.ts";
import { createQcow2 } from "./create.ts";
import { DiskError } from "./errors.ts";
import {
  assembleDisk,
  DiskFiles,
  MAX_CHAIN_LENGTH,
  openDisk,
  openDiskFiles,
  type OpenDiskOptions,
} from "./open.ts";

const MIB = 2 ** 20;

function withFolder(run: (file: (name: string) => string) => void): void {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-open-" });
  const before = listOpenFds().length;
  try {
    run((name) => `${folder}/${name}`);
    assert.equal(listOpenFds().length, before, "descriptors leak");
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

function code(expected: string): (error: unknown) => boolean {
  return (error) => error instanceof DiskError && error.code === expected;
}

function read(path: string, offset: number, length: number): number[] {
  using disk = openDisk(path, { readOnly: true });
  const bytes = new Uint8Array(length);
  disk.readAt(offset, IoVector.of(bytes));
  return [...bytes];
}

Deno.test("a disk that is written to excludes others, one that is read does not", () => {
  withFolder((file) => {
    const path = file("disk");
    Deno.writeFileSync(path, new Uint8Array(MIB));
    {
      using _disk = openDisk(path);
      assert.throws(() => openDisk(path), code("EBUSY"));
      assert.throws(() => openDisk(path, { readOnly: true }), /lock=false/);
      openDisk(path, { lock: false }).close();
    }
    using _one = openDisk(path, { readOnly: true });
    using _two = openDisk(path, { readOnly: true });
    assert.throws(() => openDisk(path), code("EBUSY"));
  });
});

Deno.test("what an image is based on is locked for reading", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("base"), new Uint8Array(MIB).fill(4));
    createQcow2(file("top"), { backingFile: "base" });
    {
      using _disk = openDisk(file("top"));
      assert.throws(() => openDisk(file("base")), code("EBUSY"));
      openDisk(file("base"), { readOnly: true }).close();
    }
    using base = openFile(file("base"));
    assert.equal(flock(base, "exclusive"), true);
    assert.throws(() => openDisk(file("top")), code("EBUSY"));
  });
});

Deno.test("requests outside of the disk and writes to read-only disks are refused", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("raw"), new Uint8Array(MIB));
    createQcow2(file("qcow2"), { sizeBytes: MIB });
    for (const name of ["raw", "qcow2"]) {
      const vector = IoVector.of(new Uint8Array(512));
      {
        using disk = openDisk(file(name));
        for (const offset of [MIB, MIB - 511, -1, NaN, 2 ** 60, 0.5]) {
          assert.throws(() => disk.readAt(offset, vector), code("EINVAL"));
          assert.throws(() => disk.writeAt(offset, vector), code("EINVAL"));
          assert.throws(() => disk.discard(offset, 512), code("EINVAL"));
          assert.throws(() => disk.writeZeroes(offset, 512), code("EINVAL"));
        }
        assert.throws(() => disk.resize(-1), code("EINVAL"));
      }
      using disk = openDisk(file(name), { readOnly: true });
      assert.throws(() => disk.writeAt(0, vector), code("EROFS"));
      assert.throws(() => disk.writeZeroes(0, 512), code("EROFS"));
      assert.throws(() => disk.discard(0, 512), code("EROFS"));
      assert.throws(() => disk.resize(2 * MIB), code("EROFS"));
      disk.flush();
    }
  });
});

Deno.test("an image is found relative to the one that is based on it", () => {
  withFolder((file) => {
    Deno.mkdirSync(file("bases"));
    Deno.writeFileSync(file("bases/raw"), new Uint8Array(MIB).fill(6));
    createQcow2(file("bases/middle"), { backingFile: "raw" });
    createQcow2(file("top"), { backingFile: "bases/middle" });
    assert.deepEqual(read(file("top"), MIB - 2, 2), [6, 6]);
    Deno.symlinkSync("../top", file("bases/link"));
    // As QEMU has it: relative to the name that was used, not to what it links to.
    assert.throws(() => openDisk(file("bases/link")), code("ENOENT"));
  });
});

Deno.test("a chain of images has an end", () => {
  withFolder((file) => {
    createQcow2(file("0"), { sizeBytes: MIB });
    for (let at = 1; at < MAX_CHAIN_LENGTH; at++) {
      createQcow2(file(String(at)), { backingFile: String(at - 1) });
    }
    openDisk(file(String(MAX_CHAIN_LENGTH - 1))).close();
    // Made by hand, as this program makes none that it does not open.
    Deno.copyFileSync(file("1"), file("too-long"));
    rename(file("too-long"), "0", String(MAX_CHAIN_LENGTH - 1));
    assert.throws(() => openDisk(file("too-long")), code("ELOOP"));
    rename(file("1"), "0", "2");
    assert.throws(() => openDisk(file("2")), /based on itself/);
    rename(file("1"), "2", "1");
    assert.throws(() => openDisk(file("1"), { lock: false }), /based on itself/);
    assert.throws(() => createQcow2(file("1"), { backingFile: "1" }), code("ELOOP"));
    rename(file("1"), "1", "0");
    Deno.removeSync(file("0"));
    assert.throws(
      () => openDisk(file("1")),
      /\/0, the backing file of .*\/1: it cannot be opened: no such file/,
    );
  });
});

/** Changes the name of the backing file in the image at `path` to another of the same length. */
function rename(path: string, from: string, to: string): void {
  const bytes = Deno.readFileSync(path);
  const view = new DataView(bytes.buffer);
  const at = Number(view.getBigUint64(8));
  assert.equal(new TextDecoder().decode(bytes.subarray(at, at + from.length)), from);
  bytes.set(new TextEncoder().encode(to), at);
  view.setUint32(16, to.length);
  Deno.writeFileSync(path, bytes);
}

Deno.test("names of backing files that are no paths of files are refused", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("base-file-name"), new Uint8Array(512));
    createQcow2(file("image"), { backingFile: "base-file-name" });
    for (
      const [name, pattern] of [
        ["json:{}       ", /expected a path/],
        ["nbd://host/x  ".trim(), /expected a path/],
        ["/proc/self/fd/0", /outside of \/proc/],
        ["/dev/fd/0", /outside of \/proc/],
        ["../../proc/1", undefined],
        ["/dev/null", /character/],
        ["/tmp", /directory|EISDIR|got a/],
      ] as const
    ) {
      Deno.copyFileSync(file("image"), file("evil"));
      rename(file("evil"), "base-file-name", name);
      assert.throws(() => openDisk(file("evil"), { lock: false }), (error) => {
        assert.ok(error instanceof DiskError, String(error));
        if (pattern !== undefined) assert.match(error.message, pattern);
        return true;
      });
    }
  });
});

Deno.test("a pipe is no disk, and does not hang", () => {
  withFolder((file) => {
    assert.ok(new Deno.Command("mkfifo", { args: [file("pipe")] }).outputSync().success);
    assert.throws(() => openDisk(file("pipe")), /expected a file or a block device, got a pipe/);
    assert.throws(() => openDisk(file("nothing")), code("ENOENT"));
    assert.throws(() => openDisk("/dev/null"), /got a character device/);
  });
});

Deno.test("an inherited descriptor is a disk, as far as it is open", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("base"), new Uint8Array(MIB).fill(8));
    createQcow2(file("top"), { backingFile: "base" });
    {
      // The lock belongs to the open file, so that it lasts as long as any of its descriptors.
      using both = openFile(file("top"), OpenFlag.ReadWrite);
      setCloseOnExec(both, false);
      using disk = openDisk(`/proc/self/fd/${both.raw}`);
      disk.writeAt(0, IoVector.of(new Uint8Array(512).fill(1)));
      const bytes = new Uint8Array(1024);
      disk.readAt(0, IoVector.of(bytes));
      assert.deepEqual([bytes[0], bytes[511], bytes[512]], [1, 1, 8]);
    }
    {
      using reading = openFile(file("top"));
      setCloseOnExec(reading, false);
      const path = `/proc/self/fd/${reading.raw}`;
      openDisk(path, { readOnly: true }).close();
      assert.throws(() => openDisk(path), /open for reading and writing/);
    }
    using own = openFile(file("top"), OpenFlag.ReadWrite);
    assert.throws(() => openDisk(`/proc/self/fd/${own.raw}`), /not passed/);
    openDisk(dupFd(own)).close();
  });
});

Deno.test("a disk is opened in one process and assembled from descriptors in another", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("base"), new Uint8Array(MIB).fill(8));
    createQcow2(file("top"), { backingFile: "base" });
    using files = openDiskFiles(file("top"));
    assert.deepEqual(
      files.list.map(({ path, format, readOnly }) => [path, format, readOnly]),
      [[file("top"), "qcow2", false], [file("base"), "raw", true]],
    );
    const sent = files.list.map((entry) => ({ ...entry, fd: dupFd(entry.fd).take() }));
    Deno.removeSync(file("top"));
    Deno.removeSync(file("base"));
    using disk = assembleDisk(DiskFiles.adopt(sent));
    disk.writeAt(512, IoVector.of(new Uint8Array(512)));
    const bytes = new Uint8Array(1024);
    disk.readAt(0, IoVector.of(bytes));
    assert.deepEqual([bytes[511], bytes[512]], [8, 0]);
  });
});

Deno.test("a damaged image leaves no descriptor behind", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("base"), new Uint8Array(MIB));
    createQcow2(file("top"), { backingFile: "base", clusterBytes: 512 });
    const bytes = Deno.readFileSync(file("top"));
    // The L1 table's first entry names the header.
    const l1 = Number(new DataView(bytes.buffer).getBigUint64(40));
    bytes.set([0x80, 0, 0, 0, 0, 0, 2, 0], l1);
    Deno.writeFileSync(file("top"), bytes);
    assert.throws(() => openDisk(file("top")), /where other metadata is/);
    openDisk(file("top"), { readOnly: true }).close();
    assert.throws(() => openDisk(Fd.adopt(openFile(file("top")).take())), code("EACCES"));
  });
});

Deno.test("disks of one program that share a file are told so, whatever they call it", () => {
  withFolder((file) => {
    for (const name of ["a", "other"]) Deno.writeFileSync(file(name), new Uint8Array(MIB));
    Deno.linkSync(file("a"), file("hard"));
    Deno.symlinkSync(file("a"), file("soft"));
    createQcow2(file("over"), { backingFile: "a", backingFormat: "raw" });
    const opened = (...disks: [path: string, options?: OpenDiskOptions][]) => {
      using stack = new DisposableStack();
      const files = new FileClaims();
      disks.forEach(([path, options], index) => {
        const disk = { option: `--block ${path.split("/").at(-1)}`, name: `vd${"abc"[index]}` };
        stack.use(openDisk(path, { format: "raw", ...options, claims: { files, disk } }));
      });
    };
    const [a, hard, soft, over] = [file("a"), file("hard"), file("soft"), file("over")];
    assert.throws(() => opened([a], [file("other")], [a]), /--block a is given twice, for vda and/);
    assert.throws(
      () => opened([a], [hard, { readOnly: true }]),
      /--block hard \(vdb\) is the same file as --block a \(vda\): expected a file of its own/,
    );
    assert.throws(() => opened([soft, { readOnly: true }], [hard]), /hard .* same .* soft/);
    assert.throws(
      () => opened([over, { format: "probe" }], [a]),
      /--block a \(vdb\) is the same file as .*\/a, which --block over \(vda\) is based on,/,
    );
    const path = (fd: Fd) => {
      setCloseOnExec(fd, false);
      return `/proc/self/fd/${fd.raw}`;
    };
    {
      // One open file has one lock, however often it is taken.
      using fd = openFile(a, OpenFlag.ReadWrite);
      assert.throws(() => opened([path(fd)], [path(fd)]), /given twice/);
      assert.throws(() => opened([path(fd)], [a]), /is the same file as --block/);
    }
    opened([a, { readOnly: true }], [hard, { readOnly: true }], [over, { format: "probe" }]);
    opened([a, { lock: false }], [soft, { lock: false }], [hard]);
  });
});

Deno.test("sparse=false keeps storage", () => {
  withFolder((file) => {
    Deno.writeFileSync(file("raw"), new Uint8Array(MIB).fill(5));
    createQcow2(file("qcow2"), { sizeBytes: MIB });
    for (const name of ["raw", "qcow2"]) {
      for (const sparse of [false, true]) {
        using disk = openDisk(file(name), { sparse });
        disk.writeAt(0, IoVector.of(new Uint8Array(MIB).fill(5)));
        disk.flush();
        const before = Deno.statSync(file(name)).blocks!;
        disk.discard(0, MIB);
        disk.flush();
        const after = Deno.statSync(file(name)).blocks!;
        assert.equal(after < before / 2, sparse, `${name} ${sparse}: ${before} to ${after}`);
        disk.writeZeroes(0, MIB, { unmap: true });
        const bytes = new Uint8Array(MIB).fill(1);
        disk.readAt(0, IoVector.of(bytes));
        assert.ok(bytes.every((byte) => byte === 0));
      }
    }
  });
});

/** A loop device over a file; undefined where there are none. */
function loopDevice(path: string): string | undefined {
  if (Deno.uid() !== 0) return undefined;
  try {
    const { success, stdout } = new Deno.Command("losetup", {
      args: ["--find", "--show", path],
      stderr: "null",
    }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined;
  }
}

const probe = Deno.makeTempFileSync();
Deno.writeFileSync(probe, new Uint8Array(MIB));
const probed = loopDevice(probe);
if (probed !== undefined) new Deno.Command("losetup", { args: ["-d", probed] }).outputSync();
Deno.removeSync(probe);

Deno.test({
  name: `block devices are disks${probed === undefined ? " (skipped: no loop devices)" : ""}`,
  ignore: probed === undefined,
  fn: () => {
    withFolder((file) => {
      Deno.writeFileSync(file("backing"), new Uint8Array(4 * MIB).fill(3));
      const device = loopDevice(file("backing"))!;
      try {
        for (const direct of [false, true]) {
          using disk = openDisk(device, { direct });
          assert.equal(disk.sizeBytes, 4 * MIB);
          disk.writeAt(512, IoVector.of(new Uint8Array(1000).fill(9)));
          disk.writeZeroes(65_536, 65_536);
          disk.writeZeroes(2 * MIB + 512, 1024, { unmap: true });
          disk.discard(MIB, MIB);
          disk.flush();
          const bytes = new Uint8Array(4 * MIB);
          disk.readAt(0, IoVector.of(bytes));
          assert.deepEqual([bytes[511], bytes[512], bytes[1511], bytes[1512]], [3, 9, 9, 3]);
          assert.ok(bytes.subarray(65_536, 131_072).every((byte) => byte === 0));
          assert.deepEqual([bytes[2 * MIB], bytes[2 * MIB + 512]], [3, 0]);
          assert.throws(() => disk.resize(8 * MIB), /cannot be resized/);
        }
        createQcow2(file("image"), { sizeBytes: 8 * MIB });
        {
          using disk = openDisk(device, { format: "raw" });
          disk.writeAt(0, IoVector.of(Deno.readFileSync(file("image"))));
        }
        using disk = openDisk(device);
        assert.equal(disk.format, "qcow2");
        disk.writeAt(0, IoVector.of(new Uint8Array(65_536).fill(2)));
        disk.flush();
        const full = () => {
          for (let at = 0; at < 8 * MIB; at += 65_536) {
            disk.writeAt(at, IoVector.of(new Uint8Array(65_536).fill(2)));
          }
        };
        assert.throws(full, code("ENOSPC"));
      } finally {
        new Deno.Command("losetup", { args: ["-d", device] }).outputSync();
      }
    });
  },
});
