/**
 * Makes modules of decoded code: which regions, their emission, and what has to be known to use them. It
 * needs no processor, so it works for the thread of a vCPU as well as for another one.
 *
 * @module
 */

import { type FuncBuilder, type MemoryImport, ModuleBuilder, ValType } from "../../wasm/mod.ts";
import type { CodePage } from "../code_cache.ts";
import type { Interpreter } from "../interpreter.ts";
import { fastCallRows } from "../integer/fast_calls.ts";
import { clockRows, quickSystemRows, systemRows } from "../integer/system.ts";
import { Rec, RECORD, S, STACK_ADDRESS } from "../state.ts";
import { regionName } from "./heat.ts";
import { emitRegion, Translatability } from "./region.ts";
import { entryOf, type InsnReader, planRegions, type RegionPlan } from "./plan.ts";
import { LazyRuntime } from "./lazy_runtime.ts";
import type { RegionInsn, WideAddress } from "./region_frame.ts";
import { codeRanges, pageSum, type Unit, UnitEntries, type UnitPart } from "./unit.ts";

const { I32 } = ValType;

/** Regions do not depend on how large the memories are. */
const ANY_MEMORY: MemoryImport = { minPages: 1, maxPages: 65536, shared: true };

/** Bits of ways that a conditional branch was seen to go. */
export const Ways = { taken: 1, passed: 2 } as const;

/** Ways that the branch whose record is at `record` of `bytes` was seen to go. */
export function waysOf(bytes: Uint8Array, record: number): number {
  return (bytes[record + Rec.taken] === 0 ? 0 : Ways.taken) |
    (bytes[record + Rec.passed] === 0 ? 0 : Ways.passed);
}

/** What a {@link UnitMaker} works with. */
export interface UnitMakerOptions {
  readonly interpreter: Interpreter;
  /** Regions count instructions; while they are compared they leave where they would go on elsewhere. */
  readonly lockstep: boolean;
  /** Memory that page maps and records lie in. */
  readonly records: ArrayBufferLike;
  /** Memory that holds the pages that records were made from, each at its `ram`. */
  readonly bytes: ArrayBufferLike;
  /** The record at a page's offset; 0 where there is none. `next` finds the page behind it. */
  readonly recordOf: (
    page: CodePage,
    offset: number,
    next: () => CodePage | undefined,
  ) => number;
  /** Which ways the conditional branch at a page's offset was seen to go: {@link Ways}. */
  readonly waysOf: (page: CodePage, offset: number) => number;
  /** Where the page is in RAM, in pages. */
  readonly pageNumberOf: (page: CodePage) => number;
}

/** What is to be made. Offsets are those from the first byte of the first page. */
export interface UnitWish {
  readonly page: CodePage;
  /** The hot place, an offset in `page`. */
  readonly offset: number;
  /** One region over several pages, instead of several ones of the page. */
  readonly wide: boolean;
  /** Offsets in `page` where the guest was seen. */
  readonly warm: readonly number[];
  /** Finds the pages around `page`, by their number from there. */
  readonly find: (number: number) => CodePage | undefined;
  /** True where the guest was seen to arrive, or another region may be entered. */
  readonly arrived: (at: number) => boolean;
  /** True where another region's code begins that is not to be there twice. */
  readonly taken: (at: number) => boolean;
  /** True for offsets in `page` that have a region already, so that none is to be made. */
  readonly has: (offset: number) => boolean;
}

/** What became of a {@link UnitWish}. */
export interface MadeUnit {
  readonly unit: Unit;
  /** The pages of each region's parts. */
  readonly pages: readonly (readonly CodePage[])[];
  /** Guest instructions in it. */
  readonly instructions: number;
}

/** Makes modules. */
export class UnitMaker {
  /** Places that were hot but hold nothing to translate. */
  refused = 0;
  readonly #options: UnitMakerOptions;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;
  readonly #bytes: Uint8Array;
  readonly #words: Uint32Array;
  readonly #translatable: Translatability;

