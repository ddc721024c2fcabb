/**
 * The system calls by which a new process puts itself into its jail.
 *
 * @module
 */

import type { ScriptArgument, ScriptStep } from "../host/mod.ts";
import { JailError } from "./errors.ts";
import type { JailMount, JailSpec } from "./jail.ts";
import { flags } from "./policy/constants.ts";
import { syscallNumber } from "./policy/syscalls.ts";

/** What the parent prepared. */
export interface Preparation {
  readonly spec: JailSpec;
  /**
   * Says "go" with one byte when the maps are written, and with another when the program is to start; at
   * its end, the parent is gone.
   */
  readonly goReader: number;
  readonly goWriter: number;
  readonly program: number;
  readonly report: number;
  /** Numbers of the parent's copies, all above the program's. */
  readonly fds: readonly { readonly from: number; readonly as: number }[];
  /** Sources of bind mounts that are folders. */
  readonly folders: ReadonlySet<string>;
  /** The ids that the process takes, inside; undefined where it has them already. */
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  /** Whether the process may give up its supplementary groups. */
  readonly dropGroups: boolean;
  /** CAP_LAST_CAP of the running kernel. */
  readonly lastCapability: number;
}

/** Bytes of the jail's root in memory, which holds only empty files and folders. */
const ROOT_BYTES = 1 << 20;
const S_IFREG = 0o100000;
const LAST_FD = 0xffff_ffff;
/** _LINUX_CAPABILITY_VERSION_3 of linux/capability.h. */
const CAPABILITY_VERSION = 0x2008_0522;
const SECCOMP_SET_MODE_FILTER = 1;
/** MOUNT_ATTR_… of linux/mount.h. */
const MOUNT_ATTR = { ReadOnly: 1, NoSetuid: 2, NoDevices: 4 } as const;

function step(
  label: string,
  name: string,
  args: readonly ScriptArgument[],
  expect?: "any" | number,
): ScriptStep {
  const syscall = syscallNumber(name)!;
  return expect === undefined ? { label, syscall, args } : { label, syscall, args, expect };
}

/** Everything from the new process's first call to the start of the program. */
export function setupSteps(preparation: Preparation): ScriptStep[] {
  const { spec } = preparation;
  return [
    ...waitForParent(preparation),
    // Signals of the terminal are for the parent.
    step("setsid", "setsid", []),
    ...changeIds(preparation),
    ...(spec.mounts === undefined || spec.mounts.length === 0
      ? bareRoot(spec.pivotRoot)
      : furnishedRoot(spec.pivotRoot, spec.mounts, preparation.folders)),
    ...pivot(spec),
    ...dropBoundingSet(preparation.lastCapability),
    ...dieWithParent(preparation.goReader),
    ...placeDescriptors(preparation),
    ...waitForStart(preparation),
    ...renounce(spec),
    step(`start of ${spec.program}`, "execveat", [
      preparation.program,
      "",
      [...spec.argv, null],
      [...Object.entries(spec.env ?? {}).map(([name, value]) => `${name}=${value}`), null],
      flags("AT_EMPTY_PATH"),
    ]),
  ];
}

function waitForParent({ goReader, goWriter }: Preparation): ScriptStep[] {
  return [
    step("prctl(PR_SET_PDEATHSIG)", "prctl", [flags("PR_SET_PDEATHSIG"), flags("SIGKILL")]),
    step("close", "close", [goWriter]),
    step("wait for the parent", "read", [goReader, new Uint8Array(8), 1], 1),
  ];
}

/** Says that the jail is made. */
function waitForStart({ goReader, report }: Preparation): ScriptStep[] {
  return [
    step("say that the jail is made", "write", [report, new Uint8Array(1), 1], 1),
    step("wait for the start", "read", [goReader, new Uint8Array(8), 1], 1),
  ];
}

/** The empty folder itself. */
function bareRoot(root: string): ScriptStep[] {
  return [
    privateMounts(),
    step(`bind mount of ${root}`, "mount", [root, root, 0, flags("MS_BIND", "MS_REC"), 0]),
  ];
}

function privateMounts(): ScriptStep {
  return step("mount of / as private", "mount", [0, "/", 0, flags("MS_REC", "MS_PRIVATE"), 0]);
}

