/** What a stock guest does with the PCI functions of its devices beside their queues. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { MIB } from "../lib/base/mod.ts";
import { buildInitramfs, moduleEntries, tryFetchGuest } from "../scripts/guest/mod.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { VmBench } from "./support/vm_bench.ts";

const guest = await tryFetchGuest();

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  return engine.emulated ? "KVM is only emulated here" : undefined;
}

const PCI = "/sys/bus/pci";

const SCRIPT = `
modprobe virtio_pci
modprobe virtio_blk
where() { echo "$1 is $(basename $(readlink -f /sys/block/$1/device/..)) $2"; }
where vda
where vdb
echo "vdb $(md5sum < /dev/vdb)"
grep virtio /proc/interrupts
first=${PCI}/devices/0000:00:01.0
command() { printf "$1" | dd of=$first/config bs=1 seek=4 conv=notrunc 2>/dev/null; }
# Memory, without the bus.
command '\\x02'
dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null && echo "read in the end" &
reader=$!
sleep 1
kill -0 $reader && echo "the read waits"
command '\\x06'
wait $reader && echo "the read came"
last=${PCI}/devices/0000:00:09.0
echo 0000:00:09.0 > ${PCI}/drivers/virtio-pci/unbind
# To 36 GiB.
printf '\\x04\\0\\0\\0\\x09\\0\\0\\0' | dd of=$last/config bs=8 seek=2 conv=notrunc 2>/dev/null
echo 1 > $last/remove
echo 1 > ${PCI}/rescan
until [ -b /dev/vdb ]; do usleep 20000; done
echo "BAR $(head -n 1 $last/resource)"
where vdb again
echo "moved $(md5sum < /dev/vdb)"
dmesg | grep -i "nobody cared"
`;

engineTest(
  "a guest without messages, which takes the bus from a disk, and moves a BAR above 4 GiB",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const content = crypto.getRandomValues(new Uint8Array(65536));
    const placed = new Uint8Array(4 * MIB);
    for (let at = 0; at < placed.length; at += content.length) placed.set(content, at);
    const initramfs = await buildInitramfs({
      busybox: guest.busybox,
      script: SCRIPT,
      entries: await moduleEntries(guest, ["virtio_pci", "virtio_blk"]),
    });
    await using vm = await bench.start(Deno.readFileSync(guest.kernel), [
      ...["--name", "vm", "--mem", "256", "--initrd", bench.file(initramfs)],
      ...["--params", "quiet pci=nomsi"],
      ...["-b", `${bench.file(placed)},format=raw,pci-address=00:09.0,ro,bootindex=1`],
      ...["-b", `${bench.file(new Uint8Array(MIB))},format=raw`],
    ]);
    const { code } = await vm.end();
    assert.equal(code, 0, vm.stderr);
    const { stdout } = vm;
    const hash = createHash("md5").update(placed).digest("hex");
    for (
      const line of [
        ...["vda is 0000:00:01.0", "vdb is 0000:00:09.0", `vdb ${hash}`],
        ...["the read waits", "the read came"],
        ...["vdb is 0000:00:09.0 again", `moved ${hash}`],
      ]
    ) assert.ok(stdout.includes(line), `${line}: ${stdout}`);
    assert.ok(stdout.indexOf("the read waits") < stdout.indexOf("read in the end"), stdout);
    // Where it was put, or at the begin of the window, where the kernel put it.
    assert.match(stdout, /^BAR 0x000000(0900000000|0800000000) /m);
    assert.match(stdout, /IO-APIC +1[6-9]-fasteoi .*virtio/);
    assert.doesNotMatch(stdout, /MSI|nobody cared/i);
    await bench.checkClean();
  },
  { unless },
);
