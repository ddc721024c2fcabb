/**
 * Regions: decoded code of a few pages, grown from an entry along direct branches and calls, as one
 * WebAssembly function. Returns and other indirect branches stay in it where they meet an entry of it.
 *
 * @module
 */

import {
  add,
  and,
  call,
  eq,
  eqz,
  type Expr,
  extS,
  extU,
  type FuncBuilder,
  i32,
  i64,
  type Label,
  load,
  type Local,
  ltS,
  ModuleBuilder,
  ne,
  or,
  select,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import type { HandlerInfo } from "../host_context.ts";
import type { Insn } from "../opcode.ts";
import {
  Check,
  CPU,
  Entry,
  Exit,
  FlagKind,
  FuelCost,
  ITLB,
  ITLB_ENTRIES,
  Reg,
  regOffset,
  S,
  TLB_ENTRIES,
  TLB_ENTRY,
  TlbField,
} from "../state.ts";
import { isPlain, LazyFlags, mayStore, overwritesFlags } from "./lazy_flags.ts";
import { entryOf, linearPage, type RegionBlock, type RegionPlan } from "./plan.ts";
import { ProbeCx, RegionCx, type RegionFrame, Untranslatable, usesStack } from "./region_cx.ts";

const { I32, I64 } = ValType;

/** Accesses to the stack from which on its page is kept in locals. */
const STACK_USES = 2;

/** How a region is left, but for one that goes on in another. */
enum Way {
  fuel,
  jump,
  miss,
  fault,
}

/** Says which handlers' semantics may stand in a region; asks each once. */
export class Translatability {
  readonly #known = new Map<HandlerInfo, boolean>();
  readonly #excluded: ReadonlySet<Insn>;
  readonly #runtime: () => Runtime;

  /** @param runtime Makes what the probes call; none of it is ever run. */
  constructor(excluded: ReadonlySet<Insn>, runtime: () => Runtime) {
    this.#excluded = excluded;
    this.#runtime = runtime;
  }

  /** True where the instruction can be translated. */
  ask(info: HandlerInfo): boolean {
    let known = this.#known.get(info);
    if (known === undefined) {
      known = !this.#excluded.has(info.insn) && this.#probe(info, this.#runtime());
      this.#known.set(info, known);
    }
    return known;
  }

  #probe(info: HandlerInfo, runtime: Runtime): boolean {
    const f = new ModuleBuilder().func([I32], [I32]);
    try {
      info.insn.semantics(new ProbeCx(f, runtime, info));
      return true;
    } catch (error) {
      if (error instanceof Untranslatable) return false;
      throw error;
    }
  }
}

