/**
 * Virtio devices.
 *
 * @module
 */

import type { Bench, BenchContext, BenchResult } from "./bench.ts";
import { guestDiskBench } from "./guest_disk.ts";
import { jailsBench } from "./jails.ts";
import { vringBench } from "./vring.ts";

/** What is measured, by the names that ask for it. */
const PARTS: Readonly<Record<string, (context: BenchContext) => Promise<BenchResult>>> = {
  vring: vringBench,
  disk: guestDiskBench,
  jails: jailsBench,
};

async function run(context: BenchContext): Promise<BenchResult> {
  const { parts } = context;
  const results: BenchResult[] = [];
  for (const [name, measure] of Object.entries(PARTS)) {
    if (parts.size === 0 || parts.has(name)) results.push(await measure(context));
  }
  return {
    measures: results.flatMap(({ measures }) => measures),
    notes: results.flatMap(({ notes }) => notes),
  };
}

/** Disks and the like. */
export const devicesBench: Bench = {
  name: "devices",
  summary: "vrings, disks and jails of virtio devices",
  parts: Object.keys(PARTS),
  run,
};
