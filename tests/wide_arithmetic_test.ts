import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { WASM_FLAGS } from "../scripts/build/executable.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

// The tests beside the code run without the flags of the executable, on the arithmetic in 64 bits.
Deno.test("arithmetic equals the processor's with the flags of the executable, too", async () => {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["test", "--allow-all", "--no-check", `--v8-flags=${WASM_FLAGS.join(",")}`],
      ...[
        "--filter",
        "integer arithmetic",
        "lib/hypervisor/soft/oracle/integer_instruction_test.ts",
      ],
    ],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert(success, output);
  assert.match(output, /[1-9]\d* passed/);
});

Deno.test("the executable's flags give wide arithmetic", async () => {
  const module = new URL("../lib/hypervisor/soft/wasm/mod.ts", import.meta.url).href;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["eval", `--v8-flags=${WASM_FLAGS.join(",")}`],
      `import { hasWideArithmetic } from ${
        JSON.stringify(module)
      }; console.log(hasWideArithmetic);`,
    ],
    cwd: ROOT,
  }).output();
  assert.equal(new TextDecoder().decode(stdout), "true\n");
});
