/**
 * Where a processor finds the code at RIP: the walk to its page, the instruction TLB, decoded records, and single
 * instructions that have none.
 *
 * @module
 */

import { type CodeCache, type CodePage, DecodeResult } from "./code_cache.ts";
import type { EngineExports, HostContext } from "./host_context.ts";
import {
  Access,
  CodeMode,
  Exit,
  ITLB,
  ITLB_ENTRIES,
  ITLB_ENTRY,
  pseudoOffset,
  Rec,
  S,
  SCRATCH_RECORDS,
  Seg,
  SegField,
  segOffset,
  TlbNotes,
  Vector,
  WalkFlag,
} from "./state.ts";

/** How much RAM there is. */
export interface RamMap {
  /** Bytes of it from guest physical 0. */
  readonly lowBytes: number;
  /** Bytes of it from 4 GiB. */
  readonly highBytes: number;
}

/** The code of one processor, as its paging and segments have it. */
export class CodeFetch {
  readonly #cpu: HostContext;
  readonly #code: CodeCache;
  readonly #exports: EngineExports;
  readonly #ram: Uint8Array;
  readonly #map: RamMap;
  readonly #open: (page: CodePage) => void;
  /** The bytes of the last instruction that ran from scratch records. */
  readonly bytes = new Uint8Array(32);

  /** `open` is told of each page of 64-bit code that is new. */
  constructor(parts: {
    readonly cpu: HostContext;
    readonly code: CodeCache;
    readonly exports: EngineExports;
    readonly ram: Uint8Array;
    readonly map: RamMap;
    readonly open: (page: CodePage) => void;
  }) {
    this.#cpu = parts.cpu;
    this.#code = parts.code;
    this.#exports = parts.exports;
    this.#ram = parts.ram;
    this.#map = parts.map;
    this.#open = parts.open;
  }

  /** Sets a fault of the instruction at `S.rip`. */
  setFault(vector: number, error?: number): number {
    const cpu = this.#cpu;
    cpu.set32(S.faultVector, vector);
    cpu.set32(S.faultError, error ?? 0);
    cpu.set32(S.faultHasError, error === undefined ? 0 : 1);
    cpu.set32(S.faultRipSet, 1);
    return Exit.Fault;
  }

  /** RAM offset of linear address `linear` for fetching, or -1 with a fault set. */
  address(linear: bigint): number {
    const cpu = this.#cpu;
    const user = cpu.get32(S.cpl) === 3 ? Access.user : 0;
    const physical = this.#exports.tryWalk(linear, Access.fetch | user);
    if (physical < 0n) {
      cpu.set32(S.faultRipSet, 1);
      return -1;
    }
    const ram = this.ramOffset(Number(physical));
    if (ram >= 0) return ram;
    // Nothing answers there: all ones, which is no instruction.
    this.setFault(Vector.UD);
    return -1;
  }

