/**
 * State, the record and flags of one instruction under construction.
 *
 * @module
 */

import {
  add,
  and,
  call,
  cond,
  eq,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  i32,
  i64,
  load,
  loadSized,
  type Local,
  mul,
  ne,
  or,
  shl,
  shrU,
  signExtend,
  wrap,
  xor as xor64,
  zeroExtend,
} from "../wasm/mod.ts";
import type { Insn } from "./opcode.ts";
import { CPU, FlagKind, Rec, regOffset, S } from "./state.ts";
import type { FlagsOf, Runtime } from "./cx_runtime.ts";

/** Registers, record and flags of an instruction. */
export abstract class FlagsCx {
  /** Function under construction. */
  readonly f: FuncBuilder;
  /** Row of the opcode table. */
  readonly insn: Insn;
  /** Operand size in bytes. */
  readonly size: number;
  /** True where the rm operand is memory. */
  readonly mem: boolean;
  /** True where the memory operand is changed atomically, as other vCPUs see it. */
  readonly locked: boolean;
  /** The record. */
  readonly rec: Expr;
  readonly runtime: Runtime;

  constructor(
    f: FuncBuilder,
    runtime: Runtime,
    options: { insn: Insn; size: number; mem: boolean; locked?: boolean; rec?: Expr },
  ) {
    this.f = f;
    this.runtime = runtime;
    this.insn = options.insn;
    this.size = options.size;
    this.mem = options.mem;
    this.locked = options.locked ?? false;
    this.rec = options.rec ?? f.param(0);
  }

  /** i64 at fixed state offset. */
  s64(offset: number): Expr {
    return load.i64(CPU, i32(0), offset);
  }

  /** i32 at fixed state offset. */
  s32(offset: number): Expr {
    return load.i32(CPU, i32(0), offset);
  }

  /** Sets an i64 of the state. */
  setS64(offset: number, value: Expr): void {
    this.f.store64(CPU, i32(0), value, offset);
  }

  /** Sets an i32 of the state. */
  setS32(offset: number, value: Expr): void {
    this.f.store32(CPU, i32(0), value, offset);
  }

  /** General register `n` (a fixed one), zero-extended from `size` bytes. */
  reg(n: number, size: number): Expr {
    return loadSized(size, CPU, i32(0), regOffset(n));
  }

  /** Writes fixed register `n`: 4 bytes clear the upper half, 1 and 2 keep the rest. */
  setReg(n: number, value: Expr, size: number): void {
    this.storeReg(i32(0), value, { size, offset: regOffset(n) });
  }

  /** Writes a register at an address in the state. */
  protected storeReg(address: Expr, value: Expr, at: { size: number; offset: number }): void {
    if (at.size === 4) this.f.store64(CPU, address, zeroExtend(value, 4), at.offset);
    else this.f.storeSized(at.size, CPU, address, value, at.offset);
  }

  /** u16 field of the record. */
  rec16(field: number): Expr {
    return load.i32_16u(CPU, this.rec, field);
  }

  /** `extra` byte of the record. */
  extra(): Expr {
    return load.i32_8u(CPU, this.rec, Rec.extra);
  }

  /** Instruction pointer of this instruction. */
  rip(): Expr {
    return add(this.s64(S.ripBase), load.i64_16u(CPU, this.rec, Rec.off));
  }

  /** Instruction pointer of the next instruction. */
  nextRip(): Expr {
    return add(this.s64(S.ripBase), load.i64_16u(CPU, this.rec, Rec.next));
  }

  /** A registered helper function. */
  helper(name: string): FuncRef {
    const helper = this.runtime.helpers.get(name);
    if (helper === undefined) throw new TypeError(`no helper ${name}`);
    return helper;
  }

  /** Sets what the flags follow from; see FlagKind. */
  setFlags(result: Expr, aux: Expr, kind?: Expr): void {
    this.setS64(S.flagResult, result);
    this.setS64(S.flagAux, aux);
    this.setS32(S.flagKind, kind ?? i32(FlagKind.plain));
  }

  /** `flagAux` as kind 0 has it. */
  protected plainAux(): Expr {
    const kind = this.s32(S.flagKind);
    const aux = this.s64(S.flagAux);
    return cond(kind, call(this.helper("flagAuxOf"), kind, aux, this.s64(S.flagResult)), aux);
  }

  /** Flags of a logical operation: CF, OF, AF clear. */
  flagsLogic(result: Expr, size: number): void {
    this.setFlags(signExtend(result, size), i64(0));
  }

  /** Flags of `result = a + b (+ carry)`. */
  flagsAdd(_a: Expr, b: Expr, at: FlagsOf): void {
    this.#operands(b, at, 0);
  }

  /** Flags of `result = a - b (- carry)`. */
  flagsSub(_a: Expr, b: Expr, at: FlagsOf): void {
    this.#operands(b, at, FlagKind.sub);
  }