/** A root in memory, with mounts in it. */
function furnishedRoot(
  root: string,
  mounts: readonly JailMount[],
  folders: ReadonlySet<string>,
): ScriptStep[] {
  const steps = [
    privateMounts(),
    step(`mount of a root on ${root}`, "mount", [
      ...["none", root, "tmpfs"],
      flags("MS_NOSUID", "MS_NODEV"),
      `size=${ROOT_BYTES},mode=755`,
    ]),
  ];
  const made = new Set<string>();
  for (const mount of mounts) {
    checkTarget(mount.target);
    const at = root + mount.target;
    const label = `mount of ${
      mount.kind === "bind" ? mount.source : mount.kind
    } on ${mount.target}`;
    const isFile = mount.kind === "bind" && !folders.has(mount.source);
    steps.push(...makeTarget(root + mount.target, { root, isFile, made }));
    switch (mount.kind) {
      case "bind": {
        const bind = flags("MS_BIND", "MS_REC");
        steps.push(step(label, "mount", [mount.source, at, 0, bind, 0]));
        steps.push(restrict(label, at, { isReadOnly: mount.writable !== true, isRecursive: true }));
        break;
      }
      case "tmpfs":
        steps.push(step(label, "mount", [
          ...["none", at, "tmpfs"],
          flags("MS_NOSUID", "MS_NODEV", "MS_NOEXEC"),
          `size=${mount.sizeBytes},mode=755`,
        ]));
        break;
      case "proc":
        steps.push(
          step(label, "mount", [
            "proc",
            at,
            "proc",
            // Root's settings of the kernel lie there too, and root may be who is jailed.
            flags("MS_NOSUID", "MS_NODEV", "MS_NOEXEC", "MS_RDONLY"),
            "subset=pid",
          ]),
        );
        break;
    }
  }
  steps.push(restrict("mount of the root as read-only", root, {
    isReadOnly: true,
    isRecursive: false,
  }));
  return steps;
}

function checkTarget(target: string): void {
  const parts = target.split("/").slice(1);
  const isGood = target.startsWith("/") &&
    parts.every((part) => part !== "" && part !== "." && part !== "..") && !target.includes("\0");
  if (!isGood) {
    throw new JailError(`expected an absolute path as a mount's target, got "${target}"`);
  }
}

/** Makes `path` and the folders above it, except those of `made`, which it adds to. */
function makeTarget(
  path: string,
  { root, isFile, made }: { root: string; isFile: boolean; made: Set<string> },
): ScriptStep[] {
  if (path === root || made.has(path)) return [];
  made.add(path);
  const parent = path.slice(0, path.lastIndexOf("/"));
  return [
    ...makeTarget(parent, { root, isFile: false, made }),
    // What is there already, of a mount, is reported by the mount, if it is of the wrong kind.
    isFile
      ? step(`make ${path}`, "mknod", [path, S_IFREG | 0o644, 0], "any")
      : step(`make ${path}`, "mkdir", [path, 0o755], "any"),
  ];
}

/** Adds restrictions to a mount; those that it has stay. */
function restrict(
  label: string,
  path: string,
  { isReadOnly, isRecursive }: { isReadOnly: boolean; isRecursive: boolean },
): ScriptStep {
  const attributes = MOUNT_ATTR.NoSetuid | MOUNT_ATTR.NoDevices |
    (isReadOnly ? MOUNT_ATTR.ReadOnly : 0);
  // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
  const bytes = new DataView(new ArrayBuffer(32));
  bytes.setBigUint64(0, BigInt(attributes), true);
  return step(`mount_setattr for the ${label}`, "mount_setattr", [
    flags("AT_FDCWD"),
    path,
    isRecursive ? flags("AT_RECURSIVE") : 0,
    new Uint8Array(bytes.buffer),
    32,
  ]);
}

/** The new root over the old one, which then goes away (pivot_root(2), "pivot_root(".", ".")"). */
function pivot({ pivotRoot }: JailSpec): ScriptStep[] {
  return [
    step(`chdir to ${pivotRoot}`, "chdir", [pivotRoot]),
    step(`pivot_root to ${pivotRoot}`, "pivot_root", [".", "."]),
    step("umount2 of the old root", "umount2", [".", flags("MNT_DETACH")]),
    step("chdir to /", "chdir", ["/"]),
  ];
}

function dropBoundingSet(lastCapability: number): ScriptStep[] {
  return Array.from(
    { length: lastCapability + 1 },
    (_, capability) =>
      step(`drop of capability ${capability}`, "prctl", [
        flags("PR_CAPBSET_DROP"),
        capability,
        0,
        0,
        0,
      ]),
  );
}

