import assert from "node:assert/strict";
import { runGeneratedLoops } from "../lib/hypervisor/conformance/mod.ts";
import { WASM_FLAGS } from "../scripts/build/executable.ts";

const GUESTS = 60;
const MODULE = new URL("../lib/hypervisor/conformance/mod.ts", import.meta.url).href;

/** What {@link runGeneratedLoops} gives in a process of its own, with the flags of the executable and `flags`. */
async function runWith(flags: readonly string[], tier: string): Promise<string[]> {
  const { signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["eval", `--v8-flags=${[...WASM_FLAGS, ...flags].join(",")}`],
      `import { runGeneratedLoops } from ${JSON.stringify(MODULE)};
      console.log((await runGeneratedLoops(${JSON.stringify(tier)}, ${GUESTS})).join("\\n"));`,
    ],
    env: { NO_COLOR: "1" },
  }).output();
  assert.equal(signal, null, `${tier} ${flags.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout).trimEnd().split("\n");
}

// Tests beside the code hardly run long enough for V8's optimizing compiler, and without the executable's
// flags. Lockstep compares other code than runs: regions that never leave where the TLB has no page.
Deno.test({
  name: "code that V8 optimizes, as the executable runs it, does what the interpreter does",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const expected = await runGeneratedLoops("interpreter", GUESTS);
    for (const tier of ["translator-forced", "random"]) {
      for (const compiler of ["--no-liftoff", "--liftoff-only"]) {
        assert.deepEqual(await runWith([compiler], tier), expected, `${tier} ${compiler}`);
      }
    }
  },
});
