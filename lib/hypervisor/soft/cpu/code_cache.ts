/**
 * Decoded code, found by physical page and code mode: page maps (a record address for each byte of a
 * page) and the arena that the records lie in. Stores into decoded lines take the page's code away.
 *
 * @module
 */

import { type CodePage, forgetRegions, newCodePage } from "./code_page.ts";
import type { CodeRegions } from "./cpu_memory.ts";
import type { CpuTeam } from "./cpu_team.ts";
import type { Interpreter } from "./interpreter.ts";
import { RecordWriter } from "./record_writer.ts";
import { RegionNotes } from "./region_notes.ts";
import { ScratchCode } from "./scratch_code.ts";
import { Trait } from "./opcode.ts";
import { type Decoder, DecodeStatus, MAX_INSTRUCTION, RUN, RUN_BYTES } from "./decoder.ts";
import { NOT_HERE } from "./fast_decode.ts";
import {
  CODE_BYTES,
  CodeMode,
  CodeNotes,
  ITLB,
  ITLB_END,
  ITLB_ENTRY,
  PAGE_MAP,
  Rec,
  RECORD,
  RUN_LOG,
  RUN_LOG_ENTRIES,
  RUN_LOG_ENTRY,
  S,
} from "./state.ts";

export type { CodePage };

/** What decoding at an address came to. */
export enum DecodeResult {
  /** The page map has a record now. */
  Ready,
  /** The instruction reaches into the next page. */
  Crosses,
}

/** Records of an instruction across pages: guard, address, instruction, continuation. */
const CROSSING_RECORDS = 4;

/** Bytes that a run may take: two records an instruction, and that which goes on. */
const RUN_ROOM = (2 * RUN + 2) * RECORD;

/** Records that nothing leads to any more, which are kept at most where others are fewer, in bytes. */
const WASTE_BYTES = 16 << 20;

/** Decoded code of one vCPU. */
export class CodeCache {
  readonly #i32: Int32Array;
  readonly #u8: Uint8Array;
  readonly #u64: BigUint64Array;
  readonly #ram: Uint8Array;
  readonly #regions: CodeRegions;
  readonly #interpreter: Interpreter;
  readonly #decoder: Decoder;
  readonly #records: RecordWriter;
  readonly #pages = new Map<number, CodePage>();
  /** Code pages by RAM page number, for invalidation. */
  readonly #byRam = new Map<number, CodePage[]>();
  readonly #protect: (ram: number) => void;
  readonly #seal: (ram: number) => void;
  readonly #team: CpuTeam | undefined;
  readonly #decodeRun: ((map: number, ram: number, offset: number) => number) | undefined;
  /** Bytes of a page that records were made from, where others may write meanwhile. */
  readonly #snapshot = new Uint8Array(4096);
  /** Bytes of an instruction across pages. */
  readonly #crossing = new Uint8Array(MAX_INSTRUCTION + 1);
  #mapTop: number;
  /** Bytes of records whose code was changed. */
  #waste = 0;
  /** Called with the table slot of a region whose code in `page` is gone. */
  onDiscard: (slot: number, page: CodePage) => void = () => {};
  /** What generated code reads of regions in the place of records. */
  readonly notes: RegionNotes;
  /** Instructions that no page has. */
  readonly scratch: ScratchCode;
  readonly #byMap: (CodePage | undefined)[] = [];
  /** Invalidated pages, flushes: for statistics. */
  invalidated = 0;
  flushes = 0;
  /** True while all code is thrown away, for {@link onDiscard}. */
  isFlushing = false;