/** Before anything is mounted, because files of unmapped ids cannot be made; capabilities stay. */
function changeIds({ uid, gid, dropGroups, lastCapability }: Preparation): ScriptStep[] {
  const all = (1n << BigInt(lastCapability + 1)) - 1n;
  return [
    step("prctl(PR_SET_KEEPCAPS)", "prctl", [flags("PR_SET_KEEPCAPS"), 1, 0, 0, 0]),
    ...(dropGroups ? [step("setgroups", "setgroups", [0, 0])] : []),
    ...(gid === undefined ? [] : [step(`setresgid to ${gid}`, "setresgid", [gid, gid, gid])]),
    ...(uid === undefined ? [] : [step(`setresuid to ${uid}`, "setresuid", [uid, uid, uid])]),
    setCapabilities(all),
  ];
}

/** Sets the effective and permitted capabilities; none can be inherited. */
function setCapabilities(capabilities: bigint): ScriptStep {
  const header = new DataView(new ArrayBuffer(8));
  header.setUint32(0, CAPABILITY_VERSION, true);
  // Two of struct __user_cap_data_struct: effective, permitted, inheritable of 32 bits each.
  const data = new DataView(new ArrayBuffer(24));
  for (const [at, bits] of [[0, capabilities & 0xffff_ffffn], [12, capabilities >> 32n]] as const) {
    data.setUint32(at, Number(bits), true);
    data.setUint32(at + 4, Number(bits), true);
  }
  return step("capset", "capset", [new Uint8Array(header.buffer), new Uint8Array(data.buffer)]);
}

/** New ids undid the wish to die with the parent, which may be dead by now. */
function dieWithParent(goReader: number): ScriptStep[] {
  const pollfd = new DataView(new ArrayBuffer(8));
  pollfd.setInt32(0, goReader, true);
  return [
    step("prctl(PR_SET_PDEATHSIG)", "prctl", [flags("PR_SET_PDEATHSIG"), flags("SIGKILL")]),
    step("check that the parent lives", "poll", [new Uint8Array(pollfd.buffer), 1, 0], 0),
  ];
}

function placeDescriptors(preparation: Preparation): ScriptStep[] {
  const { fds, program, report, goReader } = preparation;
  const steps = fds.map(({ from, as }) => step(`dup2 to descriptor ${as}`, "dup2", [from, as], as));
  const kept = [...fds.map(({ as }) => as), program, report, goReader].toSorted((a, b) => a - b);
  let next = 0;
  for (const fd of [...kept, LAST_FD + 1]) {
    if (fd > next) steps.push(step("close_range", "close_range", [next, fd - 1, 0]));
    next = fd + 1;
  }
  return steps;
}

/** All signals that can be handled, those that the C library keeps for itself too. */
const signals = Array.from({ length: 64 }, (_, index) => index + 1)
  .filter((signal) => signal !== 9 && signal !== 19);

/** No capabilities, no privileges by other programs, default signals, the filter. */
function renounce({ filter }: JailSpec): ScriptStep[] {
  const steps = [
    step("prctl(PR_CAP_AMBIENT)", "prctl", [
      ...[flags("PR_CAP_AMBIENT"), flags("PR_CAP_AMBIENT_CLEAR_ALL"), 0, 0, 0],
    ]),
    setCapabilities(0n),
    step("prctl(PR_SET_NO_NEW_PRIVS)", "prctl", [flags("PR_SET_NO_NEW_PRIVS"), 1, 0, 0, 0]),
    // What is ignored stays so in a new program: SIGPIPE by the runtime, SIGINT and SIGQUIT by a shell
    // that starts something in the background, others by whoever is further up.
    ...signals.map((signal) =>
      step(`rt_sigaction of signal ${signal}`, "rt_sigaction", [signal, new Uint8Array(32), 0, 8])
    ),
    step("rt_sigprocmask", "rt_sigprocmask", [flags("SIG_SETMASK"), new Uint8Array(8), 0, 8]),
  ];
  if (filter !== undefined) {
    const program = new DataView(new ArrayBuffer(16));
    program.setUint16(0, filter.length / 8, true);
    steps.push(step("seccomp", "seccomp", [SECCOMP_SET_MODE_FILTER, 0, {
      bytes: new Uint8Array(program.buffer),
      pointers: [{ at: 8, target: filter }],
    }]));
  }
  return steps;
}
