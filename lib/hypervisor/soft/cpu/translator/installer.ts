/**
 * Puts translated modules in the place of handlers and takes them away again: table slots, records,
 * instances, and what the store knows of pages that are seen again.
 *
 * @module
 */

import type { Tag } from "../../wasm/mod.ts";
import { CodeMode } from "../state.ts";
import { type CodeCache, type CodePage, DecodeResult } from "../code_cache.ts";
import { Used } from "./ahead.ts";
import type { Guards } from "./guards.ts";
import { regionName } from "./heat.ts";
import type { Candidate, TranslationStore } from "./store.ts";
import { isCodeThere, pageSum, type Unit, type UnitPart } from "./unit.ts";

/** Slots of the table, as records name them in 16 bits; those behind the handlers are for regions. */
const TABLE_SLOTS = 1 << 16;

/** What V8 takes for a module beside what its bytes become, and for a byte of it, about. */
const MODULE_BYTES = 12 << 10;
const BYTES_PER_BYTE = 10;

/** Bytes of code that make a region over several pages too large to be part of another. */
const LARGE_BYTES = 1600;

/**
 * About what modules in use may take, unless told otherwise. With 192 MiB, half an hour of mixed load made its
 * modules ten times over; a boot uses 15.
 */
const CODE_LIMIT_BYTES = 256 << 20;

/** Which part of that instances may take that nothing uses at present. */
const IDLE_PART = 16;

/** Units that are made ready before the guest begins at most, and bytes of their modules. */
const PREPARED = 400;
const PREPARED_BYTES = 640 << 10;

/**
 * So many bytes of a file behind what was of use so far are believed to be of use next. What the last run came to
 * later may be made for other loads, and large: that waits until the very place is hot.
 */
const NEAR_BYTES = 384 << 10;
/** How far each region brings those behind, about twice what one has of a file. */
const STEP_BYTES = 4 << 10;

/** What the installer works with. */
export interface InstallerOptions {
  readonly cpuMemory: WebAssembly.Memory;
  readonly ramMemory: WebAssembly.Memory;
  readonly table: WebAssembly.Table;
  readonly tag: Tag;
  readonly exports: WebAssembly.Exports;
  readonly code: CodeCache;
  readonly store: TranslationStore | undefined;
  /** About how much memory modules in use may take; 256 MiB where it is absent. */
  readonly codeLimitBytes?: number | undefined;
  /** By slot, for others: 1 where {@link Installer.isLarge}. */
  readonly large?: Uint8Array | undefined;
  /** For others: set to one of {@link Used} at the places of a file's units that have an instance. */
  readonly used?: Uint8Array | undefined;
  /** True where others may write to code at any time. */
  readonly shared: boolean;
  /** Stand before regions where those are to be compared with the interpreter. */
  readonly guards?: Guards | undefined;
}

/** A unit that has an instance. */
interface Live {
  readonly unit: Unit;
  readonly instance: WebAssembly.Instance;
  /** Its regions that are installed, by number. */
  readonly installed: Map<number, Installed>;
}

/** A region that is installed in one page at least. */
interface Installed {
  readonly live: Live;
  readonly region: number;
  readonly slot: number;
  /** True where no other is to have its code. */
  readonly large: boolean;
  pages: number;
}

/** Installs for one vCPU. */
export class Installer {
  /** Counters. */
  readonly stats = {
    modules: 0,
    /** Milliseconds to make modules and instances. */
    compileMilliseconds: 0,
    /** Regions found again in this run, and those of an earlier run. */
    regionsReused: 0,
    regionsFromDisk: 0,
    /** Estimate of what V8 holds for modules in use. */
    liveBytes: 0,
    /** The same of modules that were thrown away, since the beginning. */
    droppedBytes: 0,
  };
  readonly #options: InstallerOptions;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #ram: Uint8Array;
  readonly #ram32: Uint32Array;
  readonly #limit: number;
  readonly #free: number[] = [];
  #next: number;
  readonly #bySlot = new Map<number, Installed>();
  /** Units with an instance. */
  readonly #live = new Map<Unit, Live>();
  /**
   * Those of them that no code uses any more, the last ones at the end: it may come back. (References
   * that do not keep would keep all the same, as a vCPU runs in one task of JavaScript's.)
   */
  readonly #idle = new Set<Live>();
  #idleBytes = 0;
  /**
   * Those that code used when all was thrown away, as there was too much: what still runs takes them back
   * without being compiled again. The others go where there is need of room.
   */
  readonly #aside = new Set<Live>();
  #asideBytes = 0;
  /** How far in the file what was of use stands, in bytes. */
  #reached = 0;

