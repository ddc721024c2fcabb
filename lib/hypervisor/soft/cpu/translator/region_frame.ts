/**
 * What a translated region is made of for its instructions: what they are as their records say it, and what
 * they share.
 *
 * @module
 */

import type { Label, Local } from "../../wasm/mod.ts";
import type { CachedPage } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { Reg, S } from "../state.ts";
import type { LazyFlags } from "./lazy_flags.ts";

/** An instruction as its record says it. */
export interface RegionInsn {
  /** Offset from the first byte of the region's first page; so are all offsets in a region. */
  readonly offset: number;
  /** Offset of the next instruction. */
  readonly next: number;
  readonly insn: Insn;
  readonly size: number;
  readonly mem: boolean;
  readonly locked: boolean;
  readonly a: number;
  readonly b: number;
  readonly base: number;
  readonly index: number;
  readonly seg: number;
  /** True where its address is one of the stack segment. */
  readonly stack: boolean;
  readonly scale: number;
  readonly extra: number;
  readonly disp: number;
  /** Of a branch: whether it was seen to go to its target and to go on behind. */
  readonly taken: boolean;
  readonly passed: boolean;
  readonly immLow: number;
  readonly immHigh: number;
  /** The address record in front, where there is one. */
  readonly wide: WideAddress | undefined;
}

/** A 64-bit address with a segment base or a 64-bit displacement. */
export interface WideAddress {
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly disp: number;
  readonly seg: number;
  readonly immLow: number;
  readonly immHigh: number;
}

/** A page that the block being written has looked up. */
export interface NearPage {
  readonly page: CachedPage;
  readonly disp: number;
  readonly writable: boolean;
  /** The registers of the address, -1 for none. */
  readonly registers: readonly number[];
  /**
   * Displacements that are known to be in the page wherever the block goes on, and so are those between
   * them; none where `from` is `to`.
   */
  from: number;
  to: number;
}

/** The region around an instruction. */
export interface RegionFrame {
  /** The general registers; undefined for one that stays in the state, see chooseRegisters. */
  readonly gpr: readonly (Local | undefined)[];
  /** What those that stay there are known to be in the block being written, by number. */
  readonly copies: Map<number, Local>;
  readonly flagResult: Local;
  readonly flagAux: Local;
  /** i32. */
  readonly flagKind: Local;
  /** Kind and result that CF follows from where flagKind has FlagKind.step. */
  readonly carryKind: Local;
  readonly carryResult: Local;
  readonly ripBase: Local;
  /** How far `S.ripBase` is from there, see originOf. */
  readonly origin: number;
  /** i32: base of the data TLB. */
  readonly tlbBase: Local;
  /** Page of the stack (i64) and its addend (i32), see CachedPage, where the region has them. */
  readonly stackTag: Local | undefined;
  readonly stackAddend: Local;
  /** Pages of accesses in the block being written, by their registers. */
  readonly pages: Map<string, NearPage>;
  /** i32: set where a store changed code: the region is left behind the instruction. */
  readonly stale: Local;
  /** i32: see {@link missed}. */
  readonly block: Local;
  /** i32: the region's slot. */
  readonly self: Local;
  /** i32, a bit for each page of the region: the page is known to be where the region has it. */
  readonly known: Local;
  /**
   * Leaves before the instruction at offset `block`, which the interpreter does instead, as accesses do that
   * the TLB does not have; undefined where instructions do them themselves.
   */
  readonly missed: Label | undefined;
  /** Passes a fault on; where {@link missed} is undefined, faults find their way themselves. */
  readonly faulted: Label;
  readonly faultTag: number;
  /** Goes on at `target`: in the region where that is an entry of it, else outside. */
  readonly exit: Label;
  /** Where to go on behind {@link exit}. */
  readonly target: Local;
  /** Returns with Exit.Fuel; `S.rip` is set. */
  readonly outOfFuel: Label;
  readonly flags: LazyFlags;
  /** Block that begins at offset, or -1. */
  blockAt(offset: number): number;
  /** Offsets that the block being written may return to, see findReturns. */
  returns(): readonly number[];
  /** The label of block `n`, where it comes later and nothing else is to be done to go there. */
  labelOf(n: number): Label | undefined;
  /** Goes on with block `n`. */
  enterBlock(n: number): void;
  /** Number of the region's page that holds offset. */
  pageOf(offset: number): number;
  /** Offset of the first byte of the region's page `n`. */
  firstOf(n: number): number;
  /** Notes that register `n` is used. */
  readonly read: Set<number>;
  /** Notes that register `n` is written. */
  readonly written: Set<number>;
}

/** True where the instruction accesses the stack by RSP alone. */
export function usesStack(at: RegionInsn): boolean {
  if (/^(push|pop|call|ret)$/.test(at.insn.mnemonic)) return true;
  return at.mem && at.wide === undefined && gprOf(at.base) === 4 && gprOf(at.index) < 0 &&
    at.insn.mnemonic !== "lea";
}

/** Number of the general register whose slot is at `slot`, or -1. */
export function gprOf(slot: number): number {
  return slot >= S.regs && slot < S.zero ? (slot - S.regs) >> 3 : -1;
}

/** The general registers that an instruction names, and those that the stack is used with. */
export function registersOf(at: RegionInsn): number[] {
  const found = [at.base, at.index, at.wide?.base ?? S.zero, at.wide?.index ?? S.zero].map(gprOf);
  for (const { kind } of at.insn.operands) {
    if (kind === "G" || kind === "Z") found.push(gprOf(at.a));
    else if (kind === "R" || (kind === "E" && !at.mem)) found.push(gprOf(at.b));
    else if (kind === "A") found.push(Reg.rax);
    else if (kind === "CL") found.push(Reg.rcx);
  }
  if (usesStack(at)) found.push(Reg.rsp);
  return found.filter((n) => n >= 0);
}

/** The immediate of 64 bits. */
export function imm64(at: { immLow: number; immHigh: number }): bigint {
  return BigInt.asIntN(64, (BigInt(at.immHigh) << 32n) | BigInt(at.immLow >>> 0));
}

/** An instruction that regions leave to the interpreter. */
export class Untranslatable extends Error {}
