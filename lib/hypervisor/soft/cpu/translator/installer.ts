/**
 * Puts translated modules in the place of handlers and takes them away again: table slots, records,
 * instances, and what the store knows of pages that are seen again.
 *
 * @module
 */

import { CodeMode } from "../state.ts";
import { type CodePage, DecodeResult } from "../code_cache.ts";
import { Used } from "./ahead.ts";
import type { Guards } from "./guards.ts";
import { regionName } from "./heat.ts";
import { type Installed, Instances, type InstancesOptions, type Live } from "./instances.ts";
import type { Candidate, TranslationStore } from "./store.ts";
import { isCodeThere, pageSum, type Unit, type UnitPart } from "./unit.ts";

/** Slots of the table, as records name them in 16 bits; those behind the handlers are for regions. */
const TABLE_SLOTS = 1 << 16;

/** Bytes of code that make a region over several pages too large to be part of another. */
const LARGE_BYTES = 1600;

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
export interface InstallerOptions extends InstancesOptions {
  readonly store: TranslationStore | undefined;
  /** By slot, for others: 1 where {@link Installer.isLarge}. */
  readonly large?: Uint8Array | undefined;
  /** For others: set to one of {@link Used} at the places of a file's units that have an instance. */
  readonly used?: Uint8Array | undefined;
  /** True where others may write to code at any time. */
  readonly shared: boolean;
  /** Whether the decoded code of the page at a RAM offset is what it was decoded from. */
  readonly isIntact: (ram: number) => boolean;
  /** Stand before regions where those are to be compared with the interpreter. */
  readonly guards?: Guards | undefined;
}

const NO_PAGES: readonly CodePage[] = [];

/** Installs for one vCPU. */
export class Installer {
  /** Counters. */
  readonly stats = {
    ...{ modules: 0, compileMilliseconds: 0, liveBytes: 0, droppedBytes: 0 },
    /** Regions found again in this run, and those of an earlier run. */
    regionsReused: 0,
    regionsFromDisk: 0,
  };
  readonly #options: InstallerOptions;
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #ram: Uint8Array;
  readonly #ram32: Uint32Array;
  readonly #instances: Instances;
  readonly #free: number[] = [];
  #next: number;
  readonly #bySlot = new Map<number, Installed>();
  /** Pages that hold parts of regions, by the numbers of those parts, found before the regions were entered. */
  readonly #holders = new WeakMap<readonly UnitPart[], Map<number, CodePage>>();
  /** How far in the file what was of use stands, in bytes. */
  #reached = 0;
  /** Whether pages are to get all that is known of them, however late the last run came to it. */
  opensAll = false;

  constructor(options: InstallerOptions) {
    this.#options = options;
    this.#instances = new Instances(options, this.stats);
    this.#i32 = new Int32Array(options.cpuMemory.buffer);
    this.#u16 = new Uint16Array(options.cpuMemory.buffer);
    this.#ram = new Uint8Array(options.ramMemory.buffer);
    this.#ram32 = new Uint32Array(options.ramMemory.buffer);
    this.#next = options.table.length;
    options.table.grow(TABLE_SLOTS - options.table.length);
    options.code.onDiscard = (slot, page) => this.#discard(slot, page);
  }

  /**
   * Whether pages get that now: a large file's would be more than there is room for, and be thrown away and
   * brought back over and over.
   */
  get opensFully(): boolean {
    return this.opensAll && this.#instances.hasPlenty;
  }

  /** Instances that are kept, in use or not. */
  get instances(): number {
    return this.#instances.size;
  }

