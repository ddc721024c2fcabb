/**
 * Registers of an instruction inside a translated region: general registers are WebAssembly locals, and what
 * its record says is known.
 *
 * @module
 */

import {
  add,
  and,
  type Expr,
  type FuncBuilder,
  i32,
  i64,
  or,
  shl,
  shrU,
  zeroExtend,
} from "../../wasm/mod.ts";
import { Cx, type Runtime } from "../cx.ts";
import { pseudoRecord, Rec, S } from "../state.ts";
import { isPlain } from "./lazy_flags.ts";
import { gprOf, imm64, type RegionFrame, type RegionInsn } from "./region_frame.ts";

/** Registers and state of one instruction in a region. */
export abstract class RegionStateCx extends Cx {
  protected readonly at: RegionInsn;
  protected readonly frame: RegionFrame;
  /** Open blocks where every path through the instruction comes by. */
  protected readonly depth: number;

  constructor(
    f: FuncBuilder,
    runtime: Runtime,
    options: { at: RegionInsn; frame: RegionFrame },
  ) {
    super(f, runtime, {
      insn: options.at.insn,
      size: options.at.size,
      mem: options.at.mem,
      locked: options.at.locked,
      rec: i32(pseudoRecord(options.at.offset - options.frame.origin, options.at.stack)),
    });
    this.at = options.at;
    this.frame = options.frame;
    this.depth = f.depth;
    if (!isPlain(options.at)) options.frame.flags.pending = undefined;
  }

  override s64(offset: number): Expr {
    switch (offset) {
      case S.flagResult:
        return this.frame.flagResult;
      case S.flagAux:
        return this.frame.flagAux;
      case S.ripBase:
        return this.frame.ripBase;
      default:
        return super.s64(offset);
    }
  }

  override s32(offset: number): Expr {
    switch (offset) {
      case S.flagKind:
        return this.frame.flagKind;
      case S.tlbBase:
        return this.frame.tlbBase;
      default:
        return super.s32(offset);
    }
  }

  override setS64(offset: number, value: Expr): void {
    if (offset === S.flagResult || offset === S.flagAux) {
      const { flags, flagResult, flagAux } = this.frame;
      this.f.set(offset === S.flagResult ? flagResult : flagAux, value);
      flags.pending = undefined;
    } else super.setS64(offset, value);
  }

  override setS32(offset: number, value: Expr): void {
    if (offset === S.flagKind) {
      this.f.set(this.frame.flagKind, value);
      return;
    }
    super.setS32(offset, value);
    if (offset === S.tlbBase) this.#changeTlb();
  }

  /** Sets what lies in the state, whatever local stands for it in the region. */
  protected setKept64(offset: number, value: Expr): void {
    super.setS64(offset, value);
  }

  /** The same for 32 bits. */
  protected setKept32(offset: number, value: Expr): void {
    super.setS32(offset, value);
  }

