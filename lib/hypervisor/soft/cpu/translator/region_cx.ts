/**
 * Semantics inside a translated region: general registers and arithmetic flags are WebAssembly locals,
 * operands are known, and branches within the region stay in it.
 *
 * @module
 */

import {
  add,
  and,
  type Expr,
  type FuncBuilder,
  type FuncRef,
  geS,
  i32,
  i64,
  type Label,
  load,
  type Local,
  or,
  shl,
  shrU,
  sub,
  zeroExtend,
} from "../../wasm/mod.ts";
import { Cx, type Runtime } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, Exit, S } from "../state.ts";

/** An instruction as its record says it. */
export interface RegionInsn {
  /** Page offset. */
  readonly offset: number;
  /** Page offset of the next instruction. */
  readonly next: number;
  /** Address of the record (of the main one, where an address record stands in front). */
  readonly record: number;
  readonly insn: Insn;
  readonly size: number;
  readonly mem: boolean;
  readonly a: number;
  readonly b: number;
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly disp: number;
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

/** The region around an instruction. */
export interface RegionFrame {
  /** The 16 general registers. */
  readonly gpr: readonly Local[];
  readonly flagResult: Local;
  readonly flagAux: Local;
  readonly ripBase: Local;
  /** i32: set where a store changed code: the region is left behind the instruction. */
  readonly stale: Local;
  /** i32: number of the block to go on with. */
  readonly block: Local;
  /** Top of the loop that dispatches to blocks. */
  readonly dispatch: Label;
  /** Block that begins at page offset, or -1. */
  blockAt(offset: number): number;
  /** Writes changed locals back to the state. */
  spill(): void;
  /** Notes that register `n` is written. */
  readonly written: Set<number>;
}

/** Number of the general register whose slot is at `slot`, or -1. */
function gprOf(slot: number): number {
  return slot >= S.regs && slot < S.zero ? (slot - S.regs) >> 3 : -1;
}

/** Context of one instruction in a region. */
export class RegionCx extends Cx {
  readonly #at: RegionInsn;
  readonly #frame: RegionFrame;
  readonly #end: Label;
  /** True where a store of this instruction may have changed code. */
  stores = false;

  constructor(
    f: FuncBuilder,
    runtime: Runtime,
    options: { at: RegionInsn; frame: RegionFrame; end: Label },
  ) {
    super(f, runtime, {
      insn: options.at.insn,
      size: options.at.size,
      mem: options.at.mem,
      rec: i32(options.at.record),
    });
    this.#at = options.at;
    this.#frame = options.frame;
    this.#end = options.end;
  }

  override s64(offset: number): Expr {
    switch (offset) {
      case S.flagResult:
        return this.#frame.flagResult;
      case S.flagAux:
        return this.#frame.flagAux;
      case S.ripBase:
        return this.#frame.ripBase;
      default:
        return super.s64(offset);
    }
  }

