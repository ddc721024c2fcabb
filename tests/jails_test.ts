/** What jails do for whole VMs: how they end, what breaks them, and where there can be none. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MIB } from "../lib/base/mod.ts";
import type { TestEngine } from "./support/engines.ts";
import { END_OF_INPUT, tinyKernels } from "./support/tiny_kernel.ts";
import { VmBench } from "./support/vm_bench.ts";
import { runVmctl, startVmctl, vmctlBinary, type VmctlProcess } from "./support/vmctl.ts";

/** Jails do not depend on it. */
const ENGINE: TestEngine = { kind: "soft", emulated: false, problem: undefined };
const POLICIES = fileURLToPath(new URL("../policies", import.meta.url));
const NOBODY = 65534;
const IN_NAMESPACE = ["--user", "--map-root-user"];

function canUnshare(...namespaces: string[]): boolean {
  try {
    const settings = { stdin: "null", stdout: "null", stderr: "null" } as const;
    const args = [...namespaces, "true"];
    return new Deno.Command("unshare", { args, ...settings }).outputSync().success;
  } catch {
    return false;
  }
}

/** Its namespace of processes has this number (PROC_PID_INIT_INO), and the log those of that one. */
const FIRST_PID_NAMESPACE = "pid:[4026531836]";

/** The kernel's log, where it tells of what filters do, and may be read. */
const KERNEL_LOG = {
  problem: kernelLogProblem(),
  /** Its lines. */
  read(): string[] {
    const { stdout } = new Deno.Command("dmesg").outputSync();
    return new TextDecoder().decode(stdout).split("\n");
  },
};

function kernelLogProblem(): string | undefined {
  try {
    const logged = Deno.readTextFileSync("/proc/sys/kernel/seccomp/actions_logged").split(/\s+/);
    if (!logged.includes("log")) return "the kernel does not log what filters do";
    if (Deno.readLinkSync("/proc/self/ns/pid") !== FIRST_PID_NAMESPACE) {
      return "it has other numbers of processes";
    }
    // An audit daemon takes the messages, which do not come there then.
    const [, audit] = /^enabled (\d)/m.exec(auditStatus()) ?? [];
    if (audit !== undefined && audit !== "0") return "auditing is on, which takes the messages";
    const { success } = new Deno.Command("dmesg", { stdout: "null", stderr: "null" }).outputSync();
    return success ? undefined : "dmesg may not read it";
  } catch {
    return "there is none to be read";
  }
}

function auditStatus(): string {
  try {
    const { stdout } = new Deno.Command("auditctl", { args: ["-s"], stderr: "null" }).outputSync();
    return new TextDecoder().decode(stdout);
  } catch {
    return "";
  }
}

const noNamespaces = canUnshare(...IN_NAMESPACE) ? undefined : "no user namespaces";
const isRoot = Deno.uid() === 0 && canUnshare("--mount");

function jailTest(
  name: string,
  body: (bench: VmBench) => Promise<void>,
  problem: string | undefined = noNamespaces,
): void {
  Deno.test({
    name: problem === undefined ? name : `${name} (skipped: ${problem})`,
    ignore: problem !== undefined,
    async fn() {
      await using bench = new VmBench(ENGINE);
      await body(bench);
    },
  });
}

/** A raw disk of a MiB, and the arguments that attach it. */
function disk(bench: VmBench): { path: string; args: string[] } {
  const path = bench.file(new Uint8Array(MIB));
  return { path, args: ["--block", `${path},format=raw`] };
}

/** Processes of the devices of a VM, by their names. */
async function devicesOf(bench: VmBench, vm = "vm"): Promise<ReadonlyMap<string, number>> {
  // The guest begins before they are all there.
  await bench.until("all serve", async () => {
    const { devices } = await bench.state(vm);
    return devices.every(({ pid }) => pid !== null);
  });
  const { devices } = await bench.state(vm);
  return new Map(devices.map(({ name, pid }) => {
    assert.ok(typeof pid === "number", `${name} has a process of its own`);
    return [name, pid];
  }));
}

/** Whether process `pid` runs; one that has ended may wait for whoever inherited it. */
function lives(pid: number): boolean {
  try {
    // Behind the name, which may hold anything: state (proc_pid_stat(5)).
    const [, state] = /^.*\) (.)/s.exec(Deno.readTextFileSync(`/proc/${pid}/stat`)) ?? [];
    return state !== "Z" && state !== "X";
  } catch {
    return false;
  }
}

/** Status of a thread (proc_pid_status(5)); undefined where it ended: the runtime ends idle ones. */
function threadStatus(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || `${error}`.includes("os error 3)")) return;
    throw error;
  }
}

