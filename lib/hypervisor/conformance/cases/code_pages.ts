/**
 * Code in many pages, which lie elsewhere after a load of CR3.
 *
 * @module
 */

import assert from "node:assert/strict";
import { at } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";

/** Where the pages are: all of them are one page, and then another. */
const LOW = 0x6000_0000_0000n;
const FIRST = FREE;
const SECOND = FREE + 0x1000;
const ROUNDS = 4;

/** `add eax, count; ret` */
const functionOf = (count: number) => Uint8Array.of(0x83, 0xc0, count, 0xc3);

function caseOf(pages: number): GuestTest {
  return {
    name: `paging: a load of CR3 forgets the code of ${pages} page${pages === 1 ? "" : "s"}`,
    run(m) {
      const tables = m.startLong();
      for (let n = 0; n < pages; n++) tables.map(LOW + BigInt(0x1000 * n), FIRST);
      m.memory.writeFrom(FIRST, functionOf(1));
      m.memory.writeFrom(SECOND, functionOf(2));
      m.load(64, (a) => {
        a.mov("ebp", ROUNDS).label("round").xor("eax", "eax");
        for (const turn of ["a", "b"]) {
          a.mov("rbx", LOW).mov("ecx", pages).label(`call ${turn}`).call("rbx").add("rbx", 0x1000);
          a.dec("ecx").jcc("ne", `call ${turn}`);
        }
        a.out(Port.Report, "eax").mov("rdi", tables.entryAddress(LOW)).mov("ecx", pages);
        a.label("change").xor(at("rdi", { size: 4 }), FIRST ^ SECOND).add("rdi", 8);
        a.dec("ecx").jcc("ne", "change").mov("rax", "cr3").mov("cr3", "rax");
        a.dec("ebp").jcc("ne", "round").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [2 * pages, 4 * pages, 2 * pages, 4 * pages]);
    },
  };
}

/** Cases of code in many pages: as many as are noted one by one, and more. */
export const CODE_PAGE_TESTS: readonly GuestTest[] = [1, 178, 179, 180, 181, 500].map(caseOf);
