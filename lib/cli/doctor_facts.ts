/**
 * What of a host matters to VMs. Each fact is looked at on its own; none of them throws.
 *
 * @module
 */

import { join } from "node:path";
import { describeError, formatSize, userCacheFolder } from "../base/mod.ts";
import { runDirectory } from "../control/mod.ts";
import { chooseEngine, type KvmFacts, probeKvm } from "../hypervisor/mod.ts";

/** How well the host does in one respect. */
export type FactLevel =
  /** As it should be. */
  | "ok"
  /** Works, but something is slower or missing. */
  | "warn"
  /** Something that VMs need is missing. */
  | "fail";

/** One thing about the host. */
export interface HostFact {
  /** Stable name, for programs. */
  readonly id: string;
  /** Name for people. */
  readonly title: string;
  readonly level: FactLevel;
  /** What was found. */
  readonly value: string;
  /** What to do about it, where something can be done. */
  readonly advice?: string;
  /** The same as `value` in parts, for programs. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** Memory that the smallest useful guest and vmctl itself take. */
const MIN_AVAILABLE_BYTES = 256 * 1024 * 1024;
/** `memfd_create` with seals, `F_ADD_SEALS` and `clone3` are older; 5.4 is what is tested. */
const MIN_KERNEL = [4, 19] as const;

/** Looks at everything. */
export function collectFacts(): HostFact[] {
  const kvm = probeKvm();
  return [
    platformFact(),
    kernelFact(),
    processorFact(),
    memoryFact(),
    kvmFact(kvm),
    engineFact(kvm),
    memfdFact(),
    namespacesFact(),
    seccompFact(),
    pressureFact(),
    tunFact(),
    descriptorsFact(),
    folderFact("run-folder", "control sockets", runDirectory()),
    folderFact("cache-folder", "cache", userCacheFolder()),
    terminalFact(),
  ];
}

function platformFact(): HostFact {
  const { os, arch } = Deno.build;
  const isRight = os === "linux" && arch === "x86_64";
  return {
    id: "platform",
    title: "platform",
    level: isRight ? "ok" : "fail",
    value: `${os} ${arch}`,
    ...(isRight ? {} : { advice: "use a Linux host with an x86-64 processor" }),
  };
}

function kernelFact(): HostFact {
  const release = Deno.osRelease();
  const [major = 0, minor = 0] = release.split(".").map((part) => Number.parseInt(part, 10));
  const isRight = major > MIN_KERNEL[0] || (major === MIN_KERNEL[0] && minor >= MIN_KERNEL[1]);
  return {
    id: "kernel",
    title: "kernel",
    level: isRight ? "ok" : "warn",
    value: `Linux ${release}`,
    ...(isRight ? {} : { advice: `use Linux ${MIN_KERNEL.join(".")} or newer` }),
  };
}

function processorFact(): HostFact {
  const count = navigator.hardwareConcurrency;
  const model = /^model name\s*: (.*)$/m.exec(readSmall("/proc/cpuinfo") ?? "")?.[1] ?? "unknown";
  return {
    id: "processor",
    title: "processor",
    level: "ok",
    value: `${count} x ${model}`,
    details: { count, model },
  };
}

function memoryFact(): HostFact {
  const { total, available } = Deno.systemMemoryInfo();
  const limit = cgroupMemoryLimit();
  const usable = Math.min(available, limit ?? Infinity);
  const isRight = usable >= MIN_AVAILABLE_BYTES;
  const limited = limit === undefined ? "" : `, limited to ${formatSize(limit)} by the cgroup`;
  return {
    id: "memory",
    title: "memory",
    level: isRight ? "ok" : "warn",
    value: `${formatSize(available)} available of ${formatSize(total)}${limited}`,
    details: { availableBytes: available, totalBytes: total, cgroupLimitBytes: limit ?? null },
    ...(isRight ? {} : { advice: "free some memory, or give guests little with --mem" }),
  };
}

function cgroupMemoryLimit(): number | undefined {
  const group = /^0::(.*)$/m.exec(readSmall("/proc/self/cgroup") ?? "")?.[1];
  if (group === undefined) return undefined;
  const text = readSmall(join("/sys/fs/cgroup", group, "memory.max"))?.trim();
  return text === undefined || !/^[0-9]+$/.test(text) ? undefined : Number(text);
}

function kvmFact(kvm: KvmFacts): HostFact {
  const base = { id: "kvm", title: "KVM", details: { ...kvm } };
  const advice = kvm.remedy === undefined ? {} : { advice: kvm.remedy };
  if (!kvm.usable) {
    return {
      ...base,
      level: "warn",
      value: kvm.problem ?? `${kvm.path} is not usable`,
      ...advice,
    };
  }
  const speed = kvm.instructionsPerSecond === undefined
    ? ""
    : `, ${
      Math.round(kvm.instructionsPerSecond / 1e6)
    } million instructions a second in the kernel`;
  const limit = kvm.maxVcpus === undefined ? "" : `, up to ${kvm.maxVcpus} vCPUs`;
  if (kvm.execution === "emulated") {
    return {
      ...base,
      level: "warn",
      value: `present, but it emulates guest kernels instead of running them${speed}`,
      advice: kvm.remedy ?? "turn on hardware virtualization (VT-x, AMD-V, or nested " +
          "virtualization of the VM that this host is); until then auto takes the software engine",
    };
  }
  return { ...base, level: "ok", value: `hardware virtualization${limit}${speed}`, ...advice };
}

function engineFact(kvm: KvmFacts): HostFact {
  const { kind, reason } = chooseEngine("auto", kvm);
  return {
    id: "engine",
    title: "--hypervisor auto",
    level: "ok",
    value: `takes ${kind}: ${reason}`,
    details: { engine: kind },
  };
}

function memfdFact(): HostFact {
  // Guest memory is shared between vCPU threads and devices through one sealed file in memory.
  const noexec = readSmall("/proc/sys/vm/memfd_noexec")?.trim();
  return {
    id: "memfd",
    title: "memory files",
    level: "ok",
    value: noexec === "2" ? "available, never executable" : "available",
  };
}

function namespacesFact(): HostFact {
  const base = { id: "user-namespaces", title: "user namespaces" };
  const sysctl = (path: string) => readSmall(`/proc/sys/${path}`)?.trim();
  if (!exists("/proc/self/ns/user")) {
    return {
      ...base,
      level: "warn",
      value: "the kernel has none",
      advice: "use a kernel with CONFIG_USER_NS for sandboxed devices, or --disable-sandbox",
    };
  }
  const lacks: string[] = [];
  if (sysctl("user/max_user_namespaces") === "0") lacks.push("user.max_user_namespaces=15000");
  if (Deno.uid() !== 0) {
    if (sysctl("kernel/unprivileged_userns_clone") === "0") {
      lacks.push("kernel.unprivileged_userns_clone=1");
    }
    if (sysctl("kernel/apparmor_restrict_unprivileged_userns") === "1") {
      lacks.push("kernel.apparmor_restrict_unprivileged_userns=0");
    }
  }
  if (lacks.length === 0) return { ...base, level: "ok", value: "available" };
  return {
    ...base,
    level: "warn",
    value: "turned off by the administrator",
    advice: `sysctl -w ${lacks.join(" ")} for sandboxed devices, or use --disable-sandbox`,
  };
}

function seccompFact(): HostFact {
  const actions = readSmall("/proc/sys/kernel/seccomp/actions_avail")?.trim();
  const isRight = actions?.includes("trap") === true;
  return {
    id: "seccomp",
    title: "seccomp",
    level: isRight ? "ok" : "warn",
    value: isRight ? "available" : "the kernel has no system call filters",
    ...(isRight
      ? { details: { actions: actions?.split(" ") } }
      : { advice: "use a kernel with CONFIG_SECCOMP_FILTER for sandboxed devices" }),
  };
}

function pressureFact(): HostFact {
  const base = { id: "psi", title: "memory pressure (PSI)" };
  const text = readSmall("/proc/pressure/memory");
  const some = /^some avg10=([0-9.]+)/m.exec(text ?? "")?.[1];
  if (some !== undefined) {
    return {
      ...base,
      level: "ok",
      value: `available, ${some} % in the last 10 s`,
      details: { someAvg10: Number(some) },
    };
  }
  return {
    ...base,
    level: "warn",
    value: "not available",
    advice: "boot the host with psi=1 (CONFIG_PSI) so that guests give memory back under pressure",
  };
}

function tunFact(): HostFact {
  const base = { id: "tun", title: "tun/tap" };
  const path = "/dev/net/tun";
  try {
    using _ = Deno.openSync(path, { read: true, write: true });
    return { ...base, level: "ok", value: "available" };
  } catch (error) {
    const isThere = exists(path);
    return {
      ...base,
      level: "warn",
      value: `${path} cannot be opened: ${describeError(error)}`,
      advice: isThere
        ? `allow this user to open ${path}, for guests with tap networking`
        : "modprobe tun, for guests with tap networking",
    };
  }
}

function descriptorsFact(): HostFact {
  const soft = /^Max open files\s+(\S+)/m.exec(readSmall("/proc/self/limits") ?? "")?.[1] ?? "?";
  const isRight = soft === "unlimited" || Number(soft) >= 256;
  return {
    id: "descriptors",
    title: "open files",
    level: isRight ? "ok" : "warn",
    value: `limit ${soft}`,
    ...(isRight ? {} : { advice: "raise the limit with ulimit -n 1024" }),
  };
}

function folderFact(id: string, title: string, path: string | undefined): HostFact {
  const base = { id, title: `folder for ${title}` };
  if (path === undefined) {
    return { ...base, level: "warn", value: "none", advice: "set HOME or XDG_CACHE_HOME" };
  }
  // The folder itself is made when it is needed; what counts is the nearest one that is there.
  let nearest = path;
  while (!exists(nearest) && nearest !== "/") nearest = join(nearest, "..");
  if (isWritableFolder(nearest)) {
    return { ...base, level: "ok", value: path, details: { path } };
  }
  return {
    ...base,
    level: "warn",
    value: `${path} cannot be written to`,
    advice: `allow this user to write to ${nearest}`,
    details: { path },
  };
}

/** By making a file, because permission bits do not tell of read-only mounts. */
function isWritableFolder(path: string): boolean {
  try {
    Deno.removeSync(Deno.makeTempFileSync({ dir: path, prefix: ".vmctl-doctor-" }));
    return true;
  } catch {
    return false;
  }
}

function terminalFact(): HostFact {
  const input = Deno.stdin.isTerminal();
  const output = Deno.stdout.isTerminal();
  const value = input && output
    ? `standard input and output, TERM=${Deno.env.get("TERM") ?? ""}`
    : input
    ? "standard input only"
    : output
    ? "standard output only"
    : "none, the guest's console passes bytes as they are";
  return { id: "terminal", title: "terminal", level: "ok", value, details: { input, output } };
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

function readSmall(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return undefined;
  }
}
