/**
 * A real front end: a stock Linux guest in QEMU has a block device that our back end serves.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  md5,
  QEMU_GUEST as guest,
  runQemuGuest,
  WITHOUT_QEMU_GUEST as skipped,
} from "../../../tests/support/qemu_guest.ts";
import { MIB } from "../../base/mod.ts";
import { TestProgram } from "../testing/programs.ts";

const DISK_BYTES = 8 * MIB;
const DEVICE = ",num-queues=2";
const READ_AND_WRITE = `
echo size $(cat /sys/block/vda/size)
echo first $(md5sum </dev/vda)
dd if=/bin/busybox of=/dev/vda bs=4k seek=16 count=200 conv=fsync 2>/dev/null
echo second $(md5sum </dev/vda)
rmmod virtio_blk && insmod /lib/virtio_blk.ko
echo third $(md5sum </dev/vda)
for job in 1 2 3 4; do
  dd if=/dev/zero of=/dev/vda bs=64k seek=$((job * 16)) count=16 oflag=direct 2>/dev/null &
done
wait
echo fourth $(md5sum </dev/vda)
`;
/** Where the third part of {@link WRITE_IN_PARTS} hangs with the first back end. */
const STUCK_SECTOR = (2 * 512 + 5) * 8;
const PAGES = 40;
const WRITE_IN_PARTS = `
write_part() {
  for page in $(seq 0 ${PAGES - 1}); do
    dd if=/bin/busybox of=/dev/vda bs=4k skip=$page seek=$(($1 * 512 + page)) count=1 \\
      conv=fsync 2>/dev/null
  done
}
echo begin
for part in 0 1 2 3; do
  write_part $part &
done
wait
echo end $(md5sum </dev/vda)
`;

/** What the disk should be after each step of {@link READ_AND_WRITE}. */
function expectedSums(disk: Uint8Array, busybox: Uint8Array): string[] {
  const sums = [md5(disk)];
  disk.set(busybox.subarray(0, 200 * 4096), 16 * 4096);
  const written = md5(disk);
  sums.push(written, written);
  disk.fill(0, 16 * 65536, 80 * 65536);
  return [...sums, md5(disk)];
}

Deno.test({
  name: `QEMU's front end reads and writes a disk of our back end${skipped}`,
  ignore: skipped !== "",
  async fn() {
    if (typeof guest === "string") return;
    const folder = await Deno.makeTempDir({ prefix: "vmctl-vhost-user-" });
    try {
      const disk = new Uint8Array(DISK_BYTES).map((_, index) => (index * 31 >>> 7) & 0xff);
      const path = join(folder, "disk");
      await Deno.writeFile(path, disk);
      const socket = join(folder, "socket");
      const args = [socket, "--disk", path, "--queues", "2"];
      await using _program = await TestProgram.start("block_backend", args);
      const { console, complaints } = await runQemuGuest(guest, {
        folder,
        sockets: [socket],
        device: DEVICE,
        script: READ_AND_WRITE,
      });
      const sums = [...console.matchAll(/(?:first|second|third|fourth) ([0-9a-f]{32})/g)];
      const expected = expectedSums(disk, await readFile(guest.busybox));
      assert.deepEqual(sums.map((sum) => sum[1]), expected, console + complaints);
      assert.match(console, new RegExp(`size ${DISK_BYTES / 512}\\b`));
      assert.deepEqual(await Deno.readFile(path), disk, "what the guest wrote is in the file");
      assert.equal(complaints, "");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test({
  name: `a guest in QEMU loses no request when our back end is killed and restarted${skipped}`,
  ignore: skipped !== "",
  async fn() {
    if (typeof guest === "string") return;
    const folder = await Deno.makeTempDir({ prefix: "vmctl-vhost-user-" });
    try {
      const disk = new Uint8Array(DISK_BYTES);
      const path = join(folder, "disk");
      await Deno.writeFile(path, disk);
      const socket = join(folder, "socket");
      const args = [socket, "--disk", path, "--queues", "2"];
      let program = await TestProgram.start("block_backend", [
        ...[...args, "--stuck-sector", String(STUCK_SECTOR)],
      ]);
      let restarts = 0;
      const { console, complaints } = await runQemuGuest(guest, {
        folder,
        sockets: [socket],
        device: DEVICE,
        script: WRITE_IN_PARTS,
        chardev: ",reconnect=1",
        on: {
          async begin() {
            await program.said("stuck");
            await program.kill();
            await Deno.remove(socket);
            program = await TestProgram.start("block_backend", args);
            restarts++;
          },
        },
      });
      await program.kill();
      const busybox = await readFile(guest.busybox);
      for (const part of [0, 1, 2, 3]) {
        disk.set(busybox.subarray(0, PAGES * 4096), part * 512 * 4096);
      }
      assert.equal(restarts, 1, console + complaints);
      const sum = /end ([0-9a-f]{32})/.exec(console)?.[1];
      assert.equal(sum, md5(disk), console + complaints);
      assert.deepEqual(await Deno.readFile(path), disk);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
