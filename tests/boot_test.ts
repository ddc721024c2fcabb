import assert from "node:assert/strict";
import { join } from "node:path";
import { buildInitramfs, type InitramfsOptions, tryFetchGuest } from "../scripts/guest/mod.ts";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { PtyProcess } from "./support/pty_process.ts";
import { VmBench } from "./support/vm_bench.ts";

const guest = await tryFetchGuest();

/** A stock kernel executes what an emulating KVM cannot. */
function unless(engine: TestEngine): string | undefined {
  if (typeof guest === "string") return guest;
  return engine.emulated ? "KVM is only emulated here" : undefined;
}

/** Kernel and what `vmctl run` needs for the initramfs of `content`. */
async function parts(
  bench: VmBench,
  content: Omit<InitramfsOptions, "busybox">,
): Promise<{ kernel: Uint8Array; options: string[] }> {
  assert(typeof guest === "object");
  const initramfs = await buildInitramfs({ busybox: guest.busybox, ...content });
  const options = ["--mem", "256", "--extended-status", "--initrd", bench.file(initramfs)];
  return { kernel: Deno.readFileSync(guest.kernel), options };
}

engineTest("boot: a stock Debian kernel runs a script and powers off", async (engine) => {
  assert(typeof guest === "object");
  await using bench = new VmBench(engine);
  const { kernel, options } = await parts(bench, {
    script: "uname -a\ncat /proc/cpuinfo\nfree -m\ncat /proc/interrupts\necho done",
  });
  const result = await bench.run(kernel, [...options, "--params", "quiet"], { timeoutMs: 900_000 });
  assert.equal(result.code, 0, result.stderr + result.stdout);
  assert(result.stdout.includes(`Linux (none) ${guest.release} `), result.stdout);
  assert.match(result.stdout, /^processor\t: 0\r?$/m);
  assert.match(result.stdout, /^done\r?$/m);
  await bench.checkClean();
}, { unless });

engineTest(
  "boot: input that a pipe brings before there is a shell arrives whole",
  async (engine) => {
    assert(typeof guest === "object");
    await using bench = new VmBench(engine);
    const { kernel, options } = await parts(bench, { interactive: true });
    const result = await bench.run(kernel, [...options, "--params", "quiet"], {
      stdin: "uname -a; exit\n",
      timeoutMs: 900_000,
    });
    assert.equal(result.code, 0, result.stderr + result.stdout);
    assert(result.stdout.includes(`Linux guest ${guest.release} `), result.stdout);
    await bench.checkClean();
  },
  { unless },
);