/** Checks that process `pid` is in a jail as all devices are. */
function assertJailed(pid: number, vmm: number): void {
  const link = (of: number, name: string) => Deno.readLinkSync(`/proc/${of}/ns/${name}`);
  for (const name of ["user", "mnt", "pid", "net", "ipc"]) {
    assert.notEqual(link(pid, name), link(vmm, name), name);
  }
  let threads = 0;
  for (const { name: thread } of Deno.readDirSync(`/proc/${pid}/task`)) {
    const status = threadStatus(`/proc/${pid}/task/${thread}/status`);
    if (status === undefined) continue;
    threads++;
    assert.equal(status.match(/^Cap\w+:\t0{16}$/mg)?.length, 5, status);
    assert.match(status, /^NoNewPrivs:\t1$/m);
    assert.match(status, /^Seccomp:\t2$/m);
    assert.match(status, /^NStgid:\t[0-9]+\t1$/m);
  }
  assert.ok(threads > 0, `process ${pid} has ended`);
  const root = [...Deno.readDirSync(`/proc/${pid}/root`)].map(({ name }) => name);
  for (const name of ["etc", "home", "tmp", "dev", "var"]) {
    assert.ok(!root.includes(name), `${name} is in the jail`);
  }
}

/** A folder with vmctl's policies, without the rules for `calls`. */
async function policiesWithout(bench: VmBench, ...calls: string[]): Promise<string> {
  const folder = bench.path("policies");
  await Deno.mkdir(folder);
  for (const { name } of Deno.readDirSync(POLICIES)) {
    const lines = (await Deno.readTextFile(join(POLICIES, name))).split("\n");
    const kept = lines.filter((line) => !calls.some((call) => line.startsWith(`${call}:`)));
    if (name === "common_device.policy") {
      assert.equal(lines.length - kept.length, calls.length, "each has a rule of one line");
    }
    await Deno.writeTextFile(join(folder, name), kept.join("\n"));
  }
  return folder;
}

jailTest("a file that is given for two disks is refused where one writes to it", async (bench) => {
  const { path } = disk(bench);
  const link = bench.path("link");
  await Deno.symlink(path, link);
  const run = (...disks: string[]) => {
    const options = disks.flatMap((value) => ["-b", `${value},format=raw`]);
    return bench.run(tinyKernels.off(), options);
  };
  const twice = await run(path, path);
  assert.equal(twice.code, 1, twice.stderr);
  assert.match(
    twice.stderr,
    /--block .* is given twice, for vda and vdb: expected a file of its own/,
  );
  const aliased = await run(`${path},ro`, link);
  assert.equal(aliased.code, 1, aliased.stderr);
  assert.match(aliased.stderr, /link \(vdb\) is the same file as --block .* \(vda\)/);
  const shared = await run(`${path},ro`, `${link},ro`);
  assert.equal(shared.code, 0, shared.stderr);
  await bench.checkClean();
});

jailTest(
  "a VM whose devices hang ends soon, with its status, and leaves none of them",
  async (bench) => {
    const ways: Record<string, (vm: VmctlProcess, name: string) => Promise<void> | void> = {
      stop: async (_, name) => assert.equal((await bench.vmctl("stop", name)).code, 0),
      term: (vm) => vm.signal("SIGTERM"),
      interrupt: (vm) => vm.signal("SIGINT"),
    };
    await Promise.all(
      Object.entries(ways).map(async ([name, stop]) => {
        const args = ["--name", name, "--extended-status", ...disk(bench).args];
        await using vm = await bench.start(tinyKernels.spin(), args);
        await vm.waitFor("ready");
        const devices = await devicesOf(bench, name);
        for (const pid of devices.values()) Deno.kill(pid, "SIGSTOP");
        await stop(vm, name);
        const { code, stderr } = await vm.end();
        assert.equal(code, 0, stderr);
        for (const [device, pid] of devices) {
          const told =
            `${device} (process ${pid}) has done nothing for 5 s after it was told to end`;
          assert.ok(stderr.includes(told), stderr);
        }
      }),
    );
    await bench.checkClean();
  },
);

jailTest("devices die with a VMM that is killed", async (bench) => {
  const args = ["--name", "vm", ...disk(bench).args];
  await using vm = await bench.start(tinyKernels.sleep(), args);
  await vm.waitFor("ready");
  const devices = await devicesOf(bench);
  assert.deepEqual([...devices.keys()], ["block device vda", "rng", "balloon"]);
  for (const [name, pid] of devices) {
    assert.ok(lives(pid), name);
    assertJailed(pid, vm.pid);
  }
  // One that cannot notice anything by itself.
  Deno.kill(devices.get("rng")!, "SIGSTOP");
  vm.signal("SIGKILL");
  await bench.until("no device lives", () => [...devices.values()].every((pid) => !lives(pid)));
  assert.equal((await vm.end()).signal, "SIGKILL");
});

