/** `vmctl device block` as a program: QEMU as the front end, and what it takes and refuses. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { MIB } from "../lib/base/mod.ts";
import { RequestType } from "../lib/devices/block/protocol.ts";
import { DeviceProcess } from "./support/device_process.ts";
import { assertClean, qemuImg, TemporaryFolder } from "./support/disk.ts";
import { DiskDriver } from "./support/disk_driver.ts";
import { runVmctl } from "./support/vmctl.ts";
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
echo ${name} packed $(cut -c 35 $sys/device/features)
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
      DeviceProcess.start("block", sockets[1]!, [
        "--path",
        `${qcow2},block-size=4096,packed-queue`,
      ]),
      DeviceProcess.start("block", sockets[2]!, ["--path", `${fixed},ro,sparse=false`]),
    ]);
    try {
      const { console, complaints } = await runQemuGuest(QEMU_GUEST, {
        folder: folder.path,
        sockets,
        device: ",num-queues=2,packed=on",
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
      assert.equal(said(console, "vda packed (.)"), "0");
      assert.equal(said(console, "vdb packed (.)"), "1");
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

/** A boot sector that prints what the next sector holds, up to a zero, on COM1, and powers off. */
const BOOT_SECTOR: readonly number[] = [
  ...[0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0], // xor ax, ax; mov ds, ax; mov es, ax
  ...[0xbe, 0x23, 0x7c, 0xb4, 0x42, 0xcd, 0x13], // mov si, packet; mov ah, 0x42; int 0x13
  ...[0xbe, 0x00, 0x80, 0xba, 0xf8, 0x03], // mov si, 0x8000; mov dx, 0x3f8
  ...[0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8], // l: lodsb; test al, al; jz e; out dx, al; jmp l
  ...[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4], // e: mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt
  ...[16, 0, 1, 0, 0x00, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], // packet: one sector, 0:0x8000, the second
];

Deno.test({
  name: `QEMU's firmware boots from a disk of vmctl device block${WITHOUT_QEMU_GUEST}`,
  ignore,
  async fn() {
    using folder = new TemporaryFolder();
    const disk = new Uint8Array(MIB);
    disk.set(BOOT_SECTOR);
    disk.set([0x55, 0xaa], 510);
    disk.set(new TextEncoder().encode("from the second sector"), 512);
    const raw = folder.file("raw");
    await Deno.writeFile(raw, disk);
    const qcow2 = folder.file("qcow2");
    qemuImg("convert", "-f", "raw", "-O", "qcow2", raw, qcow2);
    const socket = folder.file("socket");
    await using _device = await DeviceProcess.start("block", socket, ["--path", `${qcow2},ro`]);
    const { code, stdout, stderr } = await runVmctl([
      ...["-M", "pc,memory-backend=ram", "-m", "64M", "-nodefaults", "-display", "none"],
      ...["-object", "memory-backend-memfd,id=ram,size=64M,share=on"],
      ...["-chardev", `socket,id=disk,path=${socket}`, "-serial", "stdio", "-no-reboot"],
      ...["-device", "vhost-user-blk-pci,chardev=disk,bootindex=0"],
    ], { program: "qemu-system-x86_64" });
    assert.deepEqual([code, stdout], [0, "from the second sector"], stderr);
  },
});

/** Runs `vmctl device block` to its end, which is to be soon. */
async function refused(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runVmctl(["device", "block", ...args], {
    timeoutMs: 120_000,
  });
  assert.deepEqual([code, stdout], [1, ""], stderr);
  return stderr;
}

