/**
 * Flags inside a region: an operation that sets flags leaves only a note how to compute them from
 * locals that nobody changes. They are computed where something may look: exits, slow paths that can
 * fault, conditions that do not follow from the operands. What the next operation overwrites before that
 * is never computed.
 *
 * @module
 */

import { constantOf, type Expr, type FuncBuilder, Local } from "../../wasm/mod.ts";
import type { RegionInsn } from "./region_cx.ts";

/** Flags that are not computed yet. */
export interface PendingFlags {
  /** What conditions can be read from the operands: see RegionCx. */
  readonly kind: "add" | "sub" | "logic" | "result";
  readonly a: Expr;
  readonly b: Expr;
  readonly result: Expr;
  readonly size: number;
  /** Writes the statements that compute them. */
  readonly emit: () => void;
}

/** Flags of the block being written. */
export class LazyFlags {
  /** Undefined where the locals of the flags are right. */
  pending: PendingFlags | undefined;
  /** True while {@link PendingFlags.emit} runs. */
  emitting = false;

  /**
   * Brings the locals of the flags up to date here.
   *
   * @param always True where every path comes by here.
   */
  settle(always: boolean): void {
    const pending = this.pending;
    if (pending === undefined || this.emitting) return;
    this.emitting = true;
    pending.emit();
    this.emitting = false;
    if (always) this.pending = undefined;
  }
}

/** `value` as something that keeps its value: a constant, or a local that is never set again. */
export function keep(f: FuncBuilder, value: Expr): Expr {
  return value instanceof Local || constantOf(value) !== undefined ? value : f.let(value);
}

const condition = "(o|no|b|ae|z|nz|be|a|s|ns|p|np|l|ge|le|g)";
const WRITERS = /^(add|or|and|sub|xor|cmp|test|neg)$/;
const CHANGERS = /^(adc|sbb|inc|dec|imul|mul)$/;
const SHIFTS = /^(shl|shr|sal|sar|rol|ror)$/;
const OTHERS = new RegExp(
  `^(mov|movzx|movsx|movsxd|movnti|lea|push|pop|nop|pause|not|xchg|bswap|cbw|cwd|leave|jmp|call|ret|` +
    `j${condition}|set${condition}|cmov${condition})$`,
);
const READERS = new RegExp(`^(j${condition}|set${condition}|cmov${condition})$`);

/** True where the instruction leaves a note instead of flags. */
export function defersFlags(at: RegionInsn): boolean {
  const { mnemonic, operands } = at.insn;
  if (WRITERS.test(mnemonic) || CHANGERS.test(mnemonic)) return true;
  if (!SHIFTS.test(mnemonic)) return false;
  const mask = operands[0]?.size === "v" && at.size === 8 ? 63 : 31;
  if (operands[1]?.kind === "1") return true;
  return operands[1]?.kind === "I" && (at.immLow & mask) !== 0;
}

/** True where the instruction, which changes no flags, may stand between the note and its use. */
export function passesFlags(at: RegionInsn): boolean {
  return OTHERS.test(at.insn.mnemonic);
}

/** True where nobody can see the flags that the instructions find. */
export function overwritesFlags(insns: readonly RegionInsn[]): boolean {
  for (const at of insns) {
    const { mnemonic, words } = at.insn;
    const memory = at.mem && mnemonic !== "lea" && mnemonic !== "nop";
    if (memory || words.has("end")) return false;
    if (WRITERS.test(mnemonic)) return true;
    if (
      READERS.test(mnemonic) ||
      !/^(mov|movzx|movsx|movsxd|lea|nop|not|bswap|cbw|cwd)$/.test(mnemonic)
    ) {
      return false;
    }
  }
  return false;
}
