/** Memory of the process while the software engine translates: nothing of what it drops stays. */

import assert from "node:assert/strict";
import { MIB } from "../lib/base/mod.ts";
import { median } from "../scripts/bench/bench.ts";
import { privateDirtyBytes } from "../scripts/bench/programs.ts";
import { testEngines } from "./support/engines.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { startVmctl } from "./support/vmctl.ts";
import { VmBench } from "./support/vm_bench.ts";

/** Times that code is rewritten, and so a module made and another one dropped, for each dot. */
const TURNS = 500;
/**
 * What is kept has filled by the first of them, when as much as each page may have was made, and garbage
 * that waits for its collection, which comes some seconds after the last one.
 */
const FIRST_DOTS = 12;
const LAST_DOTS = 28;
/**
 * Of 8000 modules that were dropped: less than a quarter of what they take at least. Records of changed code
 * that may wait to be thrown away are 16 MiB of it.
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
  const dots = () => vm.stdout.split("ready\n")[1]?.length ?? 0;
  const mib = async () => {
    const smaps = await Deno.readTextFile(`/proc/${vm.pid}/smaps`);
    return privateDirtyBytes(smaps, (name) => name.startsWith("/memfd:")) / MIB;
  };
  /** As a single sample may be before or behind a collection of garbage. */
  const around = async (count: number) => {
    const samples: number[] = [];
    for (let dot = count; dot < count + 3; dot++) {
      await bench.until(`${dot} dots`, () => dots() >= dot);
      samples.push(await mib());
    }
    return median(samples);
  };
  const before = await around(FIRST_DOTS);
  const after = await around(LAST_DOTS);
  assert(
    after - before < ALLOWED_MIB,
    `${before.toFixed(1)} MiB after ${TURNS * FIRST_DOTS} modules, ` +
      `${after.toFixed(1)} MiB after ${TURNS * LAST_DOTS}`,
  );
});
