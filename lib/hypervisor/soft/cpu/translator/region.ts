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
  geU,
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
  shrS,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import type { HandlerInfo } from "../host_context.ts";
import type { Insn } from "../opcode.ts";
import {
  CPU,
  Entry,
  Exit,
  FlagKind,
  FuelCost,
  ITLB,
  ITLB_ENTRIES,
  Rec,
  Reg,
  regOffset,
  S,
  TLB_ENTRIES,
  TLB_ENTRY,
  TlbField,
} from "../state.ts";
import { type ControlFlow, enterBlock, labelAhead, nestBlocks } from "./control_flow.ts";
import { isPlain, LazyFlags, mayStore, overwritesFlags } from "./lazy_flags.ts";
import { findLoops } from "./loops.ts";
import { crosses, linearPage, originOf, type RegionBlock, type RegionPlan } from "./plan.ts";
import { findReturns, type Returns } from "./returns.ts";
import { ProbeCx, RegionCx } from "./region_cx.ts";
import { type RegionFrame, registersOf, Untranslatable, usesStack } from "./region_frame.ts";

const { I32, I64 } = ValType;

/** Accesses to the stack from which on its page is kept in locals. */
const STACK_USES = 2;

/** How a region is left, but for one that goes on with a record it knows. */
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
  const origin = originOf(plan);
  const returns = findReturns(plan);
  const { loops, dispatched } = findLoops(plan, returns);
  const chosen = chooseRegisters(plan, loops);
  const gpr = Array.from({ length: 16 }, (_, n) => chosen.has(n) ? f.local(I64) : undefined);
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
  const flags = new LazyFlags();
  const read = new Set<number>();
  const written = new Set<number>();
  const spill = () => {
    for (const n of written) f.store64(CPU, i32(0), gpr[n] as Local, regOffset(n));
    if (flags.steps) {
      f.ifUnlikely(and(flagKind, FlagKind.step), () => {
        const helper = runtime.helpers.get("flagAuxOfStep");
        if (helper === undefined) throw new TypeError("no helper flagAuxOfStep");
        f.set(flagAux, call(helper, flagKind, flagAux, flagResult, carryKind, carryResult));
        f.set(flagKind, i32(FlagKind.plain));
      });
    }
    f.store64(CPU, i32(0), flagResult, S.flagResult);
    f.store64(CPU, i32(0), flagAux, S.flagAux);
    f.store32(CPU, i32(0), flagKind, S.flagKind);
  };
  /**
   * Takes `word` of a record of the region, which lies in the page at `page`, as where to go on; `first`
   * where the region is entered, and `S.ripBase` is that page.
   */
  const enter = (word: Local, page: Expr, first: boolean) => {
    const entry = f.let(shrU(word, 16));
    if (plan.pages.length === 1) {
      f.set(block, entry);
      f.set(ripBase, page);
      if (first) return;
    } else {
      f.set(block, and(entry, Entry.numberMask));
      const n = f.let(shrU(entry, Entry.pageShift));
      const base = f.let(sub(page, distance(plan.pages, n)));
      const here = shl(i32(1), n);
      f.set(known, first ? here : or(select(eq(base, ripBase), known, i32(0)), here));
      f.set(ripBase, base);
    }
    f.store64(CPU, i32(0), origin === 0 ? ripBase : add(ripBase, origin), S.ripBase);
  };
  const number = new Map(plan.blocks.map((b, i) => [b.start, i]));
  // Ways out have one place where they spill; `how` says which it was. What it does not set on all of them
  // would have to be kept while the region runs.
  f.block((leave) => {
    const leaveAs = (way: Way) => {
      f.set(how, i32(way));
      f.br(leave);
    };
    const body = (outOfFuel: Label, missed: Label | undefined, faulted: Label) =>
      f.loop((dispatch) => {
        f.block((exit) => {
          const flow: ControlFlow = {
            ...{ block, into: f.local(I32), loops, dispatched },
            labels: { blocks: [], loops: new Map() },
          };
          let current = 0;
          const frame: RegionFrame = {
            gpr,
            copies: new Map(),
            flagResult,
            flagAux,
            flagKind,
            carryKind,
            carryResult,
            ripBase,
            origin,
            tlbBase,
            pages: new Map(),
            stackTag,
            stackAddend,
            stale,
            block,
            target,
            self,
            known,
            exit,
            missed,
            faulted,
            faultTag,
            outOfFuel,
            flags,
            blockAt: (offset) => number.get(offset) ?? -1,
            returns: () => returns.get(current) ?? [],
            labelOf: (n) => labelAhead(n, flow, current),
            enterBlock: (n) => enterBlock(f, n, { ...flow, current, dispatch }),
            pageOf: (offset) => plan.pages.indexOf(linearPage(offset)),
            firstOf: (n) => (plan.pages[n] as number) * 4096,
            read,
            written,
          };
          nestBlocks(f, flow, {
            count: plan.blocks.length,
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
        if (comesBack(plan, returns)) {
          f.block((away) => {
            const to = lookUp(f, target, away);
            const word = f.let(load.i32(CPU, to.record));
            f.brIf(away, ne(and(word, 0xffff), self));
            pay(f, away);
            enter(word, to.page, false);
            f.br(dispatch);
          });
        }
        leaveAs(Way.jump);
      });
    f.block((faulted) => {
      f.block((outOfFuel) => {
        // While a region is compared, its accesses are noted, which the slow paths do.
        if (counts) {
          f.tryCatch(faultTag, () => body(outOfFuel, undefined, faulted));
          f.br(faulted);
        } else {
          f.block((missed) => body(outOfFuel, missed, faulted));
          f.set(target, add(ripBase, extS(block)));
          leaveAs(Way.miss);
        }
      });
      f.set(target, i64(0));
      leaveAs(Way.fuel);
    });
    // A fault: registers as they were when it was raised.
    f.set(target, i64(0));
    leaveAs(Way.fault);
  });
  spill();
  if (!counts) {
    f.ifLikely(eq(how, Way.jump), () => {
      f.block((away) => {
        pay(f, away);
        const to = lookUp(f, target, away);
        f.store32(CPU, i32(0), to.pageMap, S.pageMap);
        f.store64(CPU, i32(0), to.page, S.ripBase);
        const slot = load.i32_16u(CPU, to.record, Rec.handler);
        f.returnCallIndirect(runtime.handlerType, slot, to.record);
      });
      // Without a record, `jump` does it all.
      f.returnCall(runtime.jump, target);
    });
    const interpret = runtime.helpers.get("interpretAt");
    if (interpret === undefined) throw new TypeError("no helper interpretAt");
    f.if(eq(how, Way.miss), () => f.returnCall(interpret, target));
  }
  f.if(eq(how, Way.fuel), () => f.return(i32(Exit.Fuel)));
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
    enter(word, load.i64(CPU, i32(0), S.ripBase), true);
  });
}

/** Uses of a register for each instruction of a loop from which on it is kept in a local. */
const OFTEN = 0.1;

/**
 * Chooses the registers that a region keeps in locals: those of loops that call nothing. The others cost more
 * where blocks meet, as compilers run out of registers of their own and move them about, than where they are
 * used: once in a block they are read from the state, and written there.
 */
function chooseRegisters(
  plan: RegionPlan,
  loops: ReadonlyMap<number, { readonly first: number; readonly last: number }>,
): Set<number> {
  const chosen = new Set<number>([Reg.rsp]);
  for (const { first, last } of loops.values()) {
    const uses = new Array<number>(16).fill(0);
    let all = 0;
    let calls = false;
    for (const { insns } of plan.blocks.slice(first, last + 1)) {
      all += insns.length;
      for (const at of insns) {
        if (/^(call|ret)$/.test(at.insn.mnemonic)) calls = true;
        for (const n of registersOf(at)) uses[n] = (uses[n] ?? 0) + 1;
      }
    }
    if (calls) continue;
    uses.forEach((count, n) => {
      if (count >= OFTEN * all) chosen.add(n);
    });
  }
  return chosen;
}

/** Pages of a region, at most, whose distances are chosen one by one. */
const FEW = 4;
/** Pages whose distances, of 16 bits each, stand in an i64; and of regions whose pages are far from each other. */
const PACKED = 4;
const PACKED_FAR = 2;

/** Distance (i64) of page number `n` of a region from its first page, in bytes. */
function distance(pages: readonly number[], n: Local): Expr {
  if (pages.length <= FEW) {
    return pages.slice(1).reduce<Expr>(
      (value, page, i) => select(eq(n, i32(i + 1)), i64(BigInt(page) << 12n), value),
      i64(0),
    );
  }
  const count = pages.every((page) => page << 16 >> 16 === page) ? PACKED : PACKED_FAR;
  const bits = 64 / count;
  const packed: bigint[] = [];
  for (let i = 0; i < pages.length; i += count) {
    packed.push(
      pages.slice(i, i + count)
        .reduce(
          (all, page, k) => all | (BigInt.asUintN(bits, BigInt(page)) << BigInt(bits * k)),
          0n,
        ),
    );
  }
  const chosen = packed.slice(1).reduce<Expr>(
    (value, constant, i) => select(geU(n, i32(count * (i + 1))), i64(constant), value),
    i64(packed[0] ?? 0n),
  );
  // Shifts look at the low bits of their count alone.
  const top = extU(shl(sub(i32(count - 1), n), Math.log2(bits)));
  return shl(shrS(shl(chosen, top), 64 - bits), 12);
}

/**
 * True where the region has jumps that may well lead back into it by an address that is only known when
 * they run: those through a register or memory, and returns to too many places to compare with.
 */
function comesBack(plan: RegionPlan, returns: Returns): boolean {
  return plan.blocks.some(({ insns }, i) => {
    const last = insns.at(-1);
    const mnemonic = last?.insn.mnemonic;
    if (mnemonic === "ret") return returns.get(i)?.length === 0;
    return mnemonic === "jmp" && last?.insn.operands[0]?.kind !== "J";
  });
}

/** A record, the map of its page (both i32), and that page (i64). */
interface Found {
  readonly record: Local;
  readonly pageMap: Local;
  readonly page: Local;
}

/** Pays for a jump; goes to `away`, which has `jump` do it, where there is no fuel. */
function pay(f: FuncBuilder, away: Label): void {
  const fuel = f.let(sub(load.i32(CPU, i32(0), S.fuel), FuelCost.jump));
  f.brIf(away, ltS(fuel, i32(0)));
  f.store32(CPU, i32(0), fuel, S.fuel);
}

/**
 * Finds the record at `target` in 64-bit code as helper `jump` does; goes to `away`, which has that do it,
 * where the instruction TLB has none.
 */
function lookUp(f: FuncBuilder, target: Local, away: Label): Found {
  const tlb = f.let(
    add(i32(ITLB), and(wrap(shrU(target, 12 - 4)), (ITLB_ENTRIES - 1) << 4)),
  );
  const page = f.let(and(target, ~0xfffn));
  f.brIf(away, ne(or(page, extU(load.i32(CPU, i32(0), S.codeTag))), load.i64(CPU, tlb)));
  const pageMap = f.let(load.i32(CPU, tlb, 8));
  const offset = shl(and(wrap(target), 4095), 2);
  const record = f.let(load.i32(CPU, add(pageMap, offset)));
  f.brIf(away, eqz(record));
  return { record, pageMap, page };
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
  frame.copies.clear();
  // What a block knows of registers, flags and pages ends with it, and so do its locals.
  const locals = f.scope(() => {
    let last = undefined as RegionCx | undefined;
    for (const [i, at] of block.insns.entries()) {
      if (crosses(at)) new RegionCx(f, runtime, { at, frame, end: undefined }).checkSecondPage();
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
