/**
 * Arithmetic flags of an instruction inside a translated region: in WebAssembly locals, and what they follow
 * from, where that is known.
 *
 * @module
 */

import {
  add,
  and,
  call,
  cond,
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  leS,
  leU,
  load,
  type Local,
  ltS,
  ltU,
  mul,
  or,
  select,
  shl,
  shrS,
  shrU,
  signExtend,
  sub,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import type { FlagsOf } from "../cx.ts";
import { CPU, FlagKind, S } from "../state.ts";
import { keep, type PendingFlags } from "./lazy_flags.ts";
import { RegionStateCx } from "./region_state_cx.ts";

const LOW = 0xffffffffn;

/** Arithmetic flags of an instruction in a region, beside its registers. */
export abstract class RegionFlagsCx extends RegionStateCx {
  override setFlags(result: Expr, aux: Expr, kind?: Expr): void {
    if (this.#skipsFlags()) return;
    this.frame.flags.pending = undefined;
    super.setFlags(result, aux, kind);
  }

  override setCarryOverflow(cf: Expr, of: Expr): void {
    const { flags, flagKind, flagAux } = this.frame;
    const before = flags.pending;
    if (this.#skipsFlags()) return;
    const { f } = this;
    const [carry, overflow] = [keep(f, cf), keep(f, of)];
    if (before?.form === undefined) super.setCarryOverflow(carry, overflow);
    else {
      if (before.kind === "step") f.set(flagAux, i64(1));
      const given = or(
        shl(wrap(carry), Math.log2(FlagKind.carry)),
        shl(wrap(overflow), Math.log2(FlagKind.overflow)),
      );
      f.set(flagKind, or(before.form, or(given, i32(FlagKind.keepsBoth))));
    }
    flags.pending = undefined;
    if (before === undefined) return;
    const { a, b, result, size, form } = before;
    this.#note({ kind: "with", a, b, result, size, carry, overflow, form });
  }

  /** Notes what flags are those of, where every path comes by here. */
  #note(note: PendingFlags): void {
    if (this.f.depth === this.depth) this.frame.flags.pending = note;
  }

  /** True where nobody will see the flags; then they are those of nothing. */
  #skipsFlags(): boolean {
    const { flags } = this.frame;
    if (flags.unseen) flags.pending = undefined;
    return flags.unseen;
  }

  override flagsLogic(result: Expr, size: number): void {
    if (this.#skipsFlags()) return;
    const r = keep(this.f, result);
    super.flagsLogic(r, size);
    this.#note({ kind: "logic", a: r, b: r, result: r, size });
  }

  override flagsAdd(a: Expr, b: Expr, at: FlagsOf): void {
    this.#operation("add", [a, b], at);
  }

  override flagsSub(a: Expr, b: Expr, at: FlagsOf): void {
    this.#operation("sub", [a, b], at);
  }

  #operation(kind: "add" | "sub", operands: readonly [Expr, Expr], at: FlagsOf): void {
    if (this.#skipsFlags()) return;
    const { f } = this;
    const [a, b, result] = [keep(f, operands[0]), keep(f, operands[1]), keep(f, at.result)];
    const { size } = at;
    const carry = at.carry === undefined ? undefined : keep(f, at.carry);
    const of = { result, size, ...(carry === undefined ? {} : { carry }) };
    const known = i32(kindOf(kind === "add" ? 0 : FlagKind.sub, size));
    const form = carry === undefined ? known : or(known, wrap(carry));
    if (kind === "add") super.flagsAdd(a, b, of);
    else super.flagsSub(a, b, of);
    this.#note({ kind, a, b, ...of, form });
  }

  override flagsStep(a: Expr, at: { result: Expr; size: number; step: 1 | -1 }): void {
    if (this.#skipsFlags()) return;
    const { f } = this;
    const { flags, flagKind, flagResult, carryKind, carryResult } = this.frame;
    flags.steps = true;
    const { size } = at;
    const [x, result] = [keep(f, a), keep(f, at.result)];
    const before = flags.pending;
    const unknown = before === undefined || (before.kind === "step" && before.carry === undefined);
    const carry = unknown ? undefined : keep(f, this.cf());
    const form = kindOf(at.step === 1 ? 0 : FlagKind.sub, size);
    // CF stays with what it followed from: so INC and DEC in loops cost nothing.
    if (before === undefined) {
      const steps = f.let(and(flagKind, FlagKind.step));
      f.set(carryKind, select(steps, carryKind, flagKind));
      f.set(carryResult, select(steps, carryResult, flagResult));
    } else if (before.kind !== "step") {
      f.set(carryKind, flagKind);
      f.set(carryResult, flagResult);
    }
    f.set(flagKind, i32(form | FlagKind.step));
    f.set(flagResult, signExtend(result, size));
    const overflow = at.step === 1
      ? top(and(xor(x, i64(-1n)), result), size)
      : top(and(x, xor(result, i64(-1n))), size);
    const note = { a: x, b: x, result, size, carry, overflow, form: i32(form) };
    this.#note({ kind: "step", ...note });
  }

  override flagsWith(
    result: Expr,
    flags: { cf: Expr; of: Expr; af?: Expr; size: number },
  ): void {
    if (this.#skipsFlags()) return;
    const { f } = this;
    const r = keep(f, result);
    const cf = keep(f, flags.cf);
    const of = flags.of === flags.cf ? cf : keep(f, flags.of);
    super.flagsWith(r, { ...flags, cf, of });
    const { size } = flags;
    this.#note({ kind: "with", a: r, b: r, result: r, size, carry: cf, overflow: of });
  }

  override cf(): Expr {
    const p = this.frame.flags.pending;
    if (p === undefined) return super.cf();
    const at = p.size;
    switch (p.kind) {
      case "logic":
        return i64(0);
      case "add":
        return p.carry === undefined
          ? extU(ltU(high(p.result, at), high(p.a, at)))
          : top(or(and(p.a, p.b), and(or(p.a, p.b), xor(p.result, i64(-1n)))), at);
      case "sub":
        return p.carry === undefined
          ? extU(ltU(high(p.a, at), high(p.b, at)))
          : top(or(and(p.b, p.result), and(or(p.b, p.result), xor(p.a, i64(-1n)))), at);
      default:
        return p.carry ?? super.cf();
    }
  }

  override of(): Expr {
    const p = this.frame.flags.pending;
    if (p === undefined) return super.of();
    switch (p.kind) {
      case "logic":
        return i64(0);
      case "add":
        return top(and(xor(p.a, p.result), xor(p.b, p.result)), p.size);
      case "sub":
        return top(and(xor(p.a, p.b), xor(p.a, p.result)), p.size);
      default:
        return p.overflow ?? i64(0);
    }
  }

  override zf(): Expr {
    const p = this.frame.flags.pending;
    return p === undefined ? super.zf() : eqz(high(p.result, p.size));
  }

  override sf(): Expr {
    const p = this.frame.flags.pending;
    return p === undefined ? super.sf() : top(p.result, p.size);
  }

  override pf(): Expr {
    const p = this.frame.flags.pending;
    return p === undefined ? super.pf() : this.parity(wrap(p.result));
  }

  override less(): Expr {
    const p = this.frame.flags.pending;
    if (p === undefined) return super.less();
    const at = p.size;
    if (p.kind === "sub" && p.carry === undefined) return ltS(high(p.a, at), high(p.b, at));
    const value = high(p.result, at);
    return p.kind === "logic"
      ? ltS(value, value.type === ValType.I64 ? i64(0) : i32(0))
      : super.less();
  }

  override lessOrEqual(): Expr {
    const p = this.frame.flags.pending;
    if (p?.kind === "sub" && p.carry === undefined) {
      return leS(high(p.a, p.size), high(p.b, p.size));
    }
    return super.lessOrEqual();
  }

  override belowOrEqual(): Expr {
    const p = this.frame.flags.pending;
    if (p?.kind === "sub" && p.carry === undefined) {
      return leU(high(p.a, p.size), high(p.b, p.size));
    }
    return super.belowOrEqual();
  }

  protected override mulHigh(signed: boolean, a: Local, b: Local): Expr {
    const f = this.f;
    const [a0, a1] = [f.let(and(a, LOW)), f.let(shrU(a, 32))];
    const [b0, b1] = [f.let(and(b, LOW)), f.let(shrU(b, 32))];
    const mid1 = f.let(add(mul(a1, b0), shrU(mul(a0, b0), 32)));
    const mid2 = f.let(add(mul(a0, b1), and(mid1, LOW)));
    const product = add(add(mul(a1, b1), shrU(mid1, 32)), shrU(mid2, 32));
    return signed ? sub(sub(product, and(shrS(a, 63), b)), and(shrS(b, 63), a)) : product;
  }

  protected override plainAux(): Expr {
    const { flagResult, flagAux, flagKind, carryKind, carryResult } = this.frame;
    const of = [flagKind, flagAux, flagResult, carryKind, carryResult];
    return cond(flagKind, call(this.helper("flagAuxOfStep"), ...of), flagAux);
  }

  override arithFlags(): Expr {
    this.setKept64(S.flagResult, this.frame.flagResult);
    this.setKept64(S.flagAux, this.plainAux());
    this.setKept32(S.flagKind, i32(FlagKind.plain));
    return super.arithFlags();
  }

  override setArithFlags(rflags: Expr): void {
    super.setArithFlags(rflags);
    this.setFlags(load.i64(CPU, i32(0), S.flagResult), load.i64(CPU, i32(0), S.flagAux));
  }
}

/** The low `size` bytes at the top of an integer, for comparisons. */
function high(value: Expr, size: number): Expr {
  return size === 8 ? value : size === 4 ? wrap(value) : shl(value, 64 - 8 * size);
}

function kindOf(more: number, size: number): number {
  return FlagKind.operands | more | ((64 - 8 * size) << FlagKind.shiftAt);
}

/** The highest bit of the low `size` bytes, as i64. */
function top(value: Expr, size: number): Expr {
  const bit = shrU(value, 8 * size - 1);
  return size === 8 ? bit : and(bit, 1);
}
