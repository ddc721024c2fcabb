/**
 * Loops of a region that WebAssembly can have as loops: branches back to their heads need not go through
 * the region's dispatcher then, and compilers see what stays the same in them.
 *
 * @module
 */

import type { RegionPlan } from "./plan.ts";
import type { Returns } from "./returns.ts";

/** Blocks `first` to `last` of a plan, where branches go back to `first`. */
export interface RegionLoop {
  readonly first: number;
  readonly last: number;
  /** Blocks behind `first` that are gone to from outside. */
  readonly inside: readonly number[];
}

/** What is known of the branches in a region. */
export interface RegionLoops {
  /** By first block; they are disjoint or lie within each other, and no two have the same first block. */
  readonly loops: ReadonlyMap<number, RegionLoop>;
  /** Blocks that the dispatcher must know: entries, and what is gone back to that is no loop around. */
  readonly dispatched: readonly number[];
}

/** Blocks inside of a loop that may be gone to from outside: each is compared with where it is entered. */
const MOST_INSIDE = 6;

/** Finds the loops of `plan`, whose returns go to `returns`. */
export function findLoops(plan: RegionPlan, returns: Returns): RegionLoops {
  const { blocks } = plan;
  const number = new Map(blocks.map((b, i) => [b.start, i]));
  /** The first and the last block that goes on at each, and all that go back to it. */
  const least = blocks.map((_, i) => i);
  const most = blocks.map((_, i) => i);
  const back = new Map<number, Set<number>>();
  const dispatched = new Set(plan.entries.map((offset) => number.get(offset) as number));
  const edge = (from: number, offset: number, calls: boolean) => {
    const to = number.get(offset);
    if (to === undefined) return;
    least[to] = Math.min(least[to] as number, from);
    most[to] = Math.max(most[to] as number, from);
    if (to > from) return;
    // What calls a function before it, or returns there, is no loop around all between them.
    if (calls) {
      dispatched.add(to);
      return;
    }
    const sources = back.get(to);
    if (sources === undefined) back.set(to, new Set([from]));
    else sources.add(from);
  };
  for (const [i, block] of blocks.entries()) {
    for (const at of block.insns) {
      if (at.insn.operands[0]?.kind !== "J") continue;
      edge(i, at.next + at.immLow, at.insn.mnemonic === "call");
    }
    for (const offset of returns.get(i) ?? []) edge(i, offset, true);
    if (block.falls) edge(i, block.end, false);
  }
  const loops = new Map<number, RegionLoop>();
  // Inner ones come first, as they begin later.
  for (const [first, sources] of [...back].sort((a, b) => b[0] - a[0])) {
    const ends = [...sources].sort((a, b) => b - a);
    for (const end of ends) {
      const last = lastOf(first, end, loops);
      const inside: number[] = [];
      for (let at = first + 1; at <= last; at++) {
        const closed = (least[at] as number) >= first && (most[at] as number) <= last;
        if (!closed || dispatched.has(at)) inside.push(at);
      }
      if (inside.length > MOST_INSIDE) continue;
      loops.set(first, { first, last, inside });
      break;
    }
    if ((loops.get(first)?.last ?? -1) < (ends[0] as number)) dispatched.add(first);
  }
  return { loops, dispatched: [...dispatched] };
}

/** The last block of a loop from `first` to `end` at least that holds loops it has a part of. */
function lastOf(first: number, end: number, loops: ReadonlyMap<number, RegionLoop>): number {
  let last = end;
  for (let at = first + 1; at <= last; at++) last = Math.max(last, loops.get(at)?.last ?? -1);
  return last;
}
