import assert from "node:assert/strict";
import { MIB } from "../../base/mod.ts";
import { Errno, fdatasync, IoVector, MemorySpan, mmap, pwritev } from "../../host/mod.ts";
import { checkDisk, createQcow2, openDisk } from "../mod.ts";
import type { Qcow2Image } from "./qcow2_image.ts";

const bytes = (value: number) => new Uint8Array(4096).fill(value);

function read(path: string, offset: number): Uint8Array {
  using image = openDisk(path, { readOnly: true, lock: false });
  const found = new Uint8Array(4096);
  image.readAt(offset, IoVector.of(found));
  return found;
}

function onDisk(body: (path: string) => void): void {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-transfers-" });
  try {
    const path = `${folder}/disk`;
    createQcow2(path, { sizeBytes: 4 * MIB });
    body(path);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

Deno.test("qcow2: a flush of others brings the tables first, and then only the file is left to do", () => {
  onDisk((path) => {
    using image = openDisk(path, { lock: false });
    const transfers = image.transfers!;
    assert.ok(transfers.syncs);
    image.writeAt(0, IoVector.of(bytes(9)));
    image.flush();
    assert.equal(transfers.beginSync(), false, "nothing was written since");
    image.writeAt(MIB, IoVector.of(bytes(1)));
    assert.deepEqual(read(path, MIB), bytes(0), "the tables are in memory");
    assert.equal(transfers.beginSync(), true);
    assert.deepEqual(read(path, MIB), bytes(1));
    // Writes and flushes go on meanwhile, also one that allocates.
    image.writeAt(MIB, IoVector.of(bytes(2)));
    image.writeAt(2 * MIB, IoVector.of(bytes(3)));
    assert.equal(transfers.beginSync(), true);
    fdatasync(transfers.fd);
    transfers.endSync(0);
    transfers.endSync(0);
    assert.equal(transfers.beginSync(), false);
    image.flush();
    assert.deepEqual([read(path, MIB), read(path, 2 * MIB)], [bytes(2), bytes(3)]);
    image.close();
    assert.equal(checkDisk(path).corruptions, 0);
  });
});

Deno.test("qcow2: after a flush of others that failed, no flush succeeds", () => {
  onDisk((path) => {
    const image = openDisk(path, { lock: false });
    const transfers = image.transfers!;
    image.writeAt(MIB, IoVector.of(bytes(1)));
    assert.equal(transfers.beginSync(), true);
    assert.throws(() => transfers.endSync(Errno.EIO), /EIO/);
    assert.throws(() => image.flush(), /EIO/);
    assert.throws(() => transfers.beginSync(), /EIO/);
    assert.throws(() => image.close(), /EIO/);
  });
});

Deno.test("qcow2: writes of others become a part of the disk when they are done, and not before", () => {
  onDisk((path) => {
    const image = openDisk(path, { lock: false, direct: true });
    const transfers = image.transfers!;
    const cluster = image.discardUnitBytes;
    const span = new MemorySpan(mmap(2 * cluster).bytes);
    const vector = (length: number) => {
      const list = new IoVector(1);
      list.push(span, 0, length);
      return list;
    };
    const begin = (offset: number, length: number) => {
      const at = transfers.locate(offset, vector(length), true);
      if (at >= 0) transfers.beginWrite();
      return at;
    };
    const write = (at: number, value: number, length = 4096) => {
      span.bytes.fill(value, 0, length);
      pwritev(transfers.fd, vector(length), at);
    };
    const found = (offset: number) => {
      const into = new Uint8Array(1);
      image.readAt(offset, IoVector.of(into));
      return into[0];
    };
    // A part of a new cluster, and two whole ones.
    const part = begin(MIB + 8192, 4096);
    const whole = begin(2 * MIB, 2 * cluster);
    assert.ok(part > 0 && whole > 0 && part !== whole);
    assert.equal(begin(MIB, 4096), -1, "its cluster is being made");
    assert.equal(begin(2 * MIB + cluster, 4096), -1, "and so is this one's");
    write(part, 1);
    write(whole, 2, 2 * cluster);
    assert.deepEqual([found(MIB + 8192), found(2 * MIB)], [0, 0], "nothing names them");
    transfers.endWrite(2 * MIB, true);
    // What is made durable now does not have the other.
    assert.equal(transfers.beginSync(), true);
    fdatasync(transfers.fd);
    transfers.endSync(0);
    transfers.endWrite(MIB + 8192, true);
    assert.equal(transfers.beginSync(), true, "it was not durable yet");
    fdatasync(transfers.fd);
    transfers.endSync(0);
    assert.deepEqual([found(MIB + 8192), found(MIB + 4096), found(MIB)], [1, 0, 0]);
    assert.deepEqual([found(2 * MIB), found(2 * MIB + 2 * cluster - 1)], [2, 2]);
    // In place, and one that fails.
    const again = begin(MIB + 8192, 4096);
    assert.equal(again, part);
    write(again, 3);
    transfers.endWrite(MIB + 8192, true);
    assert.equal(found(MIB + 8192), 3);
    assert.ok(begin(3 * MIB, 4096) > 0);
    transfers.endWrite(3 * MIB, false);
    assert.equal(found(3 * MIB), 0);
    image.writeAt(3 * MIB, IoVector.of(bytes(5)));
    assert.equal(found(3 * MIB), 5);
    image.close();
    assert.deepEqual(read(path, MIB + 8192), bytes(3));
    assert.deepEqual(read(path, 3 * MIB), bytes(5));
    const { corruptions, leaks } = checkDisk(path);
    assert.deepEqual([corruptions, leaks], [0, 0]);
  });
});

Deno.test("qcow2: an image whose process dies during writes of others is whole", () => {
  onDisk((path) => {
    const image = openDisk(path, { lock: false, direct: true });
    const transfers = image.transfers!;
    const list = new IoVector(1);
    list.push(new MemorySpan(mmap(4096).bytes), 0, 4096);
    image.writeAt(0, IoVector.of(bytes(1)));
    assert.ok(transfers.locate(MIB, list, true) > 0);
    transfers.beginWrite();
    // The tables go to the file with a count for what is not there.
    image.flush();
    (image as Qcow2Image).abandon();
    assert.equal(checkDisk(path).corruptions, 0);
    assert.deepEqual([read(path, 0), read(path, MIB)], [bytes(1), bytes(0)]);
  });
});

Deno.test("raw: what others have written is made durable, also where a flush came in between", () => {
  onDisk((path) => {
    Deno.truncateSync(path, 0);
    Deno.truncateSync(path, MIB);
    using image = openDisk(path, { lock: false, direct: true, format: "raw" });
    image.flush();
    const transfers = image.transfers!;
    assert.equal(transfers.beginSync(), false);
    transfers.beginWrite();
    assert.equal(transfers.beginSync(), true);
    transfers.endSync(0);
    transfers.endWrite(0, true);
    assert.equal(transfers.beginSync(), true);
    transfers.endSync(0);
    assert.equal(transfers.beginSync(), false);
  });
});
