/** Disks whose device or whose whole VM was killed, and disks of a host that is full. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { KIB, MIB } from "../lib/base/mod.ts";
import { openDisk } from "../lib/disk/mod.ts";
import { RequestStatus, RequestType } from "../lib/devices/block/protocol.ts";
import { DeviceProcess } from "./support/device_process.ts";
import {
  HAS_QEMU_IMG,
  qemuCheck,
  qemuImg,
  Random,
  readAll,
  run,
  TemporaryFolder,
} from "./support/disk.ts";
import { DiskDriver } from "./support/disk_driver.ts";
import { md5, QEMU_GUEST, runQemuGuest, WITHOUT_QEMU_GUEST } from "./support/qemu_guest.ts";

const BLOCK_BYTES = 4 * KIB;
const SECTORS_PER_BLOCK = 8;
const BLOCKS = 1024;
const WRITERS = 8;

/** What each block of a disk may hold: its content as of the last flush, or anything written since. */
class Expectation {
  readonly #possible = Array.from({ length: BLOCKS }, () => [0]);
  #stamp = 0;

  /** A write of `block` begins; the result is what to write. */
  begin(block: number): Uint8Array {
    const stamp = ++this.#stamp;
    this.#possible[block]!.push(stamp);
    return blockOf(stamp);
  }

  /** What must not be lost once a flush is done that begins now. */
  snapshot(busy: ReadonlySet<number>): readonly number[] {
    // A block that is being written to can be made sure of by the next flush.
    return this.#possible.map((stamps, block) => busy.has(block) ? 0 : stamps.at(-1)!);
  }

  /** The flush is done. */
  flushed(snapshot: readonly number[]): void {
    snapshot.forEach((stamp, block) => {
      const stamps = this.#possible[block]!;
      const at = stamps.indexOf(stamp);
      if (stamp !== 0 && at > 0) stamps.splice(0, at);
    });
  }

  /** Compares a disk, which is what counts from now on. */
  check(content: Uint8Array): void {
    this.#possible.forEach((stamps, block) => {
      const bytes = content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      const stamp = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
      assert.ok(stamps.includes(stamp), `block ${block} holds ${stamp}, expected one of ${stamps}`);
      assert.deepEqual(bytes, blockOf(stamp), `block ${block}`);
      this.#possible[block] = [stamp];
    });
  }
}

function blockOf(stamp: number): Uint8Array {
  return new Uint8Array(new Uint32Array(BLOCK_BYTES / 4).fill(stamp).buffer);
}

/** Writes and flushes until the device dies, which happens after `writes` writes. */
async function writeUntilDeath(
  driver: DiskDriver,
  expectation: Expectation,
  options: { readonly random: Random; readonly writes: number; readonly kill: () => void },
): Promise<void> {
  const { random, writes, kill } = options;
  const busy = new Set<number>();
  let done = 0;
  const writer = async () => {
    for (;;) {
      const block = random.next(BLOCKS);
      if (busy.has(block)) continue;
      busy.add(block);
      const data = expectation.begin(block);
      const sector = block * SECTORS_PER_BLOCK;
      const answer = await driver.request({ type: RequestType.Out, sector, data });
      if (answer === undefined) return;
      assert.equal(answer.status, RequestStatus.Ok);
      busy.delete(block);
      if (++done === writes) kill();
    }
  };
  const flusher = async () => {
    for (;;) {
      const snapshot = expectation.snapshot(busy);
      const answer = await driver.request({ type: RequestType.Flush, sector: 0 });
      if (answer === undefined) return;
      assert.equal(answer.status, RequestStatus.Ok);
      expectation.flushed(snapshot);
    }
  };
  await Promise.all([flusher(), ...Array.from({ length: WRITERS }, writer)]);
}

const KINDS = [["raw", ""], ["raw", ",direct"], ["qcow2", ""], ["qcow2", ",direct"]] as const;

