import assert from "node:assert/strict";
import * as fc from "fast-check";
import { CODE, FREE } from "../../../conformance/layout.ts";
import { Pte } from "../../../conformance/tables.ts";
import { Exit, Reg, S, TLB_END, TLB_ENTRIES, TLB_ENTRY, TLB_USER, TlbField } from "../state.ts";
import { TestCpu } from "./test_cpu.ts";

const ALIASES = 0x4000_0000;
/** Pages as far apart share an entry of the TLB. */
const ALIKE = TLB_ENTRIES * 4096;
const PAGES = [FREE, FREE + 0x1000, FREE + 0x2000];

/** Tags for writes that the TLBs have for the page at `physical`. */
function tagsOf(t: TestCpu, physical: number): number {
  const { i32 } = t.cpu;
  let count = 0;
  for (let entry = TLB_USER; entry < TLB_END; entry += TLB_ENTRY) {
    if (i32[(entry + TlbField.physical) >>> 2] !== physical) continue;
    if (i32[(entry + TlbField.write) >>> 2] !== -1) count++;
  }
  return count;
}

Deno.test("all tags for writes to a page are taken away, wherever they are, and no others", () => {
  using t = new TestCpu();
  // Four aliases of each page, and all pages' in the same entries of the TLB.
  const alias = (page: number, n: number) => ALIASES + ALIKE * page + 0x1000 * n;
  const aliases = PAGES.flatMap((_, page) => [0, 1, 2, 3].map((n) => alias(page, n)));
  assert.equal(new Set(aliases).size, aliases.length);
  for (const [i, linear] of aliases.entries()) {
    const flags = Pte.Present | Pte.Write | Pte.User;
    t.tables.map(linear, PAGES[i >> 2] as number, { flags });
  }
  const store = (linear: number) => {
    t.cpu.set64(S.rip, BigInt(CODE));
    t.cpu.setReg(Reg.rbx, BigInt(linear));
    // MOV [RBX], CL.
    assert.equal(t.execute([0x88, 0x0b, 0xeb, 0xfe]), Exit.Fuel);
  };
  const action = fc.oneof(
    { weight: 8, arbitrary: fc.record({ store: fc.nat(aliases.length - 1) }) },
    { weight: 2, arbitrary: fc.record({ protect: fc.nat(PAGES.length - 1) }) },
    { weight: 1, arbitrary: fc.constant({ flush: true }) },
  );
  fc.assert(
    fc.property(fc.array(action, { minLength: 5, maxLength: 40 }), (actions) => {
      t.cpu.exports.resetTlb();
      for (const what of actions) {
        if ("store" in what) store(aliases[what.store] as number);
        else if ("flush" in what) t.cpu.exports.flushTlb();
        else {
          const counts = PAGES.map((page) => tagsOf(t, page));
          t.cpu.exports.protectPage((PAGES[what.protect] as number) + 0x123);
          counts[what.protect] = 0;
          assert.deepEqual(PAGES.map((page) => tagsOf(t, page)), counts);
        }
      }
    }),
    { numRuns: 60 },
  );
});
