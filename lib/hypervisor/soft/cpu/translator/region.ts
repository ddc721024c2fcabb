/**
 * Regions: decoded code of one page, grown from an entry along the direct branches that were seen, as
 * one WebAssembly function.
 *
 * @module
 */

import {
  add,
  and,
  call,
  type FuncBuilder,
  i32,
  type Label,
  load,
  type Local,
  ModuleBuilder,
  shrU,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import type { HandlerInfo } from "../host_context.ts";
import type { Insn } from "../opcode.ts";
import {
  CPU,
  FlagKind,
  Rec,
  Reg,
  regOffset,
  S,
  TLB_ENTRIES,
  TLB_ENTRY,
  TlbField,
} from "../state.ts";
import { LazyFlags, overwritesFlags } from "./lazy_flags.ts";
import {
  ProbeCx,
  RegionCx,
  type RegionFrame,
  type RegionInsn,
  Untranslatable,
  usesStack,
} from "./region_cx.ts";

const { I32, I64 } = ValType;

/** Accesses to the stack from which on its page is kept in locals. */
const STACK_USES = 2;

/** Limits of a region. */
const MAX_BLOCKS = 96;
const MAX_INSTRUCTIONS = 400;
const MAX_ENTRIES = 24;

/** A straight piece of code. */
export interface RegionBlock {
  readonly start: number;
  readonly insns: readonly RegionInsn[];
  /** Page offset behind the last instruction. */
  readonly end: number;
  /** True where control flow goes on behind the last instruction. */
  readonly falls: boolean;
}

/** A region before translation. */
export interface RegionPlan {
  readonly blocks: readonly RegionBlock[];
  /** Page offsets that the interpreter may enter at; the first is the hot one. */
  readonly entries: readonly number[];
}

/** Reads the instruction at a page offset from its records; undefined where there is none to translate. */
export type InsnReader = (offset: number) => RegionInsn | undefined;

/** Grows a region from page offset `entry`. */
export function planRegion(
  entry: number,
  options: { read: InsnReader; warm: readonly number[] },
): RegionPlan | undefined {
  const { read } = options;
  // First the instructions and where blocks must begin, then the blocks.
  const insns = new Map<number, RegionInsn>();
  const leaders = new Set<number>([entry]);
  const entries = [entry];
  const work = [entry];
  while (work.length > 0) {
    let at = work.pop() as number;
    while (!insns.has(at)) {
      if (insns.size >= MAX_INSTRUCTIONS) break;
      const insn = read(at);
      if (insn === undefined) break;
      insns.set(at, insn);
      if (insn.insn.operands[0]?.kind === "J") {
        const target = insn.next + insn.immLow;
        const isCall = insn.insn.mnemonic === "call";
        if (!isCall && target >= 0 && target < 4096 && leaders.size < MAX_BLOCKS) {
          leaders.add(target);
          work.push(target);
        }
      }
      const ends = insn.insn.words.has("end");
      if (ends) {
        // Code comes back behind a call.
        if (insn.insn.mnemonic === "call" && insn.next < 4096 && leaders.size < MAX_BLOCKS) {
          leaders.add(insn.next);
          if (entries.length < 12) entries.push(insn.next);
          work.push(insn.next);
        }
        break;
      }
      at = insn.next;
      if (at >= 4096) break;
    }
  }
  if (!insns.has(entry)) return undefined;
  // Where the guest was seen to arrive it may enter.
  for (const at of options.warm) {
    if (!insns.has(at) || entries.includes(at) || entries.length >= MAX_ENTRIES) continue;
    leaders.add(at);
    entries.push(at);
  }
  const blocks: RegionBlock[] = [];
  for (const start of [...leaders].sort((x, y) => x - y)) {
    if (!insns.has(start)) continue;
    const list: RegionInsn[] = [];
    let at = start;
    let falls = true;
    for (;;) {
      const insn = insns.get(at);
      if (insn === undefined) break;
      list.push(insn);
      at = insn.next;
      if (insn.insn.words.has("end")) {
        falls = false;
        break;
      }
      if (leaders.has(at)) break;
    }
    blocks.push({ start, insns: list, end: at, falls });
  }
  return { blocks, entries: entries.filter((e) => insns.has(e)) };
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
    /** Counts instructions in `S.regionCount`. */
    counts: boolean;
  },
): void {
  const { plan, faultTag, counts } = options;
  const gpr = Array.from({ length: 16 }, () => f.local(I64));
  const flagResult = f.local(I64);
  const flagAux = f.local(I64);
  const flagKind = f.local(I32, load.i32(CPU, i32(0), S.flagKind));
  const carryKind = f.local(I32);
  const carryResult = f.local(I64);
  let stackUses = 0;
  for (const { insns } of plan.blocks) stackUses += insns.filter(usesStack).length;
  const stackTag = stackUses >= STACK_USES ? f.local(I64) : undefined;
  const stackAddend = f.local(I32);
  const tlbBase = f.local(I32, load.i32(CPU, i32(0), S.tlbBase));
  const target = f.local(I64);
  const ripBase = f.local(I64);
  const stale = f.local(I32);
  const block = f.local(I32, load.i32_16u(CPU, f.param(0), Rec.block));
  // All registers are loaded; those that nothing uses cost nothing after optimization.
  gpr.forEach((local, n) => f.set(local, load.i64(CPU, i32(0), regOffset(n))));
  f.set(flagResult, load.i64(CPU, i32(0), S.flagResult));
  f.set(flagAux, load.i64(CPU, i32(0), S.flagAux));
  f.set(ripBase, load.i64(CPU, i32(0), S.ripBase));
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
  const written = registersWritten(plan);
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
  const number = new Map(plan.blocks.map((b, i) => [b.start, i]));
  f.block((exit) => {
    f.tryCatch(faultTag, () => {
      f.loop((dispatch) => {
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
          dispatch,
          exit,
          target,
          flags: new LazyFlags(),
          blockAt: (offset) => number.get(offset) ?? -1,
          spill,
          written,
        };
        nestBlocks(f, block, {
          count: plan.blocks.length,
          body: (i) =>
            emitBlock(f, runtime, {
              block: plan.blocks[i] as RegionBlock,
              following: plan.blocks[i + 1],
              frame,
              counts,
            }),
        });
      });
    });
    // A fault: registers as they were when it was raised.
    spill();
    f.throw(faultTag);
  });
  spill();
  f.returnCall(runtime.jump, target);
  f.unreachable();
}

