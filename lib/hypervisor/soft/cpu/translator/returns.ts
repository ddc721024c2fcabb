/**
 * Where the functions within a region return to, as far as their calls are in it too: a return compares
 * its target with those places before it looks it up.
 *
 * @module
 */

import type { RegionPlan } from "./plan.ts";

/** Places that a return compares its target with at most. */
const MOST_PLACES = 4;

/** Offsets behind the calls in `plan` that block `n` may return to, where it returns; none where they are many. */
export type Returns = ReadonlyMap<number, readonly number[]>;

/** Finds where the blocks of `plan` may return to. */
export function findReturns(plan: RegionPlan): Returns {
  const { blocks } = plan;
  const number = new Map(blocks.map((b, i) => [b.start, i]));
  const next: number[][] = blocks.map(() => []);
  /** Offsets behind calls, by the block that is called. */
  const places = new Map<number, Set<number>>();
  for (const [i, block] of blocks.entries()) {
    const go = (offset: number) => {
      const to = number.get(offset);
      if (to !== undefined) next[i]?.push(to);
    };
    for (const at of block.insns) {
      const target = at.next + at.immLow;
      if (at.insn.mnemonic === "call") go(at.next);
      if (at.insn.operands[0]?.kind !== "J") continue;
      const callee = number.get(target);
      if (at.insn.mnemonic !== "call") go(target);
      else if (callee !== undefined && number.has(at.next)) {
        places.set(callee, (places.get(callee) ?? new Set()).add(at.next));
      }
    }
    if (block.falls) go(block.end);
  }
  const returns = new Map<number, Set<number>>();
  for (const [callee, behind] of places) {
    const seen = new Set([callee]);
    for (const n of seen) {
      for (const to of next[n] ?? []) seen.add(to);
      if (blocks[n]?.insns.at(-1)?.insn.mnemonic !== "ret") continue;
      returns.set(n, new Set([...returns.get(n) ?? [], ...behind]));
    }
  }
  return new Map(
    [...returns].map(([n, all]) => [n, all.size <= MOST_PLACES ? [...all] : []]),
  );
}
