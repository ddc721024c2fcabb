/**
 * Plans of regions: which decoded instructions one is made of, where its blocks begin and where it may be
 * entered.
 *
 * @module
 */

import { Entry, PseudoRecord, REGION_PAGES } from "../state.ts";
import type { RegionInsn } from "./region_frame.ts";

/** Limits of regions. */
interface Limits {
  readonly blocks: number;
  readonly instructions: number;
  readonly entries: number;
  readonly pages: number;
  /** True where calls are followed. */
  readonly callees: boolean;
}
const NARROW: Limits = { blocks: 96, instructions: 400, entries: 24, pages: 1, callees: false };
const WIDE: Limits = {
  blocks: 400,
  instructions: 800,
  entries: 160,
  pages: REGION_PAGES,
  callees: true,
};
/**
 * Instructions of code that a wide region has too where another one has it: to go there and back takes longer
 * than what so few do, as loops over pages call them for each.
 */
const FEW = 40;
/** Bytes between pages of a region: a kernel's modules lie up to 1 GiB behind it. See also PseudoRecord. */
const MAX_SPAN = 1 << 30;

/** A straight piece of code in one page, but for its last instruction, which may reach into the next one. */
export interface RegionBlock {
  readonly start: number;
  readonly insns: readonly RegionInsn[];
  /** Offset behind the last instruction. */
  readonly end: number;
  /** True where control flow goes on behind the last instruction. */
  readonly falls: boolean;
}

/** A region before translation. Offsets are those from the first byte of its first page. */
export interface RegionPlan {
  readonly blocks: readonly RegionBlock[];
  /** Where the interpreter may enter; the first is the hot one. */
  readonly entries: readonly number[];
  /** Offsets of blocks that the dispatcher knows, as numbers count: entries and heads of loops. */
  readonly dispatched: readonly number[];
  /** Its pages, as linear pages from the first one, which is 0. */
  readonly pages: readonly number[];
}

/** Reads the instruction at an offset from its records; undefined where there is none to translate. */
export type InsnReader = (offset: number) => RegionInsn | undefined;

/** Number of the linear page of an offset. */
export function linearPage(offset: number): number {
  return offset >> 12;
}

/** True where the instruction reaches into the page behind its own. */
export function crosses(at: RegionInsn): boolean {
  return linearPage(at.next - 1) !== linearPage(at.offset);
}

/**
 * Offset of where `S.ripBase` is while the region of `plan` runs: in the middle of its pages, where those are
 * too far from each other for pseudo records that count from the first one.
 */
export function originOf({ pages }: RegionPlan): number {
  const [low, high] = [Math.min(...pages), Math.max(...pages)];
  const most = (1 << (PseudoRecord.offsetBits - 1)) / 4096 - 1;
  return low > -most && high < most ? 0 : ((low + high) >> 1) * 4096;
}

/** {@link Rec.block} of entry `offset` of `plan`. */
export function entryOf(plan: RegionPlan, offset: number): number {
  return plan.dispatched.indexOf(offset) |
    (plan.pages.indexOf(linearPage(offset)) << Entry.pageShift);
}

/** What regions are grown by. */
export interface PlanOptions {
  readonly read: InsnReader;
  /** Where the guest was seen to arrive. */
  readonly warm: readonly number[];
  /** True where the guest was seen to arrive, or another region may be entered. */
  readonly arrived: (at: number) => boolean;
  /** Over several pages, and with the functions that are called. */
  readonly wide: boolean;
  /** True where another region's code begins that is not to be there twice. */
  readonly taken: (at: number) => boolean;
}

/** A region that is being looked for. */
interface Draft {
  readonly seeds: readonly number[];
  readonly plan: RegionPlan;
  readonly insns: ReadonlyMap<number, RegionInsn>;
  /** True where it has all that it leads to. */
  readonly whole: boolean;
}

/**
 * Grows regions from the offsets `spots` in the first page. Where one leads into the code of another
 * they are one region, unless that would be too large: then both have that code.
 */
export function planRegions(
  spots: Iterable<number>,
  options: PlanOptions,
): { plans: RegionPlan[]; refused: number } {
  let drafts: Draft[] = [];
  let refused = 0;
  for (const at of spots) {
    if (drafts.some(({ plan }) => plan.entries.includes(at))) continue;
    const draft = grow([at], options);
    if (draft === undefined) {
      refused++;
      continue;
    }
    const met = drafts.filter(({ insns }) => shares(insns, draft.insns));
    const joined = met.length === 0
      ? undefined
      : grow([...met.flatMap(({ seeds }) => seeds), at], options);
    if (joined?.whole === true) {
      drafts = [...drafts.filter((other) => !met.includes(other)), joined];
    } else drafts.push(draft);
  }
  return { plans: drafts.map(({ plan }) => plan), refused };
}

/**
 * True where conditional branch `insn` was seen to go on at `to`: what nobody runs is not worth its code.
 * A branch that nobody saw may go either way, as one whose page was decoded again.
 */
function goesOn(insn: RegionInsn, to: number, arrived: (at: number) => boolean): boolean {
  if (insn.taken === insn.passed || insn.insn.words.has("end")) return true;
  return (to === insn.next ? insn.passed : insn.taken) || arrived(to);
}

function shares<T>(a: ReadonlyMap<number, T>, b: ReadonlyMap<number, T>): boolean {
  for (const at of a.keys()) if (b.has(at)) return true;
  return false;
}