/** Emits `plan` as the body of `f`, a function `(record) -> exit`; the record names the block to begin with. */
export function emitRegion(
  f: FuncBuilder,
  runtime: Runtime,
  options: {
    plan: RegionPlan;
    faultTag: number;
    /** Counts instructions in `S.regionCount`; while it is compared it leaves where others would be entered. */
    counts: boolean;
  },
): void {
  const { plan, faultTag, counts } = options;
  const gpr = Array.from({ length: 16 }, () => f.local(I64));
  const flagResult = f.local(I64);
  const flagAux = f.local(I64);
  const flagKind = f.local(I32);
  const carryKind = f.local(I32);
  const carryResult = f.local(I64);
  let stackUses = 0;
  for (const { insns } of plan.blocks) stackUses += insns.filter(usesStack).length;
  const stackTag = stackUses >= STACK_USES ? f.local(I64) : undefined;
  const stackAddend = f.local(I32);
  const tlbBase = f.local(I32);
  const ripBase = f.local(I64);
  const stale = f.local(I32);
  const block = f.local(I32);
  const target = f.local(I64);
  const self = f.local(I32);
  const known = f.local(I32);
  const how = f.local(I32);
  const read = new Set<number>();
  const written = new Set<number>();
  const spill = () => {
    for (const n of written) f.store64(CPU, i32(0), gpr[n] as Local, regOffset(n));
    f.if(and(flagKind, FlagKind.step), () => {
      const helper = runtime.helpers.get("flagAuxOfStep");
      if (helper === undefined) throw new TypeError("no helper flagAuxOfStep");
      f.set(flagAux, call(helper, flagKind, flagAux, flagResult, carryKind, carryResult));
      f.set(flagKind, i32(FlagKind.plain));
    });
    f.store64(CPU, i32(0), flagResult, S.flagResult);
    f.store64(CPU, i32(0), flagAux, S.flagAux);
    f.store32(CPU, i32(0), flagKind, S.flagKind);
  };
  /** Takes `word` of a record of the region, which lies in the page at `page`, as where to go on. */
  const enter = (word: Local, page: Expr) => {
    const entry = f.let(shrU(word, 16));
    f.set(block, and(entry, Entry.numberMask));
    if (plan.pages.length === 1) f.set(ripBase, page);
    else {
      const base = f.let(sub(page, distance(plan.pages, shrU(entry, Entry.pageShift))));
      const here = shl(i32(1), shrU(entry, Entry.pageShift));
      f.set(known, or(select(eq(base, ripBase), known, i32(0)), here));
      f.set(ripBase, base);
    }
    f.store64(CPU, i32(0), ripBase, S.ripBase);
  };
  const number = new Map(plan.blocks.map((b, i) => [b.start, i]));
  const dispatched = plan.dispatched.map((start) => number.get(start) as number);
  const proofs = plan.pages.map((page) => {
    const offset = plan.entries.find((at) => linearPage(at) === page) as number;
    return { offset, entry: entryOf(plan, offset) };
  });
  // Ways out have one place where they spill; `how` says which it was, 0 being that fuel ran out.
  f.block((leave) => {
    const leaveAs = (way: Way, label = leave) => {
      f.set(how, i32(way));
      f.br(label);
    };
    const body = (missed: Label | undefined, faulted: Label) =>
      f.loop((dispatch) => {
        f.block((exit) => {
          const labels = new Array<Label>(plan.blocks.length);
          let current = 0;
          const frame: RegionFrame = {
            gpr,
            flagResult,
            flagAux,
            flagKind,
            carryKind,
            carryResult,
            ripBase,
            tlbBase,
            pages: new Map(),
            stackTag,
            stackAddend,
            stale,
            block,
            target,
            self,
            known,
            dispatch,
            exit,
            missed,
            faulted,
            faultTag,
            outOfFuel: leave,
            flags: new LazyFlags(),
            blockAt: (offset) => number.get(offset) ?? -1,
            dispatchedAs: (n) => dispatched.indexOf(n),
            labelOf: (n) => n > current ? labels[n] : undefined,
            pageOf: (offset) => plan.pages.indexOf(linearPage(offset)),
            proofOf: (n) => proofs[n] as { offset: number; entry: number },
            read,
            written,
          };
          nestBlocks(f, block, {
            labels,
            dispatched,
            body: (i) => {
              current = i;
              emitBlock(f, runtime, {
                block: plan.blocks[i] as RegionBlock,
                following: plan.blocks[i + 1],
                frame,
                counts,
              });
            },
          });
        });
        emitIndirect(f, runtime, {
          ...{ target, self, dispatch, enter, spill },
          outOfFuel: leave,
          away: () => leaveAs(Way.jump),
          leaves: counts,
        });
      });
    f.block((faulted) => {
      // While a region is compared, its accesses are noted, which the slow paths do.
      if (counts) f.tryCatch(faultTag, () => body(undefined, faulted));
      else {
        f.block((missed) => body(missed, faulted));
        f.set(target, add(ripBase, extS(block)));
        leaveAs(Way.miss);
      }
    });
    // A fault: registers as they were when it was raised.
    leaveAs(Way.fault);
  });
  spill();
  f.if(eqz(how), () => f.return(i32(Exit.Fuel)));
  if (!counts) {
    const interpret = runtime.helpers.get("interpretAt");
    if (interpret === undefined) throw new TypeError("no helper interpretAt");
    f.if(eq(how, Way.miss), () => f.returnCall(interpret, target));
  }
  f.if(eq(how, Way.fault), () => f.throw(faultTag));
  f.returnCall(runtime.jump, target);
  f.unreachable();
  f.inFront(() => {
    if (stackTag !== undefined) read.add(Reg.rsp);
    for (const n of new Set([...read, ...written])) {
      f.set(gpr[n] as Local, load.i64(CPU, i32(0), regOffset(n)));
    }
    f.set(flagResult, load.i64(CPU, i32(0), S.flagResult));
    f.set(flagAux, load.i64(CPU, i32(0), S.flagAux));
    f.set(flagKind, load.i32(CPU, i32(0), S.flagKind));
    f.set(tlbBase, load.i32(CPU, i32(0), S.tlbBase));
    if (stackTag !== undefined) {
      // What the TLB has where the stack's page would be: whatever page it is, it may be written.
      const index = and(
        shrU(wrap(gpr[Reg.rsp] as Local), 12 - Math.log2(TLB_ENTRY)),
        (TLB_ENTRIES - 1) * TLB_ENTRY,
      );
      const entry = f.let(add(tlbBase, index));
      f.set(stackTag, load.i64(CPU, entry, TlbField.write));
      f.set(stackAddend, load.i32(CPU, entry, TlbField.addend));
    }
    const word = f.let(load.i32(CPU, f.param(0)));
    f.set(self, and(word, 0xffff));
    enter(word, load.i64(CPU, i32(0), S.ripBase));
  });
}

