import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { listenUnix, poll, PollEvent } from "../lib/host/mod.ts";
import { buildInitramfs, moduleEntries, tryFetchGuest } from "../scripts/guest/mod.ts";
import { DeviceProcess } from "./support/device_process.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { StorageDaemon, WITHOUT_STORAGE_DAEMON } from "./support/storage_daemon.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { sectorReader } from "./support/virtio_guest.ts";
import { VmBench } from "./support/vm_bench.ts";

const guest = await tryFetchGuest();
const MIB = 1024 * 1024;

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  if (WITHOUT_STORAGE_DAEMON !== "") return "no qemu-storage-daemon";
  return engine.emulated ? "KVM is only emulated here" : undefined;
}

function md5(bytes: Uint8Array): string {
  return createHash("md5").update(bytes).digest("hex");
}

function run(command: string, ...args: string[]): void {
  const { success, stdout, stderr } = new Deno.Command(command, { args }).outputSync();
  const decoder = new TextDecoder();
  assert(success, `${command}: ${decoder.decode(stdout)}${decoder.decode(stderr)}`);
}

/** Loads the driver of disks again and again, then goes on from the first disk. */
const INIT = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
modprobe virtio_pci
modprobe virtio_blk
for turn in 1 2 3; do
  dd if=/dev/vdb bs=64k count=16 2>/dev/null | md5sum
  rmmod virtio_blk
  [ -e /dev/vdb ] && echo "vdb is still there"
  [ $turn = 2 ] && rmmod virtio_pci && modprobe virtio_pci
  modprobe virtio_blk
done
grep virtio /proc/interrupts
mkdir /disk
mount -t ext4 /dev/vda /disk
exec switch_root /disk /init
`;

/** Runs from the first disk. */
const ROOT_INIT = `#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox grep -q '/dev/vda / ext4' /proc/mounts && echo "root is on vda"
busybox dd if=/dev/zero bs=1024 count=3000 2>/dev/null | busybox tr '\\0' 'x' > /written
busybox dd if=/written of=/dev/vdb bs=100k seek=20 conv=fsync 2>/dev/null
busybox mount -o remount,ro /
busybox sync
echo "all done"
busybox poweroff -f
`;

engineTest(
  "virtio: a stock kernel boots from foreign back ends, whose driver is unloaded and loaded",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const busybox = await Deno.readFile(guest.busybox);
    const tree = bench.path("tree");
    for (const name of ["bin", "proc", "dev"]) {
      Deno.mkdirSync(`${tree}/${name}`, { recursive: true });
    }
    Deno.writeFileSync(`${tree}/bin/busybox`, busybox, { mode: 0o755 });
    Deno.writeTextFileSync(`${tree}/init`, ROOT_INIT, { mode: 0o755 });
    const root = bench.path("root.img");
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, root, "32M");
    const data = new Uint8Array(8 * MIB);
    for (let at = 0; at < data.length; at += 65536) {
      crypto.getRandomValues(data.subarray(at, at + 65536));
    }
    const disk = bench.file(data);

    const sockets = [bench.path("root.sock"), bench.path("disk.sock")];
    await using _daemon = await StorageDaemon.start([
      { image: root, socket: sockets[0]! },
      { image: disk, socket: sockets[1]!, queueCount: 2 },
    ]);
    const initramfs = await buildInitramfs({
      busybox: guest.busybox,
      script: "",
      entries: [
        ...await moduleEntries(guest, ["virtio_pci", "virtio_blk"]),
        { type: "file", path: "init", data: INIT, mode: 0o755 },
      ],
    });
    const result = await bench.run(Deno.readFileSync(guest.kernel), [
      ...["--cpus", "2", "--mem", "256", "--initrd", bench.file(initramfs), "--params", "quiet"],
      ...sockets.flatMap((socket) => ["--vhost-user", `type=block,socket=${socket}`]),
    ], { timeoutMs: 900_000 });
    assert.equal(result.code, 0, result.stderr + result.stdout);
    const sums = result.stdout.match(/^[0-9a-f]{32}\b/gm);
    assert.deepEqual(sums, Array(3).fill(md5(data.subarray(0, MIB))), result.stdout);
    assert.doesNotMatch(result.stdout, /still there|error|can't/);
    // One interrupt for each queue and one for each configuration.
    assert.match(result.stdout, /PCI-MSI \d+-edge +virtio1-req\.1/);
    assert.match(result.stdout, /root is on vda/);
    assert.match(result.stdout, /all done/);
    assert.doesNotMatch(result.stderr, /error|warn/i);
    run("e2fsck", "-f", "-n", root);
    const after = Deno.readFileSync(disk);
    const from = 20 * 100 * 1024;
    const length = 3000 * 1024;
    assert(after.subarray(from, from + length).every((byte) => byte === "x".charCodeAt(0)));
    assert.equal(md5(after.subarray(0, from)), md5(data.subarray(0, from)));
    await bench.checkClean();
  },
  { unless },
);

/** Reads and writes with several in flight, in rounds that it tells of. */
const ROUNDS = `modprobe virtio_pci
modprobe virtio_blk
echo "packed $(cut -c 35 /sys/block/vda/device/features)"
dd if=/bin/busybox of=/tmp/data bs=64k count=8 2>/dev/null
echo "sum $(md5sum < /tmp/data)"
round=0
while [ $round -lt 8 ]; do
  round=$((round + 1))
  echo "round $round"
  for job in 0 1 2 3; do
    dd if=/tmp/data of=/dev/vda bs=4k seek=$((job * 256)) conv=notrunc oflag=direct 2>/dev/null ||
      echo "write failed" &
  done
  wait
  for job in 0 1 2 3; do
    dd if=/dev/vda bs=4k skip=$((job * 256)) count=128 iflag=direct 2>/dev/null | md5sum &
  done
  wait