for (const [format, options] of KINDS) {
  const skipped = format === "qcow2" && !HAS_QEMU_IMG ? " (skipped: no qemu-img)" : "";
  Deno.test({
    name: `a device that is killed loses nothing that was flushed (${format}${options})${skipped}`,
    ignore: skipped !== "",
    async fn() {
      using folder = new TemporaryFolder();
      const path = folder.file("disk");
      if (format === "qcow2") {
        // Small clusters: most writes make new ones, several at a time.
        const clusters = ["-o", "cluster_size=8192"];
        qemuImg("create", "-f", "qcow2", ...clusters, path, `${BLOCKS * BLOCK_BYTES}`);
      } else {
        await Deno.writeFile(path, new Uint8Array(0));
        await Deno.truncate(path, BLOCKS * BLOCK_BYTES);
      }
      const expectation = new Expectation();
      const random = new Random(format.length + options.length);
      const socket = folder.file("socket");
      for (let round = 0; round < 4; round++) {
        await using device = await DeviceProcess.start("block", socket, [
          ...["--path", `${path},format=${format}${options}`],
        ]);
        using driver = await DiskDriver.connect(socket);
        const kill = () => device.child.kill("SIGKILL");
        await writeUntilDeath(driver, expectation, {
          random,
          writes: 200 + random.next(800),
          kill,
        });
        await device.child.status;
        if (format === "qcow2") assert.equal(qemuCheck(path).corruptions, 0);
        using image = openDisk(path, { readOnly: true, format });
        expectation.check(readAll(image));
      }
    },
  });
}

/** What a test of a guest in QEMU has. */
interface GuestTest {
  readonly guest: Exclude<typeof QEMU_GUEST, string>;
  readonly folder: TemporaryFolder;
  /** Of the disk, which is not there yet. */
  readonly path: string;
  /** Of the device. */
  readonly socket: string;
}

function guestTest(name: string, fn: (test: GuestTest) => Promise<void>): void {
  Deno.test({
    name: `${name}${WITHOUT_QEMU_GUEST}`,
    ignore: WITHOUT_QEMU_GUEST !== "",
    async fn() {
      if (typeof QEMU_GUEST === "string") return;
      using folder = new TemporaryFolder();
      const [path, socket] = [folder.file("disk"), folder.file("socket")];
      await fn({ guest: QEMU_GUEST, folder, path, socket });
    },
  });
}

const WRITE_AND_SYNC = `
for i in $(seq 0 500); do
  dd if=/bin/busybox of=/dev/vda bs=4k skip=$i seek=$((i * 37 % 2000)) count=1 conv=fsync 2>/dev/null
  echo synced $i.
done
`;

guestTest(
  "a VM that is killed with its disk loses nothing that was synced",
  async ({ guest, folder, path, socket }) => {
    qemuImg("create", "-f", "qcow2", path, "8M");
    await using device = await DeviceProcess.start("block", socket, ["--path", path]);
    const { console } = await runQemuGuest(guest, {
      folder: folder.path,
      sockets: [socket],
      script: WRITE_AND_SYNC,
      on: {
        "synced 60.": (qemu) => {
          device.child.kill("SIGKILL");
          qemu.kill("SIGKILL");
        },
      },
    });
    await device.child.status;
    const synced = [...console.matchAll(/synced (\d+)\./g)].map((match) => Number(match[1]));
    assert.ok(synced.length > 60, console);
    assert.equal(qemuCheck(path).corruptions, 0);
    const busybox = await readFile(guest.busybox);
    using image = openDisk(path, { readOnly: true });
    const content = readAll(image);
    for (const index of synced) {
      const at = index * 37 % 2000 * BLOCK_BYTES;
      assert.deepEqual(
        content.subarray(at, at + BLOCK_BYTES),
        new Uint8Array(busybox.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES)),
        `block ${index}`,
      );
    }
  },
);

const PARTS = 4;
const PAGES = 60;
const WRITE_IN_PARTS = `
echo packed $(cut -c 35 /sys/block/vda/device/features)
write_part() {
  for page in $(seq 0 ${PAGES - 1}); do
    dd if=/bin/busybox of=/dev/vda bs=4k skip=$page seek=$(($1 * 512 + page)) count=1 \\
      oflag=direct 2>/dev/null
    echo part $1 page $page.
  done
}
for part in $(seq 0 ${PARTS - 1}); do
  write_part $part &
done
wait
echo end $(md5sum </dev/vda)
`;

