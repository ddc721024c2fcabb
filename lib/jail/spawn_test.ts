import assert from "node:assert/strict";
import { join } from "node:path";
import {
  getgid,
  getuid,
  openFile,
  OpenFlag,
  parseViolation,
  pipe,
  PollEvent,
  pollFd,
  read,
  setCloseOnExec,
  VIOLATION_EXIT_STATUS,
} from "../host/mod.ts";
import { compilePolicy } from "./bpf/compile.ts";
import { encodeProgram } from "./bpf/instruction.ts";
import { embeddedPolicies, embeddedPolicyNames } from "./device_policies.ts";
import { JailError } from "./errors.ts";
import type { IdMapping, JailMount, JailSpec } from "./jail.ts";
import { loadPolicy } from "./policy/load.ts";
import { memoryFiles } from "./policy/source.ts";
import { syscallName, syscallNumber } from "./policy/syscalls.ts";
import { closedSwitches } from "./refusal.ts";
import { runtimeMounts } from "./runtime_mounts.ts";
import { type JailedProcess, spawnJailed } from "./spawn.ts";
import type { DeviceLoopJob } from "./testing/device_loop.ts";
import type { JailChildJob } from "./testing/jail_child.ts";

const BUSYBOX = "/bin/busybox";
const CHILD = new URL("./testing/jail_child.ts", import.meta.url);
const LOOP = new URL("./testing/device_loop.ts", import.meta.url);

function whyNot(): string | undefined {
  try {
    // A static one needs nothing else in its jail.
    const { stdout } = new Deno.Command("ldd", { args: [BUSYBOX], stderr: "piped" }).outputSync();
    if (new TextDecoder().decode(stdout).includes("=>")) return "busybox is not static";
    Deno.statSync(BUSYBOX);
  } catch {
    return `no ${BUSYBOX}`;
  }
  if (closedSwitches().length > 0 && getuid() !== 0) return "no user namespaces";
  return undefined;
}

const reason = whyNot();

function jailTest(
  name: string,
  fn: (root: string) => Promise<void> | void,
  options: { needsRoot?: boolean } = {},
): void {
  const why = reason ?? (options.needsRoot === true && getuid() !== 0 ? "not root" : undefined);
  Deno.test({
    name: why === undefined ? name : `${name} (skipped: ${why})`,
    ignore: why !== undefined,
    async fn() {
      const root = await Deno.makeTempDir({ prefix: "vmctl-jail-" });
      try {
        await Deno.chmod(root, 0o755);
        await fn(root);
      } finally {
        await Deno.remove(root, { recursive: true });
      }
    },
  });
}

function mapTo(inside: number, outside: number): IdMapping[] {
  return [{ inside, outside, count: 1 }];
}

const asRoot = { uidMap: mapTo(0, getuid()), gidMap: mapTo(0, getgid()) };
const tools: readonly JailMount[] = [
  { kind: "bind", source: BUSYBOX, target: "/bin/busybox" },
  { kind: "proc", target: "/proc" },
  { kind: "tmpfs", target: "/tmp", sizeBytes: 1 << 20 },
];

/** Runs a script of busybox's shell in a jail: what it printed, and how it ended. */
async function shell(spec: Partial<JailSpec> & { pivotRoot: string }, script: string) {
  const { reader, writer } = pipe();
  using output = reader;
  let jailed: JailedProcess;
  {
    using end = writer;
    jailed = spawnJailed({
      program: BUSYBOX,
      argv: ["busybox", "sh", "-c", `b=/bin/busybox; ${script}`],
      ...spec,
      fds: [{ fd: end, as: 1 }, { fd: end, as: 2 }, ...spec.fds ?? []],
    });
  }
  using process = jailed;
  const decoder = new TextDecoder();
  const bytes = new Uint8Array(65536);
  let text = "";
  for (let count = read(output, bytes); count > 0; count = read(output, bytes)) {
    text += decoder.decode(bytes.subarray(0, count), { stream: true });
  }
  return { text, end: await process.wait() };
}

