/**
 * How soon a guest's first instruction runs, and how much memory the machine takes beside the guest's.
 *
 * @module
 */

import { join } from "node:path";
import { type Bench, type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import { findProgram, privateDirtyBytes, startProgram } from "./programs.ts";
import { TINY_MARKER, tinyGuest } from "./tiny_guest.ts";

const MEMORY_MIB = 128;
const DEFAULT_RUNS = 15;
const TIMEOUT_MS = 30_000;
/** For what a machine still does after its guest has begun to run. */
const SETTLE_MS = 500;

interface Machine {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
}

interface Figures {
  readonly startMs: number[];
  readonly memoryMib: number[];
}

function vmctlMachine(vmctl: string, engine: "kvm" | "soft", kernel: string): Machine {
  return {
    name: `vmctl, ${engine}`,
    program: vmctl,
    args: ["run", "--hypervisor", engine, "--mem", `${MEMORY_MIB}`, kernel],
  };
}

function qemuMachine(qemu: string, engine: "kvm" | "tcg", kernel: string): Machine {
  return {
    name: `QEMU microvm, ${engine}`,
    program: qemu,
    args: [
      ...["-M", "microvm,memory-backend=ram", "-accel", engine, "-m", `${MEMORY_MIB}`],
      // Guest memory as vmctl has it, and so that it can be told from QEMU's own.
      ...["-object", `memory-backend-memfd,id=ram,size=${MEMORY_MIB}M,share=on`],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
      ...["-kernel", kernel],
    ],
  };
}

function isGuestMemory(name: string, lengthBytes: number): boolean {
  return name.startsWith("/memfd:") && lengthBytes > (MEMORY_MIB << 20) / 4;
}

async function measureOnce(machine: Machine, figures: Figures): Promise<void> {
  await using program = await startProgram(machine.program, {
    args: machine.args,
    marker: TINY_MARKER,
    timeoutMs: TIMEOUT_MS,
  });
  figures.startMs.push(program.startMs);
  if (figures.memoryMib.length > 0) return;
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  const smaps = await Deno.readTextFile(`/proc/${program.pid}/smaps`);
  figures.memoryMib.push(privateDirtyBytes(smaps, isGuestMemory) / 2 ** 20);
}

/** Measures the machines in turn, so that what disturbs one disturbs the other. */
async function measureAll(
  machines: readonly Machine[],
  context: BenchContext,
): Promise<Map<Machine, Figures>> {
  const all = new Map(machines.map((machine) => [machine, { startMs: [], memoryMib: [] }]));
  for (let run = 0; run < (context.runs ?? DEFAULT_RUNS); run++) {
    for (const [machine, figures] of all) await measureOnce(machine, figures);
  }
  return all;
}

function kvmAccess(): string | undefined {
  try {
    Deno.openSync("/dev/kvm", { read: true, write: true }).close();
    return undefined;
  } catch (error) {
    return `/dev/kvm: ${error instanceof Error ? error.message : error}`;
  }
}

async function run(context: BenchContext): Promise<BenchResult> {
  const kernel = join(context.folder, "tiny.elf");
  await Deno.writeFile(kernel, tinyGuest());
  const qemu = findProgram("qemu-system-x86_64");
  const measures: Measure[] = [];
  const notes: string[] = [];
  if (qemu === undefined) notes.push("no qemu-system-x86_64 here, so nothing to compare with");
  for (const engine of ["soft", "kvm"] as const) {
    const lack = engine === "kvm" ? kvmAccess() : undefined;
    if (lack !== undefined) {
      notes.push(`no KVM figures: ${lack}`);
      continue;
    }
    context.progress(`start: ${engine}`);
    const ours = vmctlMachine(context.vmctl, engine, kernel);
    const theirs = qemu === undefined
      ? undefined
      : qemuMachine(qemu, engine === "kvm" ? "kvm" : "tcg", kernel);
    const all = await measureAll(theirs === undefined ? [ours] : [ours, theirs], context);
    const add = (what: string, unit: string, values: (figures: Figures) => number[]) => {
      const value = (machine: Machine) => median(values(all.get(machine)!));
      measures.push({
        what: `${what}, ${engine}`,
        unit,
        vmctl: value(ours),
        reference: theirs && { name: theirs.name, value: value(theirs) },
      });
    };
    add("start to first guest instruction", "ms", ({ startMs }) => startMs);
    add("memory beside the guest's", "MiB", ({ memoryMib }) => memoryMib);
  }
  return { measures, notes };
}

/** Start-up time and memory overhead against QEMU's microvm. */
export const startBench: Bench = {
  name: "start",
  summary: "time to the first guest instruction, and memory beside the guest's",
  run,
};
