/** Disks of a VM's own, in jails, in a stock guest. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { MIB } from "../lib/base/mod.ts";
import { buildInitramfs, moduleEntries, tryFetchGuest } from "../scripts/guest/mod.ts";
import { assertClean, HAS_QEMU_IMG, qemuImg } from "./support/disk.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { sectorReader } from "./support/virtio_guest.ts";
import { VmBench } from "./support/vm_bench.ts";

const guest = await tryFetchGuest();
const DISK_BYTES = 16 * MIB;
const BLOCK_BYTES = 4096;
const PARTS = 3;
const PAGES = 40;

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  if (!HAS_QEMU_IMG) return "no qemu-img";
  return engine.emulated ? "KVM is only emulated here" : undefined;
}

const SCRIPT = `
modprobe virtio_pci
modprobe virtio_blk
for name in vda vdb vdc; do
  sys=/sys/block/$name
  echo "$name size $(cat $sys/size) ro $(cat $sys/ro) serial $(cat $sys/serial)" \\
    "block $(cat $sys/queue/logical_block_size) packed $(cut -c 35 $sys/device/features)"
done
echo "vdb $(md5sum < /dev/vdb)"
dd if=/bin/busybox of=/dev/vdb bs=4k count=1 oflag=direct 2>/dev/null && echo "vdb was written"
size=$(cat /sys/block/vdc/size)
echo "ready to grow"
while [ $(cat /sys/block/vdc/size) = $size ]; do usleep 20000; done
echo "vdc has $(cat /sys/block/vdc/size)"
dd if=/bin/busybox of=/dev/vdc bs=4k seek=4500 count=8 conv=fsync 2>/dev/null
write_part() {
  for page in $(seq 0 ${PAGES - 1}); do
    dd if=/bin/busybox of=/dev/vda bs=4k skip=$page seek=$(($1 * 1024 + page * 17)) count=1 \\
      oflag=direct 2>/dev/null || echo "write failed"
    echo "part $1 page $page."
  done
}
for part in $(seq 0 ${PARTS - 1}); do write_part $part & done
wait
echo 3 > /proc/sys/vm/drop_caches
echo "vda $(md5sum < /dev/vda)"
`;

function md5(bytes: Uint8Array): string {
  return createHash("md5").update(bytes).digest("hex");
}

engineTest(
  "a guest's own disks: their options, a larger size at run time, a device that is killed",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const [qcow2, fixed, raw] = ["qcow2", "fixed", "raw"].map((name) => bench.path(name));
    qemuImg("create", "-f", "qcow2", qcow2!, String(DISK_BYTES));
    const content = new Uint8Array(DISK_BYTES).map((_, index) => (index * 31 >>> 7) & 0xff);
    await Deno.writeFile(fixed!, content);
    await Deno.writeFile(raw!, content);
    const initramfs = await buildInitramfs({
      busybox: guest.busybox,
      script: SCRIPT,
      entries: await moduleEntries(guest, ["virtio_pci", "virtio_blk"]),
    });
    await using vm = await bench.start(Deno.readFileSync(guest.kernel), [
      ...["--name", "vm", "--mem", "256", "--initrd", bench.file(initramfs), "--params", "quiet"],
      ...[
        "--block",
        `${qcow2},id=first`,
        "-b",
        `${fixed},ro,block-size=4096,format=raw,packed-queue`,
      ],
      ...["-b", `${raw},format=raw,direct,packed-queue`, "--restart-devices"],
    ]);
    await vm.waitFor("ready to grow");
    const sectors = DISK_BYTES / 512;
    for (
      const line of [
        `vda size ${sectors} ro 0 serial first block 512 packed 0`,
        `vdb size ${sectors} ro 1 serial  block 4096 packed 1`,
        `vdc size ${sectors} ro 0 serial  block 512 packed 1`,
        `vdb ${md5(content)}`,
      ]
    ) assert.ok(vm.stdout.includes(line), `${line}: ${vm.stdout}`);
    assert.doesNotMatch(vm.stdout, /vdb was written/);
    const resized = await bench.vmctl("disk", "resize", "2", "32M", "vm");
    assert.equal(resized.code, 0, resized.stderr);
    const refused = await bench.vmctl("disk", "resize", "1", "32M", "vm");
    assert.match(refused.stderr, /read-only/);
    const smaller = await bench.vmctl("disk", "resize", "2", "24M", "vm");
    assert.equal(smaller.code, 1, smaller.stderr);
    assert.match(smaller.stderr, /at least the 32 MiB \(33554432 bytes\) .* 24 MiB .*--shrink/);
    assert.equal(Deno.statSync(raw!).size, 2 * DISK_BYTES);
    for (const order of ["suspend", "resume"]) {
      const done = await bench.vmctl(order, "--full", "vm");
      assert.equal(done.code, 0, done.stderr);
    }
    await vm.waitFor("part 0 page 5.");
    const { devices } = await bench.state("vm");
    const first = devices.find(({ name }) => name === "block device vda");
    assert.ok(typeof first?.pid === "number", JSON.stringify(devices));
    Deno.kill(first.pid, "SIGKILL");
    const { code } = await vm.end();
    assert.equal(code, 0, vm.stderr);
    assert.match(vm.stdout, new RegExp(`vdc has ${2 * sectors}\\b`));
    assert.doesNotMatch(vm.stdout, /write failed/);
    assert.match(vm.stderr, /block device vda/);

    const busybox = await Deno.readFile(guest.busybox);
    const expected = new Uint8Array(DISK_BYTES);
    for (let part = 0; part < PARTS; part++) {
      for (let page = 0; page < PAGES; page++) {
        const from = busybox.subarray(page * BLOCK_BYTES, (page + 1) * BLOCK_BYTES);
        expected.set(from, (part * 1024 + page * 17) * BLOCK_BYTES);
      }
    }
    assert.ok(vm.stdout.includes(`vda ${md5(expected)}`), vm.stdout);
    assertClean(qcow2!);
    qemuImg("convert", "-f", "qcow2", "-O", "raw", qcow2!, bench.path("out"));
    assert.equal(md5(await Deno.readFile(bench.path("out"))), md5(expected));
    assert.deepEqual(await Deno.readFile(fixed!), content);
    const grown = await Deno.readFile(raw!);
    assert.equal(grown.length, 2 * DISK_BYTES);
    assert.deepEqual(
      grown.subarray(4500 * BLOCK_BYTES, 4508 * BLOCK_BYTES),
      busybox.subarray(0, 8 * BLOCK_BYTES),
    );
    await bench.checkClean();
  },
  { unless },
);

engineTest(
  "compressed clusters are expanded in a jail, and those that are damaged cost no device",
  async (engine) => {
    await using bench = new VmBench(engine);
    const bytes = new Uint8Array(4 * MIB).map((_, index) => (index * 31 >>> 7) & 0xff);
    const raw = bench.file(bytes);
    const sector = 4321;
    bytes.fill(0, sector * 512, (sector + 1) * 512);
    new TextEncoder().encodeInto("the sector", bytes.subarray(sector * 512));
    Deno.writeFileSync(raw, bytes);
    // The linker finds files that are no libraries, as on a host that has none.
    const withoutLibraries = { LD_LIBRARY_PATH: bench.path("empty") };
    Deno.mkdirSync(bench.path("empty"));
    for (const name of ["libz.so.1", "libzstd.so.1"]) {
      Deno.writeTextFileSync(join(bench.path("empty"), name), "");
    }
    const compressed = ["-O", "qcow2", "-c"];
    for (const options of ["compat=0.10", "compression_type=zlib", "compression_type=zstd"]) {
      const path = bench.path(options.replace("=", "-"));
      qemuImg("convert", "-f", "raw", ...compressed, "-o", options, raw, path);
      for (const over of [false, true]) {
        const overlay = `${path}-overlay`;
        if (over) qemuImg("create", "-f", "qcow2", "-F", "qcow2", "-b", path, overlay);
        const { code, stdout, stderr } = await bench.run(
          sectorReader(sector),
          ["-b", `${over ? overlay : path}`],
        );
        assert.equal(stdout, "interrupted\nthe sector", stderr);
        assert.equal(code, 0, stderr);
        assert.doesNotMatch(stderr, /expanded by the runtime/);
      }
      for (const [args, env] of [[["--disable-sandbox"], {}], [[], withoutLibraries]] as const) {
        const { code, stdout, stderr } = await bench.run(
          sectorReader(sector),
          [...args, "-b", path],
          { env },
        );
        assert.equal(stdout, "interrupted\nthe sector", stderr);
        assert.equal(code, 0, stderr);
        assert.equal(/expanded by the runtime/.test(stderr), env === withoutLibraries, stderr);
      }
      // Behind the tables, which come first.
      const image = Deno.readFileSync(path);
      image.fill(0xa5, 5 * 65536);
      Deno.writeFileSync(path, image);
      const { code, stdout, stderr } = await bench.run(sectorReader(sector), ["-b", path]);
      assert.equal(stdout, "interrupted\n", stderr);
      assert.match(stderr, /compressed cluster at \d+: expected/);
      assert.equal(code, 0, stderr);
    }
    await bench.checkClean();
  },
  { unless: () => HAS_QEMU_IMG ? undefined : "no qemu-img" },
);
