/**
 * What the parts of address translation share: where things lie, what TypeScript gives, what they give.
 *
 * @module
 */

import {
  add,
  and,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  i32,
  i64,
  load,
  ne,
  Op,
  op,
  or,
  shl,
  shrU,
  ValType,
} from "../../wasm/mod.ts";
import { CPU, S, VM } from "../state.ts";

const { F64 } = ValType;

/** Where the marks of code pages lie. */
export interface MemoryMap {
  /** Where RAM lies in the state memory as well, see createCpuMemory; 0 where it does not. */
  readonly ramBase: number;
  /** State offset of the code marks: an i64 a RAM page, a bit for every 64 bytes with decoded code. */
  readonly codeMarks: number;
  /** State offset of checksums of decoded code: an i64 a RAM page. */
  readonly codeSums: number;
  /** State offset of the page maps of 64-bit code: an i32 a RAM page, 0 where there is none. */
  readonly codeIndex: number;
  /**
   * State offset of an u16 a RAM page: the entry of the data TLBs that has its tag for writes, from 1 on,
   * 0xffff where there may be several, 0 where there is none.
   */
  readonly writers: number;
  /** State offset of the page maps, and of the pages that they are of, see CodeRegions. */
  readonly maps: number;
  readonly mapPages: number;
  /** State offset of decoded records, and that of the handlers of those that have a region in their place. */
  readonly arena: number;
  readonly ownHandlers: number;
  /** State offset of what slots have for the pages of their regions, see CodeRegions. */
  readonly regionParts: number;
  /** Where there are several vCPUs: the memory that they share. */
  readonly shared?: {
    /** Its 64 KiB pages. */
    readonly pages: number;
    /** Offset of the code marks of all of them. */
    readonly marks: number;
  };
}

/** Functions that TypeScript gives to the module. */
export interface Imports {
  /** `(function i32, record i32) -> i32`. */
  readonly host: FuncRef;
  /** `(physical f64, size i32)`: device load into `S.mmioData`. */
  readonly mmioLoad: FuncRef;
  /** `(physical f64, size i32)`: device store of `S.mmioData`. */
  readonly mmioStore: FuncRef;
  /** `(ram i32, size i32)`: a store hits decoded code. */
  readonly codeWrite: FuncRef;
  /**
   * `(ram i32, next i32, size i32, kind i32, operand i64, expected i64) -> old i64`: a locked change of
   * misaligned bytes, from `next` on in another page where that is not -1.
   */
  readonly splitLock: FuncRef;
  /** `(ram i32)`: LOCK CMPXCHG16B, operands and result in `S.scratch`. */
  readonly exchange16: FuncRef;
  /** `(linear i64, size i32, write i32)`: an access while data breakpoints are armed. */
  readonly dataAccess: FuncRef;
  /** `() -> f64`: guest time in nanoseconds. */
  readonly now: FuncRef;
  /** Tag thrown for guest faults. */
  readonly faultTag: number;
}

/** Functions of this part. */
export interface Mmu {
  readonly loadSlow: ReadonlyMap<number, FuncRef>;
  readonly storeSlow: ReadonlyMap<number, FuncRef>;
  readonly modifySlow: ReadonlyMap<number, FuncRef>;
  /** `(linear i64) -> i64`: addend of a page that the TLB has for writing, zero-extended; else -1. */
  readonly stackPage: FuncRef;
  readonly probeWrite: FuncRef;
  /** `(linear i64, access i32) -> RAM offset i32`, -1 and `S.walkPhysical` for devices. */
  readonly translate: FuncRef;
  /** `(linear i64, size i32, write i32, record i32)`: what `S.checks` asks for. */
  readonly checked: FuncRef;
  readonly raise: FuncRef;
  /** `(linear i64, access i32) -> physical i64`. */
  readonly walk: FuncRef;
  /** `(physical i64) -> RAM offset i32`, -1 outside RAM. */
  readonly ramOffset: FuncRef;
  /** `(ram i32) -> i32`: whether the decoded lines of a RAM page are as they were. */
  readonly codeIntact: FuncRef;
  /** `(ram i32)`: keeps the checksum of the decoded lines of a RAM page. */
  readonly seal: FuncRef;
  /** `(ram i32)`: takes write tags of a RAM page out of all TLBs. */
  readonly protect: FuncRef;
}

/** A field of the state, 64 bits. */
export const state64 = (offset: number) => load.i64(CPU, i32(0), offset);
/** A field of the state, 32 bits. */
export const state32 = (offset: number) => load.i32(CPU, i32(0), offset);
/** Sets a field of the state, 64 bits. */
export const set64 = (f: FuncBuilder, offset: number, value: Expr) =>
  f.store64(CPU, i32(0), value, offset);
/** Sets a field of the state, 32 bits. */
export const set32 = (f: FuncBuilder, offset: number, value: Expr) =>
  f.store32(CPU, i32(0), value, offset);

/** Marks of decoded code in the page of RAM offset `ram`: this vCPU's, or those of all. */
export function codeMarksOf(map: MemoryMap, ram: Expr): Expr {
  const [mem, base] = map.shared === undefined ? [CPU, map.codeMarks] : [VM, map.shared.marks];
  return load.i64(mem, add(i32(base), shl(shrU(ram, 12), 3)));
}

/** Behind a store of `size` bytes at `ram`: takes decoded code away that it hit. */
export function noticeCodeWrite(
  f: FuncBuilder,
  parts: { map: MemoryMap; imports: Imports },
  at: { ram: Expr; size: number },
): void {
  const { map, imports } = parts;
  if (map.shared !== undefined) f.fence();
  // Decoded code in any of the 64-byte lines touched?
  const line = (ram: Expr) => shl(i64(1), extU(and(shrU(ram, 6), 63)));
  const lines = or(line(at.ram), line(add(at.ram, at.size - 1)));
  f.if(
    ne(and(codeMarksOf(map, at.ram), lines), i64(0)),
    () => f.call(imports.codeWrite, at.ram, i32(at.size)),
  );
}

/** Physical address of the device that the last walk came to, as TypeScript takes it. */
export function physicalF64(): Expr {
  return op(F64, Op.f64_convert_i64_u, state64(S.walkPhysical));
}
