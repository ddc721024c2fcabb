/** Devices that a guest has taken over, in the jails and under the policies of their kinds. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { DEVICE_KINDS, type DeviceKindName } from "../../devices/mod.ts";
import {
  bufferAddress,
  Errno,
  Fd,
  IoUring,
  isHostError,
  pipe,
  rawSyscall,
  read,
} from "../../host/mod.ts";
import {
  evaluateExpression,
  judge,
  loadDevicePolicy,
  syscallName,
  syscallNames,
  syscallNumber,
} from "../../jail/mod.ts";
import { DeviceLauncher } from "./device_launcher.ts";
import type { DeviceProgram } from "./device_program.ts";
import { jailTest, openKind, SOURCES_PROGRAM } from "./testing/jail_rig.ts";
import type { Argument, Attack, AttackOrder, AttackReport, Attempt } from "./testing/attacker.ts";

const ATTACKER: DeviceProgram = {
  ...SOURCES_PROGRAM,
  argv: [
    ...SOURCES_PROGRAM.argv.slice(0, -1),
    fileURLToPath(new URL("./testing/attacker.ts", import.meta.url)),
  ],
};
/** The kernel calls these itself, from probes; it lets them pass every filter, but kills other callers. */
const PROBES: readonly number[] = [syscallNumber("uretprobe")!, syscallNumber("uprobe")!];
/** Numbers that no kernel gives, and the last that a filter takes for one of the 64-bit interface. */
const UNUSED = [400, 600, 1000, 0x3fff_ffff];

interface Outcome {
  /** Undefined where the attack was the device's end. */
  readonly report: AttackReport | undefined;
  readonly ended: string;
}

/** Starts a device of `kind` that attacks, and waits for its end. */
async function attackFrom(
  kind: DeviceKindName,
  attack: Attack,
  { launcher, folder }: { launcher: DeviceLauncher; folder: string },
): Promise<Outcome> {
  using opened = await openKind(kind, folder);
  using channel = new DisposableStack();
  const { reader, writer } = pipe();
  channel.use(reader);
  let ended: string;
  {
    using theirs = writer;
    const settings: AttackOrder = { own: opened.settings, attack: JSON.stringify(attack) };
    await using device = await launcher.launch({
      name: `attacking ${kind}`,
      kind,
      opened: {
        settings: { ...settings },
        fds: [...opened.fds, theirs],
        queueCount: opened.queueCount,
        [Symbol.dispose]() {},
      },
      logLevel: "info",
    });
    // Its front end has gone, which ends it when it is through.
    device.socket[Symbol.dispose]();
    ended = await device.ended;
  }
  const text = new TextDecoder().decode(readToEnd(reader.take()));
  return { report: text === "" ? undefined : JSON.parse(text) as AttackReport, ended };
}

function readToEnd(fd: number): Uint8Array {
  using from = Fd.adopt(fd);
  const pieces: number[] = [];
  const buffer = new Uint8Array(65536);
  for (let count = 1; count > 0;) {
    count = read(from, buffer);
    pieces.push(...buffer.subarray(0, count));
  }
  return new Uint8Array(pieces);
}

const constant = (text: string) => Number(evaluateExpression(text, { name: "attack" }));

function attempt(name: string, ...args: Argument[]): Attempt {
  const number = syscallNumber(name);
  assert.ok(number !== undefined, name);
  return { number, args };
}

const CWD = -100;
const PTRACE_ATTACH = 16;
const PTRACE_SEIZE = 0x4206;
const VMM = Deno.pid;
const SIGCHLD = constant("SIGCHLD");
const SIGTERM = constant("SIGTERM");

