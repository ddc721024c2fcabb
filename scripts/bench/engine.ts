/**
 * The software engine's figures, each against QEMU's translator with the same guest in the same run:
 * boot with an empty and with a warm cache of translations, loads in the guest, memory.
 *
 * @module
 */

import { FetchError } from "../guest/mod.ts";
import { type Bench, type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import {
  GUEST_MEMORY_MIB,
  isGuestMemory,
  type LinuxGuest,
  makeLinuxGuest,
  qemuArguments,
  type QemuMachine,
  vmctlArguments,
} from "./linux_guest.ts";
import { findProgram, privateDirtyBytes } from "./programs.ts";
import { type Session, watchSession } from "./session.ts";

const DEFAULT_RUNS = 5;
const TIMEOUT_MS = 300_000;
/** On a busy host QEMU's guest may hang in the calibration of its clocks. */
const QEMU_TIMEOUT_MS = 120_000;
const QEMU_ATTEMPTS = 3;
/** From the end of the boot to the look at memory; the guest is idle for longer. */
const SETTLE_MS = 1_000;

interface Load {
  readonly what: string;
  /** Shell commands, and those that prepare them untimed. */
  readonly script: string;
  readonly prepare?: string;
  readonly limit: number;
}

const LOADS: Readonly<Record<string, Load>> = {
  loop: {
    what: "busybox shell loop, 100,000 turns",
    script: "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done",
    limit: 1.5,
  },
  sha256: {
    what: "sha256sum of 64 MB",
    prepare: "dd if=/dev/zero of=/zeros bs=1000000 count=64 2>/dev/null",
    script: "sha256sum /zeros >/dev/null; rm /zeros",
    limit: 1.5,
  },
  gzip: {
    what: "gzip of 16 MB of binaries",
    prepare: "b=/bin/busybox; cat $b $b $b $b $b $b $b $b $b $b | head -c 16000000 >/binaries",
    script: "gzip -c /binaries >/dev/null; rm /binaries",
    limit: 1.7,
  },
  fork: {
    what: "200 fork and exec",
    script: "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done",
    limit: 3,
  },
};

const BOOT = "boot";
const WARM = "warm";
const MEMORY = "memory";
const PARTS = [BOOT, WARM, ...Object.keys(LOADS), MEMORY];

/** Marks on the console, as lines of their own. */
const mark = (name: string) => `@@${name}`;

function initScript(): string {
  const loads = Object.entries(LOADS).map(([name, { prepare, script }]) =>
    `case ",$loads," in *,${name},*)
${prepare ?? ":"}
echo ${mark(`${name}-begin`)}
${script}
echo ${mark(`${name}-end`)}
esac
`
  );
  return `#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
echo ${mark(BOOT)}
mount -t devtmpfs dev /dev
case ",$loads," in *,${MEMORY},*) sleep 2; esac
${loads.join("")}echo ${mark("end")}
exec sleep 1000000
`;
}

/** What one machine showed in one run, by part: seconds, MiB for the memory. */
type Figures = Map<string, number>;

/** Figures of all runs. */
class Collected {
  readonly wall = new Map<string, number[]>();
  /** Processor time of the whole program, which other programs disturb less. */
  readonly cpu = new Map<string, number[]>();

  add(wall: Figures, cpu: Figures): void {
    for (const [into, from] of [[this.wall, wall], [this.cpu, cpu]] as const) {
      for (const [part, value] of from) {
        const values = into.get(part);
        if (values === undefined) into.set(part, [value]);
        else values.push(value);
      }
    }
  }
}

interface Sessions {
  readonly parts: ReadonlySet<string>;
  readonly guest: LinuxGuest;
  /** Parameter of the kernel that becomes a variable of init. */
  readonly params: string;
}

/** Takes a session's figures to its end mark. */
async function figuresOf(
  session: Session,
  parts: ReadonlySet<string>,
): Promise<[Figures, Figures]> {
  const wall: Figures = new Map();
  const cpu: Figures = new Map();
  const boot = await session.mark(mark(BOOT));
  wall.set(BOOT, boot.ms / 1000);
  cpu.set(BOOT, boot.cpuMs / 1000);
  if (parts.has(MEMORY)) {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const smaps = await Deno.readTextFile(`/proc/${session.pid}/smaps`);
    wall.set(MEMORY, privateDirtyBytes(smaps, isGuestMemory) / 2 ** 20);
  }
  for (const name of Object.keys(LOADS)) {
    if (!parts.has(name)) continue;
    const begin = await session.mark(mark(`${name}-begin`));
    const end = await session.mark(mark(`${name}-end`));
    wall.set(name, (end.ms - begin.ms) / 1000);
    cpu.set(name, (end.cpuMs - begin.cpuMs) / 1000);
  }
  await session.mark(mark("end"));
  return [wall, cpu];
}

/** QEMU's program and one of its machines. */
interface Peer {
  readonly qemu: string;
  readonly machine: QemuMachine;
}

async function runQemu(
  { qemu, machine }: Peer,
  { parts, guest, params }: Sessions,
  into: Collected,
) {
  for (let attempt = 1;; attempt++) {
    try {
      const args = qemuArguments(machine, guest, params);
      await using session = watchSession(qemu, { args, timeoutMs: QEMU_TIMEOUT_MS });
      into.add(...await figuresOf(session, parts));
      return;
    } catch (error) {
      if (attempt === QEMU_ATTEMPTS) throw error;
    }
  }
}

async function runVmctl(vmctl: string, { parts, guest, params }: Sessions, into: Collected) {
  const cache = await Deno.makeTempDir({ prefix: "vmctl-bench-cache-" });
  try {
    const env = { XDG_CACHE_HOME: cache };
    const args = vmctlArguments("soft", guest, params);
    {
      await using session = watchSession(vmctl, { args, env, timeoutMs: TIMEOUT_MS });
      into.add(...await figuresOf(session, parts));
    }
    if (parts.has(WARM)) {
      await using session = watchSession(vmctl, {
        args: vmctlArguments("soft", guest),
        env,
        timeoutMs: TIMEOUT_MS,
      });
      const [wall, cpu] = await figuresOf(session, new Set());
      into.add(...[wall, cpu].map((figures) => new Map([[WARM, figures.get(BOOT) ?? NaN]])) as [
        Figures,
        Figures,
      ]);
    }
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
}

async function run(context: BenchContext): Promise<BenchResult> {
  const parts = new Set(context.parts.size === 0 ? PARTS : context.parts);
  const loads = [...parts].filter((part) => part !== BOOT && part !== WARM);
  let guest: LinuxGuest;
  try {
    guest = await makeLinuxGuest(initScript(), {
      folder: context.folder,
      progress: (message) => context.progress(`engine: ${message}`),
    });
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    return { measures: [], notes: [`no kernel to boot: ${error.message}`] };
  }
  const runs = context.runs ?? DEFAULT_RUNS;
  const sessions: Sessions = { parts, guest, params: `loads=${loads.join(",")}` };
  const qemu = findProgram("qemu-system-x86_64");
  const notes = [`Linux ${guest.release}, ${GUEST_MEMORY_MIB} MiB, one vCPU, ${runs} runs`];
  if (qemu === undefined) notes.push("no qemu-system-x86_64 here, so nothing to compare with");
  const ours = new Collected();
  const theirs: Record<QemuMachine, Collected> = { microvm: new Collected(), pc: new Collected() };
  const boots = parts.has(BOOT) || parts.has(WARM);
  for (let run = 1; run <= runs; run++) {
    context.progress(`engine: run ${run} of ${runs}`);
    if (qemu !== undefined) {
      await runQemu({ qemu, machine: "microvm" }, sessions, theirs.microvm);
      const boot = { guest, params: "", parts: new Set<string>() };
      if (boots) await runQemu({ qemu, machine: "pc" }, boot, theirs.pc);
    }
    await runVmctl(context.vmctl, sessions, ours);
  }
  const measures: Measure[] = [];
  const value = (from: Map<string, number[]>, part: string) => median(from.get(part) ?? []);
  const peerPart = (part: string) => part === WARM ? BOOT : part;
  const against = (machine: QemuMachine, part: string) => ({
    vmctl: value(ours.wall, part),
    reference: qemu === undefined ? undefined : {
      name: `QEMU ${machine}, tcg`,
      value: value(theirs[machine].wall, peerPart(part)),
    },
  });
  const add = (part: string, measure: { what: string; unit: string; limit: number }) => {
    if (!parts.has(part)) return;
    measures.push({ ...measure, ...against("microvm", part) });
    if (part === BOOT || part === WARM) measures.push({ ...measure, ...against("pc", part) });
    if (part === MEMORY || qemu === undefined) return;
    const [mine, other] = [value(ours.cpu, part), value(theirs.microvm.cpu, peerPart(part))];
    const times = (mine / other).toFixed(2);
    notes.push(
      `processor time, ${measure.what}: ${mine.toFixed(2)} s / ${other.toFixed(2)} s = ${times}`,
    );
  };
  add(BOOT, { what: "Debian kernel to init, empty cache", unit: "s", limit: 1.7 });
  add(WARM, { what: "Debian kernel to init, warm cache", unit: "s", limit: 1.2 });
  for (const [name, { what, limit }] of Object.entries(LOADS)) {
    add(name, { what, unit: "s", limit });
  }
  add(MEMORY, { what: "memory beyond guest RAM after the boot", unit: "MiB", limit: 2 });
  return { measures, notes };
}

/** Figures of the software engine. */
export const engineBench: Bench = {
  name: "engine",
  summary: `the software engine against QEMU's; parts: ${PARTS.join(", ")}`,
  parts: PARTS,
  run,
};
