/** The devices of a VM's own, jailed as they are by default, in a stock guest. */

import assert from "node:assert/strict";
import { MIB } from "../lib/base/mod.ts";
import { buildInitramfs, moduleEntries, tryFetchGuest } from "../scripts/guest/mod.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { PtyProcess } from "./support/pty_process.ts";
import { VmBench } from "./support/vm_bench.ts";

const guest = await tryFetchGuest();

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  return engine.emulated ? "KVM is only emulated here" : undefined;
}

/** Everything is said on hvc0; COM1 and hvc1 are files. */
const SCRIPT = `
modprobe virtio_pci
modprobe virtio_console
until stty -F /dev/hvc0 && stty -F /dev/hvc1; do usleep 50000; done >/dev/null 2>&1
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
echo "size $(stty size)"
modprobe virtio_rng
modprobe virtio_balloon
for device in /sys/bus/virtio/devices/*; do
  echo "type $(cat $device/device) $(basename $(readlink $device/driver))"
done
echo "entropy $(cat /sys/class/misc/hw_random/rng_current)" \\
  "$(dd if=/dev/hwrng bs=1k count=64 iflag=fullblock 2>/dev/null | wc -c)"

echo "uart now"; read word
dd if=/dev/zero of=/dev/ttyS0 bs=4k count=8 2>/dev/null
echo "hvc now"; read word
dd if=/dev/zero of=/dev/hvc1 bs=4k count=64 2>/dev/null
echo "both written"; read word

# Touched and left, so that the host has it and the guest does not need it.
mount -t tmpfs -o size=800M tmp /tmp || exit
dd if=/dev/zero of=/tmp/full bs=1M count=300 2>/dev/null; rm /tmp/full
echo "ready 1"
read word; echo "got $word, free $(awk '/MemFree/ { print int($2 / 1024) }' /proc/meminfo)"
read word; echo "got $word"
dd if=/dev/zero of=/tmp/full bs=1M count=300 2>/dev/null && echo "used again"; rm /tmp/full
rmmod virtio_balloon; modprobe virtio_balloon
read word; echo "again $(dd if=/dev/hwrng bs=1k count=64 iflag=fullblock 2>/dev/null | wc -c)"
read word; until [ "$(stty size)" = "44 132" ]; do usleep 50000; done; echo "resized"
`;