/** The code at `start` with all in its function that it leads to; undefined where that is more than {@link FEW}. */
function fewFrom(start: number, { read, arrived }: PlanOptions): Set<number> | undefined {
  const found = new Set<number>();
  const work = [start];
  for (let from = work.pop(); from !== undefined; from = work.pop()) {
    for (let at = from; !found.has(at);) {
      const insn = read(at);
      if (insn === undefined) break;
      found.add(at);
      if (found.size > FEW) return undefined;
      const ends = insn.insn.words.has("end");
      if (insn.insn.mnemonic === "call") work.push(insn.next);
      else if (insn.insn.operands[0]?.kind === "J") {
        const target = insn.next + insn.immLow;
        if (goesOn(insn, target, arrived)) work.push(target);
        if (!ends && !goesOn(insn, insn.next, arrived)) break;
      }
      if (ends) break;
      at = insn.next;
    }
  }
  return found;
}

/** Grows a region from the offsets `seeds` in its first page, which it may be entered at. */
function grow(seeds: readonly number[], options: PlanOptions): Draft | undefined {
  const limits = options.wide ? WIDE : NARROW;
  // First the instructions and where blocks must begin, then the blocks.
  const insns = new Map<number, RegionInsn>();
  const leaders = new Set<number>(seeds);
  const entries = new Set<number>(seeds);
  let whole = true;
  const pages = [0];
  let [lowest, highest] = [0, 0];
  const read = (at: number): RegionInsn | undefined => {
    if (Math.abs(at) >= MAX_SPAN) return undefined;
    const page = linearPage(at);
    if (!pages.includes(page)) {
      const [low, high] = [Math.min(page, lowest), Math.max(page, highest)];
      if (pages.length >= limits.pages || (high - low + 2) * 4096 > MAX_SPAN) return undefined;
      const insn = options.read(at);
      if (insn === undefined) return undefined;
      pages.push(page);
      [lowest, highest] = [low, high];
      return insn;
    }
    return options.read(at);
  };
  const work = [...seeds];
  // Functions that are called come when all of the caller is there.
  const callees: number[] = [];
  /** What another region has and this one is to have, too. */
  const shared = new Set<number>();
  const taken = (at: number) => !shared.has(at) && options.taken(at);
  const lead = (at: number, list: number[]): boolean => {
    if (leaders.has(at)) return true;
    if (taken(at)) {
      const few = limits.callees ? fewFrom(at, options) : undefined;
      if (few === undefined) return false;
      for (const one of few) shared.add(one);
    }
    if (leaders.size >= limits.blocks) {
      whole = false;
      return false;
    }
    leaders.add(at);
    list.push(at);
    return true;
  };
  for (;;) {
    const from = work.pop() ?? callees.shift();
    if (from === undefined) break;
    let at = from;
    let held = false;
    while (!insns.has(at)) {
      if (insns.size >= limits.instructions) {
        whole = false;
        break;
      }
      // Where another region goes on, but for what STI holds interrupts off from.
      if (!leaders.has(at) && !held && taken(at)) break;
      const insn = read(at);
      if (insn === undefined) break;
      // No interrupt may come between STI and what follows, as one could where the region is left: HLT.
      if (insn.insn.mnemonic === "sti") {
        const fits = insns.size + 1 < limits.instructions &&
          linearPage(insn.next) === linearPage(at);
        const behind = fits ? read(insn.next) : undefined;
        if (behind === undefined || crosses(behind)) break;
      }
      insns.set(at, insn);
      held = insn.insn.mnemonic === "sti";
      const calls = insn.insn.mnemonic === "call";
      if (insn.insn.operands[0]?.kind === "J") {
        const target = insn.next + insn.immLow;
        if (calls) {
          if (limits.callees) lead(target, callees);
        } else if (goesOn(insn, target, options.arrived)) lead(target, work);
        if (!insn.insn.words.has("end") && !goesOn(insn, insn.next, options.arrived)) break;
      }
      if (insn.insn.words.has("end")) {
        // Code comes back behind a call.
        if (calls && lead(insn.next, work) && entries.size < limits.entries) entries.add(insn.next);
        break;
      }
      at = insn.next;
      // A block begins in each page.
      if (linearPage(at) !== linearPage(insn.offset)) leaders.add(at);
    }
  }
  // The record of what reaches into another page is a guard, whose place no region takes.
  const enterable = (at: number): boolean => {
    const insn = insns.get(at);
    return insn !== undefined && !crosses(insn);
  };
  // It stands only where both are pages of the region.
  for (const [at, insn] of insns) {
    if (!crosses(insn)) continue;
    if (insns.has(insn.next)) leaders.add(insn.next);
    else insns.delete(at);
  }
  if (!enterable(seeds[0] as number)) return undefined;
  // Where the guest was seen to arrive it may enter.
  for (const at of options.warm) {
    if (!enterable(at) || entries.size >= limits.entries) continue;
    leaders.add(at);
    entries.add(at);
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
  // Pages where nothing was found do not count.
  const used = pages.filter((page) => blocks.some((b) => linearPage(b.start) === page));
  const kept = [...entries].filter(enterable);
  const starts = new Set(blocks.map((b) => b.start));
  const heads = [...insns.values()].filter((at) => at.insn.operands[0]?.kind === "J")
    .filter((at) => at.next + at.immLow <= at.offset && starts.has(at.next + at.immLow))
    .map((at) => at.next + at.immLow)
    .filter(enterable);
  const dispatched = [...new Set([...kept, ...heads])];
  // Where a loop begins the interpreter may come back, which does what a region leaves to it.
  const plan = { blocks, entries: dispatched, dispatched, pages: used };
  return { seeds, plan, insns, whole };
}