/** What each kind's policy must end. */
const FORBIDDEN: readonly Attempt[] = [
  ...[attempt("openat2", CWD, "/etc/passwd", 0, 24), attempt("open_by_handle_at", CWD, 0, 0)],
  ...[attempt("socket", constant("AF_INET"), 1, 0), attempt("socket", constant("AF_UNIX"), 1, 0)],
  ...[attempt("connect", 3, 0, 16), attempt("bind", 3, 0, 16), attempt("accept4", 3, 0, 0, 0)],
  ...[attempt("execve", "/proc/self/exe", 0, 0), attempt("execveat", CWD, "/proc/self/exe", 0, 0)],
  ...[attempt("fork"), attempt("vfork"), attempt("clone", SIGCHLD)],
  attempt("clone", constant("CLONE_VM|CLONE_VFORK") + SIGCHLD),
  attempt("clone", constant("CLONE_NEWUSER") + SIGCHLD),
  ...[attempt("ptrace", PTRACE_ATTACH, VMM), attempt("ptrace", 0)],
  ...[attempt("kill", VMM, 9), attempt("kill", -1, 9), attempt("kill", 1, 9), attempt("tkill", 1)],
  ...[attempt("rt_sigqueueinfo", VMM, SIGTERM, 0), attempt("pidfd_open", VMM, 0)],
  ...[attempt("pidfd_send_signal", 3, 9, 0, 0), attempt("pidfd_getfd", 3, 0, 0)],
  ...[attempt("mount", "none", "/", "tmpfs", 0, 0), attempt("umount2", "/proc", 0)],
  ...[attempt("pivot_root", "/", "/"), attempt("chroot", "/"), attempt("open_tree", CWD, "/", 1)],
  ...[attempt("process_vm_readv", VMM, 0, 0, 0, 0), attempt("process_vm_writev", VMM, 0, 0, 0, 0)],
  ...[attempt("unshare", constant("CLONE_NEWUSER")), attempt("setns", 3, 0)],
  ...[attempt("io_uring_setup", 8, 0), attempt("io_uring_register", 3, 12, 0, 0), attempt("bpf")],
  ...[attempt("seccomp", 0, 0, 0), attempt("userfaultfd"), attempt("keyctl"), attempt("setuid", 0)],
  ...[
    attempt("capset", 0, 0),
    attempt("prctl", 15_000),
    attempt("prctl", constant("PR_SET_DUMPABLE")),
  ],
  attempt("mmap", 0, 4096, constant("PROT_READ|PROT_EXEC"), constant("MAP_PRIVATE"), 0, 0),
  ...[attempt("prlimit64", 0, 7, 1, 0), attempt("prlimit64", VMM, 7, 0, 0)],
  ...[attempt("fcntl", 0, constant("F_SETOWN"), VMM), attempt("sendto", 3, 0, 0, 0, 1, 16)],
];

/** What each kind's policy must answer instead. */
const REFUSED: readonly (readonly [Attempt, number])[] = [
  [attempt("openat", CWD, "/etc/passwd", 0), Errno.ENOENT],
  [attempt("openat", CWD, "/proc/1/environ", 0), Errno.ENOENT],
  [attempt("openat", CWD, "/proc/self/mem", constant("O_RDWR")), Errno.ENOENT],
  [attempt("openat", CWD, `/proc/${VMM}/mem`, constant("O_RDWR")), Errno.ENOENT],
  [attempt("open", "/dev/kvm", constant("O_RDWR")), Errno.ENOENT],
  [attempt("readlink", "/proc/self/exe", 0, 0), Errno.ENOENT],
  [attempt("stat", "/etc/passwd", 0), Errno.ENOENT],
  [attempt("newfstatat", CWD, "/etc/passwd", 0, 0), Errno.ENOENT],
  [attempt("statx", CWD, "/etc/passwd", 0, 0, 0), Errno.ENOENT],
  [attempt("clone3", 0, 88), Errno.ENOSYS],
  [attempt("tgkill", VMM, VMM, 9), Errno.EPERM],
  [attempt("tgkill", 1, 1, 9), Errno.EPERM],
  [attempt("ioctl", 2, 0x5412, 0), Errno.ENOTTY],
  // The policy allows it for the process itself, and its namespace knows no other.
  [attempt("tgkill", VMM, VMM, SIGTERM), Errno.ESRCH],
];

/** Every call of which the policy of `kind` says nothing. */
function unnamed(kind: DeviceKindName): Attempt[] {
  const policy = loadDevicePolicy(`${kind}_device`);
  const named = new Set(policy.syscalls.map(({ number }) => number));
  const numbers = [...[...syscallNames()].map((name) => syscallNumber(name)!), ...UNUSED];
  const others = numbers.filter((number) => !named.has(number) && !PROBES.includes(number));
  assert.ok(others.length > 250);
  return others.map((number) => ({ number, args: [] }));
}

function describe({ number, args }: Attempt): string {
  return `${syscallName(number) ?? number}(${args.map((arg) => JSON.stringify(arg)).join(", ")})`;
}

for (const kind of DEVICE_KINDS) {
  jailTest(
    `no call gets a ${kind} device anywhere, even if it survives`,
    { program: ATTACKER },
    async (place) => {
      const policy = loadDevicePolicy(`${kind}_device`);
      const fatal = [...FORBIDDEN, ...unnamed(kind)];
      for (const { number, args } of fatal) {
        const values = args.map((arg) =>
          typeof arg === "number" ? BigInt.asUintN(64, BigInt(arg)) : 0x1000n
        );
        assert.equal(judge(policy, { number, args: values }).action.kind, "kill");
      }
      const attempts = [...fatal, ...REFUSED.map(([refused]) => refused)];
      const { report, ended } = await attackFrom(kind, { kind: "survive", attempts }, place);
      assert.equal(ended, "it ended with status 0");
      assert.ok(report !== undefined);
      const { results, trapped } = report;
      assert.equal(results.length, attempts.length);
      for (const [index, forbidden] of fatal.entries()) {
        const { number } = forbidden;
        // The call was not made: its number is still where its result would be.
        assert.deepEqual([trapped[index], results[index]], [number, number], describe(forbidden));
      }
      for (const [index, [refused, errno]] of REFUSED.entries()) {
        const at = fatal.length + index;
        assert.deepEqual([trapped[at], results[at]], [-1, -errno], describe(refused));
      }
    },
  );
}

