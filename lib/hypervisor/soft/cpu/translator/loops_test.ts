import { strict as assert } from "node:assert";
import fc from "fast-check";
import { insn } from "../opcode.ts";
import { findLoops } from "./loops.ts";
import type { RegionBlock, RegionPlan } from "./plan.ts";
import type { RegionInsn } from "./region_frame.ts";
import { findReturns } from "./returns.ts";

const rows = {
  jcc: insn("jz", "74", "Jb", () => {}),
  jmp: insn("jmp", "eb end", "Jb", () => {}),
  call: insn("call", "e8 end", "Jz", () => {}),
  ret: insn("ret", "c3 end", "", () => {}),
} as const;
type Kind = keyof typeof rows;

/** Block number `i`, of 16 bytes: one instruction that goes to block `to`. */
function blockOf(i: number, at: { kind: Kind; to: number }): RegionBlock {
  const [start, end] = [16 * i, 16 * i + 16];
  const row = rows[at.kind];
  const one: RegionInsn = {
    ...{ offset: start, next: end, insn: row, size: 8, mem: false, locked: false, a: 0, b: 0 },
    ...{ base: 0, index: 0, seg: 0, stack: false, scale: 0, extra: 0, disp: 0, immHigh: 0 },
    immLow: 16 * at.to - end,
    ...{ wide: undefined, taken: true, passed: true },
  };
  return { start, insns: [one], end, falls: at.kind === "jcc" };
}

function planOf(blocks: readonly { kind: Kind; to: number }[], entries: number[]): RegionPlan {
  const offsets = entries.map((n) => 16 * n);
  return {
    blocks: blocks.map((at, i) => blockOf(i, at)),
    ...{ entries: offsets, dispatched: offsets, pages: [0] },
  };
}

/** Where block `i` goes, but for returns. */
function successors(plan: RegionPlan, i: number): { to: number; calls: boolean }[] {
  const block = plan.blocks[i];
  const at = block?.insns[0];
  if (block === undefined || at === undefined) return [];
  const all: { to: number; calls: boolean }[] = [];
  if (at.insn.mnemonic !== "ret") {
    all.push({ to: (at.next + at.immLow) / 16, calls: at.insn.mnemonic === "call" });
  }
  if (block.falls) all.push({ to: i + 1, calls: false });
  return all.filter(({ to }) => to < plan.blocks.length);
}

const plans = fc.integer({ min: 1, max: 24 }).chain((count) =>
  fc.record({
    blocks: fc.array(
      fc.record({
        kind: fc.constantFrom<Kind>("jcc", "jcc", "jmp", "call", "ret"),
        to: fc.nat(count - 1),
      }),
      { minLength: count, maxLength: count },
    ),
    entries: fc.uniqueArray(fc.nat(count - 1), { minLength: 1, maxLength: 4 }),
  })
).map(({ blocks, entries }) => planOf(blocks, entries));

Deno.test("loops lie within each other or apart, and are gone to from outside where they say", () => {
  fc.assert(fc.property(plans, (plan) => {
    const returns = findReturns(plan);
    const { loops, dispatched } = findLoops(plan, returns);
    for (const a of loops.values()) {
      for (const b of loops.values()) {
        const apart = a.last < b.first || b.last < a.first;
        const within = (x: typeof a, y: typeof a) => x.first <= y.first && y.last <= x.last;
        assert.ok(a === b || apart || within(a, b) || within(b, a));
      }
    }
    const known = new Set(dispatched);
    for (const offset of plan.entries) assert.ok(known.has(offset / 16));
    for (let from = 0; from < plan.blocks.length; from++) {
      const places = (returns.get(from) ?? []).map((offset) => ({ to: offset / 16, calls: true }));
      for (const { to } of [...successors(plan, from), ...places]) {
        for (const { first, last, inside } of loops.values()) {
          const enters = to > first && to <= last && (from < first || from > last);
          assert.ok(!enters || inside.includes(to), `${from} to ${to}`);
        }
        // What goes back goes to the head of a loop around, or by the dispatcher.
        const loop = loops.get(to);
        assert.ok(to > from || known.has(to) || (loop !== undefined && from <= loop.last));
      }
    }
    for (const { first, last, inside } of loops.values()) {
      for (const n of known) assert.ok(n <= first || n > last || inside.includes(n));
    }
  }));
});

Deno.test("a branch back to the block itself is a loop of one block", () => {
  const plan = planOf([{ kind: "ret", to: 0 }, { kind: "jcc", to: 1 }, { kind: "ret", to: 0 }], [
    0,
  ]);
  const { loops, dispatched } = findLoops(plan, findReturns(plan));
  assert.deepEqual([...loops.values()], [{ first: 1, last: 1, inside: [] }]);
  assert.deepEqual(dispatched, [0]);
});

Deno.test("a function returns behind the calls of it, and a tail call hands that on", () => {
  const plan = planOf([
    { kind: "call", to: 4 },
    { kind: "call", to: 4 },
    { kind: "call", to: 3 },
    { kind: "ret", to: 0 },
    { kind: "jmp", to: 5 },
    { kind: "ret", to: 0 },
  ], [0]);
  const returns = findReturns(plan);
  assert.deepEqual([...returns].sort(), [[3, [48]], [5, [16, 32]]]);
});