engineTest(
  "boot: a shell on a terminal, with job control and a lot of pasted input",
  async (engine) => {
    await using bench = new VmBench(engine);
    const { kernel, options } = await parts(bench, { interactive: true });
    await using vm = await PtyProcess.start(bench.args(kernel, options), { env: bench.env });
    // The shell asks where the cursor is, which nobody answers here.
    await vm.waitFor(/\/root # /);
    await vm.type("echo $((6 * 7))-answer\r");
    await vm.waitFor("42-answer");
    // Input that the guest reads at its own pace: more than its terminal buffers.
    const lines = 2000;
    await vm.type("stty -echo; echo count-$((1 + 1)); wc -c\r");
    await vm.waitFor("count-2");
    for (let line = 0; line < lines; line++) await vm.type("0123456789abcde\r");
    await vm.type("\x04");
    await vm.waitFor(String(lines * 16));
    await vm.type("stty echo; echo sleep-$((1 + 1)); sleep 1000\r");
    await vm.waitFor("sleep-2");
    await new Promise((resolve) => setTimeout(resolve, 500));
    await vm.type("\x03");
    await vm.type("echo still-$((1 + 1))-here\r");
    await vm.waitFor("still-2-here");
    await vm.type("exit\r");
    assert.equal((await vm.end()).code, 0);
    assert(vm.restored);
    await bench.checkClean();
  },
  { unless },
);

/** The part of a processor that a guest which waits may take, and how long that is looked at, in ms. */
const IDLE_SHARE = 0.02;
const IDLE_MS = 3000;
const MOST_LOOKS = 5;
/** What a boot leaves to be done behind it, such as compiling and collecting, is done by then. */
const SETTLED_MS = 3000;

/**
 * The part of a processor that VM `vm` takes from now on. It is looked at again where it is much, as what a boot
 * leaves to be done takes long on a busy host.
 */
async function idleShare(bench: VmBench): Promise<number> {
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  await sleep(SETTLED_MS);
  let share = Infinity;
  for (let look = 0; look < MOST_LOOKS && share >= IDLE_SHARE; look++) {
    const start = performance.now();
    const { cpu_time_ms: before } = await bench.state("vm");
    await sleep(IDLE_MS);
    const { cpu_time_ms: after } = await bench.state("vm");
    share = (after - before) / (performance.now() - start);
  }
  return share;
}

engineTest(
  "boot: suspended while it boots, it goes on, its clock stood still; when it waits, it takes little and keeps what it translated",
  async (engine) => {
    await using bench = new VmBench(engine);
    const script = "cat /proc/uptime; echo waits; sleep 1000";
    const { kernel, options } = await parts(bench, { script });
    const start = performance.now();
    await using vm = await bench.start(kernel, [...options, "--name", "vm"]);
    await vm.waitFor("Linux version");
    const stats = await bench.request("vm", { Vmctl: "EngineStats" });
    assert.ok(typeof stats === "object" && "Vmctl" in stats && "EngineStats" in stats.Vmctl);
    assert.equal(stats.Vmctl.EngineStats["engine"], engine.kind);
    assert.equal(await bench.request("vm", "SuspendVm"), "Ok");
    const suspended = performance.now();
    // What the guest had written before may still be on its way through the pipe; then nothing comes.
    let before: number;
    do {
      before = vm.stdout.length;
      await new Promise((resolve) => setTimeout(resolve, 500));
    } while (vm.stdout.length !== before);
    await new Promise((resolve) => setTimeout(resolve, 3000));
    assert.equal(vm.stdout.length, before);
    const pauseMs = performance.now() - suspended;
    assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
    await vm.waitFor(/^waits/m, { timeoutMs: 900_000 });
    const uptimeMs = 1000 * Number(/^([\d.]+) [\d.]+\r?$/m.exec(vm.stdout)?.[1]);
    const passedMs = performance.now() - start - pauseMs;
    // What passes before the kernel begins to count is more than its clock may be off.
    assert.ok(
      uptimeMs <= passedMs,
      `uptime ${uptimeMs} of ${passedMs} ms and a pause of ${pauseMs}`,
    );
    const share = await idleShare(bench);
    assert.ok(share < IDLE_SHARE, `${(100 * share).toFixed(2)}% of a processor while it waits`);
    if (engine.kind === "soft") await translationsIn(cacheOf(bench));
    assert.equal(await bench.request("vm", "Exit"), "Ok");
    const result = await vm.end();
    assert.equal(result.code, 0, result.stderr);
    assert.doesNotMatch(result.stdout, /soft lockup|rcu.*stall|clocksource.*unstable/i);
    await bench.checkClean();
  },
  { unless },
);

const REBOOT = "boot: a reboot is status 32, and so is a panic; the second boot uses the first " +
  "one's translations, but not what is damaged";
engineTest(REBOOT, async (engine) => {
  await using bench = new VmBench(engine);
  const cache = cacheOf(bench);
  const fromDisk: number[] = [];
  for (const script of ["reboot -f", "echo c > /proc/sysrq-trigger"]) {
    const { kernel, options } = await parts(bench, { script });
    const stats = bench.path("stats.json");
    const result = await bench.run(kernel, [...options, "--engine-stats", stats], {
      timeoutMs: 900_000,
    });
    assert.equal(result.code, 32, result.stderr + result.stdout.slice(-2000));
    const { engine: kind, vcpus } = JSON.parse(Deno.readTextFileSync(stats));
    assert.equal(kind, engine.kind);
    if (engine.kind !== "soft") continue;
    const [{ timeByTier, reuse, translation }] = vcpus;
    assert.ok(timeByTier.translated > 0.3, JSON.stringify(timeByTier));
    assert.ok(translation.regions > 0);
    fromDisk.push(reuse.regionsFromDisk);
    for (const { name } of Deno.readDirSync(cache)) damage(join(cache, name));
  }
  if (engine.kind === "soft") {
    const [first, second] = fromDisk;
    assert.equal(first, 0);
    assert.ok((second ?? 0) > 100, `${second} regions of the first boot`);
  }
  await bench.checkClean();
}, { unless });

/** Where VMs of `bench` keep translations. */
function cacheOf(bench: VmBench): string {
  return join(bench.folder, "cache", "vmctl", "translations");
}

/** Waits until a VM that runs has written a file of them. */
async function translationsIn(folder: string): Promise<void> {
  const deadline = performance.now() + 120_000;
  const isThere = async () => {
    const names = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)
      .catch(() => [] as string[]);
    return names.some((name) => name.startsWith("translations-"));
  };
  while (!await isThere()) {
    assert.ok(performance.now() < deadline, `nothing in ${folder} while the VM runs`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Changes a byte in the middle, and what is near the end. */
function damage(path: string): void {
  const bytes = Deno.readFileSync(path);
  const middle = bytes.length >>> 1;
  bytes[middle] = (bytes[middle] ?? 0) ^ 0xff;
  Deno.writeFileSync(path, bytes.subarray(0, bytes.length - 1001));
}

/** Work for all processors at once: pinned, in pipelines, and in processes that come and go. */
const PARALLEL = `
echo processors $(nproc)
begin=$(cut -d. -f1 /proc/uptime)
dd if=/dev/zero of=/tmp/zeros bs=1M count=4 2>/dev/null
for cpu in $(seq 0 $(($(nproc) - 1))); do
  ( taskset $(printf %x $((1 << cpu))) sha256sum /tmp/zeros | cut -c1-16 | sed "s/^/sum /"
    taskset -p $$ >/dev/null
    n=0; for i in $(seq 1 10); do n=$(echo $((n + i)) | cat | cat); done; echo count $n ) &
done
wait
for i in $(seq 1 4); do ( for j in $(seq 1 10); do /bin/busybox true; done; echo forked ) & done
wait
sleep 1
grep -E "LOC|RES" /proc/interrupts
end=$(cut -d. -f1 /proc/uptime)
[ $end -gt $begin ] && echo time goes on
echo 0 > /sys/devices/system/cpu/cpu1/online && echo processors $(nproc)
echo 1 > /sys/devices/system/cpu/cpu1/online && echo processors $(nproc)
dmesg | grep -E "BUG:|WARNING:|stall|lockup|unstable" || echo no complaint
echo end of it
`;

for (const cpus of [2, 4]) {
  engineTest(
    `boot: ${cpus} vCPUs work in parallel, and one goes and comes back`,
    async (engine) => {
      await using bench = new VmBench(engine);
      const { kernel, options } = await parts(bench, { script: PARALLEL });
      const args = [...options, "--params", "quiet", "--cpus", String(cpus)];
      await using vm = await bench.start(kernel, [...args, "--name", "vm"]);
      await vm.waitFor(/^processors/m, { timeoutMs: 900_000 });
      // In the midst of it all stand still, now and then.
      for (let turn = 0; turn < 20; turn++) {
        assert.equal(await bench.request("vm", "SuspendVm"), "Ok");
        assert.equal(await bench.request("vm", "ResumeVm"), "Ok");
      }
      await vm.waitFor(/^end of it/m, { timeoutMs: 900_000 });
      const { code, stdout, stderr } = await vm.end();
      assert.equal(code, 0, stderr + stdout);
      const lines = stdout.split(/\r?\n/);
      const count = (line: string) => lines.filter((l) => l === line).length;
      assert.deepEqual(
        lines.filter((line) => line.startsWith("processors")),
        [cpus, cpus - 1, cpus].map((n) => `processors ${n}`),
        stdout,
      );
      // SHA-256 of 4 MiB of zeros, and 1 + 2 + ... + 10.
      assert.equal(count("sum bb9f8df61474d25e"), cpus, stdout);
      assert.equal(count("count 55"), cpus, stdout);
      assert.equal(count("forked"), 4, stdout);
      assert.equal(count("time goes on"), 1, stdout);
      assert.equal(count("no complaint"), 1, stdout);
      for (const name of ["LOC", "RES"]) {
        const row = lines.find((line) => line.trim().startsWith(`${name}:`));
        const counts = row?.trim().split(/ +/).slice(1, 1 + cpus).map(Number) ?? [];
        assert.ok(counts.length === cpus && counts.every((n) => n > 0), stdout);
      }
      await bench.checkClean();
    },
    { unless },
  );
}