jailTest(
  "a forbidden call is a device's end, and is named",
  { program: ATTACKER },
  async (place) => {
    // Each from one kind, in turn: that the filters of all kinds stop all of them is shown above.
    const calls = FORBIDDEN.filter(({ number }, index) =>
      FORBIDDEN.findIndex((other) => other.number === number) === index
    );
    const next = calls.entries();
    const attackAll = async () => {
      for (const [index, call] of next) {
        const kind = DEVICE_KINDS[index % DEVICE_KINDS.length]!;
        const { report, ended } = await attackFrom(kind, { kind: "call", attempt: call }, place);
        const text = `it made the system call ${syscallName(call.number)} (${call.number}), ` +
          `which ${kind}_device.policy forbids, with 0x`;
        assert.equal(ended.slice(0, text.length), text);
        assert.equal(report, undefined);
      }
    };
    await Promise.all([attackAll(), attackAll()]);
  },
);

jailTest(
  "a device that does what it can to hide a forbidden call is ended and named all the same",
  { program: ATTACKER },
  async (place) => {
    for (const name of ["socket", "execve"]) {
      const call = attempt(name, 1, 2, 3);
      const { report, ended } = await attackFrom("rng", { kind: "hide", attempt: call }, place);
      const text = `it made the system call ${name} (${call.number}), which rng_device.policy ` +
        `forbids, with 0x1, 0x2, 0x3`;
      assert.equal(ended.slice(0, text.length), text);
      assert.equal(report, undefined);
    }
  },
);

jailTest(
  "other interfaces of the kernel are a device's end",
  { program: ATTACKER },
  async (place) => {
    const X32 = 0x4000_0000;
    for (const name of ["getpid", "read"]) {
      const { number } = attempt(name);
      const x32 = { kind: "call", attempt: { number: number + X32, args: [] } } as const;
      const { report, ended } = await attackFrom("rng", x32, place);
      assert.deepEqual([report, ended], [undefined, "it was killed by SIGSYS"]);
    }
    // getpid and exit_group of 32 bits; a kernel without that interface has SIGSEGV for them.
    for (const number of [20, 252]) {
      const { report, ended } = await attackFrom("rng", { kind: "int80", number }, place);
      assert.equal(report, undefined);
      assert.match(ended, /^it was killed by SIG(SYS|SEGV)$/);
    }
  },
);

/** The address of a Unix socket in the abstract namespace: sa_family, then the name. */
function abstractAddress(name: string): number[] {
  return [constant("AF_UNIX"), 0, 0, ...new TextEncoder().encode(name)];
}

/** A socket that can be connected to at `address`. */
function listenAt(address: readonly number[]): Fd {
  const make = (name: string, ...args: (number | bigint)[]) => {
    const result = rawSyscall(syscallNumber(name)!, args.map(BigInt));
    assert.ok(result >= 0n, `${name}: ${result}`);
    return Number(result);
  };
  const fd = Fd.adopt(make("socket", constant("AF_UNIX"), 1, 0));
  const bytes = new Uint8Array(address);
  make("bind", fd.raw, bufferAddress(bytes.buffer), bytes.length);
  make("listen", fd.raw, 1);
  return fd;
}

