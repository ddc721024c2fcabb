/** How a stock guest's memory goes back to the host without an order, and comes again in need. */

import assert from "node:assert/strict";
import { MIB } from "../lib/base/mod.ts";
import { buildInitramfs, moduleEntries, tryFetchGuest } from "../scripts/guest/mod.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { VmBench } from "./support/vm_bench.ts";

const guest = await tryFetchGuest();
const BALLOON_MIB = 150;
/** More than the balloon leaves of what the guest has. */
const NEEDED_MIB = 100;
const LEFT_MIB = 120;

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  return engine.emulated ? "KVM is only emulated here" : undefined;
}

const SCRIPT = `
modprobe virtio_pci
modprobe virtio_balloon
mount -t tmpfs -o size=200M tmp /tmp || exit
dd if=/dev/zero of=/tmp/full bs=1M count=${LEFT_MIB} 2>/dev/null
echo "all used"; read word
rm /tmp/full
echo "all freed"; read word
dd if=/dev/zero of=/tmp/full bs=1M count=${NEEDED_MIB} 2>/dev/null && echo "it was enough"
echo "killed $(dmesg | grep -c 'Out of memory')"; read word
`;

engineTest(
  "a guest reports free memory by itself, and takes memory of the balloon before it kills",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const initramfs = await buildInitramfs({
      busybox: guest.busybox,
      script: SCRIPT,
      entries: await moduleEntries(guest, ["virtio_pci", "virtio_balloon"]),
    });
    await using vm = await bench.start(Deno.readFileSync(guest.kernel), [
      ...["--name", "vm", "--mem", "256", "--initrd", bench.file(initramfs), "--params", "quiet"],
      ...["--balloon-page-reporting", "--balloon-policy=off"],
    ]);
    const goOn = () => vm.write("go\n");
    await vm.waitFor("all used");
    const used = await bench.state("vm");
    await goOn();
    await vm.waitFor("all freed");
    await bench.until("the host has it back", async () => {
      const { memory } = await bench.state("vm");
      return memory.resident_bytes < used.memory.resident_bytes - 0.75 * LEFT_MIB * MIB;
    });

    const inflated = await bench.vmctl("balloon", "--wait", `${BALLOON_MIB}M`, "vm");
    assert.equal(inflated.code, 0, inflated.stderr);
    await goOn();
    await vm.waitFor(/killed \d+/);
    assert.match(vm.stdout, /it was enough\r?\nkilled 0/);
    const { stdout } = await bench.vmctl("balloon_stats", "--json", "vm");
    const { balloon_actual: actual } = JSON.parse(stdout).BalloonStats;
    assert(actual > 0 && actual < (BALLOON_MIB - 20) * MIB, `${actual / MIB} MiB are left in it`);
    await goOn();
    assert.equal((await vm.end()).code, 0, vm.stderr);
    await bench.checkClean();
  },
  { unless },
);
