/**
 * Translates for vCPUs on a thread of its own. It looks at their state where that tells what was decoded
 * and what has a region, without a lock: what it reads may be old or half written, and decides only what
 * is worth to be in a region. Code is decoded again, from copies of pages.
 *
 * @module
 */

import { Collector } from "../collector.ts";
import { CodeCache, type CodePage, DecodeResult } from "../code_cache.ts";
import { Decoder } from "../decoder.ts";
import type { Interpreter } from "../interpreter.ts";
import type { Ahead } from "./ahead.ts";
import { CodeMode, FIXED_END, HANDLER_SLOTS, PAGE_MAP } from "../state.ts";
import { allRows } from "../table.ts";
import { cpuLayout } from "../cpu_memory.ts";
import {
  AnswerHead,
  type Ask,
  type DeskPart,
  MAX_ANSWER_WORDS,
  type TranslationDesk,
} from "./desk.ts";
import { findPage } from "./find_page.ts";
import { costOf } from "./instances.ts";
import { UnitCoder } from "./store_format.ts";
import { type MadeUnit, UnitMaker, waysOf } from "./unit_maker.ts";

/** How long nothing is asked for until there is time to tidy up, in ms. */
const IDLE_MS = 1000;

const TWO_32 = 0x1_0000_0000;

/** Pages that are looked at for a region. */
const COPIES = 32;
/** Records of all that is decoded for a request. */
const ARENA_BYTES = 16 << 20;

/** What is looked at of a VM. */
export interface ServiceOptions {
  readonly desk: TranslationDesk;
  readonly cpus: readonly WebAssembly.Memory[];
  readonly ram: WebAssembly.Memory;
  /** RAM in all, and from guest physical 0. */
  readonly ramBytes: number;
  readonly lowBytes: number;
  readonly interpreter: Interpreter;
  /** What is compiled where nothing is asked for. */
  readonly ahead: Ahead;
}

/** A page of a vCPU. */
interface Original {
  readonly pageNumber: number;
  /** Address of the page map. */
  readonly map: number;
}

/** A module for a vCPU: how many words were answered with it, and what it takes, about. */
interface Made {
  readonly until: number;
  readonly module: WebAssembly.Module;
  readonly bytes: number;
}

/** One vCPU as it is looked at. */
class Client {
  readonly i32: Int32Array;
  readonly u8: Uint8Array;
  /** Modules that V8 shall find when the vCPU compiles them. */
  readonly modules: Made[] = [];

  constructor(readonly part: DeskPart, memory: WebAssembly.Memory) {
    this.i32 = new Int32Array(memory.buffer);
    this.u8 = new Uint8Array(memory.buffer);
  }
}