  constructor(
    cpu: { readonly buffer: ArrayBufferLike },
    ram: { readonly buffer: ArrayBufferLike },
    options: {
      regions: CodeRegions;
      interpreter: Interpreter;
      decoder: Decoder;
      protect: (ram: number) => void;
      seal: (ram: number) => void;
      team?: CpuTeam;
      /** The generated decoder, see fast_decode.ts. */
      decodeRun?: (map: number, ram: number, offset: number) => number;
    },
  ) {
    this.#i32 = new Int32Array(cpu.buffer);
    this.#u8 = new Uint8Array(cpu.buffer);
    this.#u64 = new BigUint64Array(cpu.buffer);
    this.#ram = new Uint8Array(ram.buffer);
    this.#regions = options.regions;
    this.#interpreter = options.interpreter;
    this.#decoder = options.decoder;
    this.#records = new RecordWriter(cpu, options);
    this.notes = new RegionNotes(cpu, options.regions);
    this.scratch = new ScratchCode({ ...options, records: this.#records });
    this.#protect = options.protect;
    this.#seal = options.seal;
    this.#team = options.team;
    this.#decodeRun = options.decodeRun;
    this.#mapTop = options.regions.maps;
    this.#arenaTop = options.regions.arena;
    this.#limit();
  }

  get #arenaTop(): number {
    return this.#i32[CodeNotes.arenaTop >>> 2] as number;
  }

  set #arenaTop(at: number) {
    this.#i32[CodeNotes.arenaTop >>> 2] = at;
  }

  /** Decoded instructions. */
  get decoded(): number {
    return (this.#i32[CodeNotes.decoded >>> 2] as number) >>> 0;
  }

  #count(instructions: number): void {
    this.#i32[CodeNotes.decoded >>> 2] = this.decoded + instructions;
  }