  #operands(b: Expr, at: FlagsOf, more: number): void {
    const known = i32(
      FlagKind.operands | more | ((64 - 8 * at.size) << FlagKind.shiftAt),
    );
    const kind = at.carry === undefined ? known : or(known, wrap(at.carry));
    this.setFlags(signExtend(at.result, at.size), b, kind);
  }

  /** Flags of INC (`step` 1) and DEC (-1): as of an addition or subtraction of 1, but CF stays. */
  flagsStep(_a: Expr, at: { result: Expr; size: number; step: 1 | -1 }): void {
    const carry = shl(wrap(this.cf()), Math.log2(FlagKind.carry));
    const known = FlagKind.operands | FlagKind.keepsCarry | (at.step === 1 ? 0 : FlagKind.sub) |
      ((64 - 8 * at.size) << FlagKind.shiftAt);
    const kind = this.f.let(or(carry, i32(known)));
    this.setFlags(signExtend(at.result, at.size), i64(1), kind);
  }

  /** Keeps CF (i64, 0 or 1), takes OF (i64, 0 or 1) and AF bit 3 (i64 with only bit 3), and the result. */
  flagsWith(result: Expr, flags: { cf: Expr; of: Expr; af?: Expr; size: number }): void {
    const cf = this.f.let(flags.cf);
    const cfof = flags.of === flags.cf
      ? shl(cf, 63)
      : or(shl(cf, 63), shl(xor64(cf, flags.of), 62));
    const aux = flags.af === undefined ? cfof : or(cfof, flags.af);
    this.setFlags(signExtend(result, flags.size), aux);
  }

  /** Sets CF (i64, 0 or 1); the other flags stay. */
  setCarry(cf: Expr): void {
    this.setCarryOverflow(cf, this.of());
  }

  /** Sets CF and OF (i64, 0 or 1 each); the other flags stay. */
  setCarryOverflow(cf: Expr, of: Expr): void {
    const o = this.f.let(of);
    const carry = this.f.let(cf);
    const rest = this.f.let(and(this.plainAux(), i64(0x3fffffffffffffffn)));
    this.setS64(S.flagAux, or(rest, or(shl(carry, 63), shl(xor64(carry, o), 62))));
    this.setS32(S.flagKind, i32(FlagKind.plain));
  }

  /** Sets ZF (i32, 0 or 1); the other flags stay. */
  setZero(zf: Expr): void {
    const z = this.f.let(extU(zf));
    this.setArithFlags(
      or(and(this.arithFlags(), ~0x40n), shl(z, 6)),
    );
  }

  /** CF as i64 0 or 1. */
  cf(): Expr {
    return shrU(this.plainAux(), 63);
  }

  /** OF as i64 0 or 1. */
  of(): Expr {
    const aux = this.f.let(this.plainAux());
    return shrU(xor64(aux, shl(aux, 1)), 63);
  }

  /** ZF as i32 0 or 1. */
  zf(): Expr {
    return eq(this.s64(S.flagResult), i64(0));
  }

  /** Whether SF and OF differ (signed "less"), as i32. */
  less(): Expr {
    return ne(xor64(this.sf(), this.of()), i64(0));
  }

  /** ZF or signed "less", as i32. */
  lessOrEqual(): Expr {
    return or(this.zf(), this.less());
  }

  /** ZF or CF, as i32. */
  belowOrEqual(): Expr {
    return or(wrap(this.cf()), this.zf());
  }

  /** SF as i64 0 or 1. */
  sf(): Expr {
    return and(xor64(shrU(this.s64(S.flagResult), 63), this.plainAux()), 1);
  }

  /** PF as i64 0 or 1. */
  pf(): Expr {
    return this.parity(xor64(wrap(this.s64(S.flagResult)), shrU(wrap(this.plainAux()), 8)));
  }

  /** PF of the low byte of an i32, as i64. */
  protected parity(byte: Expr): Expr {
    // By folding; then 0x9669 holds "even" for each nibble.
    const folded = this.f.let(byte);
    const nibble = and(xor64(folded, shrU(folded, 4)), 15);
    return extU(and(shrU(i32(0x9669), nibble), 1));
  }

  /**
   * Sets all six arithmetic flags from the bits of an i64 in RFLAGS layout (other bits are ignored).
   */
  setArithFlags(rflags: Expr): void {
    this.f.call(this.helper("setArithFlags"), rflags);
  }

  /** The six arithmetic flags in RFLAGS layout, as i64. */
  arithFlags(): Expr {
    return call(this.helper("arithFlags"));
  }

  /** The product of two i64 in 128 bits. */
  mulWide(signed: boolean, a: Local, b: Local): { low: Local; high: Local } {
    return { low: this.f.let(mul(a, b)), high: this.f.let(this.mulHigh(signed, a, b)) };
  }

  /** High half of the product of two i64, each used more than once. */
  protected mulHigh(signed: boolean, a: Local, b: Local): Expr {
    return call(this.helper(signed ? "mulHighS" : "mulHighU"), a, b);
  }
}