done
dmesg | grep -i -e 'I/O error' -e 'needs reset'
echo "all done"
`;

for (const layout of ["split", "packed"]) {
  engineTest(
    `virtio: back ends with ${layout} queues that are killed are followed by others, and a suspended VM's wait; nothing is lost`,
    async (engine) => {
      assert(typeof guest === "object");
      await using bench = new VmBench(engine);
      const disk = bench.file(new Uint8Array(8 * MIB));
      const socket = bench.path("disk.sock");
      const packed = layout === "packed" ? ",packed-queue" : "";
      const serve = () =>
        DeviceProcess.start("block", socket, ["--path", `${disk},format=raw${packed}`]);
      const initramfs = await buildInitramfs({
        busybox: guest.busybox,
        script: ROUNDS,
        entries: await moduleEntries(guest, ["virtio_pci", "virtio_blk"]),
      });
      let device = await serve();
      try {
        await using vm = await bench.start(Deno.readFileSync(guest.kernel), [
          ...["--mem", "256", "--initrd", bench.file(initramfs), "--params", "quiet"],
          ...[
            "--name",
            "vm",
            "--restart-devices",
            "--vhost-user",
            `type=block,socket=${socket}${packed}`,
          ],
        ]);
        for (const round of [2, 4]) {
          await vm.waitFor(`round ${round}`);
          await device.end("SIGKILL");
          device = await serve();
        }
        await vm.waitFor("round 6");
        assert.equal(await bench.request("vm", "SuspendVm"), "Ok");
        // Suspended, the device holds nothing: it may be killed, too.
        await device.end("SIGKILL");
        device = await serve();
        assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
        await vm.waitFor("round 7");
        for (let turn = 0; turn < 5; turn++) {
          assert.equal(await bench.request("vm", "SuspendVm"), "Ok");
          assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
        }
        const result = await vm.end({ timeoutMs: 900_000 });
        assert.equal(result.code, 0, result.stderr + result.stdout);
        const [, sum] = /^sum ([0-9a-f]{32})/m.exec(result.stdout) ?? [];
        const sums = result.stdout.match(/^[0-9a-f]{32}\b/gm);
        assert.deepEqual(sums, Array(32).fill(sum), result.stdout + result.stderr);
        assert.match(result.stdout, new RegExp(`packed ${packed === "" ? 0 : 1}\\s`));
        assert.match(result.stdout, /all done/);
        assert.doesNotMatch(result.stdout, /failed|error|needs reset/);
        const told = result.stderr.match(
          /block device .*disk\.sock ended \(.*\), starting it again/g,
        );
        assert.equal(told?.length, 3, result.stderr);
      } finally {
        await device.end("SIGKILL");
      }
      await bench.checkClean();
    },
    { unless },
  );
}

/** Unloads the driver between rounds of writing and reading, while the VM is suspended again and again. */
const PACKED = `modprobe virtio_pci
modprobe virtio_blk
for name in vda vdb vdc; do
  echo "$name packed $(cut -c 35 /sys/block/$name/device/features)"
done
dd if=/bin/busybox of=/tmp/data bs=64k count=8 2>/dev/null
echo "sum $(md5sum < /tmp/data)"
round=0
while [ $round -lt 8 ]; do
  round=$((round + 1))
  echo "round $round."
  for job in 0 1 2 3; do
    dd if=/tmp/data of=/dev/vda bs=4k seek=$((job * 256 + round * 32)) conv=notrunc oflag=direct \\
      2>/dev/null || echo "write failed" &
  done
  wait
  for job in 0 1 2 3; do
    dd if=/dev/vda bs=4k skip=$((job * 256 + round * 32)) count=128 iflag=direct 2>/dev/null | md5sum &
  done
  wait
  [ $((round % 3)) = 0 ] && rmmod virtio_blk && modprobe virtio_blk
done
dmesg | grep -i -e 'I/O error' -e 'needs reset'
echo "vda packed $(cut -c 35 /sys/block/vda/device/features)"
echo "all done"
`;

