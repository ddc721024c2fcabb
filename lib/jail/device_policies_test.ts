import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseViolation, VIOLATION_EXIT_STATUS } from "../host/mod.ts";
import { compilePolicy } from "./bpf/compile.ts";
import { encodeProgram } from "./bpf/instruction.ts";
import { embeddedPolicies, embeddedPolicyNames, loadDevicePolicy } from "./device_policies.ts";
import { PolicyError } from "./errors.ts";
import type { Policy } from "./policy/ast.ts";
import { judge } from "./policy/evaluate.ts";
import { loadPolicy } from "./policy/load.ts";
import { flags } from "./policy/constants.ts";
import { syscallName, syscallNames, syscallNumber } from "./policy/syscalls.ts";
import type { DeviceLoopJob } from "./testing/device_loop.ts";

const FOLDER = fileURLToPath(new URL("../../policies/", import.meta.url));
const LOOP = new URL("./testing/device_loop.ts", import.meta.url);

function compile(policy: Policy): string {
  return btoa(String.fromCharCode(...encodeProgram(compilePolicy(policy))));
}

function startLoop(job: DeviceLoopJob): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-config", "--no-lock", "-A", LOOP.href, JSON.stringify(job)],
    // As the executable sets them: nothing is cached, nothing is fetched behind one's back.
    env: { DENO_NO_UPDATE_CHECK: "1", DENO_DIR: "/dev/null/vmctl" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

interface LoopResult {
  readonly code: number;
  readonly signal: Deno.Signal | null;
  readonly lines: readonly string[];
  /** Name of the call that was trapped, or what else stands on standard error. */
  readonly trouble: string;
}

async function finish(child: Deno.ChildProcess): Promise<LoopResult> {
  const { code, signal, stdout, stderr } = await child.output();
  const violation = parseViolation(stderr);
  return {
    code,
    signal,
    lines: new TextDecoder().decode(stdout).trim().split("\n"),
    trouble: violation === undefined
      ? new TextDecoder().decode(stderr)
      : syscallName(violation.syscall) ?? String(violation.syscall),
  };
}

/** What a block device does, over what all devices do. */
async function loopPolicy(): Promise<Policy> {
  const folder = await Deno.makeTempDir();
  try {
    const path = join(folder, "loop.policy");
    await Deno.writeTextFile(
      path,
      `@include ${FOLDER}common_device.policy\n{pread64, pwrite64, fdatasync}: allow\n`,
    );
    return loadPolicy(path);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("the program has all policies of the project, word by word", async () => {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(FOLDER)) names.push(name);
  assert.deepEqual(embeddedPolicyNames().toSorted(), names.toSorted());
  for (const name of names) {
    const text = await Deno.readTextFile(join(FOLDER, name));
    assert.equal(embeddedPolicies().read(`policies/${name}`), text, name);
  }
});

Deno.test("each policy of the project is right, small and says why it names a call", async () => {
  for (const name of embeddedPolicyNames().filter((name) => name.endsWith(".policy"))) {
    const policy = loadDevicePolicy(name.replace(/\.policy$/, ""));
    assert.ok(compilePolicy(policy).length < 500);
    for (const line of (await Deno.readTextFile(join(FOLDER, name))).split("\n")) {
      assert.ok(line.length <= 100, line);
      assert.equal(line, line.trimEnd());
    }
  }
});

Deno.test("a folder of the user's takes the place of the program's policies", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(join(folder, "common_device.policy"), "read: return EIO\n");
    const policy = loadDevicePolicy("common_device", { folder });
    assert.deepEqual(judge(policy, { number: 0 }).action, { kind: "errno", errno: 5 });
    assert.throws(() => loadDevicePolicy("block_device", { folder }), PolicyError);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a device lives on under the common policy", async () => {
  const program = compile(await loopPolicy());
  const wanted = 12_000;
  const { code, signal, lines, trouble } = await finish(
    startLoop({ program, durationMs: 6000, turns: wanted, withWorker: true }),
  );
  assert.equal(trouble, "");
  assert.deepEqual([code, signal, lines.at(-1)], [0, null, "done"]);
  assert.ok(Number(/^turns ([0-9]+)$/.exec(lines[1]!)?.[1]) >= wanted, lines[1]);
});

Deno.test("signals end a confined device as they end any process", async () => {
  const program = compile(await loopPolicy());
  for (const signal of ["SIGTERM", "SIGINT", "SIGABRT"] as const) {
    const child = startLoop({ program, durationMs: 60_000 });
    const [ours, theirs] = child.stdout.tee();
    const reader = ours.getReader();
    await reader.read();
    child.kill(signal);
    const status = await child.status;
    assert.equal(status.signal, signal);
    await Promise.all([reader.cancel(), theirs.cancel(), child.stderr.cancel()]);
  }
});

const constant = (name: string) => Number(flags(name));

Deno.test("files, sockets, programs and processes are out of reach", async () => {
  const policy = await loopPolicy();
  const program = compile(policy);
  const call = (name: string, ...args: number[]) => ({ number: syscallNumber(name)!, args });
  const answered = await finish(startLoop({
    program,
    durationMs: 0,
    calls: [
      ...[call("open"), call("openat"), call("readlink"), call("stat"), call("access")],
      ...[call("clone3", 0, 88), call("ioctl", 1, 0x5401), call("tgkill", 1, 1, 9)],
      call("newfstatat", constant("AT_FDCWD"), 0, 0, 0),
    ],
  }));
  assert.equal(answered.trouble, "");
  assert.deepEqual(answered.lines.slice(2), [
    ...["-2", "-2", "-2", "-2", "-2", "-38", "-25", "-1", "-2"],
    "done",
  ]);
  const sigchld = constant("SIGCHLD");
  const trapped = [
    ...[call("socket", 1, 1, 0), call("connect"), call("execve"), call("execveat"), call("fork")],
    ...[call("vfork"), call("clone", sigchld), call("ptrace"), call("kill", 1, 9), call("mount")],
    ...[call("process_vm_readv"), call("unshare"), call("setns"), call("openat2"), call("bpf")],
    ...[call("io_uring_setup"), call("userfaultfd"), call("prctl", 15_000), call("chroot")],
    call("mmap", 0, 4096, constant("PROT_READ") | constant("PROT_EXEC"), constant("MAP_PRIVATE")),
    call("clone", constant("CLONE_VM") | constant("CLONE_VFORK") | sigchld),
    call("prlimit64", 0, 7, 1),
    call("fcntl", 0, constant("F_SETOWN")),
  ];
  for (const attempt of trapped) {
    const name = syscallName(attempt.number)!;
    const result = await finish(startLoop({ program, durationMs: 0, calls: [attempt] }));
    assert.equal(result.trouble, name);
    assert.equal(result.code, VIOLATION_EXIT_STATUS, name);
    assert.equal(result.lines.length, 2, name);
  }
});

/** The kernel calls these itself, from probes; it lets them pass every filter, but kills other callers. */
const PROBES: readonly number[] = [syscallNumber("uretprobe")!, syscallNumber("uprobe")!];

Deno.test("the kernel stops every call that the policy does not name", async () => {
  // The default answers instead of trapping, so that one process can try them all.
  const answer = 999;
  const policy: Policy = {
    ...await loopPolicy(),
    defaultAction: { kind: "errno", errno: answer },
  };
  const named = new Set(policy.syscalls.map(({ number }) => number));
  const others = [...syscallNames()].map((name) => syscallNumber(name)!)
    .filter((number) => !named.has(number) && !PROBES.includes(number));
  assert.ok(others.length > 280);
  const { code, signal, lines, trouble } = await finish(startLoop({
    program: compile(policy),
    durationMs: 0,
    calls: [...others, 400, 1000, 0x3fff_ffff].map((number) => ({ number, args: [] })),
  }));
  assert.equal(trouble, "");
  assert.deepEqual([code, signal, lines.at(-1)], [0, null, "done"]);
  const answers = lines.slice(2, -1);
  assert.equal(answers.length, others.length + 3);
  assert.deepEqual(new Set(answers), new Set([`-${answer}`]));
});
