import assert from "node:assert/strict";
import fc from "fast-check";
import { i32, ModuleBuilder, ValType } from "../../wasm/mod.ts";
import { withHints } from "./hints.ts";

const SECTION = "metadata.code.compilation_priority";

/** A module whose regions `r0`, `r1` ... return their numbers, among functions that are no regions. */
function moduleOf(regions: number): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  module.importFunc("e", "f", { params: [], results: [] });
  for (let i = 0; i < regions; i++) {
    module.func([]).unreachable();
    const func = module.func([], [ValType.I32]);
    func.return(i32(i));
    func.unreachable();
    module.exportFunc(`r${i}`, func);
  }
  return module.finish();
}

function hintsOf(bytes: Uint8Array<ArrayBuffer>): number[][] {
  const sections = WebAssembly.Module.customSections(new WebAssembly.Module(bytes), SECTION);
  return sections.map((section) => [...new Uint8Array(section)]);
}

Deno.test("a module with hints names the regions that ran, and does what it did", () => {
  const bytes = moduleOf(4);
  const hinted = withHints(bytes, { warm: 0b1101, hot: 0b1000 });
  // Functions 2, 4, 6, 8; each with a hint of one byte for its whole body, the hot one of two.
  assert.deepEqual(hintsOf(hinted), [[3, 2, 0, 1, 0, 6, 0, 1, 0, 8, 0, 2, 0, 1]]);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(hinted), { e: { f() {} } });
  const values = [0, 1, 2, 3].map((i) => (exports[`r${i}`] as () => number)());
  assert.deepEqual(values, [0, 1, 2, 3]);
});

Deno.test("a module that nothing is known of stays as it is", () => {
  const bytes = moduleOf(2);
  assert.equal(withHints(bytes, { warm: 0, hot: 0 }), bytes);
});

Deno.test("any hints leave a module valid, with more regions than there are bits too", () => {
  const heat = fc.record({ warm: fc.nat({ max: 0xffff_ffff }), hot: fc.nat({ max: 0xffff_ffff }) });
  fc.assert(fc.property(fc.integer({ min: 0, max: 40 }), heat, (regions, heat) => {
    assert(WebAssembly.validate(withHints(moduleOf(regions), heat)));
  }));
});

Deno.test("what is no module comes back", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
    const bytes = new Uint8Array(noise);
    assert(withHints(bytes, { warm: 0xffff_ffff, hot: 0 }).length >= bytes.length);
  }));
});