engineTest(
  "virtio: packed queues of foreign back ends where they are asked for, over suspensions and resets",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const disks = [0, 1, 2].map(() => bench.file(new Uint8Array(8 * MIB)));
    const sockets = ["a.sock", "b.sock", "c.sock"].map((name) => bench.path(name));
    const serve = (index: number) =>
      DeviceProcess.start("block", sockets[index]!, [
        ...["--path", `${disks[index]},format=raw,packed-queue`],
      ]);
    let device = await serve(0);
    try {
      await using _other = await serve(1);
      // It has none.
      await using _daemon = await StorageDaemon.start([{ image: disks[2]!, socket: sockets[2]! }]);
      const initramfs = await buildInitramfs({
        busybox: guest.busybox,
        script: PACKED,
        entries: await moduleEntries(guest, ["virtio_pci", "virtio_blk"]),
      });
      await using vm = await bench.start(Deno.readFileSync(guest.kernel), [
        ...["--mem", "256", "--initrd", bench.file(initramfs), "--params", "quiet"],
        ...["--name", "vm", "--restart-devices"],
        ...["--vhost-user", `type=block,socket=${sockets[0]},packed-queue,max-queue-size=16`],
        ...["--vhost-user", `type=block,socket=${sockets[1]}`],
        ...["--vhost-user", `type=block,socket=${sockets[2]},packed-queue`],
      ]);
      for (const round of [1, 2, 4, 7]) {
        await vm.waitFor(`round ${round}.`);
        for (let turn = 0; turn < 4; turn++) {
          assert.equal(await bench.request("vm", "SuspendVm"), "Ok");
          assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
        }
      }
      assert.equal(await bench.request("vm", "SuspendVm"), "Ok");
      // It has said where it stopped, so that another one can go on there.
      await device.end("SIGKILL");
      device = await serve(0);
      assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
      const { code, stdout, stderr } = await vm.end();
      assert.equal(code, 0, stderr + stdout);
      const told = stdout.match(/^vd. packed [01]/gm);
      assert.deepEqual(
        told,
        ["vda packed 1", "vdb packed 0", "vdc packed 0", "vda packed 1"],
        stdout,
      );
      assert.match(stdout, /all done/);
      const [, sum] = /^sum ([0-9a-f]{32})/m.exec(stdout) ?? [];
      assert.deepEqual(stdout.match(/^[0-9a-f]{32}\b/gm), Array(32).fill(sum), stdout + stderr);
      assert.doesNotMatch(stdout, /failed|error|needs reset/);
      assert.equal(stderr.match(/block device .* has no packed queues/g)?.length, 1, stderr);
      assert.match(stderr, /block device .*c\.sock: its back end has no packed queues/);
      assert.equal(stderr.match(/a\.sock ended \(.*\), starting it again/g)?.length, 1, stderr);
      const content = Deno.readFileSync(disks[0]!);
      const expected = Deno.readFileSync(guest.busybox).subarray(0, 512 * 1024);
      for (let job = 0; job < 4; job++) {
        const at = (job * 256 + 8 * 32) * 4096;
        assert.equal(md5(content.subarray(at, at + expected.length)), md5(expected));
      }
    } finally {
      await device.end("SIGKILL");
    }
    await bench.checkClean();
  },
  { unless },
);

engineTest(
  "virtio: a back end that dies ends the VM with status 1 and the reason",
  async (engine) => {
    await using bench = new VmBench(engine);
    const socket = bench.path("disk.sock");
    const options = ["--vhost-user", `type=block,socket=${socket}`, "--extended-status"];
    const missing = await bench.run(tinyKernels.sleep(), options);
    assert.equal(missing.code, 1);
    assert.match(missing.stderr, /block device .*disk\.sock.*cannot connect/);

    // One that does not answer holds nobody up.
    using listener = listenUnix(bench.path("silent.sock"), "stream");
    const silent = ["--vhost-user", `type=block,socket=${bench.path("silent.sock")}`];
    await using waiting = await bench.start(tinyKernels.sleep(), silent);
    await bench.until(
      "it is asked",
      () => poll([{ fd: listener.fd, events: PollEvent.In }], 0)[0] !== 0,
    );
    waiting.signal("SIGTERM");
    const ended = await waiting.end();
    assert.doesNotMatch(ended.stderr, /Uncaught|internal|within \d+ ms/);

    const disk = bench.file(new Uint8Array(MIB));
    await using device = await DeviceProcess.start("block", socket, [
      "--path",
      `${disk},format=raw`,
    ]);
    await using vm = await bench.start(tinyKernels.sleep(), options);
    await vm.waitFor("ready");
    await device.end("SIGKILL");
    const result = await vm.end();
    assert.equal(result.code, 1, result.stderr);
    assert.match(
      result.stderr,
      /^error machine: .*block device .*disk\.sock ended: it has closed the connection/m,
    );
    await bench.checkClean();
  },
);

