/** `vmctl device block` with QEMU as the front end: a stock Linux guest uses our disks. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { MIB } from "../lib/base/mod.ts";
import { DeviceProcess } from "./support/device_process.ts";
import { assertClean, qemuImg, TemporaryFolder } from "./support/disk.ts";
import { md5, QEMU_GUEST, runQemuGuest, WITHOUT_QEMU_GUEST } from "./support/qemu_guest.ts";

const DISK_BYTES = 8 * MIB;
const ignore = WITHOUT_QEMU_GUEST !== "";

/** What the guest tells of a disk, and does to it. */
function useDisk(name: string): string {
  return `
disk=/dev/${name}; sys=/sys/block/${name}
echo ${name} size $(cat $sys/size)
echo ${name} first $(md5sum <$disk)
dd if=/bin/busybox of=$disk bs=4k seek=16 count=200 conv=fsync 2>/dev/null
echo ${name} second $(md5sum <$disk)
for job in 1 2 3 4; do
  dd if=/dev/zero of=$disk bs=64k seek=$((job * 16)) count=16 oflag=direct 2>/dev/null &
done
wait
sync
echo ${name} third $(md5sum <$disk)
echo ${name} serial $(cat $sys/serial) ro $(cat $sys/ro)
echo ${name} discard $(cat $sys/queue/discard_max_bytes) zero $(cat $sys/queue/write_zeroes_max_bytes)
echo ${name} block $(cat $sys/queue/logical_block_size) cache $(cat $sys/queue/write_cache)
`;
}

/** The sums of the disk after each step of {@link useDisk}. */
async function expectedSums(disk: Uint8Array, busybox: string): Promise<string[]> {
  const sums = [md5(disk)];
  disk.set((await readFile(busybox)).subarray(0, 200 * 4096), 16 * 4096);
  sums.push(md5(disk));
  disk.fill(0, 16 * 65536, 80 * 65536);
  return [...sums, md5(disk)];
}

function said(console: string, pattern: string): string {
  const found = new RegExp(pattern).exec(console)?.[1];
  assert.ok(found !== undefined, `no ${pattern} in ${console}`);
  return found;
}

Deno.test({
  name:
    `a guest in QEMU uses raw, qcow2 and read-only disks of vmctl device block${WITHOUT_QEMU_GUEST}`,
  ignore,
  async fn() {
    if (typeof QEMU_GUEST === "string") return;
    using folder = new TemporaryFolder();
    const disk = new Uint8Array(DISK_BYTES).map((_, index) => (index * 31 >>> 7) & 0xff);
    const raw = folder.file("raw");
    await Deno.writeFile(raw, disk);
    const qcow2 = folder.file("qcow2");
    qemuImg("convert", "-f", "raw", "-O", "qcow2", "-c", raw, qcow2);
    const fixed = folder.file("fixed");
    await Deno.writeFile(fixed, disk);
    const sockets = ["raw", "qcow2", "fixed"].map((name) => folder.file(`${name}.sock`));
    const devices = await Promise.all([
      DeviceProcess.start("block", sockets[0]!, ["--path", `${raw},format=raw,id=first disk`]),
      DeviceProcess.start("block", sockets[1]!, ["--path", `${qcow2},block-size=4096`]),
      DeviceProcess.start("block", sockets[2]!, ["--path", `${fixed},ro,sparse=false`]),
    ]);
    try {
      const { console, complaints } = await runQemuGuest(QEMU_GUEST, {
        folder: folder.path,
        sockets,
        device: ",num-queues=2",
        script: ["vda", "vdb", "vdc"].map(useDisk).join(""),
      });
      assert.equal(complaints, "", console);
      const sums = await expectedSums(disk.slice(), QEMU_GUEST.busybox);
      for (const name of ["vda", "vdb"]) {
        assert.equal(said(console, `${name} size (\\d+)`), String(DISK_BYTES / 512));
        const found = ["first", "second", "third"]
          .map((step) => said(console, `${name} ${step} ([0-9a-f]+)`));
        assert.deepEqual(found, sums, console);
      }
      assert.equal(said(console, "vdc third ([0-9a-f]+)"), sums[0], "nothing is written to it");
      assert.equal(said(console, "vda serial (.*?)\\r?\\n"), "first disk ro 0");
      assert.equal(said(console, "vdc serial +(.*?)\\r?\\n"), "ro 1");
      assert.equal(said(console, "vda discard (.*?)\\r?\\n"), `${2 ** 31} zero ${2 ** 26}`);
      assert.equal(said(console, "vdb block (.*?)\\r?\\n"), "4096 cache write back");
      assert.equal(said(console, "vdc discard (.*?)\\r?\\n"), "0 zero 0");
      for (const device of devices) {
        const { status, complaints } = await device.end("SIGTERM");
        assert.deepEqual([status.code, complaints], [0, ""]);
      }
      assert.equal(md5(await Deno.readFile(raw)), sums[2]);
      assertClean(qcow2);
      qemuImg("compare", "-f", "raw", "-F", "qcow2", raw, qcow2);
      for (const socket of sockets) await assert.rejects(Deno.lstat(socket), Deno.errors.NotFound);
    } finally {
      for (const device of devices) await device.end("SIGKILL");
    }
  },
});
