/**
 * What handlers and translated code share of the module that they are in, and words of their semantics.
 *
 * @module
 */

import { type Expr, type FuncRef, type Local, OpFe } from "../wasm/mod.ts";

/** Functions of the module that handlers call. */
export interface Runtime {
  /** Slow loads by size: `(linear i64, record i32) -> i64`. */
  readonly loadSlow: ReadonlyMap<number, FuncRef>;
  /** Slow stores by size: `(linear i64, value i64, record i32)`. */
  readonly storeSlow: ReadonlyMap<number, FuncRef>;
  /** Slow first halves of read-modify-writes, which check for writing: `(linear, record) -> i64`. */
  readonly modifySlow: ReadonlyMap<number, FuncRef>;
  /** Checks that `size` bytes can be written, or faults: `(linear, size i32, record)`. */
  readonly probeWrite: FuncRef;
  /** `(rip i64) -> exit`: continues at `rip`, through the instruction TLB. */
  readonly jump: FuncRef;
  /** `(vector i32, error i32, hasError i32, record i32)`: raises a fault of this instruction. */
  readonly raise: FuncRef;
  /** `(function i32, record i32) -> i32`: TypeScript's part of an instruction, see host calls. */
  readonly host: FuncRef;
  /** Type index of handlers. */
  readonly handlerType: number;
  /** Named further helpers (softfloat and the like), by the module that registers them. */
  readonly helpers: Map<string, FuncRef>;
  /** Index of the memory that the TLB's addends are for: that of this.runtime.ram, or of the state with RAM in it. */
  readonly ram: number;
  /** True where other vCPUs run too: locked instructions and fences are what they are called. */
  readonly smp: boolean;
}

/** What an atomic change does. */
export enum Locked {
  add,
  sub,
  and,
  or,
  xor,
  xchg,
  cmpxchg,
}

/** WebAssembly's opcode (of the 32-bit form) for `kind`. */
export function lockedOpcode(kind: Locked): number {
  return [
    OpFe.rmw_add,
    OpFe.rmw_sub,
    OpFe.rmw_and,
    OpFe.rmw_or,
    OpFe.rmw_xor,
    OpFe.rmw_xchg,
    OpFe.rmw_cmpxchg,
  ][kind] as number;
}

/** What flags are those of. */
export interface FlagsOf {
  readonly result: Expr;
  readonly size: number;
  /** Carry or borrow (i64, 0 or 1) that was added or subtracted too. */
  readonly carry?: Expr;
}

/** What a host call asks for when it returns. */
export enum HostResult {
  /** Go on with the next instruction. */
  Next,
  /** Go on at `S.rip` (mode and TLBs may have changed). */
  Jump,
  /** Leave generated code; `S.exit` says why and `S.rip` where to go on. */
  Leave,
}

/** A page that accesses are compared with. */
export interface CachedPage {
  /** i64: the linear page, or no address at all. */
  readonly tag: Expr;
  /** i32: offset in Runtime.ram minus linear address. */
  readonly addend: Expr;
  /** i32: address of the TLB's entry. */
  readonly entry?: Local;
  /**
   * True where the entry is that of the access itself, in which the page of the access's end can only be
   * where its begin is in the page, too.
   */
  readonly own: boolean;
  /** True where accesses are expected to be aligned, so that misaligned ones need not be found in it. */
  readonly aligned?: boolean;
  /** Looks for the page of the access at hand, which was not in this one; it may be by then. */
  find?(): void;
  /** Called behind an access that was not in the page. */
  missed(): void;
}
