import assert from "node:assert/strict";
import { MIB } from "../../base/mod.ts";
import { Errno, fdatasync, IoVector } from "../../host/mod.ts";
import { checkDisk, createQcow2, openDisk } from "../mod.ts";

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
