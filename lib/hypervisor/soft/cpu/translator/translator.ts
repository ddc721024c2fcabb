/**
 * Turns hot decoded code into WebAssembly: picks what samples of the running guest hit often, grows a
 * region there and puts its function in place of the record's handler.
 *
 * @module
 */

import { type FuncRef, ModuleBuilder, type Tag, ValType } from "../../wasm/mod.ts";
import type { CodeCache, CodePage } from "../code_cache.ts";
import type { Runtime } from "../cx.ts";
import type { Interpreter, RuntimeExport } from "../interpreter.ts";
import { fastCallRows } from "../integer/fast_calls.ts";
import { systemRows } from "../integer/system.ts";
import { Rec, RECORD } from "../state.ts";
import {
  emitRegion,
  type InsnReader,
  planRegion,
  type RegionPlan,
  Translatability,
} from "./region.ts";
import type { RegionInsn, WideAddress } from "./region_cx.ts";

const { I32 } = ValType;

/** Samples at one place that make it hot. */
const HOT = 3;

/** Table slots for regions. */
const SLOTS = 1 << 16;

/** What the translator works with. */
export interface TranslatorOptions {
  readonly cpuMemory: WebAssembly.Memory;
  readonly ramMemory: WebAssembly.Memory;
  readonly table: WebAssembly.Table;
  readonly tag: Tag;
  readonly interpreter: Interpreter;
  readonly exports: WebAssembly.Exports;
  readonly code: CodeCache;
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
}

/** Translates for one vCPU. */
export class Translator {
  /** Counters. */
  readonly stats: TranslatorStats = { regions: 0, instructions: 0, refused: 0, milliseconds: 0 };
  readonly #options: TranslatorOptions;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;
  readonly #translatable: Translatability;
  readonly #freeSlots: number[] = [];
  /** Modules by slot, for lockstep. */
  readonly #bytes = new Map<number, Uint8Array>();
  #nextSlot: number;

  constructor(options: TranslatorOptions) {
    this.#options = options;
    const buffer = options.cpuMemory.buffer;
    this.#i32 = new Int32Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#u8 = new Uint8Array(buffer);
    this.#translatable = new Translatability(new Set([...systemRows, ...fastCallRows]));
    this.#nextSlot = options.table.length;
    options.table.grow(SLOTS);
    options.code.onDiscard = (slot) => this.#discard(slot);
  }

