import assert from "node:assert/strict";
import { CODE, FREE } from "../../../conformance/layout.ts";
import { Pte } from "../../../conformance/tables.ts";
import { Exit, Reg, S, TlbNotes } from "../state.ts";
import { TestCpu } from "./test_cpu.ts";

const PAGE = 0x4000_0000;
const PLAIN = Pte.Present | Pte.Write;
const JUMP = [0xeb, 0x00];

/** Runs `code` with RBX = `rbx`, and nothing flushed before. */
function run(t: TestCpu, code: readonly number[], rbx: number | bigint): void {
  t.cpu.set64(S.rip, BigInt(CODE));
  t.cpu.setReg(Reg.rbx, BigInt(rbx));
  assert.equal(t.execute([...code, ...JUMP], 1), Exit.Fuel);
}

/** MOV EAX, [RBX]. */
function load(t: TestCpu, address: number | bigint): number {
  run(t, [0x8b, 0x03], address);
  return Number(t.cpu.reg(Reg.rax));
}

/** INVLPG [RBX]. */
function invlpg(t: TestCpu, address: number | bigint): void {
  run(t, [0x0f, 0x01, 0x3b], address);
}

/** MOV RAX, CR3; MOV CR3, RAX. */
function loadCr3(t: TestCpu): void {
  run(t, [0x0f, 0x20, 0xd8], 0);
  t.cpu.set64(S.rip, BigInt(CODE));
  t.execute([0x0f, 0x22, 0xd8, ...JUMP], 1);
}

function machine(): TestCpu {
  const t = new TestCpu();
  for (let n = 0; n < 4; n++) t.memory.writeU32(0x20_0000 * n + 0x10_0000, n + 1);
  return t;
}

Deno.test("a load of CR3 forgets pages, but not global ones", () => {
  for (const [flags, left] of [[PLAIN, 2], [PLAIN | Pte.Global, 1]] as const) {
    using t = machine();
    t.tables.map(PAGE, FREE, { flags });
    assert.equal(load(t, PAGE), 1);
    t.tables.map(PAGE, FREE + 0x20_0000, { flags });
    assert.equal(load(t, PAGE), 1, "nothing is flushed yet");
    loadCr3(t);
    assert.equal(load(t, PAGE), left);
    invlpg(t, PAGE + 0xfff);
    assert.equal(load(t, PAGE), 2);
  }
});

Deno.test("a load of CR3 forgets any number of pages, and global ones stay", () => {
  for (const count of [1, TlbNotes.most, TlbNotes.most + 1, TlbNotes.most + 100]) {
    using t = machine();
    const global = PAGE - 0x1000;
    const pages = Array.from({ length: count }, (_, n) => PAGE + 0x1000 * n);
    t.tables.map(global, FREE, { flags: PLAIN | Pte.Global });
    for (const page of pages) t.tables.map(page, FREE, { flags: PLAIN });
    assert.equal(load(t, global), 1);
    for (const page of pages) assert.equal(load(t, page), 1);
    t.tables.map(global, FREE + 0x20_0000, { flags: PLAIN | Pte.Global });
    for (const page of pages) t.tables.map(page, FREE + 0x20_0000, { flags: PLAIN });
    loadCr3(t);
    for (const page of pages) assert.equal(load(t, page), 2);
    // The whole table goes where there were too many to be noted.
    assert.equal(load(t, global), count <= TlbNotes.most ? 1 : 2);
  }
});

Deno.test("without CR4.PGE a load of CR3 forgets all pages", () => {
  using t = machine();
  t.cpu.set64(S.cr4, t.cpu.get64(S.cr4) & ~0x80n);
  t.tables.map(PAGE, FREE, { flags: PLAIN | Pte.Global });
  assert.equal(load(t, PAGE), 1);
  t.tables.map(PAGE, FREE + 0x20_0000, { flags: PLAIN | Pte.Global });
  loadCr3(t);
  assert.equal(load(t, PAGE), 2);
});

Deno.test("INVLPG forgets one page and leaves its neighbour", () => {
  using t = machine();
  // A large page elsewhere in these 512 GiB would make INVLPG forget all; far away there is none.
  const far = 0x40_0000_0000_00;
  t.tables.map(far, FREE, { flags: PLAIN });
  t.tables.map(far + 0x1000, FREE, { flags: PLAIN });
  assert.deepEqual([load(t, far), load(t, far + 0x1000)], [1, 1]);
  t.tables.map(far, FREE + 0x20_0000, { flags: PLAIN });
  t.tables.map(far + 0x1000, FREE + 0x20_0000, { flags: PLAIN });
  invlpg(t, far + 0x123);
  assert.deepEqual([load(t, far), load(t, far + 0x1000)], [2, 1]);
});

Deno.test("INVLPG anywhere in a large page forgets all of it", () => {
  for (const size of [0x20_0000, 0x4000_0000] as const) {
    using t = machine();
    const base = 0x50_0000_0000_00;
    t.tables.map(base, 0, { size, flags: PLAIN });
    assert.equal(load(t, base + FREE), 1);
    // Entries of the tables are changed in place: half of the page ahead.
    t.tables.map(base, size === 0x20_0000 ? 0x20_0000 : 0, { size, flags: 0n });
    invlpg(t, base + 0x7000);
    t.cpu.set64(S.rip, BigInt(CODE));
    t.cpu.setReg(Reg.rbx, BigInt(base + FREE));
    // The page fault has no handler, so it is left to the runtime.
    assert.equal(t.execute([0x8b, 0x03, ...JUMP], 1), Exit.Fault);
    assert.equal(t.cpu.get64(S.cr2), BigInt(base + FREE));
  }
});

Deno.test("code of a page that a load of CR3 exchanges is fetched anew", () => {
  using t = machine();
  const at = PAGE;
  // mov eax, n; jmp .
  for (const n of [1, 2]) {
    t.memory.writeFrom(FREE + 0x20_0000 * n, new Uint8Array([0xb8, n, 0, 0, 0, 0xeb, 0xfe]));
  }
  const go = (n: number) => {
    t.tables.map(at, FREE + 0x20_0000 * n, { flags: PLAIN });
    loadCr3(t);
    t.cpu.set64(S.rip, BigInt(at));
    const code = [0xb8, n, 0, 0, 0, 0xeb, 0xfe];
    t.executeAt(FREE + 0x20_0000 * n, code);
    return Number(t.cpu.reg(Reg.rax));
  };
  assert.deepEqual([go(1), go(2), go(1)], [1, 2, 1]);
});