jailTest(
  "a forbidden system call ends the VM, whatever is restarted, and is named; or is in the kernel's log" +
    (KERNEL_LOG.problem === undefined ? "" : ` (but for that log: ${KERNEL_LOG.problem})`),
  async (bench) => {
    // Nothing but a new size for a disk needs it here.
    const folder = await policiesWithout(bench, "ftruncate");
    const { path, args } = disk(bench);
    const options = [
      ...["--name", "vm", "--extended-status", "--restart-devices"],
      ...["--seccomp-policy-dir", folder, ...args],
    ];
    {
      await using vm = await bench.start(tinyKernels.sleep(), options);
      await vm.waitFor("ready");
      await devicesOf(bench);
      const { code } = await bench.vmctl("disk", "resize", "0", "2M", "vm");
      assert.equal(code, 1);
      const { code: status, stderr } = await vm.end();
      assert.equal(status, 1, stderr);
      assert.doesNotMatch(stderr, /starting it again/);
      assert.match(
        stderr,
        /block device vda ended: it made the system call ftruncate \(77\), which block_device\.policy forbids/,
      );
    }
    assert.equal(Deno.statSync(path).size, MIB);
    await bench.checkClean();

    await using vm = await bench.start(tinyKernels.sleep(), [...options, "--seccomp-log-failures"]);
    await vm.waitFor("ready");
    const block = (await devicesOf(bench)).get("block device vda")!;
    const resized = await bench.vmctl("disk", "resize", "0", "2M", "vm");
    assert.equal(resized.code, 0, resized.stderr);
    assert.equal(Deno.statSync(path).size, 2 * MIB);
    const refused = await bench.vmctl("disk", "resize", "0", "1M", "vm");
    assert.equal(refused.code, 1, refused.stderr);
    assert.equal(Deno.statSync(path).size, 2 * MIB);
    const shrunk = await bench.vmctl("disk", "resize", "--shrink", "0", "1M", "vm");
    assert.equal(shrunk.code, 0, shrunk.stderr);
    assert.equal(Deno.statSync(path).size, MIB);
    // A process of several threads has the number of the one that made the call here.
    if (KERNEL_LOG.problem === undefined) {
      const threads = [...Deno.readDirSync(`/proc/${block}/task`)].map(({ name }) => Number(name));
      const told = (line: string) => {
        const [, pid] = /type=1326 .*\bpid=(\d+) .*\bsyscall=77\b/.exec(line) ?? [];
        return threads.includes(Number(pid));
      };
      // The kernel leaves messages out where many come at once.
      let sizeMib = 2;
      await bench.until("the kernel's log tells of it", async () => {
        if (KERNEL_LOG.read().some(told)) return true;
        await bench.vmctl("disk", "resize", "0", `${++sizeMib}M`, "vm");
        return false;
      });
    }
    assert.equal((await bench.vmctl("stop", "vm")).code, 0);
    assert.equal((await vm.end()).code, 0);
    await bench.checkClean();
  },
);

jailTest("a system call that is forbidden while a device starts is named, too", async (bench) => {
  const folder = await policiesWithout(bench, "epoll_wait", "epoll_pwait");
  const options = ["--no-balloon", "--seccomp-policy-dir", folder];
  // A guest that ends sooner makes no difference.
  const { code, stderr } = await bench.run(tinyKernels.hello(), options);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /rng ended before it served: it made the system call epoll_p?wait \(\d+\), which rng_device\.policy/,
  );
  await bench.checkClean();
  const going = await bench.run(tinyKernels.hello(), [...options, "--seccomp-log-failures"]);
  assert.equal(going.code, 0, going.stderr);
  assert.equal(going.stdout, "hello\n");
});