  /** Offset in RAM of a guest physical address, or -1 where there is none. */
  ramOffset(physical: number): number {
    if (physical < this.#map.lowBytes) return physical;
    const high = physical - 0x1_0000_0000;
    return high >= 0 && high < this.#map.highBytes ? this.#map.lowBytes + high : -1;
  }

  /** The code page at `linear`, where the instruction TLB has it. */
  pageAt(linear: bigint): CodePage | undefined {
    const cpu = this.#cpu;
    const entry = ITLB + Number((linear >> 12n) & BigInt(ITLB_ENTRIES - 1)) * ITLB_ENTRY;
    const tag = (linear & ~0xfffn) | BigInt(cpu.get32(S.codeTag));
    return cpu.get64(entry) === tag ? this.#code.pageOfMap(cpu.get32(entry + 8)) : undefined;
  }

  /** Makes the code at `S.rip` ready; returns an exit to handle. */
  lookup(): number {
    const cpu = this.#cpu;
    const rip = cpu.get64(S.rip);
    const linear = (rip + cpu.segBase(Seg.CS)) & cpu.get64(S.linearMask);
    const codeTag = cpu.get32(S.codeTag);
    const long = (codeTag & CodeMode.sizeMask) === CodeMode.bits64;
    if (!long && rip > BigInt(cpu.get32(segOffset(Seg.CS) + SegField.limit) >>> 0)) {
      return this.setFault(Vector.GP, 0);
    }
    const ram = this.address(linear);
    if (ram < 0) return Exit.Fault;
    const offset = ram & 4095;
    if (!this.#code.hasRoom || this.#code.isWasteful) this.#code.flush();
    if (this.#exports.codeIntact(ram) === 0) this.#code.invalidate(ram >>> 12);
    const page = this.#code.page(ram - offset, codeTag & ~CodeMode.user);
    this.enterTlb(linear, codeTag, page);
    if (!page.opened && page.mode === CodeMode.bits64) this.#open(page);
    this.#code.decodeThere(page);
    const record = cpu.get32(page.map + offset * 4);
    if (record === 0) {
      if (this.#code.decode(page, offset) === DecodeResult.Ready) return Exit.Resume;
    } else if (!this.#code.isCrossing(record)) return Exit.Resume;
    if ((codeTag & ~CodeMode.user) === CodeMode.bits64 && !this.#decodeCrossing(linear, page)) {
      return Exit.Fault;
    }
    return this.runScratch(linear, { page, stop: false });
  }

  /** Keeps the instruction at `linear`, which reaches into the next page; false for a fault there. */
  #decodeCrossing(linear: bigint, page: CodePage): boolean {
    const code = this.#code;
    const codeTag = this.#cpu.get32(S.codeTag);
    const nextLinear = BigInt.asUintN(64, (linear & ~0xfffn) + 0x1000n);
    const nextRam = this.address(nextLinear);
    if (nextRam < 0) return false;
    if (this.#exports.codeIntact(nextRam) === 0) code.invalidate(nextRam >>> 12);
    const next = code.page(nextRam - (nextRam & 4095), page.mode);
    // Making room for the next page may have thrown this one away.
    if (code.pageOfMap(page.map) !== page) return true;
    this.enterTlb(nextLinear, codeTag, next);
    code.decodeCrossing(page, Number(linear & 0xfffn), next);
    return true;
  }

  /** Has jumps find the page of code. */
  enterTlb(linear: bigint, codeTag: number, page: CodePage): void {
    const index = Number((linear >> 12n) & BigInt(ITLB_ENTRIES - 1));
    const entry = ITLB + index * ITLB_ENTRY;
    this.#cpu.set64(entry, (linear & ~0xfffn) | BigInt(codeTag));
    this.#cpu.set32(entry + 8, page.map);
    const global = this.#cpu.get32(S.walkFlags) & WalkFlag.global;
    this.#cpu.set32(entry + 12, global);
    if (global === 0) noteCodeEntry(this.#cpu, index);
  }

  /** Runs the one instruction at `linear` (= `S.rip`) from scratch records. */
  runScratch(linear: bigint, how: { page: CodePage; stop: boolean }): number {
    const cpu = this.#cpu;
    const { page } = how;
    const offset = Number(linear & 0xfffn);
    const bytes = this.bytes;
    const inPage = Math.min(4096 - offset, 16);
    for (let i = 0; i < inPage; i++) bytes[i] = this.#ram[page.ram + offset + i] as number;
    const options = { at: 0, end: inPage, offset, mode: page.mode, stop: how.stop };
    if (!this.#code.scratch.decode(bytes, options)) {
      const next = this.address(((linear & ~0xfffn) + 0x1000n) & cpu.get64(S.linearMask));
      if (next < 0) return Exit.Fault;
      for (let i = inPage; i < inPage + 16; i++) bytes[i] = this.#ram[next + i - inPage] as number;
      this.#code.scratch.decode(bytes, { ...options, end: inPage + 16 });
    }
    cpu.set64(S.ripBase, cpu.get64(S.rip) - BigInt(offset));
    cpu.set32(S.pageMap, page.map);
    // Going on with what was left: a loop around here would else be looked at in one place only.
    if (how.stop) cpu.set32(S.fuel, 0);
    else if (cpu.get32(S.fuel) <= 0) cpu.set32(S.fuel, 1);
    return this.#exports.runRecord(SCRATCH_RECORDS);
  }

  /** Address of the instruction that faulted. */
  faultRip(): bigint {
    const cpu = this.#cpu;
    if (cpu.get32(S.faultRipSet) !== 0) return cpu.get64(S.rip);
    const record = cpu.get32(S.record);
    const offset = record < 0 ? pseudoOffset(record) : cpu.u16[(record + Rec.off) >>> 1] as number;
    return BigInt.asUintN(64, cpu.get64(S.ripBase) + BigInt(offset));
  }
}

/** Notes that entry number `index` of the instruction TLB was filled with what a load of CR3 takes away. */
export function noteCodeEntry(cpu: HostContext, index: number): void {
  const count = cpu.get32(TlbNotes.code);
  if (count > TlbNotes.mostCode) return;
  if (count < TlbNotes.mostCode) cpu.u16[(TlbNotes.codeEntries >>> 1) + count] = index;
  cpu.set32(TlbNotes.code, count + 1);
}