jailTest(
  "a device without its filter still finds nothing",
  { program: ATTACKER },
  async (place) => {
    const sandbox = {
      pivotRoot: join(place.folder, "root"),
      seccompPolicyDir: undefined,
      seccompLogFailures: true,
    };
    using launcher = new DeviceLauncher({ sandbox, program: ATTACKER });
    // What it could reach if it were not in namespaces of its own.
    using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = tcp.addr as Deno.NetAddr;
    const tcpAddress = [constant("AF_INET"), 0, port >> 8, port & 255, 127, 0, 0, 1];
    const unixAddress = abstractAddress(`vmctl-attack-${VMM}`);
    using _unix = listenAt(unixAddress);
    const openHow = new Array<number>(24).fill(0);
    // struct iovec: 8 bytes at 0x1000.
    const piece = [0, 16, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    const opening = (path: string) => attempt("openat2", CWD, path, openHow, 24);
    const steps: readonly (readonly [Attempt, number | "a descriptor"])[] = [
      [attempt("socket", constant("AF_INET"), 1, 0), "a descriptor"],
      [attempt("connect", { resultOf: 0 }, [...tcpAddress, ...openHow], 16), Errno.ENETUNREACH],
      [attempt("socket", constant("AF_UNIX"), 1, 0), "a descriptor"],
      [attempt("connect", { resultOf: 2 }, unixAddress, unixAddress.length), Errno.ECONNREFUSED],
      [opening("/etc/passwd"), Errno.ENOENT],
      [opening(`/proc/${VMM}/mem`), Errno.ENOENT],
      [opening("/proc/sys/kernel/core_pattern"), Errno.ENOENT],
      [attempt("execve", "/bin/sh", 0, 0), Errno.ENOENT],
      [attempt("mkdir", "/new", 0o777), Errno.EROFS],
      [attempt("kill", VMM, 0), Errno.ESRCH],
      [attempt("kill", -1, 0), Errno.ESRCH],
      [attempt("pidfd_open", VMM, 0), Errno.ESRCH],
      [attempt("ptrace", PTRACE_SEIZE, VMM), Errno.ESRCH],
      [attempt("process_vm_readv", VMM, piece, 1, piece, 1, 0), Errno.ESRCH],
      [attempt("prlimit64", VMM, 7, 0, 0), Errno.ESRCH],
      [attempt("getppid"), 0],
      [attempt("mount", "none", "/", "tmpfs", 0, 0), Errno.EPERM],
      [attempt("umount2", "/proc", 0), Errno.EPERM],
      [attempt("pivot_root", "/", "/"), Errno.EPERM],
      [attempt("chroot", "/"), Errno.EPERM],
      [attempt("unshare", constant("CLONE_NEWNS")), Errno.EPERM],
      [attempt("unshare", constant("CLONE_NEWNET")), Errno.EPERM],
      [attempt("sethostname", "other", 5), Errno.EPERM],
      [attempt("setuid", 0), Errno.EINVAL],
      [attempt("setgid", 0), Errno.EINVAL],
    ];
    const attempts = steps.map(([step]) => step);
    for (const kind of DEVICE_KINDS) {
      const { folder } = place;
      const attack = { kind: "survive", attempts } as const;
      const { report, ended } = await attackFrom(kind, attack, { launcher, folder });
      assert.equal(ended, "it ended with status 0");
      assert.deepEqual(new Set(report?.trapped), new Set([-1]));
      for (const [index, [step, expected]] of steps.entries()) {
        const result = report?.results[index] ?? NaN;
        if (expected === "a descriptor") assert.ok(result > 2, describe(step));
        else assert.equal(result, 0 - expected, describe(step));
      }
    }
  },
);

/** Why there is no ring here; undefined where there is one. */
function whyNoRing(): string | undefined {
  try {
    new IoUring(1)[Symbol.dispose]();
    return undefined;
  } catch (error) {
    if (isHostError(error)) return `no io_uring: ${error.message}`;
    throw error;
  }
}

const noRing = whyNoRing();
const FSYNC = 3;
/** IORING_OP_TEE: the kernels that can restrict rings (5.10) know all operations up to this one. */
const LAST_OF_ALL_KERNELS = 33;
/** Numbers that the newest kernels give: IORING_OP_SOCKET is 45. */
const LAST_OPERATION = 63;

jailTest(
  "the ring of a disk does nothing but read, write and flush",
  { program: ATTACKER, skip: noRing },
  async (place) => {
    const others = Array.from({ length: LAST_OPERATION + 1 }, (_, operation) => operation)
      .filter((operation) => operation === 0 || operation > FSYNC);
    const FIXED_FILE = 1;
    const ASYNC = 16;
    const entries = [
      ...others.map((operation) => [operation, 0] as const),
      ...[[FSYNC, FIXED_FILE], [FSYNC, ASYNC], [FSYNC, 0]] as const,
    ];
    const { report, ended } = await attackFrom("block", { kind: "ring", entries }, place);
    assert.equal(ended, "it ended with status 0");
    assert.ok(report !== undefined);
    assert.equal(report.results.length, entries.length);
    // A number that the kernel does not know is wrong before it is forbidden.
    for (const [index, operation] of others.entries()) {
      const result = report.results[index];
      const isUnknown = operation > LAST_OF_ALL_KERNELS && result === -Errno.EINVAL;
      assert.ok(result === -Errno.EACCES || isUnknown, `operation ${operation}: ${result}`);
    }
    assert.deepEqual(report.results.slice(-3), [-Errno.EACCES, -Errno.EACCES, 0]);
  },
);