  /** Whether modules take more than they may: all code is to be thrown away then. */
  get isFull(): boolean {
    if (this.#instances.isFull) return true;
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
   * Installs all of a new unit, made of what was decoded of `pages`.
   *
   * @param pages The pages of each region's parts.
   * @param over Takes over what smaller regions may be entered at.
   * @returns false where that was written over meanwhile, so that it may be made of what is not there: then
   *   the unit is of no use to anyone.
   */
  install(unit: Unit, pages: readonly (readonly CodePage[])[], over: boolean): boolean {
    for (const [region, { parts }] of unit.regions.entries()) {
      for (const [number, part] of parts.entries()) {
        const page = pages[region]?.[number];
        if (page !== undefined && this.#isMadeOf(part, page)) continue;
        // A device's writes tell nobody: what was decoded before them is not to run on.
        for (const made of new Set(pages.flat())) this.#isCurrent(made);
        return false;
      }
    }
    const live = this.#instances.make(unit);
    if (live === undefined) return true;
    for (const [region, { parts }] of unit.regions.entries()) {
      for (const [number, part] of parts.entries()) {
        const page = pages[region]?.[number];
        if (page === undefined || !isCodeThere(part, this.#ram, page.ram)) continue;
        this.#enter(live, region, { number, page, over });
      }
    }
    return true;
  }

  /**
   * Whether what was decoded of `page`, and the bytes that `part` has, are what is there still. Records that
   * were read before a write and bytes that were read behind it do not belong together.
   */
  #isMadeOf(part: UnitPart, page: CodePage): boolean {
    return this.#options.isIntact(page.ram) && isCodeThere(part, this.#ram, page.ram);
  }

  /** Installs what of a unit made elsewhere fits the code that is there now; `over` as for {@link install}. */
  adopt(unit: Unit, over: boolean): void {
    let live: Live | undefined;
    for (const [region, { parts }] of unit.regions.entries()) {
      for (const [number, part] of parts.entries()) {
        const page = this.#options.code.known(part.pageNumber * 4096, CodeMode.bits64);
        if (page === undefined || !isCodeThere(part, this.#ram, page.ram)) continue;
        live ??= this.#instances.make(unit);
        if (live === undefined) return;
        this.#enter(live, region, { number, page, over });
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
      if (this.#instances.make(unit) === undefined) store.discard(unit);
      else if (used !== undefined) used[place] = Used.inTurn;
    }
  }

  /**
   * Brings back what is known of `page`, but for what the last run came to much later unless {@link opensFully}.
   */
  open(page: CodePage): void {
    page.opened = true;
    page.late = false;
    if (this.opensFully) {
      this.#bringBack(page, undefined);
      return;
    }
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
    // To look for records decodes, which takes the page's sum anew.
    if (store === undefined || !this.#isCurrent(page)) return;
    let candidates: Iterable<Candidate> = store.candidates(
      page.ram / 4096,
      this.pageSum(page.ram),
      late,
    );
    // Of all that there is, what has most is what the rest led to.
    if (late === undefined && only === undefined) {
      const size = ({ unit, region }: Candidate) => codeBytes(partsOf(unit, region));
      candidates = [...candidates].sort((a, b) => size(b) - size(a));
    }
    for (const candidate of candidates) {
      const { unit, region, part, fromDisk, place, at } = candidate;
      if (only?.isWanted(candidate) === false) continue;
      if (!isCodeThere(part, this.#ram, page.ram)) continue;
      const over = only?.over === true || (unit.regions[region]?.parts.length ?? 0) > 1;
      const number = partsOf(unit, region).indexOf(part);
      const isInstalled = this.#instances.get(unit)?.installed.has(region) === true;
      if (!isInstalled && !this.#findsRecord({ unit, region, part }, page, over)) {
        this.#noteHolder(unit, region, { number, page });
        continue;
      }
      const live = this.#instances.make(unit);
      if (live === undefined) {
        store.discard(unit);
        continue;
      }
      if (used !== undefined && place >= 0 && used[place] === 0) {
        used[place] = at <= this.#reached + NEAR_BYTES ? Used.inTurn : Used.early;
      }
      if (!this.#enter(live, region, { number, page, over })) continue;
      candidate.use();
      if (at > this.#reached) this.#reached = Math.min(at, this.#reached + STEP_BYTES);
      // What comes again was not lost.
      page.churn = 0;
      if (fromDisk) this.stats.regionsFromDisk++;
      else this.stats.regionsReused++;
    }
  }

  /**
   * Puts region number `region` where its part number `number` may be entered in `page`, whose code is that;
   * false where it may not be entered there.
   */
  #enter(
    live: Live,
    region: number,
    at: { number: number; page: CodePage; over: boolean },
  ): boolean {
    const { number, page, over } = at;
    const { code } = this.#options;
    const part = partsOf(live.unit, region)[number];
    if (part === undefined || !this.#isCurrent(page)) return false;
    const records: [number, number][] = [];
    for (const { offset, block } of part.entries) {
      const record = this.#recordFor({ unit: live.unit, region }, { page, offset, over });
      if (record !== 0) records.push([record, block]);
    }
    const known = live.installed.get(region);
    if (records.length === 0) {
      // It goes on there where it is entered elsewhere.
      if (known !== undefined) this.#join(known, { number, part, page, enters: false });
      return false;
    }
    const installed = known ?? this.#claim(live, region);
    if (installed === undefined) return false;
    if (!this.#join(installed, { number, part, page, enters: true })) return false;
    if (known === undefined) this.#joinOthers(installed, page);
    for (const [record, block] of records) {
      const handler = this.#i32[record >>> 2] as number;
      if (!page.regions.has(record)) {
        page.regions.set(record, handler);
        code.notes.keepHandler(record, handler);
      }
      this.#i32[record >>> 2] = installed.slot | (block << 16);
    }
    return true;
  }

  /** The record at `offset` of `page` that `region` of `unit` may stand in the place of; 0 where there is none. */
  #recordFor(
    { unit, region }: { unit: Unit; region: number },
    { page, offset, over }: { page: CodePage; offset: number; over: boolean },
  ): number {
    const record = this.#record(page, offset);
    if (record === 0 || !page.regions.has(record)) return record;
    return over && this.#yields(record, unit, region) ? record : 0;
  }

  /** Whether there is any such record for `part`. */
  #findsRecord(
    of: { unit: Unit; region: number; part: UnitPart },
    page: CodePage,
    over: boolean,
  ): boolean {
    for (const { offset } of of.part.entries) {
      if (this.#recordFor(of, { page, offset, over }) !== 0) return true;
    }
    return false;
  }

  /** Finds a slot for region number `region`. */
  #claim(live: Live, region: number): Installed | undefined {
    const { table, guards, large } = this.#options;
    const func = live.instance.exports[regionName(region)];
    if (typeof func !== "function") return undefined;
    const slot = this.#free.pop() ?? (this.#next < table.length ? this.#next++ : undefined);
    if (slot === undefined) return undefined;
    if (guards === undefined) table.set(slot, func);
    else guards.add(slot, func);
    const installed: Installed = {
      live,
      region,
      slot,
      large: isLarge(live.unit, region),
      ...{ entered: [], joined: NO_PAGES },
    };
    this.#bySlot.set(slot, installed);
    if (large !== undefined) large[slot] = installed.large ? 1 : 0;
    if (live.installed.size === 0) this.#instances.use(live);
    live.installed.set(region, installed);
    return installed;
  }

  /**
   * Whether what was decoded of `page` is there still; takes it away where it is not. To mark code takes the
   * page's sum anew, after which nobody could tell that a device had written over what was decoded before.
   */
  #isCurrent(page: CodePage): boolean {
    if (this.#options.isIntact(page.ram)) return true;
    this.#options.code.invalidate(page.ram / 4096);
    return false;
  }

  /** Notes that `page` holds the code of a part of `installed`; false where it does not any more. */
  #join(
    installed: Installed,
    at: { number: number; part: UnitPart; page: CodePage; enters: boolean },
  ): boolean {
    const { number, part, page, enters } = at;
    const { code } = this.#options;
    const { slot, entered } = installed;
    for (const { start, bytes } of part.code) code.mark(page, start, start + bytes.length - 1);
    // Another vCPU may have written just before its writes are noticed.
    if (this.#options.shared && !isCodeThere(part, this.#ram, page.ram)) {
      code.invalidate(page.ram / 4096);
      // That released what was entered here alone.
      if (entered.length === 0 && this.#bySlot.get(slot) === installed) this.#release(installed);
      return false;
    }
    page.slots.add(slot);
    if (enters) {
      if (!entered.includes(page)) entered.push(page);
    } else if (!entered.includes(page) && !installed.joined.includes(page)) {
      installed.joined = [...installed.joined, page];
    }
    code.notes.keepPart(slot, number, page);
    return true;
  }

  /** Notes that `page` holds part `number` of a region that is entered nowhere yet. */
  #noteHolder(
    unit: Unit,
    region: number,
    { number, page }: { number: number; page: CodePage },
  ): void {
    const parts = partsOf(unit, region);
    if (parts.length < 2) return;
    const holders = this.#holders.get(parts);
    if (holders === undefined) this.#holders.set(parts, new Map([[number, page]]));
    else holders.set(number, page);
  }

  /** Notes which pages hold the other parts of `installed`, which is entered in `page` first. */
  #joinOthers(installed: Installed, page: CodePage): void {
    const { code } = this.#options;
    const parts = partsOf(installed.live.unit, installed.region);
    const holders = this.#holders.get(parts);
    for (const [number, part] of parts.entries()) {
      const held = holders?.get(number);
      const other = held !== undefined && code.pageOfMap(held.map) === held
        ? held
        : code.known(part.pageNumber * 4096, CodeMode.bits64);
      if (other === undefined || other === page || !this.#isCurrent(other)) continue;
      if (!isCodeThere(part, this.#ram, other.ram)) continue;
      this.#join(installed, { number, part, page: other, enters: false });
    }
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

  /** The code of `page`, where the region of `slot` has a part, is gone. */
  #discard(slot: number, page: CodePage): void {
    const installed = this.#bySlot.get(slot);
    if (installed === undefined) return;
    const { code } = this.#options;
    const { entered } = installed;
    code.notes.dropParts(slot, page);
    if (entered.includes(page)) entered.splice(entered.indexOf(page), 1);
    installed.joined = installed.joined.filter((other) => other !== page);
    if (entered.length === 0) this.#release(installed);
  }

  /** Gives the slot of `installed` back, as it is entered nowhere. */
  #release({ live, region, slot, joined }: Installed): void {
    for (const page of joined) {
      this.#options.code.notes.dropParts(slot, page);
      page.slots.delete(slot);
    }
    this.#options.guards?.remove(slot);
    this.#options.table.set(slot, null);
    this.#free.push(slot);
    this.#bySlot.delete(slot);
    live.installed.delete(region);
    if (live.installed.size === 0) this.#instances.rest(live);
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
