import assert from "node:assert/strict";
import { Errno, errnoName, IoVector, openFile, OpenFlag } from "../host/mod.ts";
import { createQcow2 } from "./create.ts";
import { DiskError } from "./errors.ts";
import { ImageFile } from "./image_file.ts";
import { openDisk } from "./open.ts";
import { Qcow2Image } from "./qcow2/qcow2_image.ts";
import { syncErrnoOf } from "./qcow2/recovery_log.ts";

const MIB = 2 ** 20;

function withFolder(run: (file: (name: string) => string) => void): void {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-durability-" });
  try {
    run((name) => `${folder}/${name}`);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

function code(expected: string): (error: unknown) => boolean {
  return (error) => error instanceof DiskError && error.code === expected;
}

for (const format of ["raw", "qcow2"] as const) {
  for (const errno of [Errno.EIO, Errno.ENOSPC, Errno.EDQUOT]) {
    Deno.test(`after a flush of a ${format} disk failed with ${errnoName(errno)}, none succeeds, in no process`, () => {
      withFolder((file) => {
        createQcow2(file("disk"), { sizeBytes: MIB });
        const recovery = new Uint8Array(32_768);
        const options = { format, recovery };
        const one = new Uint8Array(512).fill(1);
        const failed = openDisk(file("disk"), options);
        assert.equal(failed.trouble, undefined);
        failed.writeAt(0, IoVector.of(one));
        for (let turn = 0; turn < 2; turn++) assert.equal(failed.transfers?.beginSync(), true);
        // No lack of room that may pass: what the kernel could not write it has dropped.
        assert.throws(() => failed.transfers?.endSync(errno), code("EIO"));
        // Nor has what came at the same time made it durable, though the kernel tells only one of them.
        assert.throws(() => failed.transfers?.endSync(0), code("EIO"));
        assert.throws(() => failed.flush(), code("EIO"));
        assert.throws(() => failed.transfers?.beginSync(), code("EIO"));
        assert.match(String(failed.trouble), new RegExp(errnoName(errno)));
        assert.throws(() => failed.close(), code("EIO"));
        {
          const next = openDisk(file("disk"), options);
          assert.match(String(next.trouble), new RegExp(errnoName(errno)));
          next.readAt(0, IoVector.of(one));
          assert.throws(() => next.flush(), code("EIO"));
          assert.throws(() => next.close(), code("EIO"));
        }
        using other = openDisk(file("disk"), { format });
        other.flush();
      });
    });
  }
}

Deno.test("a recovery log that cannot be made durable leaves a disk that fails all, in the next process too", () => {
  withFolder((file) => {
    createQcow2(file("disk"), { sizeBytes: MIB });
    const recovery = new Uint8Array(32_768);
    const one = new Uint8Array(512).fill(1);
    {
      const killed = openDisk(file("disk"), { recovery });
      killed.writeAt(0, IoVector.of(one));
      killed.discard(0, MIB);
      killed.writeAt(0, IoVector.of(one));
      assert(killed instanceof Qcow2Image);
      killed.abandon();
    }
    /** The kernel has found no room for what it took. */
    class ThinFile extends ImageFile {
      override sync(): void {
        if (this.beginSync()) this.endSync(Errno.ENOSPC);
      }
    }
    const open = (Kind: typeof ImageFile) => {
      const fd = openFile(file("disk"), OpenFlag.ReadWrite);
      const syncErrno = syncErrnoOf(recovery);
      const image = new Kind(fd, { path: "disk", readOnly: false, syncErrno });
      return new Qcow2Image(image, { sparse: true, recovery });
    };
    for (const Kind of [ThinFile, ImageFile]) {
      const disk = open(Kind);
      assert.match(String(disk.trouble), /ENOSPC.* 1 clusters .*fails/);
      const uses = [
        () => disk.readAt(0, IoVector.of(one)),
        () => disk.writeAt(0, IoVector.of(one)),
        () => disk.flush(),
        () => disk.beginFlush(),
      ];
      for (const use of uses) assert.throws(use, code("EIO"));
      disk.abandon();
    }
  });
});

Deno.test("a recovery log whose image turns out to be damaged is not applied, now or later", () => {
  withFolder((file) => {
    createQcow2(file("disk"), { sizeBytes: MIB });
    const recovery = new Uint8Array(32_768);
    const one = new Uint8Array(512).fill(1);
    {
      const killed = openDisk(file("disk"), { recovery });
      killed.writeAt(0, IoVector.of(one));
      assert(killed instanceof Qcow2Image);
      killed.abandon();
    }
    // The L1 table is not counted, so that it looks free to the L2 table that the log needs.
    const bytes = Deno.readFileSync(file("disk"));
    const view = new DataView(bytes.buffer);
    const counts = Number(view.getBigUint64(Number(view.getBigUint64(48))));
    view.setUint16(counts + Number(view.getBigUint64(40)) / 65_536 * 2, 0);
    Deno.writeFileSync(file("disk"), bytes);
    const before = recovery.slice();
    let writes = 0;
    let isFull = false;
    class FullFile extends ImageFile {
      override readVector(vector: IoVector, offset: number): number {
        if (isFull && offset === counts) this.#fail();
        return super.readVector(vector, offset);
      }
      override writeVector(_vector: IoVector, _offset: number): void {
        writes++;
        this.#fail();
      }
      #fail(): never {
        throw new DiskError("no space", { code: "ENOSPC" });
      }
    }
    const open = () => {
      const fd = openFile(file("disk"), OpenFlag.ReadWrite);
      const image = new FullFile(fd, { path: "disk", readOnly: false });
      return new Qcow2Image(image, { sparse: true, recovery });
    };
    // That it cannot even be marked is no reason to wait for room.
    assert.throws(open, /damaged/);
    assert.equal(writes, 1);
    isFull = true;
    const disk = open();
    isFull = false;
    for (let turn = 0; turn < 3; turn++) {
      assert.throws(() => disk.readAt(0, IoVector.of(one)), /damaged/);
      assert.throws(() => disk.flush(), /damaged/);
      assert.equal(writes, 2, "only the mark");
    }
    disk.close();
    assert.deepEqual(recovery, before);
  });
});