  constructor(options: InstallerOptions) {
    this.#options = options;
    this.#limit = options.codeLimitBytes ?? CODE_LIMIT_BYTES;
    this.#i32 = new Int32Array(options.cpuMemory.buffer);
    this.#u16 = new Uint16Array(options.cpuMemory.buffer);
    this.#ram = new Uint8Array(options.ramMemory.buffer);
    this.#ram32 = new Uint32Array(options.ramMemory.buffer);
    this.#next = options.table.length;
    options.table.grow(TABLE_SLOTS - options.table.length);
    options.code.onDiscard = (slot) => this.#discard(slot);
  }

  /** Instances that are kept, in use or not. */
  get instances(): number {
    return this.#live.size;
  }

  /** Whether modules take more than they may: all code is to be thrown away then. */
  get isFull(): boolean {
    if (this.stats.liveBytes > this.#limit) return true;
    return this.#free.length === 0 && this.#next >= this.#options.table.length;
  }

  /** Sum of the page at RAM offset `ram` as it is now. */
  pageSum(ram: number): number {
    return pageSum(this.#ram32, ram);
  }

  /** The unit whose region is in `record`'s place. */
  unitOf(page: CodePage, record: number): Unit | undefined {
    if (!page.regions.has(record)) return undefined;
    return this.#bySlot.get(this.#u16[record >>> 1] as number)?.live.unit;
  }

  /** Notes that the guest was seen at `record`, in `page`. */
  sample(page: CodePage, record: number): void {
    if (!page.regions.has(record)) return;
    const installed = this.#bySlot.get(this.#u16[record >>> 1] as number);
    if (installed !== undefined) this.#options.store?.sample(installed.live.unit, installed.region);
  }

  /** True where `record` is an entry of a region that no other is to have the code of. */
  isLarge(record: number): boolean {
    if (record === 0) return false;
    return this.#bySlot.get(this.#u16[record >>> 1] as number)?.large === true;
  }

  /**
   * Whether the region in `record`'s place gives way to `region` of `unit`: not where that has less, as
   * one does that was made while other pages were not to be found.
   */
  #yields(record: number, unit: Unit, region: number): boolean {
    const installed = this.#bySlot.get(this.#u16[record >>> 1] as number);
    if (installed === undefined) return true;
    if (installed.large) return false;
    const [before, now] = [partsOf(installed.live.unit, installed.region), partsOf(unit, region)];
    if (now.length !== before.length) return now.length > before.length;
    return codeBytes(now) >= codeBytes(before);
  }

  /**
   * Installs all of a new unit.
   *
   * @param pages The pages of each region's parts.
   * @param over Takes over what smaller regions may be entered at.
   */
  install(unit: Unit, pages: readonly (readonly CodePage[])[], over: boolean): void {
    const live = this.#instantiate(unit);
    if (live === undefined) return;
    for (const [region, { parts }] of unit.regions.entries()) {
      for (const [i, part] of parts.entries()) {
        const page = pages[region]?.[i];
        if (page !== undefined) this.#enter(live, region, { part, page, over });
      }
    }
  }

  /** Installs what of a unit made elsewhere fits the code that is there now; `over` as for {@link install}. */
  adopt(unit: Unit, over: boolean): void {
    let live: Live | undefined;
    for (const [region, { parts }] of unit.regions.entries()) {
      for (const part of parts) {
        const page = this.#options.code.known(part.pageNumber * 4096, CodeMode.bits64);
        if (page === undefined || !isCodeThere(part, this.#ram, page.ram)) continue;
        live ??= this.#instantiate(unit);
        if (live === undefined) return;
        this.#enter(live, region, { part, page, over });
      }
    }
  }

  /**
   * Makes instances of what the last run used first, so that {@link open} finds them: until there are many,
   * or `isCalled`.
   */
  prepare(isCalled: () => boolean): void {
    const { store, used } = this.#options;
    if (store === undefined) return;
    let bytes = 0;
    for (const { unit, place } of store.first(PREPARED)) {
      if (isCalled() || (bytes += unit.bytes.length) > PREPARED_BYTES) return;
      if (this.#instantiate(unit) === undefined) store.discard(unit);
      else if (used !== undefined) used[place] = Used.inTurn;
    }
  }

  /**
   * Brings back what is known of `page`, whose code nobody has looked at since it was changed, but for what
   * the last run came to much later.
   */
  open(page: CodePage): void {
    page.opened = true;
    const isThere = () => {
      page.late = true;
    };
    this.#bringBack(page, { from: this.#reached + NEAR_BYTES, isThere });
  }

  /**
   * Brings back what is known for the place at `offset` of `page`, however late the last run came to it: where
   * `record` has a region, those that have more code and take it over, else such as are not large.
   */
  openLate(page: CodePage, offset: number, record: number): void {
    const there = page.regions.has(record)
      ? this.#bySlot.get(this.#u16[record >>> 1] as number)
      : undefined;
    const least = there === undefined ? 0 : codeBytes(partsOf(there.live.unit, there.region)) + 1;
    const isWanted = ({ unit, region, part }: Candidate) =>
      part.code.hold(offset) &&
      (least === 0 ? !isLarge(unit, region) : codeBytes(partsOf(unit, region)) >= least);
    this.#bringBack(page, undefined, { isWanted, over: least > 0 });
  }

  /** Brings back what is known of `page` but for what is `late`, or `only` some of it. */
  #bringBack(
    page: CodePage,
    late: { from: number; isThere: () => void } | undefined,
    only?: { isWanted: (candidate: Candidate) => boolean; over: boolean },
  ): void {
    const { store, used } = this.#options;
    if (store === undefined) return;
    for (const candidate of store.candidates(page.ram / 4096, this.pageSum(page.ram), late)) {
      const { unit, region, part, fromDisk, place, at } = candidate;
      if (only?.isWanted(candidate) === false) continue;
      if (!isCodeThere(part, this.#ram, page.ram)) continue;
      const live = this.#instantiate(unit);
      if (live === undefined) {
        store.discard(unit);
        continue;
      }
      if (used !== undefined && place >= 0 && used[place] === 0) {
        used[place] = only === undefined ? Used.inTurn : Used.early;
      }
      const over = only?.over === true || (unit.regions[region]?.parts.length ?? 0) > 1;
      if (!this.#enter(live, region, { part, page, over })) continue;
      candidate.use();
      if (at > this.#reached) this.#reached = Math.min(at, this.#reached + STEP_BYTES);
      // What comes again was not lost.
      page.churn = 0;
      if (fromDisk) this.stats.regionsFromDisk++;
      else this.stats.regionsReused++;
    }
  }

  #instantiate(unit: Unit): Live | undefined {
    const known = this.#live.get(unit);
    if (known !== undefined) return known;
    const start = performance.now();
    const { cpuMemory, ramMemory, table, tag, exports } = this.#options;
    try {
      const instance = new WebAssembly.Instance(new WebAssembly.Module(unit.bytes), {
        e: {
          cpu: cpuMemory,
          ram: ramMemory,
          table,
          fault: tag as unknown as WebAssembly.ImportValue,
        },
        i: exports as unknown as WebAssembly.ModuleImports,
      });
      const live: Live = { unit, instance, installed: new Map() };
      this.#live.set(unit, live);
      this.#rest(live);
      this.stats.modules++;
      return live;
    } catch (error) {
      // Of a file that somebody made who does not know what modules look like.
      if (error instanceof WebAssembly.CompileError || error instanceof WebAssembly.LinkError) {
        return undefined;
      }
      throw error;
    } finally {
      this.stats.compileMilliseconds += performance.now() - start;
    }
  }

  /** Puts region number `region` where `part` may be entered; false where nothing was to be done. */
  #enter(
    live: Live,
    region: number,
    at: { part: UnitPart; page: CodePage; over: boolean },
  ): boolean {
    const { part, page, over } = at;
    const { code, table, guards, large } = this.#options;
    const func = live.instance.exports[regionName(region)];
    if (typeof func !== "function") return false;
    const records: [number, number][] = [];
    for (const { offset, block } of part.entries) {
      const record = this.#record(page, offset);
      if (record === 0) continue;
      if (!page.regions.has(record) || (over && this.#yields(record, live.unit, region))) {
        records.push([record, block]);
      }
    }
    if (records.length === 0) return false;
    for (const { start, bytes } of part.code) code.mark(page, start, start + bytes.length - 1);
    // Another vCPU may have written just before its writes are noticed.
    if (this.#options.shared && !isCodeThere(part, this.#ram, page.ram)) {
      code.invalidate(page.ram / 4096);
      return false;
    }
    let installed = live.installed.get(region);
    if (installed === undefined) {
      const slot = this.#free.pop() ??
        (this.#next < table.length ? this.#next++ : undefined);
      if (slot === undefined) return false;
      if (guards === undefined) table.set(slot, func);
      else guards.add(slot, func);
      installed = { live, region, slot, large: isLarge(live.unit, region), pages: 0 };
      this.#bySlot.set(slot, installed);
      if (large !== undefined) large[slot] = installed.large ? 1 : 0;
      if (live.installed.size === 0) this.#use(live);
      live.installed.set(region, installed);
    }
    const { slot } = installed;
    if (!page.slots.includes(slot)) {
      page.slots.push(slot);
      installed.pages++;
    }
    for (const [record, block] of records) {
      const handler = this.#i32[record >>> 2] as number;
      if (!page.regions.has(record)) {
        page.regions.set(record, handler);
        code.keepHandler(record, handler);
      }
      this.#i32[record >>> 2] = slot | (block << 16);
    }
    return true;
  }

  /** The record at `offset`, decoded where it is not yet; 0 where there is none to be had. */
  #record(page: CodePage, offset: number): number {
    const at = (page.map >>> 2) + offset;
    const known = this.#i32[at] as number;
    if (known !== 0) return this.#options.code.isCrossing(known) ? 0 : known;
    if (!this.#options.code.hasRoom) return 0;
    const result = this.#options.code.decode(page, offset);
    return result === DecodeResult.Ready ? this.#i32[at] as number : 0;
  }

  /** The code of a page where the region of `slot` has a part is gone. */
  #discard(slot: number): void {
    const installed = this.#bySlot.get(slot);
    if (installed === undefined || --installed.pages > 0) return;
    const { live, region } = installed;
    this.#options.guards?.remove(slot);
    this.#options.table.set(slot, null);
    this.#free.push(slot);
    this.#bySlot.delete(slot);
    live.installed.delete(region);
    if (live.installed.size === 0) {
      this.stats.liveBytes -= costOf(live.unit);
      this.#rest(live);
    }
  }

  /** Notes that code uses `live`. */
  #use(live: Live): void {
    const bytes = costOf(live.unit);
    this.stats.liveBytes += bytes;
    if (this.#idle.delete(live)) this.#idleBytes -= bytes;
    else if (this.#aside.delete(live)) this.#asideBytes -= bytes;
    this.#makeRoom();
  }

  /** Notes that no code uses `live`, and lets go of those that nobody has used for longest. */
  #rest(live: Live): void {
    if (this.#options.code.isFlushing) {
      this.#aside.add(live);
      this.#asideBytes += costOf(live.unit);
      this.#makeRoom();
      return;
    }
    this.#idle.add(live);
    this.#idleBytes += costOf(live.unit);
    for (const oldest of this.#idle) {
      if (this.#idleBytes <= this.#limit / IDLE_PART || oldest === live) break;
      this.#idle.delete(oldest);
      this.#idleBytes -= costOf(oldest.unit);
      this.#drop(oldest);
    }
    this.#makeRoom();
  }

  /** Lets go of what was put aside, as far as all would take more than it may. */
  #makeRoom(): void {
    for (const oldest of this.#aside) {
      if (this.stats.liveBytes + this.#idleBytes + this.#asideBytes <= this.#limit) break;
      this.#aside.delete(oldest);
      this.#asideBytes -= costOf(oldest.unit);
      this.#drop(oldest);
    }
  }

  #drop(live: Live): void {
    this.#live.delete(live.unit);
    this.stats.droppedBytes += costOf(live.unit);
  }
}

function partsOf(unit: Unit, region: number): readonly UnitPart[] {
  return unit.regions[region]?.parts ?? [];
}

function codeBytes(parts: readonly UnitPart[]): number {
  let bytes = 0;
  for (const { code } of parts) for (const range of code) bytes += range.bytes.length;
  return bytes;
}

function isLarge(unit: Unit, region: number): boolean {
  const parts = partsOf(unit, region);
  return parts.length >= 2 && codeBytes(parts) >= LARGE_BYTES;
}

/** What V8 takes for the module of `unit`, about, in bytes. */
export function costOf(unit: Unit): number {
  return MODULE_BYTES + BYTES_PER_BYTE * unit.bytes.length;
}
