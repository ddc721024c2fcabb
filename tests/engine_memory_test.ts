/** Memory of the process while the software engine translates: nothing of what it drops stays. */

import assert from "node:assert/strict";
import { MIB } from "../lib/base/mod.ts";
import { privateDirtyBytes } from "../scripts/bench/programs.ts";
import { testEngines } from "./support/engines.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { startVmctl } from "./support/vmctl.ts";
import { VmBench } from "./support/vm_bench.ts";

/** Times that code is rewritten, and so a module made and another one dropped, for each dot. */
const TURNS = 500;
/** What is kept has mostly filled by then: as much as each page may have, and records. */
const FILLED_DOTS = 20;
/**
 * And so old is the VM at least: in younger ones free memory goes back more often (see memory_trim.ts), and the
 * least in a while is less, where a fast host has its dots sooner.
 */
const FILLED_MS = 30_000;
/** Dots between two looks. */
const APART_DOTS = 16;
/**
 * A vCPU at work collects garbage at most once in 10 s, and what that frees in the C library's arenas goes back up
 * to 10 s later (the pauses of memory_trim.ts at that age), so in each such time what is in use shows once.
 */
const LOOK_MS = 21_000;
const LOOK_DOTS = 8;
/**
 * Of 8000 modules that were dropped in between: less than a quarter of what they take at least. Records of
 * changed code that may wait to be thrown away are 16 MiB of it.
 */
const ALLOWED_MIB = 28;

const engine = testEngines().find(({ kind }) => kind === "soft");

Deno.test("memory stays within bounds while thousands of modules are made and dropped", async () => {
  assert(engine !== undefined);
  await using bench = new VmBench(engine);
  const kernel = tinyKernels.rewrite({ pages: 64, turns: TURNS });
  const args = bench.args(kernel, ["--soft", "cache=false"]);
  await using vm = await startVmctl(args, {
    env: { ...bench.env, VMCTL_SOFT_TIER: "translator-forced" },
  });
  const begin = performance.now();
  const dots = () => vm.stdout.split("ready\n")[1]?.length ?? 0;
  const mib = async () => {
    const smaps = await Deno.readTextFile(`/proc/${vm.pid}/smaps`);
    return privateDirtyBytes(smaps, (name) => name.startsWith("/memfd:")) / MIB;
  };
  /** The least from `first` dots on, and the dots that there are at the end. */
  const look = async (first: number) => {
    let least = Infinity;
    let dot = first;
    await bench.until(`${dot} dots`, () => dots() >= dot);
    const end = performance.now() + LOOK_MS;
    for (; dot < first + LOOK_DOTS || performance.now() < end; dot++) {
      await bench.until(`${dot} dots`, () => dots() >= dot);
      least = Math.min(least, await mib());
    }
    return { least, dot };
  };
  await bench.until(
    "what is kept has filled",
    () => dots() >= FILLED_DOTS && performance.now() - begin >= FILLED_MS,
  );
  const { least: before, dot } = await look(dots());
  const { least: after } = await look(dot + APART_DOTS);
  assert(
    after - before < ALLOWED_MIB,
    `${before.toFixed(1)} MiB after ${TURNS * dot} modules, ` +
      `${after.toFixed(1)} MiB after ${TURNS * (dot + APART_DOTS)}`,
  );
});
