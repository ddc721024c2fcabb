/**
 * Control flow within a region: blocks nested so that each can branch to those behind it, loops around
 * some of them, and a dispatcher for everything else.
 *
 * @module
 */

import { eq, type FuncBuilder, i32, type Label, type Local } from "../../wasm/mod.ts";
import type { RegionLoop } from "./loops.ts";

/** How control goes from block to block, by their numbers. */
export interface ControlFlow {
  readonly loops: ReadonlyMap<number, RegionLoop>;
  readonly dispatched: readonly number[];
  /** i32: what the dispatcher is to go on with, by its place in `dispatched`. */
  readonly block: Local;
  /** i32: which block inside of a loop it is entered for; 0 where it is entered at its head. */
  readonly into: Local;
  readonly labels: {
    /** Of blocks, where they can be branched to from before. */
    readonly blocks: Label[];
    /** Of loops that are open. */
    readonly loops: Map<number, Label>;
  };
}

/** The outermost loop behind block `within` that holds block `n`, and not `current`. */
function loopAround(
  flow: ControlFlow,
  n: number,
  beside: { within: number; current: number },
): RegionLoop | undefined {
  let found: RegionLoop | undefined;
  for (const loop of flow.loops.values()) {
    const { first, last } = loop;
    if (n < first || n > last || first <= beside.within) continue;
    if (beside.current >= first && beside.current <= last) continue;
    if (found === undefined || first < found.first) found = loop;
  }
  return found;
}

/** Goes on with block `n`, which lies where its label or that of a loop around it is open. */
function enterForward(
  f: FuncBuilder,
  n: number,
  flow: ControlFlow & { beside: { within: number; current: number } },
): void {
  const loop = loopAround(flow, n, flow.beside);
  if (loop !== undefined && loop.first !== n) f.set(flow.into, i32(n));
  f.br(flow.labels.blocks[loop?.first ?? n] as Label);
}

/** The label of block `n` behind block `current`, where that is all it takes to go there. */
export function labelAhead(n: number, flow: ControlFlow, current: number): Label | undefined {
  if (n <= current) return undefined;
  const loop = loopAround(flow, n, { within: -1, current });
  return (loop?.first ?? n) === n ? flow.labels.blocks[n] : undefined;
}

/** Goes on with block `n` from block `current`. */
export function enterBlock(
  f: FuncBuilder,
  n: number,
  flow: ControlFlow & { current: number; dispatch: Label },
): void {
  const { current } = flow;
  if (n > current) {
    enterForward(f, n, { ...flow, beside: { within: -1, current } });
    return;
  }
  const loop = flow.labels.loops.get(n);
  if (loop === undefined) f.set(flow.block, i32(flow.dispatched.indexOf(n)));
  f.br(loop ?? flow.dispatch);
}

/** `br_table` over nested blocks, so that each body falls into the next one, with loops around some. */
export function nestBlocks(
  f: FuncBuilder,
  flow: ControlFlow,
  options: { count: number; body: (i: number) => void },
): void {
  const { loops, labels, into } = flow;
  const { count, body } = options;
  /** Blocks `from` to `to` in a row behind `begin`, which is where all of their labels are open. */
  const row = (from: number, to: number, begin: () => void): void => {
    const firsts: number[] = [];
    for (let at = from; at <= to; at = (loops.get(at)?.last ?? at) + 1) firsts.push(at);
    const nest = (i: number): void => {
      const first = firsts[i];
      if (first === undefined) {
        begin();
        return;
      }
      f.block((label) => {
        labels.blocks[first] = label;
        nest(i - 1);
      });
      const loop = loops.get(first);
      if (loop === undefined) body(first);
      else {
        f.loop((label) => {
          labels.loops.set(first, label);
          row(first + 1, loop.last, () => {
            if (loop.inside.length > 0) f.ifUnlikely(into, () => enterInside(f, loop, flow));
            body(first);
          });
          labels.loops.delete(first);
        });
      }
    };
    // Outermost is the last block: its label stands around all before it.
    nest(firsts.length - 1);
  };
  row(0, count - 1, () => emitDispatcher(f, flow));
  f.unreachable();
}

/** Goes on inside of `loop`, at its head, where that was asked for. */
function enterInside(f: FuncBuilder, loop: RegionLoop, flow: ControlFlow): void {
  const beside = { within: loop.first, current: -1 };
  for (const n of loop.inside) {
    f.if(eq(flow.into, i32(n)), () => {
      const inner = loopAround(flow, n, beside);
      if (inner === undefined || inner.first === n) f.set(flow.into, i32(0));
      enterForward(f, n, { ...flow, beside });
    });
  }
  f.unreachable();
}

/** Goes on with the block that `flow.block` names. */
function emitDispatcher(f: FuncBuilder, flow: ControlFlow): void {
  const { dispatched, labels } = flow;
  const beside = { within: -1, current: -1 };
  const targets: Label[] = [];
  const inside: number[] = [];
  const isInside = (n: number) => (loopAround(flow, n, beside)?.first ?? n) !== n;
  dispatched.forEach((n, i) => {
    if (isInside(n)) inside.push(i);
    else targets[i] = labels.blocks[n] as Label;
  });
  const nest = (k: number): void => {
    const i = inside[k];
    if (i === undefined) {
      f.brTable(flow.block, targets.slice(0, -1), targets.at(-1) as Label);
      return;
    }
    f.block((label) => {
      targets[i] = label;
      nest(k - 1);
    });
    enterForward(f, dispatched[i] as number, { ...flow, beside });
  };
  nest(inside.length - 1);
}
