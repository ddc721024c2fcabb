/**
 * Turns hot decoded code into WebAssembly: picks what samples of the running guest hit often, has a
 * region grown there and put in place of the record's handler. Another thread makes the modules where
 * there is one for it (see service.ts), the vCPU's own where not.
 *
 * @module
 */

import { Logger } from "../../../../base/mod.ts";
import type { CodePage } from "../code_cache.ts";
import type { Interpreter } from "../interpreter.ts";
import { S } from "../state.ts";
import { AnswerHead, type Ask, type DeskPart, DeskState } from "./desk.ts";
import { HotSpots, type Wanted } from "./hot_spots.ts";
import { Installer, type InstallerOptions } from "./installer.ts";
import { UnitCoder } from "./store_format.ts";
import { UnitMaker, waysOf } from "./unit_maker.ts";

/** Samples at one place that make it hot. */
const HOT = 8;

/** Samples at one place without a region that bring back what the last run came to later. */
const LATE = 3;

/** The same with a small region, once the guest has booted: 8, 16, 32 and so on. */
const isLateTime = (samples: number) => samples >= 8 && (samples & (samples - 1)) === 0;

/** Samples in programs from which on a guest is past the start of its kernel. */
const IN_PROGRAMS = 64;

/** Samples that make a place worth to be translated or entered where its page is translated anyway. */
const WARM = 1;

/**
 * So long is waited for somebody to serve, in ms: translating at the beginning costs a vCPU's thread, whose
 * translator is not compiled well yet, more than to interpret meanwhile.
 */
const OPEN_TIMEOUT_MS = 500;

/** Pages that were hot before anybody served, at most, which are asked for later. */
const MAX_EARLY = 64;

/** Without an answer for so long, who was asked is taken for lost, in ms. */
const ANSWER_TIMEOUT_MS = 3000;

const log = new Logger("soft");

/** What the translator works with. */
export interface TranslatorOptions extends InstallerOptions {
  readonly interpreter: Interpreter;
  /** The code page at a linear address, where the instruction TLB has it for the present mode. */
  readonly pageAt: (linear: bigint) => CodePage | undefined;
  /** Regions count instructions; while they are compared they leave where they would go on elsewhere. */
  readonly lockstep: boolean;
  /** Where another thread may be asked. */
  readonly desk?: DeskPart | undefined;
}

/** Finds the pages around one, by their number from there. */
type PageFinder = (number: number) => CodePage | undefined;

/** Counters of the translator. */
export interface TranslatorStats {
  regions: number;
  instructions: number;
  /** Places that were hot but hold nothing to translate. */
  refused: number;
  /** Milliseconds on the vCPU's thread. */
  milliseconds: number;
  /** Milliseconds on another thread. */
  elsewhereMilliseconds: number;
  /** Bytes of modules. */
  bytes: number;
}

/** Where the guest was when it was seen in a page: the page's linear address and CR3. */
interface Surroundings {
  readonly linearLow: number;
  readonly linearHigh: number;
  readonly rootLow: number;
  readonly rootHigh: number;
}

