/**
 * What jailed devices cost: the time that they add to a VM's start, and their memory.
 *
 * @module
 */

import { join } from "node:path";
import { type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import { DEVICE_MEMORY_LIMIT_MIB, deviceMib, devicePids } from "./device_memory.ts";
import { startProgram } from "./programs.ts";
import { TINY_MARKER, tinyGuest } from "./tiny_guest.ts";

const DEFAULT_RUNS = 11;
const TIMEOUT_MS = 60_000;
/** For what a device still does after it has begun to serve: it gives back what its start took. */
const SETTLE_MS = 2_000;
/** Numbers of disks. */
const COUNTS = [0, 1, 2, 4, 8] as const;
/** What four jailed devices may add to the start. */
const START_LIMIT_MS = 60;
const DISK_BYTES = 16 << 20;

interface Figures {
  readonly startMs: number[];
  readonly deviceMib: number[];
}

async function measureOnce(
  context: BenchContext,
  options: { readonly kernel: string; readonly count: number; readonly figures: Figures },
): Promise<void> {
  const { kernel, count, figures } = options;
  const socket = join(context.folder, "jails.sock");
  const disks = Array.from({ length: count }, (_, index) => [
    ...["--block", join(context.folder, `disk${index}`)],
  ]);
  await using program = await startProgram(context.vmctl, {
    args: [
      ...["run", "--hypervisor", "soft", "--mem", "64", "-s", socket, "--no-rng", "--no-balloon"],
      ...[...disks.flat(), kernel],
    ],
    marker: TINY_MARKER,
    timeoutMs: TIMEOUT_MS,
  });
  figures.startMs.push(program.startMs);
  if (count === 0 || figures.deviceMib.length > 0) return;
  await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
  for (const pid of await devicePids(context.vmctl, socket)) {
    figures.deviceMib.push(await deviceMib(pid));
  }
}

/** Measures VMs with more and more disks, in turn. */
export async function jailsBench(context: BenchContext): Promise<BenchResult> {
  const kernel = join(context.folder, "tiny.elf");
  await Deno.writeFile(kernel, tinyGuest());
  for (let index = 0; index < Math.max(...COUNTS); index++) {
    const disk = join(context.folder, `disk${index}`);
    await Deno.writeFile(disk, new Uint8Array(0));
    await Deno.truncate(disk, DISK_BYTES);
  }
  const all = new Map(COUNTS.map((count) => [count, { startMs: [], deviceMib: [] } as Figures]));
  for (let run = 0; run < (context.runs ?? DEFAULT_RUNS); run++) {
    context.progress(`jails, run ${run + 1}`);
    for (const [count, figures] of all) await measureOnce(context, { kernel, count, figures });
  }
  const start = (count: typeof COUNTS[number]) => median(all.get(count)!.startMs);
  const measures: Measure[] = COUNTS.slice(1).map((count) => ({
    what: `start to first guest instruction, ${count} jailed ${count === 1 ? "disk" : "disks"}`,
    unit: "ms",
    vmctl: start(count),
    reference: { name: "no devices", value: start(0) },
  }));
  const mib = COUNTS.slice(1).map((count) => median(all.get(count)!.deviceMib).toFixed(1));
  return {
    measures,
    notes: [
      `four jailed disks add ${(start(4) - start(0)).toFixed(0)} ms to the start, at most ` +
      `${START_LIMIT_MS} are asked for`,
      `memory for itself at rest of each of ${COUNTS.slice(1).join(", ")} jailed disks: ${
        mib.join(", ")
      } MiB, at most ${DEVICE_MEMORY_LIMIT_MIB} are asked for`,
    ],
  };
}