for (const layout of ["split", "packed"]) {
  guestTest(
    `a guest in QEMU does not notice that its disk's device is killed and restarted (${layout})`,
    async ({ guest, folder, path, socket }) => {
      const disk = new Uint8Array(8 * MIB);
      await Deno.writeFile(path, disk);
      const start = () =>
        DeviceProcess.start("block", socket, ["--path", `${path},format=raw,direct,packed-queue`]);
      let device = await start();
      let restarts = 0;
      const restart = async () => {
        await device.end("SIGKILL");
        device = await start();
        restarts++;
      };
      try {
        const { console, complaints } = await runQemuGuest(guest, {
          folder: folder.path,
          sockets: [socket],
          chardev: ",reconnect=1",
          device: `,num-queues=2,packed=${layout === "packed" ? "on" : "off"}`,
          script: WRITE_IN_PARTS,
          on: { "part 0 page 10.": restart },
        });
        const busybox = await readFile(guest.busybox);
        for (let part = 0; part < PARTS; part++) {
          disk.set(busybox.subarray(0, PAGES * BLOCK_BYTES), part * 512 * BLOCK_BYTES);
        }
        assert.equal(restarts, 1);
        assert.equal(/packed (.)/.exec(console)?.[1], layout === "packed" ? "1" : "0", console);
        assert.equal(/end ([0-9a-f]{32})/.exec(console)?.[1], md5(disk), console + complaints);
        assert.equal(md5(await Deno.readFile(path)), md5(disk));
      } finally {
        await device.end("SIGKILL");
      }
    },
  );
}

const NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"];
const withoutNamespaces = run("unshare", ...NAMESPACE.slice(1), "true").code === 0
  ? ""
  : " (skipped: no user namespaces)";

for (const format of ["raw", "qcow2"] as const) {
  Deno.test({
    name: `a full host fails writes, not the disk (${format})${withoutNamespaces}`,
    ignore: withoutNamespaces !== "",
    async fn() {
      using folder = new TemporaryFolder();
      const small = folder.file("small");
      const socket = folder.file("socket");
      await Deno.mkdir(small);
      // The disk is larger than the file system that it is on.
      const create = format === "raw"
        ? "truncate -s 16M $0"
        : '"$1" create_qcow2 $0 16M >/dev/null';
      const script = `mount -t tmpfs -o size=4M none ${small} && ${create} && exec "$@"`;
      await using device = await DeviceProcess.start(
        "block",
        socket,
        ["--path", `${small}/disk,format=${format}`],
        [...NAMESPACE, "sh", "-c", script, `${small}/disk`],
      );
      using driver = await DiskDriver.connect(socket);
      const piece = 64 * KIB;
      const sectors = piece / 512;
      const data = new Uint8Array(piece);
      const statuses: (number | undefined)[] = [];
      for (let index = 0; index < 128; index++) {
        data.fill(index + 1);
        const sector = index * sectors;
        statuses.push((await driver.request({ type: RequestType.Out, sector, data }))?.status);
      }
      const good = statuses.filter((status) => status === RequestStatus.Ok).length;
      const failed = statuses.filter((status) => status === RequestStatus.IoError).length;
      assert.equal(good + failed, 128, "every write is answered");
      assert.ok(good > 32 && failed > 32, `${good} good, ${failed} failed`);
      // What was written is there, and what failed is not in the way of it.
      for (const [index, status] of statuses.entries()) {
        if (status !== RequestStatus.Ok) continue;
        const sector = index * sectors;
        const answer = await driver.request({ type: RequestType.In, sector, length: piece });
        assert.deepEqual(answer, { status: 0, data: data.fill(index + 1) });
      }
      // With room there is success again.
      const range = new DataView(new ArrayBuffer(16));
      range.setUint32(8, 16 * sectors, true);
      const discarded = await driver.request({
        type: RequestType.Discard,
        sector: 0,
        data: new Uint8Array(range.buffer),
      });
      assert.equal(discarded?.status, RequestStatus.Ok);
      assert.equal((await driver.request({ type: RequestType.Flush, sector: 0 }))?.status, 0);
      const again = await driver.request({ type: RequestType.Out, sector: 100 * sectors, data });
      assert.equal(again?.status, RequestStatus.Ok);
      const { complaints } = await device.end("SIGTERM");
      assert.match(complaints, /no space/i);
      assert.ok(complaints.split("\n").length < 20, complaints);
    },
  });
}