  /** What another TLB held may not be accessible now. */
  #changeTlb(): void {
    const { tlbBase, stackTag, pages } = this.frame;
    this.f.set(tlbBase, super.s32(S.tlbBase));
    if (stackTag !== undefined) this.f.set(stackTag, i64(-1));
    pages.clear();
  }

  #gpr(n: number): Expr {
    const local = this.frame.gpr[n];
    if (local === undefined) return this.#copy(n);
    this.frame.read.add(n);
    return local;
  }

  /** Register `n` where it stays in the state: compilers load again what was just stored there. */
  #copy(n: number): Expr {
    const { copies } = this.frame;
    if (!isPlain(this.at)) return super.reg(n, 8);
    const known = copies.get(n);
    if (known !== undefined || this.f.depth !== this.depth) return known ?? super.reg(n, 8);
    const copy = this.f.let(super.reg(n, 8));
    copies.set(n, copy);
    return copy;
  }

  /** Sets register `n` where it stays in the state. */
  #setCopy(n: number, value: Expr): void {
    const { copies } = this.frame;
    if (isPlain(this.at) && this.f.depth === this.depth) {
      const copy = this.f.let(value);
      copies.set(n, copy);
      super.setReg(n, copy, 8);
    } else {
      copies.delete(n);
      super.setReg(n, value, 8);
    }
  }

  override reg(n: number, size: number): Expr {
    return zeroExtend(this.#gpr(n), size);
  }

  override setReg(n: number, value: Expr, size: number): void {
    this.#write(n, value, { size, high: false });
  }

  #write(n: number, value: Expr, how: { size: number; high: boolean }): void {
    const local = this.frame.gpr[n];
    for (const [key, { registers }] of this.frame.pages) {
      if (registers.includes(n)) this.frame.pages.delete(key);
    }
    const { size } = how;
    const whole = () => {
      if (size >= 4) return zeroExtend(value, size);
      const before = local ?? this.#copy(n);
      if (how.high) return or(and(before, ~0xff00n), shl(and(value, 0xff), 8));
      const mask = size === 1 ? 0xffn : 0xffffn;
      return or(and(before, ~mask), and(value, mask));
    };
    // All of it in memory, too: processors wait where a load needs more than the store before it wrote.
    if (local === undefined) this.#setCopy(n, whole());
    else {
      this.frame.written.add(n);
      this.frame.read.add(n);
      this.f.set(local, whole());
    }
  }

  #slotOf(i: number): number {
    switch (this.insn.operands[i]?.kind) {
      case "G":
      case "Z":
      case "V":
      case "P":
        return this.at.a;
      case "E":
      case "R":
      case "W":
      case "U":
      case "Q":
      case "N":
        return this.at.b;
      case "A":
        return S.regs;
      case "CL":
        return S.regs + 8;
      default:
        throw new TypeError(`${this.insn.mnemonic}: operand ${i} is not a register`);
    }
  }

  override slot(i: number): Expr {
    return i32(this.#slotOf(i));
  }

  protected override readRegister(i: number, size: number): Expr {
    const slot = this.#slotOf(i);
    const n = gprOf(slot);
    if (n < 0) return super.readRegister(i, size);
    const local = this.#gpr(n);
    return zeroExtend((slot & 7) === 1 ? shrU(local, 8) : local, size);
  }

  override get ofOneRegister(): boolean {
    const { mem, a, b, insn } = this.at;
    const kinds = insn.operands.map((operand) => operand.kind).join("");
    return !mem && a === b && (kinds === "EG" || kinds === "GE");
  }

  protected override readLow(i: number, size: number): Expr {
    const slot = this.#slotOf(i);
    const n = gprOf(slot);
    if (n < 0) return super.readLow(i, size);
    const local = this.#gpr(n);
    return (slot & 7) === 1 ? shrU(local, 8) : local;
  }

  protected override writeRegister(i: number, value: Expr, size: number): void {
    const slot = this.#slotOf(i);
    const n = gprOf(slot);
    if (n < 0) super.writeRegister(i, value, size);
    else this.#write(n, value, { size, high: (slot & 7) === 1 });
  }

  protected override immediate(): Expr {
    return i64(imm64(this.at));
  }

  override rec16(field: number): Expr {
    switch (field) {
      case Rec.a:
        return i32(this.at.a);
      case Rec.b:
        return i32(this.at.b);
      case Rec.base:
        return i32(this.at.base);
      case Rec.index:
        return i32(this.at.index);
      case Rec.seg:
        return i32(this.at.seg);
      default:
        throw new TypeError(`${this.insn.mnemonic}: field ${field} of a record`);
    }
  }

  override extra(): Expr {
    return i32(this.at.extra);
  }

  override rip(): Expr {
    return add(this.frame.ripBase, this.at.offset);
  }

  override nextRip(): Expr {
    return add(this.frame.ripBase, this.at.next);
  }

  protected override address(): Expr {
    const { wide } = this.at;
    if (wide === undefined) return this.#sum(this.at, 0n);
    const sum = this.#sum(wide, imm64(wide));
    return wide.seg === S.zero ? sum : add(sum, this.s64(wide.seg));
  }

  #sum(
    at: { base: number; index: number; scale: number; disp: number },
    extra: bigint,
  ): Expr {
    const disp = BigInt(at.disp) + extra;
    let sum: Expr | undefined;
    if (at.base === S.ripBase) sum = this.frame.ripBase;
    else if (gprOf(at.base) >= 0) sum = this.#gpr(gprOf(at.base));
    if (gprOf(at.index) >= 0) {
      const index = this.#gpr(gprOf(at.index));
      const scaled = at.scale === 0 ? index : shl(index, at.scale);
      sum = sum === undefined ? scaled : add(sum, scaled);
    }
    if (sum === undefined) return i64(disp);
    return disp === 0n ? sum : add(sum, i64(BigInt.asIntN(64, disp)));
  }

  /** Goes on at `rip`, wherever that is. */
  protected leaveFor(rip: Expr): void {
    this.f.set(this.frame.target, rip);
    this.f.br(this.frame.exit);
  }
}