Deno.test("a disk that another uses is refused by name, one that is only read is shared", async () => {
  using folder = new TemporaryFolder();
  const path = folder.file("disk");
  await Deno.writeFile(path, new Uint8Array(MIB));
  const socket = (name: string) => folder.file(`${name}.sock`);
  await using _first = await DeviceProcess.start("block", socket("first"), ["--path", path]);
  for (const options of ["", ",ro"]) {
    const said = await refused("--socket-path", socket("second"), "--path", path + options);
    assert.match(said, /\/disk: expected to lock it for (reading|writing), but another program/);
  }
  // Whoever knows better may.
  await using third = await DeviceProcess.start("block", socket("third"), [
    ...["--path", `${path},ro,lock=false`],
  ]);
  await third.end("SIGTERM");

  const shared = folder.file("shared");
  await Deno.writeFile(shared, new Uint8Array(MIB));
  const read = ["--path", `${shared},ro`];
  await using _fourth = await DeviceProcess.start("block", socket("fourth"), read);
  await using _fifth = await DeviceProcess.start("block", socket("fifth"), read);
  assert.match(
    await refused("--socket-path", socket("x"), "--path", shared),
    /lock it for writing/,
  );
});

Deno.test("a socket where another device listens is left alone, a dead one is replaced", async () => {
  using folder = new TemporaryFolder();
  const socket = folder.file("socket");
  const start = (name: string) => {
    Deno.writeFileSync(folder.file(name), new Uint8Array(MIB));
    return DeviceProcess.start("block", socket, ["--path", folder.file(name)]);
  };
  await using first = await start("a");
  await Deno.writeFile(folder.file("b"), new Uint8Array(MIB));
  const said = await refused("--socket-path", socket, "--path", folder.file("b"));
  assert.match(said, /socket: cannot listen for front ends: another process listens there/);
  await first.end("SIGKILL");
  assert.ok((await Deno.lstat(socket)).isSocket, "it is left over");
  await using second = await start("c");
  const { status } = await second.end("SIGINT");
  assert.equal(status.code, 0);
  await assert.rejects(Deno.lstat(socket), Deno.errors.NotFound);

  // Whoever mixes the two up keeps the disk.
  const file = folder.file("b");
  assert.match(
    await refused("--socket-path", file, "--path", folder.file("c")),
    /\/b: cannot listen for front ends: something else than a socket is there; it stays/,
  );
  assert.equal((await Deno.lstat(file)).size, MIB);
});

Deno.test("a disk can be an inherited descriptor, and what cannot be a disk is told", async () => {
  using folder = new TemporaryFolder();
  const path = folder.file("disk");
  const socket = folder.file("socket");
  await Deno.writeFile(path, new Uint8Array(MIB).fill(7));
  const within = ["sh", "-c", `exec "$@" 5<>${path}`, "sh"];
  await using device = await DeviceProcess.start(
    "block",
    socket,
    ["--path", "/proc/self/fd/5,format=raw"],
    within,
  );
  using driver = await DiskDriver.connect(socket);
  const answer = await driver.request({ type: RequestType.In, sector: 8, length: 512 });
  assert.deepEqual(answer, { status: 0, data: new Uint8Array(512).fill(7) });
  await device.end("SIGTERM");

  await Deno.writeFile(folder.file("odd"), new Uint8Array(1000));
  await using odd = await DeviceProcess.start("block", socket, ["--path", folder.file("odd")]);
  const { complaints } = await odd.end("SIGTERM");
  assert.match(complaints, /odd has 1000 bytes, .* 512: the guest does not see the last 488/);

  const at = ["--socket-path", socket];
  assert.match(await refused(...at, "--path", "/proc/self/fd/77"), /descriptor/);
  assert.match(await refused(...at, "--path", folder.file("none")), /no such file/i);
  assert.match(await refused(...at, "--path", folder.path), /folder|directory/i);
  assert.match(await refused(...at, "--path", `${path},block-size=1000`), /power of two, got 1000/);
  assert.match(await refused(...at), /expected --path IMAGE, got none/);
  assert.match(
    await refused("--fd", "0", "--path", path),
    /--fd 0: expected a connected socket, got a (character device|pipe|file)/,
  );
  assert.match(await refused("--path", path), /expected one of --socket-path and --fd/);
  assert.match(await refused(...at, "--settings", "{", "--path", path), /got both/);
});