jailTest("a jail has an empty root, one process, and no names", async (root) => {
  const { text, end } = await shell(
    { pivotRoot: root, env: { WORD: "env" } },
    'echo $$ "$WORD"; echo /*; cd ..; echo *; read x < /proc/self/status; read x < /etc/passwd',
  );
  assert.deepEqual(end, { kind: "exited", status: 1 });
  const lines = text.split("\n");
  assert.deepEqual(lines.slice(0, 3), ["1 env", "/*", "*"]);
  assert.match(lines[3]!, /can't open \/proc\/self\/status/);
  assert.match(lines[4]!, /can't open \/etc\/passwd/);
});

jailTest("mounts are there, read-only unless they are to be written", async (root) => {
  const shared = join(root, "shared");
  const folder = join(root, "root");
  await Deno.mkdir(shared);
  await Deno.mkdir(folder);
  const { text } = await shell(
    {
      ...asRoot,
      pivotRoot: folder,
      mounts: [
        ...tools,
        { kind: "bind", source: shared, target: "/share/rw", writable: true },
        { kind: "bind", source: shared, target: "/share/ro" },
      ],
    },
    `
    for file in /x /bin/x /share/x /share/ro/x /share/rw/x /tmp/x; do
      $b touch $file 2>/tmp/error && echo "$file"; done
    echo > /bin/busybox
    $b ls /; $b ls /share/ro
    $b mount -o remount,rw none / 2>&1
    $b umount /proc
  `,
  );
  assert.deepEqual(text.split("\n").slice(0, 9), [
    ...["/share/rw/x", "/tmp/x", "sh: can't create /bin/busybox: Read-only file system"],
    ...["bin", "proc", "share", "tmp", "x", "mount: permission denied (are you root?)"],
  ]);
  // Nothing of the jail's root reached the host's folder.
  assert.deepEqual([...Deno.readDirSync(folder)], []);
  assert.deepEqual([...Deno.readDirSync(shared)].map(({ name }) => name), ["x"]);
});

jailTest(
  "a jailed program has no capability, no group, no network, no foreign process",
  async (root) => {
    const { text } = await shell(
      { ...asRoot, pivotRoot: root, mounts: tools },
      `
    $b id; $b grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status
    $b ls /sys 2>&1; $b grep -c : /proc/self/net/dev
    echo /proc/[0-9]*
    for command in 'mount -t tmpfs x /tmp' 'chroot /tmp' 'mknod /tmp/n c 1 3' 'kill -9 2' \\
      'hostname x' 'ifconfig lo up' 'wget -T 1 http://127.0.0.1/' \\
      'chown 1 /tmp' 'renice -5 1'; do
      $b $command >/tmp/error 2>&1 && echo "could: $command"; done
  `,
    );
    const lines = text.trimEnd().split("\n");
    const sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    // An ordinary user's supplementary groups stay with the process; root's are given up.
    const groups = lines.splice(1, 1)[0]!;
    if (getuid() === 0) assert.equal(groups, "Groups:\t ");
    assert.deepEqual(lines, [
      "uid=0 gid=0",
      ...sets.map((name) => `${name}:\t0000000000000000`),
      ...["NoNewPrivs:\t1", "ls: /sys: No such file or directory", "1", "/proc/1"],
    ]);
  },
);

jailTest("the host sees the same: namespaces, capabilities, descriptors", async (root) => {
  using file = openFile("/dev/zero", OpenFlag.ReadOnly);
  // One that would survive the start of a program.
  using leaked = openFile("/dev/zero", OpenFlag.ReadOnly);
  setCloseOnExec(leaked, false);
  const { reader, writer } = pipe();
  using input = reader;
  using output = writer;
  using jailed = spawnJailed({
    program: BUSYBOX,
    argv: ["busybox", "cat"],
    pivotRoot: root,
    fds: [{ fd: input, as: 0 }, { fd: file, as: 7 }, { fd: file, as: 5 }],
  });
  const proc = `/proc/${jailed.pid}`;
  for (const namespace of ["user", "mnt", "pid", "net", "ipc"]) {
    const [own, its] = ["self", jailed.pid].map((pid) =>
      Deno.readLinkSync(`/proc/${pid}/ns/${namespace}`)
    );
    assert.notEqual(own, its, namespace);
  }
  const status = Deno.readTextFileSync(`${proc}/status`);
  assert.equal(status.match(/^Cap\w+:\t0000000000000000$/mg)?.length, 5);
  assert.match(status, /^NoNewPrivs:\t1$/m);
  assert.match(status, /^SigBlk:\t0000000000000000$/m);
  assert.match(status, /^SigIgn:\t0000000000000000$/m);
  assert.match(status, /^NSpid:\t[0-9]+\t1$/m);
  const open = [...Deno.readDirSync(`${proc}/fd`)].map(({ name }) => Number(name));
  assert.deepEqual(open.toSorted((a, b) => a - b), [0, 1, 2, 5, 7]);
  assert.equal(Deno.readTextFileSync(`${proc}/uid_map`), "");
  assert.equal(jailed.end, undefined);
  output[Symbol.dispose]();
  assert.deepEqual(await jailed.wait(), { kind: "exited", status: 0 });
});

jailTest("ids are those of the map", async (root) => {
  const map = [{ inside: 0, outside: 100_000, count: 1000 }];
  const spec = { pivotRoot: root, uidMap: map, gidMap: map, mounts: [tools[0]!] };
  assert.equal((await shell({ ...spec, uid: 7, gid: 8 }, "$b id")).text, "uid=7 gid=8\n");
  assert.equal((await shell(spec, "$b id")).text, "uid=0 gid=0\n");
}, { needsRoot: true });

jailTest("a jailed program ends by itself, by a signal, or with its object", async (root) => {
  const { end } = await shell({ pivotRoot: root }, "exit 42");
  assert.deepEqual(end, { kind: "exited", status: 42 });
  const spec = { program: BUSYBOX, argv: ["busybox", "sleep", "1000"], pivotRoot: root };
  using killed = spawnJailed(spec);
  assert.equal(killed.kill(), true);
  assert.deepEqual(await killed.wait(), { kind: "killed", signal: 9, dumpedCore: false });
  assert.equal(killed.kill(), false);
  let pid: number;
  {
    using disposed = spawnJailed(spec);
    pid = disposed.pid;
    assert.ok(Deno.statSync(`/proc/${pid}`).isDirectory);
  }
  assert.throws(() => Deno.statSync(`/proc/${pid}`), Deno.errors.NotFound);
});

jailTest("a filter is in force from the start", async (root) => {
  const policy = loadPolicy("p", {
    source: memoryFiles({ p: "{socket, fork, vfork, clone}: return ENFILE\n" }),
  });
  const filter = encodeProgram(
    compilePolicy({ ...policy, defaultAction: { kind: "allow" } }),
  );
  const { text, end } = await shell(
    { pivotRoot: root, filter },
    "echo here; (echo there); echo done",
  );
  assert.match(text, /^here\n.*can't fork/);
  assert.notDeepEqual(end, { kind: "exited", status: 0 });
});

jailTest("what goes wrong is named", (root) => {
  const spec = { program: BUSYBOX, argv: ["busybox", "true"], pivotRoot: root };
  const refuses = (more: Partial<JailSpec>, message: RegExp) =>
    assert.throws(() => spawnJailed({ ...spec, ...more }), (error) => {
      assert.ok(error instanceof Error);
      assert.match(error.message, message);
      return true;
    });
  refuses({ pivotRoot: "/no/such/folder" }, /bind mount of \/no\/such\/folder: no such file/);
  refuses({ program: "/no/such/program" }, /open \/no\/such\/program: no such file/);
  refuses({ program: "/etc/passwd" }, /start of \/etc\/passwd: permission denied|ENOEXEC/);
  refuses({ mounts: tools }, /mounts in a jail need a uid map/);
  refuses({ ...asRoot, mounts: [{ kind: "bind", source: "/none", target: "/x" }] }, /\/none/);
  refuses(
    { ...asRoot, mounts: [{ kind: "tmpfs", target: "/a/../b", sizeBytes: 4096 }] },
    /expected an absolute path as a mount's target, got "\/a\/\.\.\/b"/,
  );
  refuses({ ...asRoot, uid: 5 }, /setresuid to 5: invalid argument/);
  refuses({ uidMap: [{ inside: 0, outside: 0, count: 0 }] }, /as the jail's uid_map/);
  refuses({ fds: [{ fd: 1, as: 4 }, { fd: 2, as: 4 }] }, /each descriptor's number once/);
  refuses({ argv: [] }, /expected the program's name/);
  refuses({ argv: ["a\0b"] }, /expected no NUL/);
  assert.throws(() => spawnJailed({ ...spec, argv: [] }), JailError);
});

jailTest("a jailed program dies with the process that started it", async (root) => {
  const job: JailChildJob = {
    spec: {
      program: BUSYBOX,
      argv: ["busybox", "sleep", "1000"],
      pivotRoot: root,
      ...asRoot,
      uid: 0,
    },
    wait: false,
  };
  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    const parent = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-lock", "-A", CHILD.href, JSON.stringify(job)],
      stdout: "piped",
    }).spawn();
    const reader = parent.stdout.getReader();
    const { value } = await reader.read();
    const pid = Number(/^pid ([0-9]+)\n/.exec(new TextDecoder().decode(value))?.[1]);
    assert.ok(pid > 0);
    assert.match(Deno.readTextFileSync(`/proc/${pid}/comm`), /busybox/);
    parent.kill(signal);
    await parent.status;
    await reader.cancel();
    await gone(pid);
  }
});

/** Longest that anything may take that ends at all, however busy the host. */
const PATIENCE_MS = 120_000;

/** Waits until no process `pid` lives; a zombie, whose new parent may be slow, does not. */
async function gone(pid: number): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    let state: string;
    try {
      state = Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) /, "");
    } catch {
      return;
    }
    if (state.startsWith("Z")) return;
    assert.ok(performance.now() < deadline, `process ${pid} lives on`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

jailTest(
  "this runtime itself runs in a jail, all of its threads without capabilities",
  async (root) => {
    const script = join(root, "script.js");
    const folder = join(root, "root");
    await Deno.mkdir(folder);
    await Deno.writeTextFile(
      script,
      `// The runtime may end a thread meanwhile.
     const tasks = [...Deno.readDirSync("/proc/self/task")].flatMap(({ name }) => {
       try {
         return [Deno.readTextFileSync("/proc/self/task/" + name + "/status")];
       } catch {
         return [];
       }
     });
     const without = tasks.filter((task) => task.match(/^Cap\\w+:\\t0+$/mg)?.length === 5);
     console.log(Deno.pid, tasks.length > 1, without.length === tasks.length);
     for (const { name } of Deno.readDirSync("/")) console.log(name);`,
    );
    const { reader, writer } = pipe();
    using output = reader;
    let jailed: JailedProcess;
    {
      using end = writer;
      jailed = spawnJailed({
        ...asRoot,
        program: Deno.execPath(),
        argv: ["deno", "run", "--quiet", "--no-config", "--no-lock", "-A", "/script.js"],
        env: { DENO_NO_UPDATE_CHECK: "1", DENO_DIR: "/dev/null/vmctl" },
        pivotRoot: folder,
        fds: [{ fd: end, as: 1 }, { fd: 2, as: 2 }],
        mounts: [
          ...runtimeMounts(),
          { kind: "proc", target: "/proc" },
          { kind: "bind", source: script, target: "/script.js" },
        ],
      });
    }
    using process = jailed;
    assert.deepEqual(await process.wait(), { kind: "exited", status: 0 });
    const bytes = new Uint8Array(4096);
    assert.notEqual(pollFd(output, PollEvent.In, 0), 0);
    const lines = new TextDecoder().decode(bytes.subarray(0, read(output, bytes))).trim().split(
      "\n",
    );
    assert.equal(lines[0], "1 true true");
    assert.ok(
      lines.slice(1).every((name) => ["proc", "script.js", "lib", "lib64", "usr"].includes(name)),
    );
  },
);

jailTest(
  "a confined device works in its jail, and its first wrong call is its last",
  async (root) => {
    const folder = join(root, "root");
    await Deno.mkdir(folder);
    const script = join(root, "loop.js");
    const bundled = await new Deno.Command(Deno.execPath(), {
      args: ["bundle", "--quiet", "--platform=deno", `--output=${script}`, LOOP.pathname],
      stderr: "inherit",
    }).output();
    assert.ok(bundled.success);
    const policy = loadPolicy("policies/loop.policy", {
      source: memoryFiles({
        "policies/loop.policy": "@include ./common_device.policy\n" +
          "{pread64, pwrite64, fdatasync}: allow\n",
        ...Object.fromEntries(
          embeddedPolicyNames().map((name) => {
            const path = `policies/${name}`;
            return [path, embeddedPolicies().read(path)];
          }),
        ),
      }),
    });
    const program = btoa(String.fromCharCode(...encodeProgram(compilePolicy(policy))));
    const call = (name: string, ...args: number[]) => ({ number: syscallNumber(name)!, args });
    const job: DeviceLoopJob = {
      program,
      durationMs: 500,
      calls: [call("openat"), call("clone3"), call("socket", 2, 1, 0)],
    };
    const { reader, writer } = pipe();
    const { reader: errorReader, writer: errorWriter } = pipe();
    using output = reader;
    using errors = errorReader;
    let jailed: JailedProcess;
    {
      using end = writer;
      using errorEnd = errorWriter;
      jailed = spawnJailed({
        ...asRoot,
        program: Deno.execPath(),
        argv: [
          ...["deno", "run", "--quiet", "--no-config", "--no-lock", "-A", "/loop.js"],
          JSON.stringify(job),
        ],
        env: { DENO_NO_UPDATE_CHECK: "1", DENO_DIR: "/dev/null/vmctl" },
        pivotRoot: folder,
        fds: [{ fd: end, as: 1 }, { fd: errorEnd, as: 2 }],
        mounts: [...runtimeMounts(), { kind: "bind", source: script, target: "/loop.js" }],
      });
    }
    using process = jailed;
    assert.deepEqual(await process.wait(), { kind: "exited", status: VIOLATION_EXIT_STATUS });
    const bytes = new Uint8Array(4096);
    const violation = parseViolation(bytes.subarray(0, read(errors, bytes)));
    assert.equal(syscallName(violation?.syscall ?? -1), "socket");
    assert.deepEqual(violation?.args.slice(0, 3), [2n, 1n, 0n]);
    const text = new TextDecoder().decode(bytes.subarray(0, read(output, bytes)));
    assert.match(text, /^ready\nturns [0-9]+\n-2\n-38\n$/);
  },
);

const canBeNobody = reason === undefined && getuid() === 0;
Deno.test({
  name: `an ordinary user makes jails, too${
    canBeNobody ? "" : " (skipped: not root, or no busybox)"
  }`,
  ignore: !canBeNobody,
  async fn() {
    // Somewhere that everybody can read, unlike the runtime's own place, perhaps.
    const folder = await Deno.makeTempDir({ prefix: "vmctl-jail-" });
    try {
      await Deno.chmod(folder, 0o755);
      const runtime = join(folder, "deno");
      await Deno.copyFile(Deno.execPath(), runtime);
      await Deno.chmod(runtime, 0o755);
      const script = join(folder, "child.js");
      const bundled = await new Deno.Command(Deno.execPath(), {
        args: ["bundle", "--quiet", "--platform=deno", `--output=${script}`, CHILD.pathname],
        stderr: "inherit",
      }).output();
      assert.ok(bundled.success);
      const root = join(folder, "root");
      await Deno.mkdir(root);
      const nobody = 65534;
      const run = async (spec: Partial<JailSpec>) => {
        const job: JailChildJob = {
          wait: true,
          spec: {
            program: BUSYBOX,
            argv: ["busybox", "sh", "-c", "/bin/busybox id; echo $$ /*"],
            pivotRoot: root,
            ...spec,
          },
        };
        const { stdout } = await new Deno.Command("setpriv", {
          args: [
            ...[`--reuid=${nobody}`, `--regid=${nobody}`, "--clear-groups"],
            ...[runtime, "run", "--quiet", "--no-config", "--no-lock", "-A", script],
            JSON.stringify(job),
          ],
          env: { DENO_NO_UPDATE_CHECK: "1", DENO_DIR: "/dev/null/vmctl" },
          cwd: folder,
          stderr: "inherit",
        }).output();
        return new TextDecoder().decode(stdout).trimEnd().split("\n");
      };
      const ended = '{"kind":"exited","status":0}';
      const own = { uidMap: mapTo(0, nobody), gidMap: mapTo(0, nobody) };
      const mounts = [tools[0]!, tools[1]!];
      assert.deepEqual(await run({ ...own, mounts }), [
        ...["uid=0 gid=0", "1 /bin /proc", ended],
      ]);
      assert.deepEqual(await run({ argv: ["busybox", "sh", "-c", "echo $$ /*"] }), ["1 /*", ended]);
      const others = await run({ uidMap: mapTo(0, 0), gidMap: mapTo(0, nobody), mounts });
      assert.match(others[0]!, /^JailError: cannot write "0 0 1" as the jail's uid_map/);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test("what keeps a host from making jails is named, with the way out", () => {
  const host: Record<string, number> = {
    "user.max_user_namespaces": 0,
    "kernel.apparmor_restrict_unprivileged_userns": 1,
  };
  assert.deepEqual(closedSwitches((name) => host[name]), [
    'user.max_user_namespaces is 0; "sysctl user.max_user_namespaces=100000" allows it',
    "kernel.apparmor_restrict_unprivileged_userns is 1; " +
    '"sysctl kernel.apparmor_restrict_unprivileged_userns=0" allows it',
  ]);
  assert.deepEqual(closedSwitches(() => undefined), []);
});
