/**
 * How long Debian's kernel takes from the machine's start to its init, against QEMU's translator with
 * the same kernel and initramfs in the same run.
 *
 * @module
 */

import { join } from "node:path";
import { buildInitramfs, FetchError, fetchGuest, type Guest, writeVmlinux } from "../guest/mod.ts";
import { type Bench, type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import { findProgram, startProgram } from "./programs.ts";

const MEMORY_MIB = 512;
const DEFAULT_RUNS = 3;
const TIMEOUT_MS = 300_000;
/** On a busy host QEMU's guest may hang in the calibration of its clocks. */
const QEMU_TIMEOUT_MS = 60_000;
const QEMU_ATTEMPTS = 3;
const MARKER = "init-has-begun";
const CMDLINE = "console=ttyS0 no_timer_check panic=-1 reboot=t";
/** What the interpreter alone is asked for (with translation: less, see the engine's benchmark). */
const SOFT_LIMIT = 20;

const INIT = `#!/bin/sh
echo ${MARKER}
exec sleep 1000000
`;

interface Files {
  readonly kernel: string;
  /** The same kernel as ELF file, which spares QEMU the unpacking in the guest. */
  readonly vmlinux: string;
  readonly initrd: string;
}

async function makeFiles(guest: Guest, folder: string): Promise<Files> {
  const initrd = join(folder, "initrd");
  await Deno.writeFile(
    initrd,
    await buildInitramfs({
      busybox: guest.busybox,
      script: ":",
      entries: [{ type: "file", path: "init", data: INIT, mode: 0o755 }],
    }),
  );
  const vmlinux = join(folder, "vmlinux");
  await writeVmlinux(guest.kernel, vmlinux);
  return { kernel: guest.kernel, vmlinux, initrd };
}

function vmctlArguments(engine: string, files: Files): string[] {
  return [
    ...["run", "--hypervisor", engine, "--mem", `${MEMORY_MIB}`, "--initrd", files.initrd],
    ...["--params", CMDLINE, files.kernel],
  ];
}

function qemuArguments(accelerator: string, files: Files): string[] {
  return [
    // With ACPI it is slower, and sometimes stays without the timer's first interrupts.
    ...["-M", "microvm,acpi=off", "-accel", accelerator, "-m", `${MEMORY_MIB}`, "-no-reboot"],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
    ...["-kernel", files.vmlinux, "-initrd", files.initrd, "-append", CMDLINE],
  ];
}

async function bootSeconds(
  program: string,
  options: { args: readonly string[]; timeoutMs: number },
): Promise<number> {
  await using started = await startProgram(program, { ...options, marker: MARKER });
  return started.startMs / 1000;
}

async function qemuBootSeconds(qemu: string, files: Files): Promise<number> {
  const options = { args: qemuArguments("tcg", files), timeoutMs: QEMU_TIMEOUT_MS };
  for (let attempt = 1;; attempt++) {
    try {
      return await bootSeconds(qemu, options);
    } catch (error) {
      if (attempt === QEMU_ATTEMPTS) throw error;
    }
  }
}

async function run(context: BenchContext): Promise<BenchResult> {
  let guest: Guest;
  try {
    guest = await fetchGuest({ progress: (message) => context.progress(`boot: ${message}`) });
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    return { measures: [], notes: [`no kernel to boot: ${error.message}`] };
  }
  const files = await makeFiles(guest, context.folder);
  const qemu = findProgram("qemu-system-x86_64");
  const notes = [`Linux ${guest.release}, ${MEMORY_MIB} MiB, one vCPU`];
  if (qemu === undefined) notes.push("no qemu-system-x86_64 here, so nothing to compare with");
  const ours: number[] = [];
  const theirs: number[] = [];
  const runs = context.runs ?? DEFAULT_RUNS;
  for (let run = 1; run <= runs; run++) {
    context.progress(`boot: run ${run} of ${runs}`);
    if (qemu !== undefined) theirs.push(await qemuBootSeconds(qemu, files));
    const args = vmctlArguments("soft", files);
    ours.push(await bootSeconds(context.vmctl, { args, timeoutMs: TIMEOUT_MS }));
  }
  const measure: Measure = {
    what: "start to init of a Debian kernel, soft",
    unit: "s",
    vmctl: median(ours),
    reference: qemu === undefined
      ? undefined
      : { name: "QEMU microvm, tcg", value: median(theirs) },
    limit: SOFT_LIMIT,
  };
  return { measures: [measure], notes };
}

/** Boot time of the software engine against QEMU's. */
export const bootBench: Bench = {
  name: "boot",
  summary: "a Debian kernel's boot to init on the software engine",
  run,
};
