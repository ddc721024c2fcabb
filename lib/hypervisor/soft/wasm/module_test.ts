import assert from "node:assert/strict";
import { load, ModuleBuilder, ValType } from "./mod.ts";

Deno.test("a module's bytes keep no more memory than they are long", () => {
  const module = new ModuleBuilder();
  const func = module.func([ValType.I32], [ValType.I32]);
  module.exportFunc("r0", func);
  const bytes = module.finish();
  assert.equal(bytes.buffer.byteLength, bytes.length);
});

Deno.test("what a memory is to hold is there once a module is instantiated", () => {
  const module = new ModuleBuilder();
  module.importMemory("e", "cpu", { minPages: 1, maxPages: 1, shared: true });
  const func = module.func([ValType.I32], [ValType.I32]);
  func.return(load.i32(0, func.param(0)));
  func.unreachable();
  module.exportFunc("load", func);
  module.data(100, new Uint8Array([1, 2, 3, 4]));
  module.data(65532, new Uint8Array([5, 0, 0, 0x80]));
  const cpu = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.finish()), {
    e: { cpu },
  });
  const at = exports.load as (at: number) => number;
  assert.deepEqual([96, 100, 104, 65532].map(at), [0, 0x04030201, 0, -0x7ffffffb]);
});
