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
import { quickSystemRows, systemRows } from "../integer/system.ts";
import { Rec, RECORD } from "../state.ts";
import {
  emitRegion,
  type InsnReader,
  planRegion,
  type RegionPlan,
  Translatability,
} from "./region.ts";
import { LazyRuntime } from "./lazy_runtime.ts";
import { Installer, type InstallerOptions } from "./installer.ts";
import type { RegionInsn, WideAddress } from "./region_cx.ts";
import { codeRanges, type Unit, type UnitPart } from "./unit.ts";

const { I32 } = ValType;

/** Samples at one place that make it hot. */
const HOT = 6;

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
  /** Regions count instructions and leave where they would go on elsewhere; their bytes are kept. */
  readonly lockstep: boolean;
}

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
    this.#translatable = new Translatability(
      new Set([...systemRows, ...fastCallRows].filter((row) => !quickSystemRows.includes(row))),
      () => new LazyRuntime(new ModuleBuilder(), options.interpreter.runtime, false),
    );
    this.#ram = new Uint8Array(options.ramMemory.buffer);
    this.installer = new Installer(options);
  }

  /** Notes that the guest was seen at `offset` of `page`; translates where that is hot. */
  sample(page: CodePage, offset: number): void {
    const count = (page.heat.get(offset) ?? 0) + 1;
    page.heat.set(offset, count);
    // Where code is changed again and again, what is made of it must be worth it.
    const changes = Math.min(Math.max(page.churn - FEW_CHANGES, 0), 8);
    if (count === HOT << changes) this.translate(page, offset);
  }

  /** The module of the region in `record`'s place, where it is kept; undefined where there is no region. */
  bytesOf(page: CodePage, record: number): Uint8Array | undefined {
    return this.installer.unitOf(page, record)?.bytes;
  }

  /** Translates the region that begins at `offset` of `page`, and others of the page that are warm. */
  translate(page: CodePage, offset: number): boolean {
    const start = performance.now();
    const { interpreter, lockstep } = this.#options;
    const module = new ModuleBuilder();
    module.importMemory("e", "cpu", ANY_MEMORY);
    module.importMemory("e", "ram", ANY_MEMORY);
    const faultTag = module.importTag("e", "fault");
    const runtime = new LazyRuntime(module, interpreter.runtime, lockstep);
    const read: InsnReader = (at) => this.#read(page, at);
    const regions: { plan: RegionPlan; func: FuncBuilder }[] = [];
    const warm = [...page.heat].filter(([, count]) => count >= WARM).map(([at]) => at);
    for (const at of [offset, ...warm]) {
      const record = this.#recordOf(page, at);
      if (record === 0 || page.regions.has(record)) continue;
      if (regions.some(({ plan }) => plan.entries.includes(at))) continue;
      const plan = planRegion(at, { read, warm });
      if (plan === undefined) {
        this.stats.refused++;
        continue;
      }
      const func = module.func([I32], [I32]);
      emitRegion(func, runtime, { plan, faultTag, counts: lockstep });
      regions.push({ plan, func });
    }
    if (regions.length > 0) this.#finish(module, page, regions);
    this.stats.milliseconds += performance.now() - start;
    return regions.length > 0;
  }

  #recordOf(page: CodePage, offset: number): number {
    return this.#i32[(page.map >>> 2) + offset] as number;
  }

  /** Compiles the module and puts its entries in place of the handlers. */
  #finish(
    module: ModuleBuilder,
    page: CodePage,
    regions: readonly { plan: RegionPlan; func: FuncBuilder }[],
  ): void {
    regions.forEach(({ plan, func }, i) => {
      module.nameFunc(func, `region ${(plan.entries[0] as number).toString(16)}`);
      module.exportFunc(`r${i}`, func);
      this.stats.regions++;
      for (const block of plan.blocks) this.stats.instructions += block.insns.length;
    });
    const unit: Unit = {
      regions: regions.map(({ plan }) => ({ parts: [this.#partOf(plan, page)] })),
      bytes: module.finish(),
    };
    this.stats.bytes += unit.bytes.length;
    this.installer.install(unit, page);
    // What was decoded may have been changed by others just now: then it is of no use to anyone.
    if (this.#options.isIntact(page.ram)) this.#options.store?.add(unit);
  }

  #partOf(plan: RegionPlan, page: CodePage): UnitPart {
    return {
      pageNumber: page.ram / 4096,
      sum: this.installer.pageSum(page.ram),
      entries: plan.entries.map((offset) => ({
        offset,
        block: plan.blocks.findIndex((b) => b.start === offset),
      })),
      code: codeRanges(plan.blocks.map(({ start, end }) => [start, end]), this.#ram, page.ram),
    };
  }

  /** The instruction at page offset `offset`, as its records say it. */
  #read(page: CodePage, offset: number): RegionInsn | undefined {
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
        disp: this.#i32[(record + Rec.disp) >>> 2] as number,
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
    return {
      offset,
      next: this.#u16[h + (Rec.next >>> 1)] as number,
      insn: info.insn,
      size: info.size,
      mem: info.mem,
      locked: info.locked,
      a: this.#u16[h + (Rec.a >>> 1)] as number,
      b: this.#u16[h + (Rec.b >>> 1)] as number,
      base: this.#u16[h + (Rec.base >>> 1)] as number,
      index: this.#u16[h + (Rec.index >>> 1)] as number,
      seg: this.#u16[h + (Rec.seg >>> 1)] as number,
      scale: this.#u8[record + Rec.scale] as number,
      extra: this.#u8[record + Rec.extra] as number,
      disp: this.#i32[(record + Rec.disp) >>> 2] as number,
      immLow: this.#i32[(record + Rec.imm) >>> 2] as number,
      immHigh: this.#i32[(record + Rec.imm + 4) >>> 2] as number,
      wide,
    };
  }
}