/** `br_table` over nested blocks, so that each body falls into the next one. */
function nestBlocks(
  f: FuncBuilder,
  selector: Local,
  options: { count: number; body: (i: number) => void },
): void {
  const labels: Label[] = new Array<Label>(options.count);
  const nest = (i: number): void => {
    if (i < 0) {
      const last = labels[options.count - 1] as Label;
      f.brTable(selector, labels.slice(0, -1), last);
      return;
    }
    f.block((label) => {
      labels[i] = label;
      nest(i - 1);
    });
    options.body(i);
  };
  // Outermost is the last block: its label stands around all before it.
  nest(options.count - 1);
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
  let last: RegionCx | undefined;
  for (const [i, at] of block.insns.entries()) {
    if (counts) {
      f.store64(CPU, i32(0), add(load.i64(CPU, i32(0), S.regionCount), 1), S.regionCount);
    }
    frame.flags.unseen = overwritesFlags(block.insns.slice(i + 1));
    f.block((end) => {
      const c = new RegionCx(f, runtime, { at, frame, end });
      at.insn.semantics(c);
      last = c;
    });
    const c = last as RegionCx;
    if (at.insn.words.has("end")) break;
    if (c.stores) c.leaveWhereStale();
  }
  frame.flags.pending = undefined;
  if (!block.falls) {
    f.unreachable();
    return;
  }
  // Falls into the block that follows here, where that is the one behind.
  if (following?.start !== block.end) last?.goTo(block.end);
}

/** Registers that any instruction of the region may write. */
function registersWritten(plan: RegionPlan): Set<number> {
  const written = new Set<number>();
  const note = (slot: number) => {
    if (slot >= S.regs && slot < S.zero) written.add((slot - S.regs) >> 3);
  };
  for (const block of plan.blocks) {
    for (const at of block.insns) {
      note(at.a);
      note(at.b);
      for (const n of implicit(at.insn.mnemonic)) written.add(n);
      if (at.insn.operands.some((o) => o.kind === "A")) written.add(0);
    }
  }
  return written;
}

/** Registers that instructions write without naming them. */
function implicit(mnemonic: string): readonly number[] {
  if (/^(push|pop|call|ret|leave|pushf)/.test(mnemonic)) return [4, 5];
  if (/^(movs|cmps|stos|lods|scas)$/.test(mnemonic)) return [0, 1, 6, 7];
  if (/^(mul|imul|div|idiv|cbw|cwd|cmpxchg|cmpxchg8b|xchg|lahf|xadd)$/.test(mnemonic)) {
    return [0, 2];
  }
  if (/^(loop|loope|loopne|jcxz|pcmp.str.)$/.test(mnemonic)) return [1];
  return [];
}
