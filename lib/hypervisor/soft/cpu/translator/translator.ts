/**
 * Turns hot decoded code into WebAssembly: picks what samples of the running guest hit often, grows a
 * region there and puts its function in place of the record's handler.
 *
 * @module
 */

import { type FuncBuilder, type MemoryImport, ModuleBuilder, ValType } from "../../wasm/mod.ts";
import type { CodePage } from "../code_cache.ts";
import type { Interpreter } from "../interpreter.ts";
import { fastCallRows } from "../integer/fast_calls.ts";
import { clockRows, quickSystemRows, systemRows } from "../integer/system.ts";
import { Rec, RECORD, S, STACK_ADDRESS } from "../state.ts";
import { emitRegion, Translatability } from "./region.ts";
import { entryOf, type InsnReader, planRegions, type RegionPlan } from "./plan.ts";
import { LazyRuntime } from "./lazy_runtime.ts";
import { Installer, type InstallerOptions } from "./installer.ts";
import type { RegionInsn, WideAddress } from "./region_cx.ts";
import { codeRanges, type Unit, UnitEntries, type UnitPart } from "./unit.ts";

const { I32 } = ValType;

/** Samples at one place that make it hot. */
const HOT = 6;

/** Samples that make a place worth a region with the functions that it calls, in other pages too. */
const VERY_HOT = 100;

/** Samples that make a place worth to be translated or entered where its page is translated anyway. */
const WARM = 1;

/** Times that translated code of a page may be lost before more heat is asked for. */
const FEW_CHANGES = 2;

/** Regions do not depend on how large the memories are. */
const ANY_MEMORY: MemoryImport = { minPages: 1, maxPages: 65536, shared: true };

/** What the translator works with. */
export interface TranslatorOptions extends InstallerOptions {
  readonly interpreter: Interpreter;
  /** Whether the decoded code of the page at a RAM offset is what it was decoded from. */
  readonly isIntact: (ram: number) => boolean;
  /** The code page at a linear address, where the instruction TLB has it for the present mode. */
  readonly pageAt: (linear: bigint) => CodePage | undefined;
  /** Regions count instructions; while they are compared they leave where they would go on elsewhere. */
  readonly lockstep: boolean;
}

/** Finds the pages around one, by their number from there. */
type PageFinder = (number: number) => CodePage | undefined;

/** Counters of the translator. */
export interface TranslatorStats {
  regions: number;
  instructions: number;
  /** Places that were hot but hold nothing to translate. */
  refused: number;
  milliseconds: number;
  /** Bytes of modules. */
  bytes: number;
}

/** Translates for one vCPU. */
export class Translator {
  /** Counters. */
  readonly stats: TranslatorStats = {
    regions: 0,
    instructions: 0,
    refused: 0,
    milliseconds: 0,
    bytes: 0,
  };
  readonly #options: TranslatorOptions;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;
  readonly #translatable: Translatability;
  readonly #ram: Uint8Array;
  /** Puts modules in their place. */
  readonly installer: Installer;

