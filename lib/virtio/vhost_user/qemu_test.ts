/**
 * A real front end: a stock Linux guest in QEMU has a block device that our back end serves.
 */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  buildInitramfs,
  type CpioEntry,
  type Guest,
  tryFetchGuest,
} from "../../../scripts/guest/mod.ts";
import { MIB } from "../../base/mod.ts";
import { hasProgram, TestProgram } from "../testing/programs.ts";

const TIMEOUT_MS = 600_000;
const DISK_BYTES = 8 * MIB;
const MODULES = [
  "virtio/virtio_ring",
  "virtio/virtio",
  "virtio/virtio_pci_legacy_dev",
  "virtio/virtio_pci_modern_dev",
  "virtio/virtio_pci",
  "block/virtio_blk",
];
const LOAD_MODULES = `
for module in ${MODULES.map((path) => path.split("/")[1]).join(" ")}; do
  insmod /lib/$module.ko || echo "insmod $module failed"
done
`;
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

const guest = await tryFetchGuest();
const lack = typeof guest === "string"
  ? guest
  : hasProgram("qemu-system-x86_64")
  ? undefined
  : "no qemu-system-x86_64";
const skipped = lack === undefined ? "" : ` (skipped: ${lack})`;

async function moduleEntries(folder: string): Promise<CpioEntry[]> {
  const files = MODULES.map(async (path): Promise<CpioEntry> => ({
    type: "file",
    path: `lib/${path.split("/")[1]}.ko`,
    data: await readFile(join(folder, "kernel/drivers", `${path}.ko`)),
  }));
  return [{ type: "directory", path: "lib" }, ...await Promise.all(files)];
}

async function md5(bytes: Uint8Array): Promise<string> {
  const { createHash } = await import("node:crypto");
  return createHash("md5").update(bytes).digest("hex");
}

/** Runs a guest with a disk that is served at `socket`; the result is what it said. */
async function runGuest(
  guest: Guest,
  options: {
    readonly folder: string;
    readonly socket: string;
    readonly script: string;
    readonly chardev?: string;
    /** Called once when the guest says "begin". */
    readonly onBegin?: () => Promise<void>;
  },
): Promise<{ console: string; complaints: string }> {
  const { folder, socket, script, chardev = "", onBegin } = options;
  const initrd = join(folder, "initrd");
  const entries = await moduleEntries(guest.modules);
  const initramfs = await buildInitramfs({
    busybox: guest.busybox,
    script: LOAD_MODULES + script,
    entries,
  });
  await Deno.writeFile(initrd, initramfs);
  const qemu = new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-M", "pc,memory-backend=ram", "-accel", "tcg", "-smp", "2", "-m", "256"],
      ...["-object", "memory-backend-memfd,id=ram,size=256M,share=on"],
      ...["-kernel", guest.kernel, "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet"],
      ...["-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot"],
      ...["-chardev", `socket,id=blk,path=${socket}${chardev}`],
      ...["-device", `vhost-user-blk-pci,chardev=blk,num-queues=2`],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).spawn();
  const complaints = new Response(qemu.stderr).text();
  let console = "";
  let begun: Promise<void> | undefined;
  for await (const text of qemu.stdout.pipeThrough(new TextDecoderStream())) {
    console += text;
    if (onBegin !== undefined && console.includes("begin")) begun ??= onBegin();
  }
  await begun;
  await qemu.status;
  return { console, complaints: await complaints };
}

/** What the disk should be after each step of {@link READ_AND_WRITE}. */
async function expectedSums(disk: Uint8Array, busybox: Uint8Array): Promise<string[]> {
  const sums = [await md5(disk)];
  disk.set(busybox.subarray(0, 200 * 4096), 16 * 4096);
  const written = await md5(disk);
  sums.push(written, written);
  disk.fill(0, 16 * 65536, 80 * 65536);
  return [...sums, await md5(disk)];
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
      const run = await runGuest(guest, { folder, socket, script: READ_AND_WRITE });
      const { console, complaints } = run;
      const sums = [...console.matchAll(/(?:first|second|third|fourth) ([0-9a-f]{32})/g)];
      const expected = await expectedSums(disk, await readFile(guest.busybox));
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
      const { console, complaints } = await runGuest(guest, {
        folder,
        socket,
        script: WRITE_IN_PARTS,
        chardev: ",reconnect=1",
        async onBegin() {
          await program.said("stuck");
          await program.kill();
          await Deno.remove(socket);
          program = await TestProgram.start("block_backend", args);
          restarts++;
        },
      });
      await program.kill();
      const busybox = await readFile(guest.busybox);
      for (const part of [0, 1, 2, 3]) {
        disk.set(busybox.subarray(0, PAGES * 4096), part * 512 * 4096);
      }
      assert.equal(restarts, 1);
      const sum = /end ([0-9a-f]{32})/.exec(console)?.[1];
      assert.equal(sum, await md5(disk), console + complaints);
      assert.deepEqual(await Deno.readFile(path), disk);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
