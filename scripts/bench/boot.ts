/**
 * How long Debian's kernel takes from the machine's start to its init, against QEMU's translator with
 * the same kernel and initramfs in the same run.
 *
 * @module
 */

import { FetchError } from "../guest/mod.ts";
import { type Bench, type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import {
  GUEST_MEMORY_MIB,
  type LinuxGuest,
  makeLinuxGuest,
  qemuArguments,
  vmctlArguments,
} from "./linux_guest.ts";
import { findProgram, startProgram } from "./programs.ts";

const DEFAULT_RUNS = 3;
const TIMEOUT_MS = 300_000;
/** On a busy host QEMU's guest may hang in the calibration of its clocks. */
const QEMU_TIMEOUT_MS = 60_000;
const QEMU_ATTEMPTS = 3;
const MARKER = "init-has-begun";
/** What the interpreter alone is asked for (with translation: less, see the engine's benchmark). */
const SOFT_LIMIT = 20;

const INIT = `#!/bin/sh
echo ${MARKER}
exec sleep 1000000
`;

async function bootSeconds(
  program: string,
  options: { args: readonly string[]; timeoutMs: number },
): Promise<number> {
  await using started = await startProgram(program, { ...options, marker: MARKER });
  return started.startMs / 1000;
}

async function qemuBootSeconds(qemu: string, guest: LinuxGuest): Promise<number> {
  const options = { args: qemuArguments("microvm", guest), timeoutMs: QEMU_TIMEOUT_MS };
  for (let attempt = 1;; attempt++) {
    try {
      return await bootSeconds(qemu, options);
    } catch (error) {
      if (attempt === QEMU_ATTEMPTS) throw error;
    }
  }
}

async function run(context: BenchContext): Promise<BenchResult> {
  let guest: LinuxGuest;
  try {
    guest = await makeLinuxGuest(INIT, {
      folder: context.folder,
      progress: (message) => context.progress(`boot: ${message}`),
    });
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    return { measures: [], notes: [`no kernel to boot: ${error.message}`] };
  }
  const qemu = findProgram("qemu-system-x86_64");
  const notes = [`Linux ${guest.release}, ${GUEST_MEMORY_MIB} MiB, one vCPU`];
  if (qemu === undefined) notes.push("no qemu-system-x86_64 here, so nothing to compare with");
  const ours: number[] = [];
  const theirs: number[] = [];
  const runs = context.runs ?? DEFAULT_RUNS;
  for (let run = 1; run <= runs; run++) {
    context.progress(`boot: run ${run} of ${runs}`);
    if (qemu !== undefined) theirs.push(await qemuBootSeconds(qemu, guest));
    const args = vmctlArguments("soft", guest);
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