  #discard(slot: number): void {
    this.#options.table.set(slot, null);
    this.#freeSlots.push(slot);
  }

  /** Notes that the guest was seen at `offset` of `page`; translates where that is hot. */
  sample(page: CodePage, offset: number): void {
    const count = (page.heat.get(offset) ?? 0) + 1;
    page.heat.set(offset, count);
    if (count === HOT) this.translate(page, offset);
  }

  /** The module of the region in `record`'s place, where it is kept; undefined where there is no region. */
  bytesOf(page: CodePage, record: number): Uint8Array | undefined {
    return page.regions.has(record)
      ? this.#bytes.get(this.#i32[record >>> 2] as number)
      : undefined;
  }

  /** Translates the region that begins at `offset` of `page`. */
  translate(page: CodePage, offset: number): boolean {
    const record = this.#i32[(page.map >>> 2) + offset] as number;
    if (record === 0 || page.regions.has(record)) return false;
    const slot = this.#freeSlots.pop() ?? this.#newSlot();
    if (slot < 0) return false;
    const start = performance.now();
    const { runtime, module, imports } = this.#begin();
    const read: InsnReader = (at) => this.#read(page, at, runtime);
    const plan = planRegion(offset, read);
    if (plan === undefined) {
      this.#freeSlots.push(slot);
      this.stats.refused++;
      return false;
    }
    const recordOf = (at: number) => this.#i32[(page.map >>> 2) + at] as number;
    const f = module.func([I32], [I32]);
    const { lockstep } = this.#options;
    emitRegion(f, runtime, { plan, recordOf, faultTag: imports.tag, counts: lockstep });
    module.exportFunc("region", f);
    const bytes = module.finish();
    if (lockstep) this.#bytes.set(slot, bytes);
    const instance = this.#instantiate(bytes);
    this.#options.table.set(
      slot,
      instance.exports["region"] as unknown as (record: number) => number,
    );
    this.#install(page, plan, slot);
    this.stats.regions++;
    for (const block of plan.blocks) this.stats.instructions += block.insns.length;
    this.stats.milliseconds += performance.now() - start;
    return true;
  }

  #newSlot(): number {
    return this.#nextSlot < this.#options.table.length ? this.#nextSlot++ : -1;
  }

  #install(page: CodePage, plan: RegionPlan, slot: number): void {
    page.slots.push(slot);
    for (const entry of plan.entries) {
      const record = this.#i32[(page.map >>> 2) + entry] as number;
      if (record === 0 || page.regions.has(record)) continue;
      page.regions.set(record, this.#i32[record >>> 2] as number);
      this.#i32[record >>> 2] = slot;
    }
  }

  /** Module with the imports of the interpreter's functions. */
  #begin(): { module: ModuleBuilder; runtime: Runtime; imports: { tag: number } } {
    const { interpreter, table, lockstep } = this.#options;
    const module = new ModuleBuilder();
    module.importMemory("e", "cpu", interpreter.cpuMemory);
    module.importMemory("e", "ram", interpreter.ramMemory);
    module.importTable("e", "table", table.length);
    const tag = module.importTag("e", "fault");
    const refs = new Map<string, FuncRef>();
    const bring = (item: RuntimeExport): FuncRef => {
      let ref = refs.get(item.name);
      if (ref === undefined) {
        ref = module.importFunc("i", item.name, item.type);
        refs.set(item.name, ref);
      }
      return ref;
    };
    const bySize = (items: ReadonlyMap<number, RuntimeExport>) =>
      new Map([...items].map(([size, item]) => [size, bring(item)]));
    const { runtime: exported } = interpreter;
    const jumpOut = exported.helpers.get("jumpOut");
    const helpers = new Map<string, FuncRef>();
    for (const [name, item] of exported.helpers) helpers.set(name, bring(item));
    return {
      module,
      imports: { tag },
      runtime: {
        loadSlow: bySize(exported.loadSlow),
        storeSlow: bySize(exported.storeSlow),
        modifySlow: bySize(exported.modifySlow),
        probeWrite: bring(exported.probeWrite),
        jump: bring(lockstep && jumpOut !== undefined ? jumpOut : exported.jump),
        raise: bring(exported.raise),
        host: bring(exported.raise),
        handlerType: module.typeIndex({ params: [I32], results: [I32] }),
        helpers,
      },
    };
  }

  #instantiate(bytes: Uint8Array<ArrayBuffer>): WebAssembly.Instance {
    const { cpuMemory, ramMemory, table, tag, exports } = this.#options;
    return new WebAssembly.Instance(new WebAssembly.Module(bytes), {
      e: {
        cpu: cpuMemory,
        ram: ramMemory,
        table,
        fault: tag as unknown as WebAssembly.ImportValue,
      },
      i: exports as unknown as WebAssembly.ModuleImports,
    });
  }

  /** The instruction at page offset `offset`, as its records say it. */
  #read(page: CodePage, offset: number, runtime: Runtime): RegionInsn | undefined {
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
    if (info === undefined || !this.#translatable.ask(info, runtime)) return undefined;
    const h = record >>> 1;
    return {
      offset,
      next: this.#u16[h + (Rec.next >>> 1)] as number,
      record,
      insn: info.insn,
      size: info.size,
      mem: info.mem,
      a: this.#u16[h + (Rec.a >>> 1)] as number,
      b: this.#u16[h + (Rec.b >>> 1)] as number,
      base: this.#u16[h + (Rec.base >>> 1)] as number,
      index: this.#u16[h + (Rec.index >>> 1)] as number,
      scale: this.#u8[record + Rec.scale] as number,
      disp: this.#i32[(record + Rec.disp) >>> 2] as number,
      immLow: this.#i32[(record + Rec.imm) >>> 2] as number,
      immHigh: this.#i32[(record + Rec.imm + 4) >>> 2] as number,
      wide,
    };
  }
}
