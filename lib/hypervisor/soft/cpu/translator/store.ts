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
import { withHeat } from "./heat.ts";
import { readUnit, type UnitHeader, unitHeaders, writeUnits } from "./store_format.ts";
import { joinSmall } from "./join_units.ts";
import { regionSum, type Unit, type UnitPart } from "./unit.ts";

/** How much modules and their files may take, unless told otherwise, in bytes. */
const DEFAULT_LIMIT_BYTES = 64 << 20;
/** Versions whose files are kept: someone may go back and forth between two. */
const KEPT_VERSIONS = 3;
/** What V8 takes for a unit beside its module, and for each part of it beside what is in its arrays. */
const UNIT_BYTES = 700;
const PART_BYTES = 1000;
/** Units that are kept for a page. */
const MAX_A_PAGE = 24;
/**
 * Samples of the guest in which a unit's heat counts from its first use on. What a boot needs little may be hot in
 * loads hours later; the next boot would optimize that first of all.
 */
const SOON = 8192;
/**
 * Samples after which a guest is taken to have booted. What it came to later stays alone in files: of a page that
 * other loads know, too, the next boot shall get what it needs, and not all that was joined with that.
 */
const BOOTED = 20_000;
/** When the file is written first while the guest rests, in ms, and after how many times that again. */
const REST_MS = 10_000;
const REST_FACTOR = 4;
/** Between the ranks of units that were wanted before the first one was there. */
const EARLY_STEP = 2 ** -20;
const PREFIX = "translations-";

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
  /** Where it stands in the file, -1 for nowhere. */
  readonly place: number;
  /** The how manieth it was to be used in this run, 0 where it was not. */
  rank: number;
  /** Samples of its regions soon after its first use in this run, by their number. */
  readonly heat: Map<number, number>;
  /** Samples of all units before that. */
  since: number;
  bad: boolean;
  readonly bytes: number;
  /** Its parts by where they may be. */
  places?: { readonly byPage: PartsBy; readonly bySum: PartsBy };
}

/** Parts with the numbers of their regions, by page number or sum. */
type PartsBy = ReadonlyMap<number, readonly (readonly [number, UnitPart])[]>;

/** A part of a region that may fit a page. */
export interface Candidate {
  readonly unit: Unit;
  readonly region: number;
  readonly part: UnitPart;
  readonly fromDisk: boolean;
  /** Where its unit stands in the file, -1 for nowhere, and the bytes up to there. */
  readonly place: number;
  readonly at: number;
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
  readonly #byUnit = new WeakMap<Unit, Kept>();
  #bytes = 0;
  #unsaved = 0;
  #ranks = 0;
  /** Ranks before the first. */
  #earlyRanks = 0;
  /** Samples so far. */
  #samples = 0;
  /** Sums of units in the file that are no news: what this one wrote last, and what turned out to be of no use. */
  #notForeign = new Set<number>();
  /** When the file may be written next while the guest rests, in ms. */
  #restMs = REST_MS;

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