jailTest("a guest that is faster than its device waits for it, and ends with it", async (bench) => {
  const options = ["--no-rng", "--no-balloon", ...disk(bench).args];
  const served = await bench.run(tinyKernels.virtioFeatures(), options);
  assert.equal(served.stdout, "begun\nvirtio 1\n", served.stderr);
  assert.equal(served.code, 0);
  // One that guests boot without is there as soon as they do not.
  const late = await bench.run(tinyKernels.virtioFeatures(), ["--no-balloon"]);
  assert.equal(late.stdout, "begun\nvirtio 1\n", late.stderr);
  assert.equal(late.code, 0);
  await bench.checkClean();
  const folder = await policiesWithout(bench, "epoll_wait", "epoll_pwait");
  const jailed = [...options, "--seccomp-policy-dir", folder];
  const failed = await bench.run(tinyKernels.virtioFeatures(), jailed);
  assert.equal(failed.code, 1);
  assert.ok("begun\n".startsWith(failed.stdout), failed.stdout);
  assert.match(failed.stderr, /block device vda ended before it served: it made the system call/);
  await bench.checkClean();
});

jailTest(
  "orders that come before all devices are there are carried out when they are",
  async (bench) => {
    const { path, args } = disk(bench);
    await using vm = await bench.start(tinyKernels.sleep(), ["--name", "vm", ...args]);
    await vm.waitFor("ready");
    const sizeBytes = 2 * MIB;
    const resize = { Resize: { new_size: sizeBytes } };
    const orders = ["SuspendVm", "ResumeVm", {
      DiskCommand: { disk_index: 0, command: resize },
    }] as const;
    // One after the other, as a script does that has just seen the guest begin.
    for (const order of orders) assert.equal(await bench.request("vm", order), "Ok");
    assert.equal((await Deno.stat(path)).size, sizeBytes);
    assert.equal(await bench.request("vm", "Exit"), "Ok");
    assert.equal((await vm.end()).code, 0);
    await bench.checkClean();
  },
);

jailTest("a policy that forbids a device to report is named, too", async (bench) => {
  const folder = await policiesWithout(bench, "sendmsg");
  const options = ["--no-balloon", "--seccomp-policy-dir", folder];
  const { code, stderr } = await bench.run(tinyKernels.hello(), options);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /rng ended before it served: it made the system call sendmsg \(46\), which rng_device\.policy/,
  );
  await bench.checkClean();
});

jailTest("where there are no user namespaces, run refuses unless jails are off", async (bench) => {
  const run = async (...options: string[]) => {
    const script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"';
    const vmctl = [await vmctlBinary(), ...bench.args(tinyKernels.hello(), options)];
    return await runVmctl([...IN_NAMESPACE, "sh", "-c", script, "sh", ...vmctl], {
      program: "unshare",
      env: bench.env,
    });
  };
  const refused = await run();
  assert.equal(refused.code, 1);
  assert.equal(refused.stdout, "", "the guest has not begun");
  assert.match(refused.stderr, /cannot make namespaces for a jail: user\.max_user_namespaces is 0/);
  assert.match(refused.stderr, /"sysctl user\.max_user_namespaces=100000" allows it/);
  assert.match(refused.stderr, /--disable-sandbox runs devices without jails/);
  await bench.checkClean();
  const allowed = await run("--disable-sandbox");
  assert.equal(allowed.code, 0, allowed.stderr);
  assert.equal(allowed.stdout, "hello\n");
  assert.match(allowed.stderr, /warn.*devices run without jails, in the process of the VMM/);
  await bench.checkClean();
});

jailTest("a folder for jails that is missing is named, and is not made", async (bench) => {
  const folder = bench.path("missing");
  const { code, stdout, stderr } = await bench.run(tinyKernels.hello(), ["--pivot-root", folder]);
  assert.deepEqual([code, stdout], [1, ""]);
  assert.match(stderr, /missing: expected a folder to be the root of jails, found nothing there/);
  assert.throws(() => Deno.statSync(folder), Deno.errors.NotFound);
});

jailTest(
  "an ordinary user's devices are in jails, also where /var/empty is missing",
  async (bench) => {
    const program = bench.path("vmctl");
    await Deno.copyFile(await vmctlBinary(), program);
    const args = bench.args(tinyKernels.sleep(), ["--name", "vm", ...disk(bench).args]);
    const { code } = await new Deno.Command("chown", {
      args: ["-R", `${NOBODY}:${NOBODY}`, bench.folder],
    }).output();
    assert.equal(code, 0);
    const ids = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];
    const script = 'mount -t tmpfs -o ro,mode=755 none /var && exec setpriv "$@"';
    await using vm = await startVmctl(
      ["--mount", "sh", "-c", script, "sh", ...ids, program, ...args],
      { program: "unshare", env: bench.env },
    );
    await vm.waitFor("ready");
    const status = Deno.readTextFileSync(`/proc/${vm.pid}/status`);
    assert.match(status, new RegExp(`^Uid:(\t${NOBODY}){4}$`, "m"));
    const devices = await devicesOf(bench);
    assert.equal(devices.size, 3);
    for (const pid of devices.values()) assertJailed(pid, vm.pid);
    assert.equal((await bench.vmctl("disk", "resize", "0", "2M", "vm")).code, 0);
    assert.equal((await bench.vmctl("stop", "vm")).code, 0);
    assert.equal((await vm.end()).code, 0);
    await bench.checkClean();
  },
  noNamespaces ?? (isRoot ? undefined : "needs root, which may mount and become another user"),
);