/** Translates what vCPUs ask for. */
export class TranslationService {
  readonly #options: ServiceOptions;
  readonly #clients: readonly Client[];
  readonly #ram: Uint8Array;
  readonly #copies = new Uint8Array(COPIES * 4096);
  readonly #words: Int32Array;
  readonly #code: CodeCache;
  readonly #maker: UnitMaker;
  readonly #coder = new UnitCoder();
  readonly #regions = cpuLayout().regions;
  readonly #ramWords: Int32Array;
  readonly #ask: Ask = {
    ...{ pageNumber: 0, map: 0, offset: 0, wide: false, linearLow: 0, linearHigh: 0 },
    ...{ rootLow: 0, rootHigh: 0 },
  };
  readonly #warm: number[] = [];
  readonly #head = new Int32Array(AnswerHead.words);
  readonly #originals = new Map<CodePage, Original>();
  readonly #collector = new Collector();
  /** What modules took, about, that vCPUs have by now. */
  #dropped = 0;
  #client: Client;

  constructor(options: ServiceOptions) {
    const { desk, cpus, interpreter } = options;
    this.#options = options;
    this.#clients = cpus.map((memory, id) => new Client(desk.of(id), memory));
    this.#client = this.#clients[0] as Client;
    this.#ram = new Uint8Array(options.ram.buffer);
    this.#ramWords = new Int32Array(options.ram.buffer);
    const codeMarks = FIXED_END;
    const codeIndex = codeMarks + 8 * COPIES;
    const codeSums = codeIndex + 4 * COPIES;
    const mapPages = codeSums + 8 * COPIES;
    const maps = mapPages + 4 * COPIES;
    const mapsEnd = maps + PAGE_MAP * COPIES;
    const records = new ArrayBuffer(mapsEnd + ARENA_BYTES);
    this.#words = new Int32Array(records);
    this.#code = new CodeCache({ buffer: records }, this.#copies, {
      regions: {
        ...{ codeMarks, codeIndex, codeSums, mapPages, maps, mapsEnd },
        arena: mapsEnd,
        arenaEnd: records.byteLength,
        // No region stands in the place of a record here.
        ownHandlers: records.byteLength,
        regionParts: records.byteLength,
      },
      interpreter,
      decoder: new Decoder(allRows),
      protect: () => {},
      seal: () => {},
    });
    this.#maker = new UnitMaker({
      interpreter,
      lockstep: false,
      records,
      bytes: this.#copies.buffer,
      recordOf: (page, offset, next) => this.#recordOf(page, offset, next),
      waysOf: (page, offset) => waysOf(this.#client.u8, this.#originalRecord(page, offset)),
      pageNumberOf: (page) => this.#originals.get(page)?.pageNumber ?? 0,
    });
  }

  /** Serves until the desk ends. */
  serve(): void {
    const { desk, ahead } = this.#options;
    desk.open();
    while (!desk.ending) {
      const wakes = desk.wakes;
      let served = false;
      for (const client of this.#clients) {
        if (!client.part.next(this.#ask, this.#warm)) continue;
        this.#client = client;
        this.#answer(client);
        this.#letGo(client);
        served = true;
      }
      this.#collector.busy(this.#dropped);
      if (served) continue;
      const pause = ahead.step();
      if (desk.waitFor(wakes, Math.min(pause, IDLE_MS)) || pause < IDLE_MS) continue;
      ahead.end();
      this.#collector.idle(this.#dropped);
      desk.waitFor(wakes, Infinity);
    }
  }

  #answer(client: Client): void {
    const start = performance.now();
    let made = this.#make(this.#warm);
    let words = made === undefined ? new Uint32Array() : this.#coder.encode(made.unit);
    if (words.length > MAX_ANSWER_WORDS - AnswerHead.words - 1) {
      // The others are asked for again when they are hot.
      made = this.#make([]);
      words = made === undefined ? new Uint32Array() : this.#coder.encode(made.unit);
      if (words.length > MAX_ANSWER_WORDS - AnswerHead.words - 1) words = new Uint32Array();
    }
    const module = words.length === 0 || made === undefined
      ? undefined
      : new WebAssembly.Module(made.unit.bytes);
    const head = this.#head;
    head[AnswerHead.wide] = this.#ask.wide ? 1 : 0;
    head[AnswerHead.refused] = this.#maker.refused;
    head[AnswerHead.instructions] = made?.instructions ?? 0;
    head[AnswerHead.microseconds] = 1000 * (performance.now() - start);
    this.#maker.refused = 0;
    client.part.answer(head, words);
    if (made !== undefined && module !== undefined) {
      const bytes = costOf(made.unit);
      client.modules.push({ until: client.part.answered, module, bytes });
    }
  }

  /** Lets go of modules that `client` has its own of: all that it took but the last, which it may be at. */
  #letGo({ part, modules }: Client): void {
    const { taken } = part;
    for (let made = modules[0]; made !== undefined; made = modules[0]) {
      if ((taken - made.until | 0) <= 0) return;
      modules.shift();
      this.#dropped += made.bytes;
    }
  }

  #make(warm: readonly number[]): MadeUnit | undefined {
    const { pageNumber, map, offset, wide } = this.#ask;
    this.#code.flush();
    this.#originals.clear();
    const page = this.#copy({ pageNumber, map });
    if (page === undefined) return undefined;
    const found = new Map<number, CodePage | undefined>([[0, page]]);
    const find = (number: number) => {
      if (!found.has(number)) found.set(number, this.#pageAt(number));
      return found.get(number);
    };
    const taken = (at: number) => {
      const holds = find(at >> 12);
      if (holds === undefined) return false;
      const slot = this.#slotAt(holds, at & 0xfff);
      return wide ? this.#client.part.large[slot] === 1 : slot >= HANDLER_SLOTS;
    };
    if (wide && taken(offset)) return undefined;
    const has = (at: number) => !wide && this.#slotAt(page, at) >= HANDLER_SLOTS;
    const arrived = (at: number) => {
      if (at >> 12 === 0 && warm.includes(at)) return true;
      const holds = find(at >> 12);
      return holds !== undefined && this.#slotAt(holds, at & 0xfff) >= HANDLER_SLOTS;
    };
    return this.#maker.make({ page, offset, wide, warm, find, arrived, taken, has });
  }

  /** Copies a page of the vCPU; undefined where there is no room for more, or no such page. */
  #copy(original: Original): CodePage | undefined {
    const ram = original.pageNumber * 4096;
    const number = this.#originals.size;
    if (number === COPIES || ram < 0 || ram + 4096 > this.#ram.length) return undefined;
    this.#copies.set(this.#ram.subarray(ram, ram + 4096), number * 4096);
    const page = this.#code.page(number * 4096, CodeMode.bits64);
    this.#originals.set(page, original);
    return page;
  }

  /** The page behind page 0 of the request by `number` pages, where the vCPU has decoded code of it. */
  #pageAt(number: number): CodePage | undefined {
    const { linearLow, linearHigh, rootLow, rootHigh } = this.#ask;
    const low = (linearLow >>> 0) + number * 4096;
    const high = linearHigh + Math.floor(low / TWO_32) | 0;
    const { ramBytes, lowBytes } = this.#options;
    const layout = { words: this.#ramWords, lowBytes, highBytes: ramBytes - lowBytes };
    const root = (rootHigh >>> 0) * TWO_32 + (rootLow >>> 0);
    const pageNumber = findPage(layout, { root, low: low | 0, high });
    const map = pageNumber === undefined
      ? 0
      : this.#client.i32[(this.#regions.codeIndex >>> 2) + pageNumber] ?? 0;
    return pageNumber === undefined || map === 0 ? undefined : this.#copy({ pageNumber, map });
  }

  /** Slot of the handler that the vCPU has for the instruction at a page's offset; 0 where it has none. */
  #slotAt(page: CodePage, offset: number): number {
    const record = this.#originalRecord(page, offset);
    return record === 0 ? 0 : (this.#client.i32[record >>> 2] ?? 0) & 0xffff;
  }

  /** The vCPU's record at a page's offset; 0 where it has none. */
  #originalRecord(page: CodePage, offset: number): number {
    const map = this.#originals.get(page)?.map;
    return map === undefined ? 0 : (this.#client.i32[(map >>> 2) + offset] ?? 0);
  }

  /** The record at the offset of a copy, where the vCPU has one, too: else it never ran. */
  #recordOf(page: CodePage, offset: number, next: () => CodePage | undefined): number {
    if (this.#originalRecord(page, offset) === 0) return 0;
    const at = (page.map >>> 2) + offset;
    const known = this.#words[at] as number;
    if (known !== 0) return known;
    if (!this.#code.hasRoom) return 0;
    if (this.#code.decode(page, offset) === DecodeResult.Crosses) {
      const behind = next();
      if (behind === undefined) return 0;
      this.#code.decodeCrossing(page, offset, behind);
    }
    return this.#words[at] as number;
  }
}
