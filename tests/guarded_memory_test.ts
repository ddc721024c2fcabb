import assert from "node:assert/strict";
import { WASM_FLAGS } from "../scripts/build/executable.ts";

const url = (path: string) => JSON.stringify(new URL(`../lib/${path}`, import.meta.url).href);

/** A program that accesses a guarded memory of a page by `index` (i64, cut to i32) and `offset`. */
function program(access: string, index: bigint, offset: number): string {
  return `
    import { i32, i64, load, ModuleBuilder, ValType, wrap } from ${
    url("hypervisor/soft/wasm/mod.ts")
  };
    import { createGuardedMemory } from ${url("memory/mod.ts")};
    const memory = createGuardedMemory(1);
    new DataView(memory.buffer).setBigUint64(65528, 42n, true);
    const module = new ModuleBuilder();
    module.importMemory("e", "m", { minPages: 1, maxPages: 65536, shared: true });
    const f = module.func([ValType.I64], [ValType.I64]);
    const at = wrap(f.param(0));
    const offset = ${offset};
    ${access}
    f.unreachable();
    module.exportFunc("f", f);
    const instance = new WebAssembly.Instance(new WebAssembly.Module(module.finish()), {
      e: { m: memory },
    });
    console.log(\`got \${instance.exports.f(${index}n)}\`);
  `;
}

const LOAD = "f.return(load.i64(0, at, offset));";
const STORE = "f.store64(0, at, i64(-1), offset); f.return(i64(42));";
const WIDE = "f.storeV128(0, at, load.v128(0, i32(0)), offset); f.return(i64(42));";

async function run(source: string, tier: string): Promise<{ signal: string | null; out: string }> {
  const { signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", `--v8-flags=${[...WASM_FLAGS, tier].join(",")}`, source],
    env: { NO_COLOR: "1" },
  }).output();
  return { signal, out: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

// As the executable runs code: without checks. What it gets at must be the memory, or nothing at all.
for (const tier of ["--liftoff-only", "--no-liftoff"]) {
  Deno.test(`code of ${tier} cannot leave a guarded memory`, async () => {
    const inside = [
      program(LOAD, 65528n, 0),
      program(LOAD, 0n, 65528),
      // The upper half of what an index was cut from does not count.
      program(LOAD, 0x7fff_0000_fff8n, 0),
      program(LOAD, -65536n * 65536n + 65528n, 0),
      program(STORE, 0x1_0000_0000n, 0),
    ];
    const outside = [
      program(LOAD, 65536n, 0),
      program(STORE, 65529n, 0),
      program(WIDE, 65521n, 0),
      program(LOAD, -1n, 0),
      program(STORE, 0xffff_fff8n, 0),
      program(WIDE, 0xffff_ffffn, 0),
      program(STORE, 0xffff_ffffn, 65535),
      // V8 itself knows that the last ones fault: nothing fits behind such offsets.
      program(STORE, 0xffff_ffffn, 0xffff_fff0),
      program(WIDE, 0xffff_ffffn, 0xffff_fff0),
    ];
    const [good, bad] = await Promise.all([
      Promise.all(inside.map((source) => run(source, tier))),
      Promise.all(outside.map((source) => run(source, tier))),
    ]);
    for (const { signal, out } of good) {
      assert.deepEqual({ signal, out }, { signal, out: "got 42\n" });
    }
    for (const { signal, out } of bad) {
      assert.equal(signal, "SIGSEGV", out);
      assert.doesNotMatch(out, /got/);
    }
  });
}
