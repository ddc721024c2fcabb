import assert from "node:assert/strict";
import { ModuleBuilder, ValType } from "./mod.ts";

Deno.test("a module's bytes keep no more memory than they are long", () => {
  const module = new ModuleBuilder();
  const func = module.func([ValType.I32], [ValType.I32]);
  module.exportFunc("r0", func);
  const bytes = module.finish();
  assert.equal(bytes.buffer.byteLength, bytes.length);
});