engineTest("virtio: a socket that is given for two devices is refused", async (engine) => {
  await using bench = new VmBench(engine);
  const socket = bench.path("disk.sock");
  const link = bench.path("link.sock");
  Deno.symlinkSync(socket, link);
  using listener = listenUnix(socket, "stream");
  const run = (...devices: string[]) =>
    bench.run(tinyKernels.off(), devices.flatMap((device) => ["--vhost-user", device]));
  const twice = await run(`type=block,socket=${socket}`, `type=block,socket=${socket}`);
  assert.equal(twice.code, 1, twice.stderr);
  assert.match(
    twice.stderr,
    /--vhost-user type=block,socket=.*disk\.sock is given twice: expected a back end of its own/,
  );
  const aliased = await run(`type=block,socket=${socket}`, `type=net,socket=${link}`);
  assert.equal(aliased.code, 1, aliased.stderr);
  assert.match(
    aliased.stderr,
    /type=net,socket=.*link\.sock is the same socket as --vhost-user type=block,socket=.*disk\.sock:/,
  );
  assert.equal(poll([{ fd: listener.fd, events: PollEvent.In }], 0)[0], 0, "nobody has connected");
  await bench.checkClean();
});

/** Answers as a disk's back end until it is asked for its configuration, and then nothing any more. */
async function hangAtConfig(listener: Deno.Listener, onAsked: () => void): Promise<void> {
  // By request (vhost-user, "Front-end message types"): VERSION_1 and protocol features, CONFIG, one queue.
  const answers = new Map([[1, 1n << 32n | 1n << 30n], [15, 1n << 9n], [17, 1n]]);
  const GET_CONFIG = 24;
  using connection = await listener.accept();
  const read = async (length: number): Promise<Uint8Array<ArrayBuffer> | undefined> => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const count = await connection.read(bytes.subarray(at));
      if (count === null) return undefined;
      at += count;
    }
    return bytes;
  };
  for (let header; (header = await read(12)) !== undefined;) {
    const [request = 0, , size = 0] = new Uint32Array(header.buffer);
    await read(size);
    if (request === GET_CONFIG) onAsked();
    const answer = answers.get(request);
    if (answer === undefined) continue;
    const message = new DataView(new ArrayBuffer(20));
    for (const [index, word] of [request, 5, 8].entries()) message.setUint32(4 * index, word, true);
    message.setBigUint64(12, answer, true);
    await connection.write(new Uint8Array(message.buffer));
  }
}

engineTest(
  "virtio: a back end that hangs while it is asked what it has holds no end up",
  async (engine) => {
    await using bench = new VmBench(engine);
    const path = bench.path("hangs.sock");
    using listener = Deno.listen({ transport: "unix", path });
    const asked = Promise.withResolvers<void>();
    const served = hangAtConfig(listener, asked.resolve);
    const options = ["--vhost-user", `type=block,socket=${path}`];
    await using vm = await bench.start(tinyKernels.sleep(), options);
    await asked.promise;
    const beginMs = performance.now();
    vm.signal("SIGTERM");
    const { code, stderr } = await vm.end();
    assert.equal(code, 0, stderr);
    assert.ok(performance.now() - beginMs < 40_000, "before the time for an answer is over, 60 s");
    await served;
    await bench.checkClean();
  },
);

engineTest(
  "virtio: a notification reaches the back end, and its interrupt the guest",
  async (engine) => {
    await using bench = new VmBench(engine);
    const disk = new Uint8Array(MIB);
    new TextEncoder().encodeInto("the third sector\n", disk.subarray(1024));
    const socket = bench.path("disk.sock");
    await using _device = await DeviceProcess.start("block", socket, [
      ...["--path", `${bench.file(disk)},format=raw`],
    ]);
    const options = ["--vhost-user", `type=block,socket=${socket}`];
    for (let turn = 0; turn < 3; turn++) {
      const result = await bench.run(sectorReader(2), options);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(result.stdout, "interrupted\nthe third sector\n");
    }
    await bench.checkClean();
  },
);