  get #path(): string | undefined {
    const { folder, version } = this.#options;
    return folder === undefined ? undefined : join(folder, `${PREFIX}${version}`);
  }

  /** Reads the file, where there is one. */
  load(): void {
    for (const [place, header] of this.units().entries()) {
      const bytes = header.byteLength;
      this.#keep({
        unit: undefined,
        header,
        place,
        rank: 0,
        heat: new Map(),
        since: 0,
        bad: false,
        bytes,
      });
      this.stats.loadedUnits++;
    }
  }

  /** What the file has at present, in the order in which the run that wrote it used it first. */
  units(): UnitHeader[] {
    const path = this.#path;
    const file = path === undefined ? undefined : readOwnFile(path, 2 * this.#limit);
    return file === undefined ? [] : unitHeaders(file, this.#options.version);
  }

  /** Adds a new unit; one that is `early` was wanted before all others, though it is made only now. */
  add(unit: Unit, how?: { readonly early: boolean }): void {
    let bytes = UNIT_BYTES + unit.bytes.length;
    for (const region of unit.regions) for (const part of region.parts) bytes += partBytes(part);
    const rank = how?.early === true ? (this.#earlyRanks += EARLY_STEP) : ++this.#ranks;
    const kept: Kept = {
      ...{ unit, header: undefined, place: -1, rank, heat: new Map(), bad: false, bytes },
      since: this.#samples,
    };
    this.#byUnit.set(unit, kept);
    this.#keep(kept);
    this.#unsaved++;
    this.#makeRoom();
  }

  /** Keeps within the limit: what was of no use in this run goes first, then what is there for longest. */
  #makeRoom(): void {
    for (const unused of [true, false]) {
      for (const kept of this.#kept) {
        if (this.#bytes <= this.#limit) return;
        if (!unused || kept.rank === 0) this.#drop(kept);
      }
    }
  }

  /** Notes that the guest was seen in region number `region` of `unit`. */
  sample(unit: Unit, region: number): void {
    this.#samples++;
    const kept = this.#byUnit.get(unit);
    if (kept === undefined || this.#samples - kept.since > SOON) return;
    kept.heat.set(region, (kept.heat.get(region) ?? 0) + 1);
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
          // One of more pages than that is a joined one, which others need as well.
          if ((old.header?.pages.length ?? 0) <= MAX_A_PAGE) this.#drop(old);
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

  /** The `count` units that the run used first that wrote the file, as long as they are good. */
  *first(count: number): Generator<{ readonly unit: Unit; readonly place: number }> {
    for (const kept of [...this.#kept].slice(0, count)) {
      const unit = kept.place < 0 ? undefined : this.#open(kept);
      if (unit !== undefined) yield { unit, place: kept.place };
    }
  }

  /**
   * Parts that were made from page number `pageNumber`, or from one with that sum.
   *
   * @param late Leaves out units of a file behind its first `from` bytes, and calls `isThere` where there are
   *   any.
   */
  *candidates(
    pageNumber: number,
    sum: number,
    late?: { readonly from: number; readonly isThere: () => void },
  ): Generator<Candidate> {
    const here = this.#byPage.get(pageNumber);
    const from = late?.from ?? Infinity;
    for (const kept of here ?? []) {
      if (atOf(kept) > from) late?.isThere();
      else yield* this.#parts(kept, { pageNumber, sum });
    }
    for (const kept of this.#bySum.get(sum) ?? []) {
      if (here?.has(kept) === true) continue;
      if (atOf(kept) > from) late?.isThere();
      else yield* this.#parts(kept, { pageNumber, sum });
    }
  }

  *#parts(kept: Kept, of: { pageNumber: number; sum: number }): Generator<Candidate> {
    const unit = this.#open(kept);
    if (unit === undefined) return;
    const { place } = kept;
    const at = atOf(kept);
    const fromDisk = kept.header !== undefined;
    const use = () => {
      if (kept.rank !== 0) return;
      kept.rank = ++this.#ranks;
      kept.since = this.#samples;
    };
    const { byPage, bySum } = kept.places ??= placesOf(unit);
    for (const [region, part] of byPage.get(of.pageNumber) ?? []) {
      yield { unit, region, part, fromDisk, place, at, use };
    }
    for (const [region, part] of bySum.get(of.sum) ?? []) {
      if (part.pageNumber === of.pageNumber) continue;
      yield { unit, region, part, fromDisk, place, at, use };
    }
  }

  #open(kept: Kept): Unit | undefined {
    if (kept.unit !== undefined || kept.bad || kept.header === undefined) return kept.unit;
    kept.unit = readUnit(kept.header);
    if (kept.unit === undefined) {
      kept.bad = true;
      this.stats.badUnits++;
    } else this.#byUnit.set(kept.unit, kept);
    return kept.unit;
  }

  /** Throws away a unit that turned out to be of no use. */
  discard(unit: Unit): void {
    for (const kept of this.#kept) {
      if (kept.unit === unit) {
        this.stats.badUnits++;
        this.#drop(kept);
        if (kept.header !== undefined) this.#notForeign.add(kept.header.check);
        return;
      }
    }
  }

  /**
   * For a guest that has nothing to do for a while. Now and then, first after its boot, that is the time to write
   * the file: for a VM that starts while this one runs, and for the next one where this one is killed.
   *
   * @param nowMs Since the VM's start.
   * @returns whether it took that time.
   */
  rest(nowMs: number): boolean {
    if (nowMs < this.#restMs || this.#unsaved === 0 || this.#path === undefined) return false;
    this.#restMs = REST_FACTOR * nowMs;
    this.save();
    return true;
  }

  /**
   * Writes the file anew, with what is in it by now, where there is something new. Failing costs the
   * next run its start only, so nothing is thrown.
   */
  save(): void {
    const { folder, version } = this.#options;
    if (folder === undefined) return;
    const used = [...this.#kept].filter((kept) => kept.rank > 0 && !kept.bad)
      .sort((a, b) => a.rank - b.rank)
      .map((kept) => ({ kept, entry: heated(kept) }));
    const isNew = used.some(({ kept, entry }) => entry !== kept.header);
    if (!isNew) return;
    const chosen: (Unit | UnitHeader)[] = [];
    let room = this.#limit;
    const choose = (entry: Unit | UnitHeader | undefined, bytes: number) => {
      if (entry === undefined || bytes > room) return;
      room -= bytes;
      chosen.push(entry);
    };
    // What was of use goes first, then what others wrote meanwhile, at last what was not.
    const entries = joinSmall(
      used.map(({ kept, entry }) => ({
        ...{ unit: kept.unit, entry, bytes: kept.bytes, alone: kept.since >= BOOTED },
      })),
      ({ unit, entry, alone }) => {
        if (alone) return undefined;
        return entry !== undefined && "words" in entry ? unit : entry;
      },
      (unit, parts) => ({
        ...{ unit, entry: unit, bytes: parts.reduce((sum, part) => sum + part.bytes, 0) },
        alone: false,
      }),
    );
    for (const { entry, bytes } of entries) choose(entry, bytes);
    const own = chosen.length;
    for (const header of this.#foreign()) choose(header, header.byteLength);
    for (const kept of this.#kept) {
      if (kept.rank === 0 && !kept.bad) choose(kept.header, kept.bytes);
    }
    const file = writeUnits(chosen, version);
    if (!replaceFile(folder, `${PREFIX}${version}`, file)) return;
    this.#notForeign = new Set(
      unitHeaders(file, version).slice(0, own).map(({ check }) => check),
    );
    this.stats.savedUnits = chosen.length;
    this.#unsaved = 0;
    removeOldFiles(folder, { prefix: PREFIX, keep: KEPT_VERSIONS });
  }

  /** What others wrote into the file since it was read, but for what is known in other units, or with other heat. */
  #foreign(): UnitHeader[] {
    const known = new Set(this.#notForeign);
    for (const { header } of this.#kept) if (header !== undefined) known.add(header.check);
    const foreign = this.units().filter(({ check }) => !known.has(check));
    if (foreign.length === 0) return foreign;
    const codes = new Set<number>();
    for (const kept of this.#kept) {
      const unit = this.#open(kept);
      for (const region of unit?.regions ?? []) codes.add(regionSum(region));
    }
    return foreign.filter((header) =>
      readUnit(header)?.regions.some((region) => !codes.has(regionSum(region))) === true
    );
  }
}

/** What goes into a file of `kept`: as it is in the old one, or with what is known better by now. */
function heated({ unit, header, heat }: Kept): Unit | UnitHeader | undefined {
  const hot = unit === undefined || heat.size === 0 ? unit : withHeat(unit, heat);
  return hot === unit ? header ?? unit : hot;
}

/** Bytes of the file up to the unit; -1 where no file has it. */
function atOf({ header }: Kept): number {
  return header === undefined ? -1 : 4 * header.at;
}

function placesOf(unit: Unit): { byPage: PartsBy; bySum: PartsBy } {
  const byPage = new Map<number, [number, UnitPart][]>();
  const bySum = new Map<number, [number, UnitPart][]>();
  const put = (map: Map<number, [number, UnitPart][]>, key: number, item: [number, UnitPart]) => {
    const list = map.get(key);
    if (list === undefined) map.set(key, [item]);
    else list.push(item);
  };
  for (const [region, { parts }] of unit.regions.entries()) {
    for (const part of parts) {
      put(byPage, part.pageNumber, [region, part]);
      put(bySum, part.sum, [region, part]);
    }
  }
  return { byPage, bySum };
}

/** Bytes of a part beside the module. */
function partBytes(part: UnitPart): number {
  return PART_BYTES + part.code.words.byteLength + part.entries.words.byteLength;
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
