/**
 * Keeps translated modules: for pages whose code was thrown away and is seen again, and on disk for the
 * next run. What a file says is believed only after its sums, and used only where the guest's code is
 * byte for byte what the module was made from; a file that is damaged, foreign or cut off costs the time
 * to translate again.
 *
 * @module
 */

import { join } from "node:path";
import { readOwnFile, removeOldFiles, replaceFile } from "../../cache_files.ts";
import { HINTED_REGIONS, type UnitHeat, withHints } from "./hints.ts";
import { readUnit, type UnitHeader, unitHeaders, writeUnits } from "./store_format.ts";
import type { Unit, UnitPart } from "./unit.ts";

/** How much modules and their files may take, unless told otherwise, in bytes. */
const DEFAULT_LIMIT_BYTES = 64 << 20;
/** Versions whose files are kept: someone may go back and forth between two. */
const KEPT_VERSIONS = 3;
/** Units that are kept for a page. */
const MAX_A_PAGE = 24;
const PREFIX = "translations-";

/** Samples of a run that make a region worth to be optimized before the next one. */
const HOT_SAMPLES = 3;
/** Of units that the last run had no use for. */
const COLD: UnitHeat = { warm: 0, hot: 0 };

/** The units of the file in `folder`, those that most time went to first. */
export function readStore(options: StoreOptions): UnitHeader[] {
  const { folder, version } = options;
  if (folder === undefined) return [];
  const path = join(folder, `${PREFIX}${version}`);
  const file = readOwnFile(path, 2 * (options.limitBytes ?? DEFAULT_LIMIT_BYTES));
  return file === undefined ? [] : unitHeaders(file, version);
}

/** The unit behind `header`, its module with hints of what was seen of it; undefined as in `readUnit`. */
export function openUnit(header: UnitHeader): Unit | undefined {
  const unit = readUnit(header);
  return unit && { ...unit, bytes: withHints(unit.bytes, header.heat) };
}

/** Where and how to keep. */
export interface StoreOptions {
  /** Folder of the files; undefined keeps nothing on disk. */
  readonly folder: string | undefined;
  /** What made the modules: files of any other are not used. */
  readonly version: string;
  readonly limitBytes?: number | undefined;
}

/** A unit, in this process or still as a file has it. */
interface Kept {
  unit: Unit | undefined;
  readonly header: UnitHeader | undefined;
  /** Made or used in this run. */
  used: boolean;
  bad: boolean;
  readonly bytes: number;
}

/** A part of a region that may fit a page. */
export interface Candidate {
  readonly unit: Unit;
  readonly region: number;
  readonly part: UnitPart;
  readonly fromDisk: boolean;
  /** Notes that it was of use. */
  readonly use: () => void;
}

/** Modules by the pages that they belong to. */
export class TranslationStore {
  /** Counters. */
  readonly stats = { loadedUnits: 0, badUnits: 0, savedUnits: 0 };
  readonly #options: StoreOptions;
  readonly #limit: number;
  readonly #kept = new Set<Kept>();
  readonly #byPage = new Map<number, Set<Kept>>();
  readonly #bySum = new Map<number, Set<Kept>>();
  /** Samples of the regions of units. */
  readonly #samples = new WeakMap<Unit, Uint32Array>();
  #bytes = 0;
  #unsaved = 0;

  constructor(options: StoreOptions) {
    this.#options = options;
    this.#limit = options.limitBytes ?? DEFAULT_LIMIT_BYTES;
  }

  /** Units that are kept. */
  get size(): number {
    return this.#kept.size;
  }

  /** Units that no file has yet. */
  get unsaved(): number {
    return this.#unsaved;
  }

  /** Reads the file, where there is one. */
  load(): void {
    for (const header of readStore(this.#options)) {
      this.#keep({ unit: undefined, header, used: false, bad: false, bytes: header.byteLength });
      this.stats.loadedUnits++;
    }
  }

  /** Notes that region number `region` of `unit` was seen running. */
  sample(unit: Unit, region: number): void {
    if (region >= HINTED_REGIONS) return;
    let counts = this.#samples.get(unit);
    if (counts === undefined) {
      counts = new Uint32Array(Math.min(unit.regions.length, HINTED_REGIONS));
      this.#samples.set(unit, counts);
    }
    counts[region] = (counts[region] ?? 0) + 1;
  }

  /** Samples of all regions of `kept`. */
  #samplesOf({ unit }: Kept): number {
    const counts = unit === undefined ? undefined : this.#samples.get(unit);
    return counts?.reduce((sum, count) => sum + count, 0) ?? 0;
  }

