/** A host that runs short of memory, for real: a control group in which a VM and somebody else are. */

import assert from "node:assert/strict";
import { MIB } from "../lib/base/mod.ts";
import { buildInitramfs, moduleEntries, tryFetchGuest } from "../scripts/guest/mod.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { MemoryCgroup } from "./support/memory_cgroup.ts";
import { VmBench } from "./support/vm_bench.ts";
import { startVmctl, vmctlBinary } from "./support/vmctl.ts";

const guest = await tryFetchGuest();
const lack = await lackOfGroups();

async function lackOfGroups(): Promise<string | undefined> {
  const group = MemoryCgroup.make();
  if (typeof group === "string") return group;
  await group[Symbol.asyncDispose]();
  return undefined;
}

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  return lack ?? (engine.emulated ? "KVM is only emulated here" : undefined);
}

/** The guest has used nearly all of its memory once, and needs little of it. */
const SCRIPT = `
modprobe virtio_pci
modprobe virtio_balloon
mount -t tmpfs -o size=480M tmp /tmp || exit
dd if=/dev/zero of=/tmp/full bs=1M count=400 2>/dev/null; rm /tmp/full
echo ready
read word
dd if=/dev/zero of=/tmp/full bs=1M count=300 2>/dev/null && echo "used again"
`;

const MEMORY_MIB = 512;
/** A sixteenth of half of it. */
const STEP = 16 * MIB;
/** What the group has to spare when the other one begins; it takes more than that. */
const SPARE_MIB = 150;
const TAKEN_MIB = 220;
/** What the other one leaves free, far less than what makes the guest give memory back. */
const ROOM_MIB = 30;

/** Somebody else in the group takes 10 MiB: files in memory belong to whoever writes them. */
async function takeMemory(group: MemoryCgroup, path: string): Promise<void> {
  const dd = ["dd", "if=/dev/zero", `of=${path}`, "bs=1M", "count=10", "oflag=append"];
  const [program = "", ...args] = group.command(...dd, "conv=notrunc");
  const { success, stderr } = await new Deno.Command(program, { args }).output();
  assert(success, new TextDecoder().decode(stderr));
}

engineTest(
  "a guest gives memory back before the OOM killer comes, and gets it again",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const made = MemoryCgroup.make();
    assert(typeof made === "object");
    await using group = made;
    const initramfs = await buildInitramfs({
      busybox: guest.busybox,
      script: SCRIPT,
      entries: await moduleEntries(guest, ["virtio_pci", "virtio_balloon"]),
    });
    const args = bench.args(Deno.readFileSync(guest.kernel), [
      ...["--name", "vm", "--mem", String(MEMORY_MIB), "--initrd", bench.file(initramfs)],
      ...["--params", "quiet", "--memory-cgroup", group.path],
    ]);
    const [program = "", ...words] = group.command(await vmctlBinary(), ...args);
    await using vm = await startVmctl(words, { env: bench.env, program });
    await vm.waitFor("ready");
    await bench.until("the driver is there", async () => {
      const { devices } = await bench.state("vm");
      return devices.find(({ name }) => name === "balloon")?.status === 15;
    });
    const before = await bench.state("vm");
    assert(before.memory.resident_bytes > 400 * MIB);
    assert.equal(before.memory.balloon_bytes, 0);

    group.limit(group.usageBytes + SPARE_MIB * MIB);
    const other = `/dev/shm/vmctl-test-${Deno.pid}`;
    try {
      for (let taken = 0; taken < TAKEN_MIB; taken += 10) {
        // Where the host is busy, the guest takes longer to give what is taken here.
        await bench.until("there is room", () => group.roomBytes >= (10 + ROOM_MIB) * MIB);
        await takeMemory(group, other);
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    } finally {
      Deno.removeSync(other);
    }
    assert.equal(group.kills, 0, "nobody was killed");
    const squeezed = await bench.state("vm");
    const balloon = squeezed.memory.balloon_bytes ?? 0;
    assert(balloon >= 4 * STEP && balloon <= 256 * MIB && balloon % STEP === 0, `${balloon}`);
    assert(squeezed.memory.resident_bytes < before.memory.resident_bytes - 2 * STEP);

    // The other one has gone, and with it what it had.
    let now = squeezed;
    await bench.until("the guest gets memory again, after 72 s at most", async () => {
      now = await bench.state("vm");
      return (now.memory.balloon_bytes ?? 0) < balloon;
    });
    assert.equal(now.memory.balloon_bytes, balloon - STEP);
    assert.equal((await bench.vmctl("balloon", "--wait", "0", "vm")).code, 0);
    await vm.write("go\n");
    await vm.waitFor("used again");
    assert.equal((await vm.end()).code, 0);
    assert.equal(group.kills, 0);
    await bench.checkClean();
  },
  { unless },
);