/** Translates for one vCPU. */
export class Translator {
  /** Counters. */
  readonly stats: TranslatorStats = {
    regions: 0,
    instructions: 0,
    refused: 0,
    milliseconds: 0,
    elsewhereMilliseconds: 0,
    bytes: 0,
  };
  readonly #options: TranslatorOptions;
  readonly #i32: Int32Array;
  readonly #desk: DeskPart | undefined;
  readonly #ask: Ask = {
    ...{ pageNumber: 0, map: 0, offset: 0, wide: false, linearLow: 0, linearHigh: 0 },
    ...{ rootLow: 0, rootHigh: 0 },
  };
  readonly #head = new Int32Array(AnswerHead.words);
  /** Pages with a request that is not answered yet, in the order of the requests; `early` as in {@link #early}. */
  readonly #asked: { readonly page: CodePage; readonly early: boolean }[] = [];
  /**
   * What was hot before anybody served. By then this guest may be through with it, but the next one finds it in
   * the file. As patching soon rewrites such code, it is asked for beside what is hot now, one at a time.
   */
  readonly #early: ({ readonly page: CodePage; readonly offset: number } & Surroundings)[] = [];
  readonly #spots = new HotSpots(HOT);
  #wideAsked = false;
  /** Samples in programs, up to {@link IN_PROGRAMS}. */
  #inPrograms = 0;
  /** When the last request or answer was, and how often that was too long ago. */
  #heardMs = 0;
  #silences = 0;
  /** When the first place was hot while nobody served. */
  #firstHotMs = 0;
  #maker: UnitMaker | undefined;
  /** Puts modules in their place. */
  readonly installer: Installer;

  constructor(options: TranslatorOptions) {
    this.#options = options;
    this.#i32 = new Int32Array(options.cpuMemory.buffer);
    this.#desk = options.desk;
    this.installer = new Installer(options);
  }

  /** Notes that the guest was seen at `rip`, in `page`; has it translated where that is hot. */
  sample(page: CodePage, rip: bigint): void {
    if (this.#desk?.hasAnswer === true) this.#takeAnswers(this.#desk);
    if (
      this.#early.length > 0 && this.#asked.length <= 1 && this.#desk?.state === DeskState.Open
    ) this.#askEarly(this.#desk);
    const offset = Number(rip & 0xfffn);
    const record = this.#recordOf(page, offset);
    this.installer.sample(page, record);
    const isSmall = page.regions.has(record) && !this.installer.isLarge(record);
    const wanted = this.#spots.count(page, offset, isSmall);
    this.#noticePrograms();
    if (page.late && this.installer.opensFully) this.installer.open(page);
    if (page.late && this.#openLate(page, { offset, record, wanted }) && wanted !== undefined) {
      this.#spots.done(page, offset, wanted);
      return;
    }
    if (wanted === undefined) return;
    const { wide } = wanted;
    if (this.#desk === undefined || this.#isAlone(this.#desk)) {
      this.translate(page, rip, { wide, again: wide });
    } else if (this.#desk.state === DeskState.Closed) {
      this.#noteEarly(page, offset);
      this.#spots.postpone(page, offset);
      return;
    } else if (!this.#request(this.#desk, { page, offset, wide })) {
      // What is asked for comes once, so it is asked for again where it cannot be now.
      this.#spots.postpone(page, offset);
      return;
    }
    this.#spots.done(page, offset, wanted);
  }

  /**
   * Looks among what the last run came to later for a region where there is none and it is warm, and for one with
   * more code where one over several pages is wanted or the guest has booted; true where one was found.
   */
  #openLate(
    page: CodePage,
    at: { offset: number; record: number; wanted: Wanted | undefined },
  ): boolean {
    const { offset, record, wanted } = at;
    const samples = page.heat.get(offset) ?? 0;
    const isTime = page.regions.has(record)
      ? wanted?.wide === true || (this.#spots.isSettled && isLateTime(samples))
      : wanted !== undefined || samples === LATE;
    if (!isTime || this.installer.isLarge(record)) return false;
    const before = this.installer.unitOf(page, record);
    this.installer.openLate(page, offset, record);
    return this.installer.unitOf(page, record) !== before;
  }

  /**
   * Notices that a guest is past its kernel's start, when programs are what runs: from then on the last run's
   * order says little, and what it came to much later is of use now.
   */
  #noticePrograms(): void {
    if (this.installer.opensAll || this.#i32[S.cpl >>> 2] !== 3) return;
    if (++this.#inPrograms === IN_PROGRAMS) this.installer.opensAll = true;
  }

  /** True where nobody serves, and nobody is to be waited for. */
  #isAlone({ state }: DeskPart): boolean {
    if (state !== DeskState.Closed) return state === DeskState.Lost;
    const now = performance.now();
    if (this.#firstHotMs === 0) this.#firstHotMs = now;
    return now - this.#firstHotMs >= OPEN_TIMEOUT_MS;
  }

  /** Asks for the code at `rip`, in `page`, and may wait for what comes of that; for tests. */
  ask(page: CodePage, rip: bigint, how: { wide: boolean; waits: boolean }): void {
    const desk = this.#desk;
    if (desk === undefined) return;
    desk.awaitOpen();
    page.heat.set(Number(rip & 0xfffn), WARM);
    this.#request(desk, { page, offset: Number(rip & 0xfffn), wide: how.wide });
    if (how.waits && this.#asked.length > 0) desk.awaitAnswer();
    if (desk.hasAnswer) this.#takeAnswers(desk);
  }

  /** The module of the region in `record`'s place, where it is kept; undefined where there is no region. */
  bytesOf(page: CodePage, record: number): Uint8Array | undefined {
    return this.installer.unitOf(page, record)?.bytes;
  }

  /** Has code at `S.rip` translated by another thread; false where that is to be tried again later. */
  #request(
    desk: DeskPart,
    at: { readonly page: CodePage; readonly offset: number; readonly wide: boolean },
    early?: Surroundings,
  ): boolean {
    const { page, offset, wide } = at;
    if (page.asked || (wide && this.#wideAsked) || !desk.hasRoom) {
      this.#checkSilence(desk);
      return false;
    }
    const record = this.#recordOf(page, offset);
    if (record === 0 || (wide ? this.installer.isLarge(record) : page.regions.has(record))) {
      return true;
    }
    const ask = this.#ask;
    ask.pageNumber = page.ram / 4096;
    ask.map = page.map;
    ask.offset = offset;
    ask.wide = wide;
    Object.assign(ask, early ?? this.#surroundings());
    if (this.#asked.length === 0) this.#heardMs = performance.now();
    desk.ask(ask, page.heat.keys());
    page.asked = true;
    if (wide) this.#wideAsked = true;
    this.#asked.push({ page, early: early !== undefined });
    return true;
  }

  #surroundings(): Surroundings {
    return {
      linearLow: (this.#i32[S.rip >>> 2] as number) & ~0xfff,
      linearHigh: this.#i32[(S.rip >>> 2) + 1] as number,
      rootLow: this.#i32[S.cr3 >>> 2] as number,
      rootHigh: this.#i32[(S.cr3 >>> 2) + 1] as number,
    };
  }

  /** Notes a place that is hot before anybody serves: one of a page, whose others come with it. */
  #noteEarly(page: CodePage, offset: number): void {
    if (this.#early.length === MAX_EARLY || this.#early.some((at) => at.page === page)) return;
    this.#early.push({ page, offset, ...this.#surroundings() });
  }

  /** Asks for one of those. */
  #askEarly(desk: DeskPart): void {
    const place = this.#early.shift();
    if (place === undefined || this.#options.code.pageOfMap(place.page.map) !== place.page) return;
    const { page, offset, ...surroundings } = place;
    this.#request(desk, { page, offset, wide: false }, surroundings);
  }

  /** Installs what came. */
  #takeAnswers(desk: DeskPart): void {
    const start = performance.now();
    const head = this.#head;
    while (desk.hasAnswer) {
      const body = desk.take(head);
      const asked = this.#asked.shift();
      if (asked !== undefined) asked.page.asked = false;
      const wide = head[AnswerHead.wide] !== 0;
      if (wide) this.#wideAsked = false;
      this.stats.refused += head[AnswerHead.refused] as number;
      this.stats.elsewhereMilliseconds += (head[AnswerHead.microseconds] as number) / 1000;
      const unit = body.length === 0 ? undefined : UnitCoder.decode(body);
      if (unit === undefined) continue;
      this.stats.regions += unit.regions.length;
      this.stats.instructions += head[AnswerHead.instructions] as number;
      this.stats.bytes += unit.bytes.length;
      this.installer.adopt(unit, wide);
      this.#options.store?.add(unit, asked);
    }
    this.#heardMs = performance.now();
    this.#silences = 0;
    this.stats.milliseconds += this.#heardMs - start;
  }

  /** Goes on alone where nobody answers. */
  #checkSilence(desk: DeskPart): void {
    const now = performance.now();
    if (now - this.#heardMs < ANSWER_TIMEOUT_MS) return;
    this.#heardMs = now;
    // Once may be because all of this process stood still.
    if (++this.#silences < 2) return;
    log.warn("the thread that translates does not answer; vCPUs translate themselves");
    desk.lose();
  }

  /**
   * Translates the region that begins at `rip`, in `page`, and others of the page that are warm, on this
   * thread; where it is to be wide, one region over several pages. `again`: also where there is a region
   * already.
   */
  translate(page: CodePage, rip: bigint, how: { wide: boolean; again?: boolean }): boolean {
    const start = performance.now();
    const offset = Number(rip & 0xfffn);
    const find = this.#finder(page, rip);
    // What another region goes on with is left to it; wide ones take over what small ones have.
    const taken = (at: number): boolean => {
      const holds = find(at >> 12);
      if (holds === undefined) return false;
      const record = this.#recordOf(holds, at & 0xfff);
      return how.wide ? this.installer.isLarge(record) : holds.regions.has(record);
    };
    if (how.wide && taken(offset)) return false;
    const arrived = (at: number): boolean => {
      const holds = find(at >> 12);
      if (holds === undefined) return false;
      return holds.heat.has(at & 0xfff) || holds.regions.has(this.#recordOf(holds, at & 0xfff));
    };
    const maker = this.#maker ??= this.#makeMaker();
    const made = maker.make({
      page,
      offset,
      wide: how.wide,
      warm: [...page.heat].filter(([, count]) => count >= WARM).map(([at]) => at),
      find,
      arrived,
      taken,
      has: (at) => how.again !== true && page.regions.has(this.#recordOf(page, at)),
    });
    this.stats.refused += maker.refused;
    maker.refused = 0;
    if (made !== undefined) {
      const { unit, pages } = made;
      this.stats.regions += unit.regions.length;
      this.stats.instructions += made.instructions;
      this.stats.bytes += unit.bytes.length;
      if (this.installer.install(unit, pages, how.wide)) this.#options.store?.add(unit);
    }
    this.stats.milliseconds += performance.now() - start;
    return made !== undefined;
  }

  #makeMaker(): UnitMaker {
    const { interpreter, lockstep, cpuMemory, ramMemory } = this.#options;
    const bytes = new Uint8Array(cpuMemory.buffer);
    return new UnitMaker({
      interpreter,
      lockstep,
      records: cpuMemory.buffer,
      bytes: ramMemory.buffer,
      recordOf: (page, offset) => this.#recordOf(page, offset),
      waysOf: (page, offset) => waysOf(bytes, this.#recordOf(page, offset)),
      pageNumberOf: (page) => page.ram / 4096,
    });
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
}
