/**
 * Semantics inside a translated region: operands are known, and branches within the region stay in it.
 *
 * @module
 */

import {
  add,
  and,
  call,
  eq,
  eqz,
  type Expr,
  type FuncBuilder,
  type FuncRef,
  i32,
  type Label,
  ltS,
  mul,
  or,
  sub,
} from "../../wasm/mod.ts";
import { Cx, type Runtime } from "../cx.ts";
import { CPU, Exit, REGION_PARTS, S } from "../state.ts";
import { type RegionFrame, type RegionInsn, Untranslatable } from "./region_frame.ts";
import { RegionMemoryCx } from "./region_memory_cx.ts";

/** Context of one instruction in a region. */
export class RegionCx extends RegionMemoryCx {
  readonly #end: Label | undefined;

  constructor(
    f: FuncBuilder,
    runtime: Runtime,
    options: { at: RegionInsn; frame: RegionFrame; end: Label | undefined },
  ) {
    super(f, runtime, options);
    this.#end = options.end;
  }

  override jump(rip: Expr): void {
    if (this.insn.mnemonic === "ret") {
      for (const offset of this.frame.returns()) {
        this.f.if(eq(rip, add(this.frame.ripBase, offset)), () => this.goTo(offset));
      }
    }
    this.leaveFor(rip);
  }

  override next(): void {
    if (this.#end === undefined) {
      throw new TypeError(`${this.insn.mnemonic} does not end in between`);
    }
    this.f.br(this.#end);
  }

  /** A string instruction that is not finished begins again. */
  override dispatch(_record: Expr): void {
    this.leaveFor(this.rip());
  }

  /** Behind the instruction: leaves where it changed code. */
  leaveWhereStale(): void {
    this.#leaveWhereStale(this.at.next);
  }

  #leaveWhereStale(target: number): void {
    this.f.ifUnlikely(this.frame.stale, () => {
      this.f.store32(CPU, i32(0), i32(0), S.codeChanged);
      this.leaveFor(add(this.frame.ripBase, target));
    });
  }

  override leave(exit: number): void {
    if (exit !== Exit.Fuel) throw new Untranslatable(this.insn.mnemonic);
    this.f.br(this.frame.outOfFuel);
  }

  override branch(): void {
    const target = this.at.next + this.at.immLow;
    this.goTo(target);
  }

  override branchIf(taken: Expr): void {
    const label = this.#straightTo(this.at.next + this.at.immLow);
    if (label === undefined) this.f.if(taken, () => this.branch());
    else this.f.brIf(label, taken);
  }

  /** The label of the block at offset `target`, where a branch there has nothing else to do. */
  #straightTo(target: number): Label | undefined {
    const frame = this.frame;
    const block = frame.blockAt(target);
    const near = block >= 0 && target > this.at.offset &&
      frame.pageOf(target) === frame.pageOf(this.at.offset);
    return near ? frame.labelOf(block) : undefined;
  }

  override branchToCallee(): void {
    const target = this.at.next + this.at.immLow;
    if (this.stores) this.#leaveWhereStale(target);
    this.goTo(target);
  }

  override branchTarget(): Expr {
    return add(this.frame.ripBase, this.at.next + this.at.immLow);
  }

  /** Goes on at offset `target`, in the region where it is there. */
  goTo(target: number): void {
    const f = this.f;
    const frame = this.frame;
    const block = frame.blockAt(target);
    if (block < 0) {
      this.leaveFor(add(frame.ripBase, target));
      return;
    }
    const page = frame.pageOf(target);
    if (page !== frame.pageOf(this.at.offset)) this.#checkPage(page, target);
    if (target <= this.at.offset) {
      // A loop: let others in from time to time. Without fuel a jump comes back at once.
      const fuel = f.let(sub(this.s32(S.fuel), 1));
      this.setS32(S.fuel, fuel);
      f.ifUnlikely(ltS(fuel, i32(0)), () => this.leaveFor(add(frame.ripBase, target)));
    }
    frame.enterBlock(block);
  }

  /**
   * In front of an instruction that reaches into another page of the region: goes on only where that lies
   * where the region has it; else the interpreter's guard sees to it.
   */
  checkSecondPage(): void {
    this.#checkPage(this.frame.pageOf(this.at.next - 1), this.at.offset);
  }

  /**
   * Goes on only where page `n` of the region lies where the region has it, and holds the code that it had,
   * else by a jump. What maps another page leaves the region.
   */
  #checkPage(n: number, target: number): void {
    const f = this.f;
    const frame = this.frame;
    f.ifUnlikely(eqz(and(frame.known, 1 << n)), () => {
      const page = add(frame.ripBase, frame.firstOf(n));
      const part = add(mul(frame.self, REGION_PARTS), 2 * n);
      f.if(
        eqz(call(this.helper("holdsPart"), page, part)),
        () => this.leaveFor(add(frame.ripBase, target)),
      );
      f.set(frame.known, or(frame.known, 1 << n));
    });
  }

  override host(_id: number): void {
    throw new Untranslatable(this.insn.mnemonic);
  }
}

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
