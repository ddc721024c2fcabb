/** `vmctl device rng` with QEMU as the front end: a stock Linux guest takes random bytes of it. */

import assert from "node:assert/strict";
import { DeviceProcess } from "./support/device_process.ts";
import { TemporaryFolder } from "./support/disk.ts";
import { QEMU_GUEST, runQemuGuest, WITHOUT_QEMU_GUEST } from "./support/qemu_guest.ts";

const SCRIPT = `
echo current $(cat /sys/class/misc/hw_random/rng_current)
for round in 1 2; do
  echo sum $(dd if=/dev/hwrng bs=4k count=16 iflag=fullblock 2>/dev/null | tee /bytes | md5sum)
  echo size $(wc -c </bytes) packed $(gzip -c </bytes | wc -c)
  rmmod virtio-rng
  insmod /lib/virtio-rng.ko
done
`;

Deno.test({
  name: `a guest in QEMU gets random bytes of vmctl device rng${WITHOUT_QEMU_GUEST}`,
  ignore: WITHOUT_QEMU_GUEST !== "",
  async fn() {
    if (typeof QEMU_GUEST === "string") return;
    using folder = new TemporaryFolder();
    const socket = folder.file("rng.sock");
    await using device = await DeviceProcess.start("rng", socket, []);
    const { console, complaints } = await runQemuGuest(QEMU_GUEST, {
      folder: folder.path,
      script: SCRIPT,
      sockets: [],
      modules: ["char/hw_random/virtio-rng"],
      args: [
        ...["-chardev", `socket,id=rng,path=${socket}`],
        ...["-device", "vhost-user-rng-pci,chardev=rng"],
      ],
    });
    assert.equal(complaints, "", console);
    assert.match(console, /current virtio_rng/);
    const sums = [...console.matchAll(/sum ([0-9a-f]{32})/g)].map(([, sum]) => sum);
    assert.equal(new Set(sums).size, 2, console);
    const sizes = [...console.matchAll(/size (\d+) packed (\d+)/g)];
    assert.equal(sizes.length, 2, console);
    for (const [, size, packed] of sizes) {
      assert.equal(size, "65536");
      assert(Number(packed) > 65536, "random bytes cannot be packed");
    }
    const { status, complaints: theirs } = await device.end("SIGTERM");
    assert.deepEqual([status.code, theirs], [0, ""]);
  },
});