  constructor(options: TranslatorOptions) {
    this.#options = options;
    const buffer = options.cpuMemory.buffer;
    this.#i32 = new Int32Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#u8 = new Uint8Array(buffer);
    const quick = new Set(options.lockstep ? quickSystemRows : [...quickSystemRows, ...clockRows]);
    this.#translatable = new Translatability(
      new Set([...systemRows, ...fastCallRows].filter((row) => !quick.has(row))),
      () => new LazyRuntime(new ModuleBuilder(), options.interpreter.runtime, false),
    );
    this.#ram = new Uint8Array(options.ramMemory.buffer);
    this.installer = new Installer(options);
  }

  /** Notes that the guest was seen at `rip`, in `page`; translates where that is hot. */
  sample(page: CodePage, rip: bigint): void {
    const offset = Number(rip & 0xfffn);
    const count = (page.heat.get(offset) ?? 0) + 1;
    page.heat.set(offset, count);
    // Where code is changed again and again, what is made of it must be worth it.
    const changes = Math.min(Math.max(page.churn - FEW_CHANGES, 0), 8);
    if (count === HOT << changes) this.translate(page, rip, { wide: false });
    else if (count === VERY_HOT << changes) this.translate(page, rip, { wide: true, again: true });
  }

  /** The module of the region in `record`'s place, where it is kept; undefined where there is no region. */
  bytesOf(page: CodePage, record: number): Uint8Array | undefined {
    return this.installer.unitOf(page, record)?.bytes;
  }

  /**
   * Translates the region that begins at `rip`, in `page`, and others of the page that are warm; where
   * it is to be wide, one region over several pages. `again`: also where there is a region already.
   */
  translate(page: CodePage, rip: bigint, how: { wide: boolean; again?: boolean }): boolean {
    const start = performance.now();
    const { interpreter, lockstep } = this.#options;
    const module = new ModuleBuilder();
    module.importMemory("e", "cpu", ANY_MEMORY);
    module.importMemory("e", "ram", ANY_MEMORY);
    module.importTable("e", "table", 1);
    const faultTag = module.importTag("e", "fault");
    const runtime = new LazyRuntime(module, interpreter.runtime, lockstep);
    const offset = Number(rip & 0xfffn);
    const find = this.#finder(page, rip);
    const known = new Map<number, RegionInsn | undefined>();
    const read: InsnReader = (at) => {
      if (known.has(at)) return known.get(at);
      const holds = find(at >> 12);
      const insn = holds === undefined
        ? undefined
        : this.#read(holds, { offset: at & 0xfff, start: at & ~0xfff });
      known.set(at, insn);
      return insn;
    };
    // Large regions do not overlap: what one has, others leave to it.
    const taken = (at: number): boolean => {
      const holds = find(at >> 12);
      if (holds === undefined) return false;
      return this.installer.isLarge(this.#recordOf(holds, at & 0xfff));
    };
    const arrived = (at: number): boolean => {
      const holds = find(at >> 12);
      if (holds === undefined) return false;
      return holds.heat.has(at & 0xfff) || holds.regions.has(this.#recordOf(holds, at & 0xfff));
    };
    if (how.wide && taken(offset)) return false;
    const warm = [...page.heat].filter(([, count]) => count >= WARM).map(([at]) => at);
    const spots = (how.wide ? [offset] : [offset, ...warm]).filter((at) => {
      const record = this.#recordOf(page, at);
      return record !== 0 && (how.again === true || !page.regions.has(record));
    });
    const options = { read, warm, arrived, wide: how.wide, taken };
    const { plans, refused } = planRegions(spots, options);
    this.stats.refused += refused;
    const regions = plans.map((plan) => {
      const func = module.func([I32], [I32]);
      emitRegion(func, runtime, { plan, faultTag, counts: lockstep });
      return { plan, func };
    });
    if (regions.length > 0) this.#finish(module, regions, { find, wide: how.wide });
    this.stats.milliseconds += performance.now() - start;
    return regions.length > 0;
  }

  #finder(page: CodePage, rip: bigint): PageFinder {
    const around = rip & ~0xfffn;
    const found = new Map<number, CodePage | undefined>([[0, page]]);
    return (number) => {
      if (!found.has(number)) {
        const linear = BigInt.asUintN(64, around + (BigInt(number) << 12n));
        found.set(number, this.#options.pageAt(linear));
      }
      return found.get(number);
    };
  }

  #recordOf(page: CodePage, offset: number): number {
    return this.#i32[(page.map >>> 2) + offset] as number;
  }

  /** Compiles the module and puts its entries in place of the handlers. */
  #finish(
    module: ModuleBuilder,
    regions: readonly { plan: RegionPlan; func: FuncBuilder }[],
    how: { find: PageFinder; wide: boolean },
  ): void {
    regions.forEach(({ plan, func }, i) => {
      module.nameFunc(func, `region ${(plan.entries[0] as number).toString(16)}`);
      module.exportFunc(`r${i}`, func);
      this.stats.regions++;
      for (const block of plan.blocks) this.stats.instructions += block.insns.length;
    });
    // The pages were found when they were read.
    const pages = regions.map(({ plan }) =>
      plan.pages.map((number) => how.find(number) as CodePage)
    );
    const unit: Unit = {
      regions: regions.map(({ plan }, i) => ({
        parts: plan.pages.map((number, n) =>
          this.#partOf(plan, { number, page: pages[i]?.[n] as CodePage })
        ),
      })),
      bytes: module.finish(),
    };
    this.stats.bytes += unit.bytes.length;
    this.installer.install(unit, pages, how.wide);
    // What was decoded may have been changed by others just now: then it is of no use to anyone.
    const intact = pages.flat().every((page) => this.#options.isIntact(page.ram));
    if (intact) this.#options.store?.add(unit);
  }

  /** What `plan` has in its page `number`. */
  #partOf(plan: RegionPlan, of: { number: number; page: CodePage }): UnitPart {
    const { number, page } = of;
    const first = number * 4096;
    const here = (offset: number) => offset >> 12 === number;
    const blocks = plan.blocks.filter((b) => here(b.start));
    return {
      pageNumber: page.ram / 4096,
      sum: this.installer.pageSum(page.ram),
      entries: UnitEntries.of(
        plan.entries.filter(here).map((offset) => ({
          offset: offset - first,
          block: entryOf(plan, offset),
        })),
      ),
      code: codeRanges(
        blocks.map(({ start, end }) => [start - first, end - first]),
        this.#ram,
        page.ram,
      ),
    };
  }

  /** The instruction at a page offset, as its records say it; `start`: its page's offset in the region. */
  #read(page: CodePage, at: { offset: number; start: number }): RegionInsn | undefined {
    const { offset, start } = at;
    let record = this.#i32[(page.map >>> 2) + offset] as number;
    if (record === 0) return undefined;
    const { special, handlers } = this.#options.interpreter;
    let handler = page.regions.get(record) ?? this.#i32[record >>> 2] as number;
    let wide: WideAddress | undefined;
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
    const branches = info.insn.operands[0]?.kind === "J";
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
      taken: branches && this.#u8[record + Rec.taken] !== 0,
      passed: branches && this.#u8[record + Rec.passed] !== 0,
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