/** Distance (i64) of page number `n` of a region from its first page, in bytes. */
function distance(pages: readonly number[], n: Expr): Expr {
  let value: Expr = i64(0);
  pages.forEach((page, i) => {
    if (i > 0) value = select(eq(n, i32(i)), i64(BigInt(page) << 12n), value);
  });
  return value;
}

/** Goes on at `target`: in the region, in another, or in the interpreter. */
function emitIndirect(
  f: FuncBuilder,
  runtime: Runtime,
  parts: {
    target: Local;
    self: Local;
    dispatch: Label;
    outOfFuel: Label;
    /** Goes on at `target`, outside of the region. */
    away: () => void;
    enter: (word: Local, page: Expr) => void;
    spill: () => void;
    /** Leaves where it would go on outside of the region, while that is compared. */
    leaves: boolean;
  },
): void {
  const { target } = parts;
  const fuel = f.let(sub(load.i32(CPU, i32(0), S.fuel), FuelCost.jump));
  f.store32(CPU, i32(0), fuel, S.fuel);
  f.if(ltS(fuel, i32(0)), () => {
    f.store64(CPU, i32(0), target, S.rip);
    f.br(parts.outOfFuel);
  });
  // As `jump` does, for 64-bit code.
  const tlb = f.let(
    add(i32(ITLB), and(wrap(shrU(target, 12 - 4)), (ITLB_ENTRIES - 1) << 4)),
  );
  const page = f.let(and(target, ~0xfffn));
  f.block((away) => {
    f.brIf(away, ne(or(page, extU(load.i32(CPU, i32(0), S.codeTag))), load.i64(CPU, tlb)));
    const pageMap = f.let(load.i32(CPU, tlb, 8));
    const record = f.let(load.i32(CPU, add(pageMap, shl(and(wrap(target), 4095), 2))));
    f.brIf(away, eqz(record));
    const word = f.let(load.i32(CPU, record));
    f.if(eq(and(word, 0xffff), parts.self), () => {
      parts.enter(word, page);
      f.br(parts.dispatch);
    });
    if (parts.leaves) f.brIf(away, and(load.i32(CPU, i32(0), S.checks), Check.log));
    parts.spill();
    f.store32(CPU, i32(0), pageMap, S.pageMap);
    f.store64(CPU, i32(0), page, S.ripBase);
    f.returnCallIndirect(runtime.handlerType, and(word, 0xffff), record);
  });
  parts.away();
  f.unreachable();
}

/** `br_table` over nested blocks, so that each body falls into the next one. */
function nestBlocks(
  f: FuncBuilder,
  selector: Local,
  options: { labels: Label[]; dispatched: readonly number[]; body: (i: number) => void },
): void {
  const { labels, dispatched } = options;
  const count = labels.length;
  const nest = (i: number): void => {
    if (i < 0) {
      const targets = dispatched.map((n) => labels[n] as Label);
      f.brTable(selector, targets.slice(0, -1), targets.at(-1) as Label);
      return;
    }
    f.block((label) => {
      labels[i] = label;
      nest(i - 1);
    });
    options.body(i);
  };
  // Outermost is the last block: its label stands around all before it.
  nest(count - 1);
  f.unreachable();
}

function emitBlock(
  f: FuncBuilder,
  runtime: Runtime,
  options: {
    block: RegionBlock;
    following: RegionBlock | undefined;
    frame: RegionFrame;
    counts: boolean;
  },
): void {
  const { block, following, frame, counts } = options;
  frame.pages.clear();
  // What a block knows of flags and pages ends with it, and so do its locals.
  const locals = f.scope(() => {
    let last = undefined as RegionCx | undefined;
    for (const [i, at] of block.insns.entries()) {
      if (counts) {
        f.store64(CPU, i32(0), add(load.i64(CPU, i32(0), S.regionCount), 1), S.regionCount);
      }
      // Behind a store the region may be left, where it changed code, if not before it.
      const leavesBehind = frame.missed === undefined && mayStore(at);
      frame.flags.unseen = !leavesBehind && overwritesFlags(block.insns.slice(i + 1));
      const emit = (end: Label | undefined) => {
        last = new RegionCx(f, runtime, { at, frame, end });
        at.insn.semantics(last);
      };
      if (isPlain(at)) emit(undefined);
      else f.block(emit);
      if (at.insn.words.has("end")) break;
      if (last?.stores === true) last.leaveWhereStale();
    }
    frame.flags.pending = undefined;
    if (!block.falls) f.unreachable();
    // Falls into the block that follows here, where that is the one behind.
    else if (following?.start !== block.end || linearPage(block.start) !== linearPage(block.end)) {
      last?.goTo(block.end);
    }
  });
  f.release(locals);
}