  constructor(options: UnitMakerOptions) {
    this.#options = options;
    this.#i32 = new Int32Array(options.records);
    this.#u16 = new Uint16Array(options.records);
    this.#u8 = new Uint8Array(options.records);
    this.#bytes = new Uint8Array(options.bytes);
    this.#words = new Uint32Array(options.bytes);
    const quick = new Set(options.lockstep ? quickSystemRows : [...quickSystemRows, ...clockRows]);
    this.#translatable = new Translatability(
      new Set([...systemRows, ...fastCallRows].filter((row) => !quick.has(row))),
      () => new LazyRuntime(new ModuleBuilder(), options.interpreter.runtime, false),
    );
  }

  /** Makes a module of the region at the place that `wish` names, and of others; undefined for none. */
  make(wish: UnitWish): MadeUnit | undefined {
    const { page, warm, wide, find, arrived, taken, has } = wish;
    const { interpreter, lockstep } = this.#options;
    const module = new ModuleBuilder();
    module.importMemory("e", "cpu", ANY_MEMORY);
    module.importMemory("e", "ram", ANY_MEMORY);
    module.importTable("e", "table", 1);
    const faultTag = module.importTag("e", "fault");
    const runtime = new LazyRuntime(module, interpreter.runtime, lockstep);
    const known = new Map<number, RegionInsn | undefined>();
    const read: InsnReader = (at) => {
      if (known.has(at)) return known.get(at);
      const holds = find(at >> 12);
      const insn = holds === undefined ? undefined : this.#read(holds, {
        offset: at & 0xfff,
        start: at & ~0xfff,
        next: () => find((at >> 12) + 1),
      });
      known.set(at, insn);
      return insn;
    };
    const spots = (wide ? [wish.offset] : [wish.offset, ...warm]).filter((at) =>
      this.#options.recordOf(page, at, () => find(1)) !== 0 && !has(at)
    );
    const { plans, refused } = planRegions(spots, { read, warm, arrived, wide, taken });
    this.refused += refused;
    const regions = plans.map((plan) => {
      const func = module.func([I32], [I32]);
      emitRegion(func, runtime, { plan, faultTag, counts: lockstep });
      return { plan, func };
    });
    return regions.length === 0 ? undefined : this.#finish(module, { regions, find });
  }

  #finish(
    module: ModuleBuilder,
    of: {
      regions: readonly { plan: RegionPlan; func: FuncBuilder }[];
      find: (number: number) => CodePage | undefined;
    },
  ): MadeUnit {
    const { regions, find } = of;
    let instructions = 0;
    regions.forEach(({ plan, func }, i) => {
      module.nameFunc(func, `region ${(plan.entries[0] as number).toString(16)}`);
      module.exportFunc(regionName(i), func);
      for (const block of plan.blocks) instructions += block.insns.length;
    });
    // The pages were found when they were read.
    const pages = regions.map(({ plan }) => plan.pages.map((number) => find(number) as CodePage));
    const unit: Unit = {
      regions: regions.map(({ plan }, i) => ({
        parts: plan.pages.map((number, n) =>
          this.#partOf(plan, { number, page: pages[i]?.[n] as CodePage })
        ),
      })),
      bytes: module.finish(),
    };
    return { unit, pages, instructions };
  }

  /** What `plan` has in its page `number`. */
  #partOf(plan: RegionPlan, of: { number: number; page: CodePage }): UnitPart {
    const { number, page } = of;
    const first = number * 4096;
    const here = (offset: number) => offset >> 12 === number;
    return {
      pageNumber: this.#options.pageNumberOf(page),
      sum: pageSum(this.#words, page.ram),
      entries: UnitEntries.of(
        plan.entries.filter(here).map((offset) => ({
          offset: offset - first,
          block: entryOf(plan, offset),
        })),
      ),
      code: codeRanges(
        plan.blocks.map(({ start, end }) =>
          [Math.max(start - first, 0), Math.min(end - first, 4096)] as const
        ).filter(([start, end]) => start < end),
        this.#bytes,
        page.ram,
      ),
    };
  }

  /**
   * The instruction at a page offset, as its records say it; `start`: its page's offset in the region;
   * `next` finds the page behind.
   */
  #read(
    page: CodePage,
    at: { offset: number; start: number; next: () => CodePage | undefined },
  ): RegionInsn | undefined {
    const { offset, start, next } = at;
    let record = this.#options.recordOf(page, offset, next);
    if (record === 0) return undefined;
    const { special, handlers } = this.#options.interpreter;
    let handler = page.regions.get(record) ?? this.#i32[record >>> 2] as number;
    let wide: WideAddress | undefined;
    const guarded = handler === special.crossing;
    if (guarded) {
      // Made of the page that is behind it now, and of nothing that was changed since.
      if (this.#i32[(record + Rec.link) >>> 2] !== next()?.map) return undefined;
      record += RECORD;
      handler = this.#i32[record >>> 2] as number;
    }
    if (handler === special.addressWide) {
      const h = record >>> 1;
      wide = {
        base: this.#u16[h + (Rec.base >>> 1)] as number,
        index: this.#u16[h + (Rec.index >>> 1)] as number,
        scale: this.#u8[record + Rec.scale] as number,
        disp: this.#disp(record, start),
        seg: this.#u16[h + (Rec.seg >>> 1)] as number,
        immLow: this.#i32[(record + Rec.imm) >>> 2] as number,
        immHigh: this.#i32[(record + Rec.imm + 4) >>> 2] as number,
      };
      record += RECORD;
      handler = this.#i32[record >>> 2] as number;
    }
    const info = handlers[handler];
    if (info === undefined || !this.#translatable.ask(info)) return undefined;
    const h = record >>> 1;
    // Ways are noted in the instruction's own record, which only those without a guard are found by.
    const ways = info.insn.operands[0]?.kind === "J" && !guarded
      ? this.#options.waysOf(page, offset)
      : 0;
    return {
      offset: start + offset,
      next: start + (this.#u16[h + (Rec.next >>> 1)] as number),
      insn: info.insn,
      size: info.size,
      mem: info.mem,
      locked: info.locked,
      a: this.#u16[h + (Rec.a >>> 1)] as number,
      b: this.#u16[h + (Rec.b >>> 1)] as number,
      base: this.#u16[h + (Rec.base >>> 1)] as number,
      index: this.#u16[h + (Rec.index >>> 1)] as number,
      seg: this.#u16[h + (Rec.seg >>> 1)] as number,
      scale: (this.#u8[record + Rec.scale] as number) & ~STACK_ADDRESS,
      stack: ((this.#u8[record + Rec.scale] as number) & STACK_ADDRESS) !== 0,
      extra: this.#u8[record + Rec.extra] as number,
      disp: this.#disp(record, start),
      taken: (ways & Ways.taken) !== 0,
      passed: (ways & Ways.passed) !== 0,
      immLow: this.#i32[(record + Rec.imm) >>> 2] as number,
      immHigh: this.#i32[(record + Rec.imm + 4) >>> 2] as number,
      wide,
    };
  }

  /** Displacement of a record; one that counts from the page's beginning, from the region's. */
  #disp(record: number, start: number): number {
    const disp = this.#i32[(record + Rec.disp) >>> 2] as number;
    return this.#u16[(record + Rec.base) >>> 1] === S.ripBase ? disp + start : disp;
  }
}