engineTest("a guest's console, random bytes and balloon, all in jails", async (engine) => {
  assert(typeof guest === "object");
  await using bench = new VmBench(engine);
  const initramfs = await buildInitramfs({
    busybox: guest.busybox,
    script: SCRIPT,
    entries: await moduleEntries(guest, [
      "virtio_pci",
      "virtio_console",
      "virtio_rng",
      "virtio_balloon",
    ]),
  });
  const args = bench.args(Deno.readFileSync(guest.kernel), [
    ...["--name", "vm", "--mem", "1024", "--initrd", bench.file(initramfs), "--params", "quiet"],
    ...["--serial", `type=file,path=${bench.path("com1")}`],
    ...["--serial", "hardware=virtio-console,type=stdout,stdin,console"],
    ...["--serial", `hardware=virtio-console,num=2,type=file,path=${bench.path("hvc1")}`],
    ...["--balloon-policy=off", "--restart-devices"],
  ]);
  const size = { rows: 31, columns: 97 };
  await using vm = await PtyProcess.start(args, { env: bench.env, size });
  // Processor time of the guest and of its console.
  const spentMs = async () => {
    const { vcpus, devices } = await bench.state("vm");
    const device = devices.find(({ name }) => name === "console");
    return (vcpus[0]?.cpu_time_ms ?? NaN) + (device?.cpu_time_ms ?? NaN);
  };
  const spent: number[] = [];
  for (const mark of ["uart now", "hvc now", "both written"]) {
    await vm.waitFor(mark);
    spent.push(await spentMs());
    await vm.type("go\n");
  }
  const [begin = NaN, middle = NaN, end = NaN] = spent;
  // Eight times as much, a byte for less than half of what it costs there.
  assert(end - middle < 4 * (middle - begin), `${spent}`);
  await vm.waitFor("ready 1");
  assert.match(vm.output, /size 31 97\r/);
  for (const line of ["3 virtio_console", "4 virtio_rng", "5 virtio_balloon"]) {
    assert(vm.output.includes(`type 0x000${line}`), vm.output);
  }
  assert.match(vm.output, /entropy virtio_rng\S* 65536/);
  const written = Deno.readFileSync(bench.path("hvc1"));
  assert.equal(written.length, 256 * 1024);
  assert(written.every((byte) => byte === 0));

  await bench.until("all drivers are there", async () => {
    const state = await bench.state("vm");
    return state.devices.length === 3 && state.devices.every(({ status }) => status === 15);
  });
  const before = await bench.state("vm");
  assert.deepEqual(before.devices.map(({ name, pci }) => [name, pci]), [
    ["console", 1],
    ["rng", 2],
    ["balloon", 3],
  ]);
  const pids = new Set([before.pid, ...before.devices.map(({ pid }) => pid)]);
  assert.equal(pids.size, 4, "each device has a process of its own");
  const ok = async (...command: string[]) => {
    const { code, stdout, stderr } = await bench.vmctl(...command);
    assert.equal(code, 0, `${command.join(" ")}: ${stderr}`);
    return stdout;
  };
  await ok("balloon", "--wait", "800M", "vm");
  const inflated = await bench.state("vm");
  assert.equal(inflated.memory.balloon_bytes, 800 * MIB);
  const given = before.memory.resident_bytes - inflated.memory.resident_bytes;
  // It has less left than it has touched and freed before.
  assert(given > 80 * MIB, `${given / MIB} MiB were given back`);
  const { BalloonStats } = JSON.parse(await ok("balloon_stats", "--json", "vm"));
  assert.equal(BalloonStats.balloon_actual, 800 * MIB);
  const { total_memory: total, free_memory: free } = BalloonStats.stats;
  assert(free > 0 && free < 250 * MIB && total <= 1024 * MIB);
  assert.match(await ok("status", "vm"), /balloon +800 MiB/);
  const tooMuch = await bench.vmctl("balloon", "2G", "vm");
  assert.equal(tooMuch.code, 1);
  assert.match(tooMuch.stderr, /at most the guest's 1 GiB/);
  const noDisk = await bench.vmctl("disk", "resize", "0", "1G", "vm");
  assert.match(noDisk.stderr, /disk 0: expected the number of a disk, from 0 on, of the 0 that/);
  await vm.type("one\n");
  await vm.waitFor(/got one, free \d+/);
  assert(Number(/got one, free (\d+)/.exec(vm.output)?.[1]) < 250);

  // Stopped as a whole, nothing of what is typed arrives; afterwards all of it.
  await ok("suspend", "--full", "vm");
  await vm.type("two\n");
  await ok("balloon", "0", "vm");
  assert.equal((await bench.state("vm")).state, "suspended");
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert(!vm.output.includes("got two"));
  await ok("resume", "--full", "vm");
  await vm.waitFor("used again");
  assert.match(vm.output, /got two/);

  // The driver was unloaded and loaded.
  await ok("balloon", "--wait", "64M", "vm");
  await ok("balloon", "--wait", "0", "vm");

  // The kernel reads random bytes ahead, so the dead one may have held a request.
  const rng = before.devices.find(({ name }) => name === "rng");
  assert(typeof rng?.pid === "number");
  Deno.kill(rng.pid, "SIGKILL");
  await bench.until("the random bytes are there again", async () => {
    const { devices } = await bench.state("vm");
    return devices.some(({ name, restarts }) => name === "rng" && restarts === 1);
  });
  await vm.type("again\n");
  await vm.waitFor("again 65536");
  vm.resize({ rows: 44, columns: 132 });
  await vm.type("three\n");
  await vm.waitFor("resized");
  assert.equal((await vm.end()).code, 0);
  assert(vm.restored);
  await bench.checkClean();
}, { unless });