  override setS64(offset: number, value: Expr): void {
    if (offset === S.flagResult) this.f.set(this.#frame.flagResult, value);
    else if (offset === S.flagAux) this.f.set(this.#frame.flagAux, value);
    else super.setS64(offset, value);
  }

  #gpr(n: number): Local {
    const local = this.#frame.gpr[n];
    if (local === undefined) throw new TypeError(`no general register ${n}`);
    return local;
  }

  override reg(n: number, size: number): Expr {
    return zeroExtend(this.#gpr(n), size);
  }

  override setReg(n: number, value: Expr, size: number): void {
    this.#write(n, value, { size, high: false });
  }

  #write(n: number, value: Expr, how: { size: number; high: boolean }): void {
    const local = this.#gpr(n);
    this.#frame.written.add(n);
    const { size } = how;
    if (size >= 4) this.f.set(local, zeroExtend(value, size));
    else if (how.high) {
      this.f.set(local, or(and(local, ~0xff00n), shl(and(value, 0xff), 8)));
    } else {
      const mask = size === 1 ? 0xffn : 0xffffn;
      this.f.set(local, or(and(local, ~mask), and(value, mask)));
    }
  }

  #slotOf(i: number): number {
    switch (this.insn.operands[i]?.kind) {
      case "G":
      case "Z":
      case "V":
      case "P":
        return this.#at.a;
      case "E":
      case "R":
      case "W":
      case "U":
      case "Q":
      case "N":
        return this.#at.b;
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

  protected override writeRegister(i: number, value: Expr, size: number): void {
    const slot = this.#slotOf(i);
    const n = gprOf(slot);
    if (n < 0) super.writeRegister(i, value, size);
    else this.#write(n, value, { size, high: (slot & 7) === 1 });
  }

  protected override immediate(): Expr {
    return i64(imm64(this.#at));
  }

  override rip(): Expr {
    return add(this.#frame.ripBase, this.#at.offset);
  }

  override nextRip(): Expr {
    return add(this.#frame.ripBase, this.#at.next);
  }

  protected override address(): Expr {
    const { wide } = this.#at;
    if (wide === undefined) return this.#sum(this.#at, 0n);
    const sum = this.#sum(wide, imm64(wide));
    return wide.seg === S.zero ? sum : add(sum, this.s64(wide.seg));
  }

  #sum(
    at: { base: number; index: number; scale: number; disp: number },
    extra: bigint,
  ): Expr {
    const disp = BigInt(at.disp) + extra;
    let sum: Expr | undefined;
    if (at.base === S.ripBase) sum = this.#frame.ripBase;
    else if (gprOf(at.base) >= 0) sum = this.#gpr(gprOf(at.base));
    if (gprOf(at.index) >= 0) {
      const index = this.#gpr(gprOf(at.index));
      const scaled = at.scale === 0 ? index : shl(index, at.scale);
      sum = sum === undefined ? scaled : add(sum, scaled);
    }
    if (sum === undefined) return i64(disp);
    return disp === 0n ? sum : add(sum, i64(BigInt.asIntN(64, disp)));
  }

  protected override storeSlowly(address: Expr, value: Expr, size: number): void {
    super.storeSlowly(address, value, size);
    this.stores = true;
    this.f.set(this.#frame.stale, this.s32(S.codeChanged));
  }

  // --- control flow ------------------------------------------------------------------------------

  override jump(rip: Expr): void {
    const target = this.f.let(rip);
    this.#frame.spill();
    super.jump(target);
  }

  override next(): void {
    this.f.br(this.#end);
  }

  /** A string instruction that is not finished begins again. */
  override dispatch(_record: Expr): void {
    this.jump(this.rip());
  }

  override leave(exit: number): void {
    this.#frame.spill();
    super.leave(exit);
  }

  override branch(): void {
    const target = this.#at.next + this.#at.immLow;
    this.goTo(target);
  }

  override branchTarget(): Expr {
    return add(this.#frame.ripBase, this.#at.next + this.#at.immLow);
  }

  /** Goes on at page offset `target`, in the region where it is there. */
  goTo(target: number): void {
    const f = this.f;
    const block = target >= 0 && target < 4096 ? this.#frame.blockAt(target) : -1;
    if (block < 0) {
      this.jump(add(this.#frame.ripBase, target));
      return;
    }
    if (target <= this.#at.offset) {
      // A loop: let others in from time to time.
      const fuel = f.let(sub(this.s32(S.fuel), 1));
      this.setS32(S.fuel, fuel);
      f.if(geS(fuel, i32(0)), () => {
        f.set(this.#frame.block, i32(block));
        f.br(this.#frame.dispatch);
      });
      this.setS64(S.rip, add(this.#frame.ripBase, target));
      this.leave(Exit.Fuel);
      return;
    }
    f.set(this.#frame.block, i32(block));
    f.br(this.#frame.dispatch);
  }

  override arithFlags(): Expr {
    this.#flagsToState();
    return super.arithFlags();
  }

  override setArithFlags(rflags: Expr): void {
    super.setArithFlags(rflags);
    this.f.set(this.#frame.flagResult, load.i64(CPU, i32(0), S.flagResult));
    this.f.set(this.#frame.flagAux, load.i64(CPU, i32(0), S.flagAux));
  }

  #flagsToState(): void {
    super.setS64(S.flagResult, this.#frame.flagResult);
    super.setS64(S.flagAux, this.#frame.flagAux);
  }

  override host(_id: number): void {
    throw new Untranslatable(this.insn.mnemonic);
  }
}

/** An instruction that regions leave to the interpreter. */
export class Untranslatable extends Error {}

/**
 * Finds out whether a row's semantics can stand in a region: no host call, nothing of the narrow stack.
 */
export class ProbeCx extends Cx {
  override host(_id: number): void {
    throw new Untranslatable(this.insn.mnemonic);
  }
  override push(value: Expr, size: number): void {
    if (size !== 8) throw new Untranslatable(this.insn.mnemonic);
    super.push(value, size);
  }
  override peek(size: number): Expr {
    if (size !== 8) throw new Untranslatable(this.insn.mnemonic);
    return super.peek(size);
  }
  override dropStack(size: number): void {
    if (size !== 8) throw new Untranslatable(this.insn.mnemonic);
    super.dropStack(size);
  }
  override helper(name: string): FuncRef {
    // These read or write registers and flags in the state.
    if (name === "push" || name === "peek" || name === "dropStack") {
      throw new Untranslatable(this.insn.mnemonic);
    }
    return super.helper(name);
  }
}

function imm64(at: { immLow: number; immHigh: number }): bigint {
  return BigInt.asIntN(64, (BigInt(at.immHigh) << 32n) | BigInt(at.immLow >>> 0));
}