  /** Says up to where generated code makes records: to nowhere while {@link flush} is due. */
  #limit(): void {
    this.#i32[CodeNotes.arenaLimit >>> 2] = this.isWasteful ? 0 : this.#regions.arenaEnd - RUN_ROOM;
  }

  /** Lets generated code decode what is not yet decoded of `page`, where it can. */
  decodeThere(page: CodePage): void {
    if (this.#decodeRun === undefined || this.#team !== undefined) return;
    if (page.mode === CodeMode.bits64) this.#i32[this.#mapPage(page)] = page.ram;
  }

  /** Index of the word that {@link CodeRegions.mapPages} has of `page`. */
  #mapPage(page: CodePage): number {
    return (this.#regions.mapPages >>> 2) + (page.map - this.#regions.maps) / PAGE_MAP;
  }

  /** Takes notice of the runs that generated code decoded. */
  #takeRuns(): void {
    const count = this.#i32[CodeNotes.runs >>> 2] as number;
    for (let n = 0; n < count; n++) {
      const at = (RUN_LOG + RUN_LOG_ENTRY * n) >>> 2;
      const page = this.pageOfMap(this.#i32[at] as number);
      page?.ranges.push(this.#i32[at + 1] as number, this.#i32[at + 2] as number);
    }
    this.#i32[CodeNotes.runs >>> 2] = 0;
  }

  /**
   * The code page of RAM page `ram` (offset of its first byte) in `mode` (CodeMode without `user`). May
   * throw away all code when space is used up, so no record address may be held across a call.
   */
  page(ram: number, mode: number): CodePage {
    // RAM offsets are multiples of 4096, so the mode fits below.
    const key = ram + mode;
    let page = this.#pages.get(key);
    if (page !== undefined) return page;
    if (this.#mapTop + PAGE_MAP > this.#regions.mapsEnd) this.flush();
    page = newCodePage({ ram, mode, map: this.#mapTop });
    this.#byMap[(page.map - this.#regions.maps) / PAGE_MAP] = page;
    this.#i32[this.#mapPage(page)] = NOT_HERE;
    this.#mapTop += PAGE_MAP;
    this.#pages.set(key, page);
    const pageNumber = ram / 4096;
    // Generated code finds plain 64-bit code by itself.
    if (mode === CodeMode.bits64) {
      this.#i32[(this.#regions.codeIndex >>> 2) + pageNumber] = page.map;
    }
    const list = this.#byRam.get(pageNumber);
    if (list === undefined) this.#byRam.set(pageNumber, [page]);
    else list.push(page);
    return page;
  }

  /** The code page of RAM page `ram` in `mode`, where there is one. */
  known(ram: number, mode: number): CodePage | undefined {
    return this.#pages.get(ram + mode);
  }

  /** The code page whose page map is at `map`. */
  pageOfMap(map: number): CodePage | undefined {
    return this.#byMap[(map - this.#regions.maps) / PAGE_MAP];
  }

  #discardRegions(page: CodePage): void {
    if (page.slots.size > 0) page.churn++;
    for (const slot of page.slots) this.onDiscard(slot, page);
    forgetRegions(page);
    // What is known of its code is looked for again first.
    this.#i32[this.#mapPage(page)] = NOT_HERE;
  }

  /** True where there is room for another run of records. */
  get hasRoom(): boolean {
    return this.#arenaTop + RUN_ROOM <= this.#regions.arenaEnd;
  }

  /** True where most records are of code that was changed since, so that it is time for {@link flush}. */
  get isWasteful(): boolean {
    return this.#waste > WASTE_BYTES && this.#waste > (this.#arenaTop - this.#regions.arena) / 2;
  }

  /** Throws all decoded code away. Only between runs: no record may be executing. */
  flush(): void {
    for (const page of this.#pages.values()) this.#clearMap(page);
    const index = this.#regions.codeIndex >>> 2;
    for (const pageNumber of this.#byRam.keys()) {
      this.#unmark(pageNumber);
      this.#i32[index + pageNumber] = 0;
    }
    this.isFlushing = true;
    for (const page of this.#pages.values()) this.#discardRegions(page);
    this.isFlushing = false;
    this.#pages.clear();
    this.#byMap.length = 0;
    this.#byRam.clear();
    this.#mapTop = this.#regions.maps;
    this.#arenaTop = this.#regions.arena;
    this.#i32[CodeNotes.runs >>> 2] = 0;
    this.#waste = 0;
    this.#limit();
    this.flushTlb();
    this.flushes++;
  }

  /** Empties the instruction TLB. */
  flushTlb(): void {
    // fill() of shared memory is slower than this; a tag of ones matches nothing.
    const words = this.#i32;
    for (let at = ITLB >>> 2; at < ITLB_END >>> 2; at += ITLB_ENTRY >>> 2) {
      words[at] = -1;
      words[at + 1] = -1;
    }
  }

  /**
   * A store hit `size` bytes at RAM offset `ram`: where that is decoded code, all code of the page goes.
   * Records that execute right now lead back to the runtime.
   */
  write(ram: number, size: number): void {
    const pageNumber = ram >>> 12;
    const first = BigInt((ram & 4095) >>> 6);
    const last = BigInt(((ram + size - 1) & 4095) >>> 6);
    const lines = (1n << first) | (1n << last);
    if (this.#team !== undefined) {
      if (!this.#team.holdsCode(pageNumber, lines)) return;
      this.#team.written(pageNumber, lines);
    } else {
      const marks = this.#u64[(this.#regions.codeMarks >>> 3) + pageNumber] as bigint;
      if ((marks & lines) === 0n) return;
    }
    this.invalidate(pageNumber);
  }

  /** Throws away the code of RAM page number `pageNumber`. */
  invalidate(pageNumber: number): void {
    const pages = this.#byRam.get(pageNumber);
    if (pages === undefined) {
      this.#unmark(pageNumber);
      return;
    }
    this.#takeRuns();
    const refetch = this.#interpreter.special.refetch;
    for (const page of pages) {
      const ranges = page.ranges;
      for (let i = 0; i < ranges.length; i += 2) {
        const end = ranges[i + 1] as number;
        this.#waste += end - (ranges[i] as number);
        for (let at = ranges[i] as number; at < end; at += RECORD) this.#i32[at >>> 2] = refetch;
      }
      page.ranges = [];
      // They stay where they are, as records of another page link to them, and let nothing pass.
      for (const guard of page.crossings) this.#i32[(guard + Rec.link) >>> 2] = 0;
      page.crossings.clear();
      this.#discardRegions(page);
      this.#clearMap(page);
    }
    this.#unmark(pageNumber);
    this.#i32[S.codeChanged >>> 2] = 1;
    this.invalidated++;
    this.#limit();
  }

  /** Nothing of a RAM page is decoded any more; the checksum of that is 0. */
  #unmark(pageNumber: number): void {
    this.#u64[(this.#regions.codeMarks >>> 3) + pageNumber] = 0n;
    this.#u64[(this.#regions.codeSums >>> 3) + pageNumber] = 0n;
  }

  /**
   * Takes all records out of the map of `page`, whose code is still marked. What no line of code is in
   * is not touched: it may never have been, and then takes no memory.
   */
  #clearMap(page: CodePage): void {
    const marks = (this.#regions.codeMarks >>> 2) + page.ram / 2048;
    const start = page.map >>> 2;
    for (let part = 0; part < 4; part++) {
      const lines = (this.#i32[marks + (part >>> 1)] as number) >>> 16 * (part & 1) & 0xffff;
      if (lines !== 0) this.#i32.fill(0, start + 1024 * part, start + 1024 * (part + 1));
    }
  }

  /** Decodes from `offset` in `page` on; the page map has no record there yet. */
  decode(page: CodePage, offset: number): DecodeResult {
    if (this.#decodeRun !== undefined && page.mode === CodeMode.bits64) {
      return this.#decodeFast(page, offset);
    }
    const start = this.#arenaTop;
    const special = this.#interpreter.special;
    const marks = (this.#regions.codeMarks >>> 3) + page.ram / 4096;
    // Without 64-bit numbers, which are slow: this is done for every instruction.
    let low = this.#i32[2 * marks] as number;
    let high = this.#i32[2 * marks + 1] as number;
    let record = start;
    let at = offset;
    // Others may write while this reads, so it reads a copy and compares it when they would be noticed.
    const shared = this.#team !== undefined;
    const [bytes, base] = shared ? [this.#snapshot, 0] : [this.#ram, page.ram];
    if (shared) this.#copy(page.ram, offset);
    const hadCode = (low | high) !== 0;
    const map = page.map >>> 2;
    this.#decoder.open(bytes, { end: base + 4096, mode: page.mode });
    this.#records.open(page.mode, page.map);
    for (let n = 0;; n++) {
      if (at >= 4096 || n === RUN) {
        record = this.#records.special(record, { handler: special.goTo, offset: at });
        break;
      }
      const known = this.#i32[map + at] as number;
      if (known !== 0) {
        record = this.#records.special(record, { handler: special.goTo, offset: at, link: known });
        break;
      }
      const status = this.#decoder.decode(base + at);
      if (status === DecodeStatus.Truncated) {
        if (n === 0) return DecodeResult.Crosses;
        record = this.#records.special(record, { handler: special.goTo, offset: at });
        break;
      }
      const first = record;
      let length = 1;
      let ends = true;
      if (status === DecodeStatus.Ok) {
        length = this.#decoder.length;
        record = this.#records.write(record, at);
        // Behind a call, code comes back.
        const { traits, mnemonic } = this.#decoder.insn;
        ends = (traits & Trait.end) !== 0 && mnemonic !== "call";
      } else {
        record = this.#records.special(record, {
          handler: status === DecodeStatus.Invalid ? special.invalid : special.tooLong,
          offset: at,
        });
      }
      this.#i32[map + at] = first;
      // What an invalid instruction's bytes were decides too.
      const last = status === DecodeStatus.Ok ? at + length - 1 : Math.min(at + 15, 4095);
      for (let line = at >>> 6; line <= last >>> 6; line++) {
        if (line < 32) low |= 1 << line;
        else high |= 1 << (line - 32);
      }
      this.#count(1);
      at += length;
      if (ends) break;
    }
    this.#arenaTop = record;
    page.ranges.push(start, record);
    if (this.#team !== undefined) {
      this.#team.mark(page.ram / 4096, (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0));
    }
    this.#i32[2 * marks] = low;
    this.#i32[2 * marks + 1] = high;
    if (!hadCode) this.#protect(page.ram);
    this.#seal(page.ram);
    if (shared && !this.#unchanged(page.ram, offset, bytes)) this.invalidate(page.ram / 4096);
    return DecodeResult.Ready;
  }

  #decodeFast(page: CodePage, offset: number): DecodeResult {
    if (this.#i32[CodeNotes.runs >>> 2] === RUN_LOG_ENTRIES) this.#takeRuns();
    if (this.#decodeRun?.(page.map, page.ram, offset) !== 0) return DecodeResult.Crosses;
    if (this.#team !== undefined) {
      const marks = this.#u64[(this.#regions.codeMarks >>> 3) + page.ram / 4096] as bigint;
      this.#team.mark(page.ram / 4096, marks);
      const copy = this.#u8.subarray(CODE_BYTES, CODE_BYTES + 4096);
      if (!this.#unchanged(page.ram, offset, copy)) this.invalidate(page.ram / 4096);
    }
    return DecodeResult.Ready;
  }

  /** Copies what a run of records may be made from. */
  #copy(ram: number, offset: number): void {
    const end = Math.min(offset + RUN_BYTES, 4096);
    this.#snapshot.set(this.#ram.subarray(ram + offset, ram + end), offset);
  }

  #unchanged(ram: number, offset: number, copy: Uint8Array): boolean {
    const end = Math.min(offset + RUN_BYTES, 4096);
    for (let at = offset; at < end; at++) {
      if (copy[at] !== this.#ram[ram + at]) return false;
    }
    return true;
  }

  /** True where `record` is the guard of an instruction that reaches into the next page. */
  isCrossing(record: number): boolean {
    return this.#i32[record >>> 2] === this.#interpreter.special.crossing;
  }

  /**
   * Decodes the 64-bit instruction at `offset` of `page` that reaches into `next`, behind a guard that
   * lets it run only while `next` is what follows. Neither page may have been thrown away.
   */
  decodeCrossing(page: CodePage, offset: number, next: CodePage): void {
    const { special } = this.#interpreter;
    const inPage = 4096 - offset;
    const bytes = this.#crossing;
    // First, so that no write to what is read now goes unnoticed.
    this.#mark(page.ram, offset, 4095);
    this.#mark(next.ram, 0, MAX_INSTRUCTION - 1);
    for (let i = 0; i < bytes.length; i++) {
      const ram = i < inPage ? page.ram + offset + i : next.ram + i - inPage;
      bytes[i] = this.#ram[ram] as number;
    }
    const known = this.#i32[(page.map >>> 2) + offset] as number;
    const guard = known === 0 ? this.#arenaTop : known;
    if (known === 0) {
      this.#arenaTop += CROSSING_RECORDS * RECORD;
      page.ranges.push(guard, this.#arenaTop);
      this.#i32[(page.map >>> 2) + offset] = guard;
    }
    let record = this.#records.special(guard, {
      handler: special.crossing,
      offset,
      link: next.map,
    });
    this.#decoder.open(bytes, { end: bytes.length, mode: page.mode });
    const status = this.#decoder.decode(0);
    if (status === DecodeStatus.Ok) {
      this.#records.open(page.mode, 0);
      record = this.#records.write(record, offset);
      this.#records.special(record, {
        handler: special.goTo,
        offset: offset + this.#decoder.length,
      });
    } else {
      const handler = status === DecodeStatus.Invalid ? special.invalid : special.tooLong;
      this.#records.special(record, { handler, offset });
    }
    next.crossings.add(guard);
    this.#count(1);
  }

  /** Marks bytes `first` to `last` of `page` as code that something was made from. */
  mark(page: CodePage, first: number, last: number): void {
    this.#mark(page.ram, first, last);
  }

  /** Marks bytes `first` to `last` of the page at `ram` as decoded code. */
  #mark(ram: number, first: number, last: number): void {
    const marks = (this.#regions.codeMarks >>> 3) + ram / 4096;
    const before = this.#u64[marks] as bigint;
    let mark = before;
    for (let line = first >>> 6; line <= last >>> 6; line++) mark |= 1n << BigInt(line);
    this.#team?.mark(ram / 4096, mark);
    this.#u64[marks] = mark;
    if (before === 0n) this.#protect(ram);
    this.#seal(ram);
  }
}