jailTest("devices that are killed are started again where that is asked for", async (bench) => {
  const options = ["--name", "vm", "--restart-devices", ...disk(bench).args];
  await using vm = await bench.start(tinyKernels.echo(), options);
  await vm.waitFor("ready");
  const before = await devicesOf(bench);
  const killed = ["block device vda", "rng"];
  for (const name of killed) Deno.kill(before.get(name)!, "SIGKILL");
  await bench.until("both were started again", async () => {
    const { devices } = await bench.state("vm");
    return devices.every(({ name, restarts }) => restarts === (killed.includes(name) ? 1 : 0));
  });
  const after = await devicesOf(bench);
  for (const [name, pid] of after) {
    assertJailed(pid, vm.pid);
    assert.equal(pid !== before.get(name), killed.includes(name), name);
    const line = `${name} ended (it was killed by SIGKILL), starting it again`;
    assert.equal(vm.stderr.includes(line), killed.includes(name), vm.stderr);
  }
  // The new one works, and so does the guest.
  const resized = await bench.vmctl("disk", "resize", "0", "2M", "vm");
  assert.equal(resized.code, 0, resized.stderr);
  await vm.write("still here");
  await vm.waitFor("still here");
  await vm.write(String.fromCharCode(END_OF_INPUT));
  assert.equal((await vm.end()).code, 0);
  await bench.checkClean();
});

jailTest(
  "a device that is started again and breaks its policy then ends the VM at once",
  async (bench) => {
    const folder = await policiesWithout(bench);
    const options = ["--name", "vm", "--restart-devices", "--seccomp-policy-dir", folder];
    await using vm = await bench.start(tinyKernels.sleep(), options);
    await vm.waitFor("ready");
    const rng = (await devicesOf(bench)).get("rng")!;
    const policy = await Deno.readTextFile(join(folder, "common_device.policy"));
    const without = policy.replace(/^epoll_p?wait:.*$/gm, "");
    await Deno.writeTextFile(join(folder, "common_device.policy"), without);
    Deno.kill(rng, "SIGKILL");
    const { code, stderr } = await vm.end();
    assert.equal(code, 1, stderr);
    assert.match(
      stderr,
      /rng ended: it was killed by SIGKILL; it cannot be started again: rng ended before it served: it made the system call epoll_p?wait \(\d+\), which rng_device\.policy forbids/,
    );
    assert.equal(stderr.match(/starting it again/g)?.length, 1, "no second attempt");
    await bench.checkClean();
  },
);

jailTest("whoever means a partition of the root disk is told to say which one", async (bench) => {
  const sector = new Uint8Array(MIB);
  // One entry: Linux, from sector 64 on; then the signature.
  sector.set([0, 0, 0, 0, 0x83, 0, 0, 0, 64, 0, 0, 0, 0, 4], 446);
  sector.set([0x55, 0xaa], 510);
  const args = ["--name", "vm", "--block", `${bench.file(sector)},format=raw,root`];
  const hint = /has partitions.* \(root=\/dev\/vda\).*--params root=\/dev\/vda1/;
  const stated = ["--params", "quiet root=PARTUUID=1"];
  for (const expected of [true, false]) {
    await using vm = await bench.start(tinyKernels.sleep(), [...args, ...expected ? [] : stated]);
    await vm.waitFor("ready");
    await devicesOf(bench);
    if (expected) await bench.until("the hint", () => Promise.resolve(hint.test(vm.stderr)));
    const { code } = await bench.vmctl("stop", "vm");
    assert.equal(code, 0);
    await vm.end();
    assert.equal(hint.test(vm.stderr), expected, vm.stderr);
  }
});

jailTest("a device that is killed ends the VM, and is named", async (bench) => {
  await using vm = await bench.start(tinyKernels.sleep(), ["--name", "vm", "--extended-status"]);
  await vm.waitFor("ready");
  Deno.kill((await devicesOf(bench)).get("rng")!, "SIGKILL");
  const { code, stderr } = await vm.end();
  assert.equal(code, 1, stderr);
  assert.match(stderr, /error .*rng ended: it was killed by SIGKILL/);
  await bench.checkClean();
});
