/**
 * Flags inside a region: an operation that sets flags puts what they follow from into locals (see
 * FlagKind), which costs nothing after optimization where nobody looks, and leaves a note of its operands,
 * from which conditions are computed directly. What the next operation overwrites before an exit or a
 * fault can be is not even put there.
 *
 * @module
 */

import { constantOf, type Expr, type FuncBuilder, Local } from "../../wasm/mod.ts";
import { crosses } from "./plan.ts";
import type { RegionInsn } from "./region_frame.ts";

/** What the last instruction that set flags left, as long as it is known. */
export interface PendingFlags {
  /**
   * `add` and `sub`: of `a` and `b` with `carry` where there is one; `step`: INC and DEC with the CF that
   * they kept in `carry`; `logic`: of the result alone; `with`: CF and OF are `carry` and `overflow`.
   */
  readonly kind: "add" | "sub" | "logic" | "step" | "with";
  readonly a: Expr;
  readonly b: Expr;
  readonly result: Expr;
  readonly size: number;
  readonly carry?: Expr | undefined;
  readonly overflow?: Expr | undefined;
  /** The FlagKind in its local, without CF and OF of their own; undefined for FlagKind.plain. */
  readonly form?: Expr | undefined;
}

/** Flags of the block being written. */
export class LazyFlags {
  /** Undefined where flags must be read from their locals. */
  pending: PendingFlags | undefined;
  /** True where nobody can see the flags that the instruction being written sets, but by `pending`. */
  unseen = false;
  /** True once there was an INC or DEC whose flags anybody may see. */
  steps = false;
}

/** `value` as something that keeps its value: a constant, or a local that is never set again. */
export function keep(f: FuncBuilder, value: Expr): Expr {
  return value instanceof Local || constantOf(value) !== undefined ? value : f.let(value);
}

const condition = "(o|no|b|ae|z|nz|be|a|s|ns|p|np|l|ge|le|g)";
const WRITERS = /^(add|or|and|sub|xor|cmp|test|neg|imul|mul)$/;
/** These change some flags at most, and look at none. */
const NEUTRAL =
  /^(rol|ror|shl|shr|sal|sar|bt|bts|btr|btc|mov|movzx|movsx|movsxd|lea|nop|not|bswap|cbw|cwd)$/;
const PLAIN = new RegExp(
  `^(add|or|and|sub|xor|cmp|test|neg|imul|mul|adc|sbb|inc|dec|shl|shr|sal|sar|rol|ror|` +
    `mov|movzx|movsx|movsxd|movnti|lea|push|pop|nop|pause|cli|sti|clac|stac|not|xchg|bswap|cbw|cwd|leave|jmp|call|ret|` +
    `j${condition}|set${condition}|cmov${condition})$`,
);

/**
 * True where the instruction's code has no loop and no end but the last: so a note that is there before it
 * is right wherever its code looks.
 */
export function isPlain(at: RegionInsn): boolean {
  return PLAIN.test(at.insn.mnemonic);
}

/** True where the instruction, which sets flags, may write memory. */
export function mayStore(at: RegionInsn): boolean {
  const { mnemonic, operands } = at.insn;
  return at.mem && operands[0]?.kind !== "G" && mnemonic !== "cmp" && mnemonic !== "test";
}

/** True where nobody can see the flags that the instructions find. */
export function overwritesFlags(insns: readonly RegionInsn[]): boolean {
  for (const at of insns) {
    const { mnemonic, words } = at.insn;
    const memory = at.mem && mnemonic !== "lea" && mnemonic !== "nop";
    // In front of one in two pages the region may be left.
    if (memory || words.has("end") || crosses(at)) return false;
    if (WRITERS.test(mnemonic)) return true;
    if (!NEUTRAL.test(mnemonic)) return false;
  }
  return false;
}