  #heatOf({ unit }: Kept): UnitHeat {
    let [warm, hot] = [0, 0];
    const counts = unit === undefined ? undefined : this.#samples.get(unit);
    counts?.forEach((count, region) => {
      if (count > 0) warm |= 1 << region;
      if (count >= HOT_SAMPLES) hot |= 1 << region;
    });
    return { warm, hot };
  }

  /** Adds a new unit. */
  add(unit: Unit): void {
    let bytes = unit.bytes.length;
    for (const region of unit.regions) for (const part of region.parts) bytes += partBytes(part);
    this.#keep({ unit, header: undefined, used: true, bad: false, bytes });
    this.#unsaved++;
    for (const kept of this.#kept) {
      if (this.#bytes <= this.#limit) break;
      this.#drop(kept);
    }
  }

  #keep(kept: Kept): void {
    this.#kept.add(kept);
    this.#bytes += kept.bytes;
    for (const [pageNumber, sum] of pagesOf(kept)) {
      enter(this.#byPage, pageNumber, kept);
      enter(this.#bySum, sum, kept);
      // Where code is written over and over, only the last of it may come again.
      for (const set of [this.#byPage.get(pageNumber), this.#bySum.get(sum)]) {
        for (const old of set ?? []) {
          if ((set?.size ?? 0) <= MAX_A_PAGE) break;
          this.#drop(old);
        }
      }
    }
  }

  #drop(kept: Kept): void {
    if (!this.#kept.delete(kept)) return;
    this.#bytes -= kept.bytes;
    for (const [pageNumber, sum] of pagesOf(kept)) {
      leave(this.#byPage, pageNumber, kept);
      leave(this.#bySum, sum, kept);
    }
  }

  /** Parts that were made from page number `pageNumber`, or from one with that sum. */
  *candidates(pageNumber: number, sum: number): Generator<Candidate> {
    const here = this.#byPage.get(pageNumber);
    for (const kept of here ?? []) yield* this.#parts(kept, { pageNumber, sum });
    for (const kept of this.#bySum.get(sum) ?? []) {
      if (here === undefined || !here.has(kept)) yield* this.#parts(kept, { pageNumber, sum });
    }
  }

  *#parts(kept: Kept, at: { pageNumber: number; sum: number }): Generator<Candidate> {
    const unit = this.#open(kept);
    if (unit === undefined) return;
    for (const [region, { parts }] of unit.regions.entries()) {
      for (const part of parts) {
        if (part.pageNumber !== at.pageNumber && part.sum !== at.sum) continue;
        const use = () => {
          kept.used = true;
        };
        yield { unit, region, part, fromDisk: kept.header !== undefined, use };
      }
    }
  }

  #open(kept: Kept): Unit | undefined {
    if (kept.unit !== undefined || kept.bad || kept.header === undefined) return kept.unit;
    kept.unit = openUnit(kept.header);
    if (kept.unit === undefined) {
      kept.bad = true;
      this.stats.badUnits++;
    }
    return kept.unit;
  }

  /** Throws away a unit that turned out to be of no use. */
  discard(unit: Unit): void {
    for (const kept of this.#kept) {
      if (kept.unit === unit) {
        this.stats.badUnits++;
        this.#drop(kept);
        return;
      }
    }
  }

  /**
   * Writes the file anew, with what is in it by now, where there is something new. Failing costs the
   * next run its start only, so nothing is thrown.
   */
  save(): void {
    const { folder, version } = this.#options;
    if (folder === undefined || this.#unsaved === 0) return;
    const mine = new Set<number>();
    const chosen: (Unit | UnitHeader)[] = [];
    const heat = new Map<Unit | UnitHeader, UnitHeat>();
    let room = this.#limit;
    const choose = (entry: Unit | UnitHeader, bytes: number) => {
      if (bytes > room) return;
      room -= bytes;
      chosen.push(entry);
    };
    // What was of use goes first, then what others wrote meanwhile, at last what was not.
    const kept = [...this.#kept].map((kept) => ({ kept, samples: this.#samplesOf(kept) }));
    for (const { kept: each } of kept.sort((a, b) => b.samples - a.samples)) {
      if (each.header !== undefined) mine.add(each.header.check);
      const entry = each.header ?? each.unit;
      if (!each.used || each.bad || entry === undefined) continue;
      heat.set(entry, this.#heatOf(each));
      choose(entry, each.bytes);
    }
    for (const header of readStore(this.#options)) {
      if (!mine.has(header.check)) choose(header, header.byteLength);
    }
    for (const kept of this.#kept) {
      if (kept.used || kept.header === undefined) continue;
      heat.set(kept.header, COLD);
      choose(kept.header, kept.bytes);
    }
    if (!replaceFile(folder, `${PREFIX}${version}`, writeUnits(chosen, version, heat))) return;
    this.stats.savedUnits = chosen.length;
    this.#unsaved = 0;
    removeOldFiles(folder, { prefix: PREFIX, keep: KEPT_VERSIONS });
  }
}

/** Bytes of a part beside the module. */
function partBytes(part: UnitPart): number {
  return part.code.reduce((sum, { bytes }) => sum + bytes.length + 8, 64 + 4 * part.entries.length);
}

function pagesOf(kept: Kept): Iterable<readonly [number, number]> {
  if (kept.header !== undefined) return kept.header.pages;
  const parts = kept.unit?.regions.flatMap((region) => region.parts) ?? [];
  return parts.map(({ pageNumber, sum }) => [pageNumber, sum] as const);
}

function enter(map: Map<number, Set<Kept>>, key: number, kept: Kept): void {
  const set = map.get(key);
  if (set === undefined) map.set(key, new Set([kept]));
  else set.add(kept);
}

function leave(map: Map<number, Set<Kept>>, key: number, kept: Kept): void {
  const set = map.get(key);
  set?.delete(kept);
  if (set?.size === 0) map.delete(key);
}
