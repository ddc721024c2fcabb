/**
 * What an instruction's semantics are written against: operands, guest memory, flags, control flow.
 * This one makes interpreter handlers: functions `(record) -> exit` that read their operands from a
 * decoded record and tail-call the handler of the next one.
 *
 * Rules for semantics: everything that can fault comes before the first change of architectural state;
 * values are i64, zero-extended from the operand size when read and with free upper bits when written.
 *
 * @module
 */

import {
  add,
  and,
  call,
  constantOf,
  eq,
  type Expr,
  geS,
  i32,
  i64,
  load,
  loadSized,
  type Local,
  ne,
  shl,
  shrS,
  sub,
  ValType,
  wrap,
  zeroExtend,
} from "../wasm/mod.ts";
import { sizeOf } from "./opcode.ts";
import { CodeMode, CPU, FuelCost, Rec, RECORD, regOffset, S } from "./state.ts";
import { HostResult, Locked } from "./cx_runtime.ts";
import { MemoryCx } from "./memory_cx.ts";

export {
  type CachedPage,
  type FlagsOf,
  HostResult,
  Locked,
  lockedOpcode,
  type Runtime,
} from "./cx_runtime.ts";

/** The context of one handler. */
export class Cx extends MemoryCx {
  #rmwRam: Local | undefined;
  #rmwAddress: Local | undefined;
  #ended = false;

  /** Size in bytes of operand `i`. */
  operandSize(i: number): number {
    const spec = this.insn.operands[i];
    if (spec === undefined) throw new TypeError(`${this.insn.mnemonic} has no operand ${i}`);
    return sizeOf(spec.size, this.size);
  }

  #kind(i: number): string {
    const kind = this.insn.operands[i]?.kind;
    if (kind === undefined) throw new TypeError(`${this.insn.mnemonic} has no operand ${i}`);
    return kind;
  }

  /** True where operand `i` is in memory. */
  isMemory(i: number): boolean {
    const kind = this.#kind(i);
    return kind === "M" || kind === "O" ||
      ((kind === "E" || kind === "W" || kind === "Q") && this.mem);
  }

  /** Address in CPU state of register operand `i` (general, XMM, MMX, segment number...). */
  slot(i: number): Expr {
    switch (this.#kind(i)) {
      case "G":
      case "Z":
      case "V":
      case "P":
        return this.rec16(Rec.a);
      case "E":
      case "R":
      case "W":
      case "U":
      case "Q":
      case "N":
        return this.rec16(Rec.b);
      case "A":
        return i32(regOffset(0));
      case "CL":
        return i32(regOffset(1));
      default:
        throw new TypeError(`${this.insn.mnemonic}: operand ${i} is not a register`);
    }
  }

  /**
   * Reads operand `i`: i64, zero-extended (an immediate is sign-extended to the operand size), or with any
   * upper bits where nobody looks at them.
   */
  get(i: number, upper: "clear" | "any" = "clear"): Expr {
    const size = this.operandSize(i);
    switch (this.#kind(i)) {
      case "I":
      case "Is":
        return this.immediate();
      case "1":
        return i64(1);
      default:
        if (this.isMemory(i)) return this.load(this.ea(), size);
        return upper === "any" ? this.readLow(i, size) : this.readRegister(i, size);
    }
  }

  /** `value` as something that keeps it: a constant, or a local. */
  hold(value: Expr): Expr {
    return constantOf(value) === undefined ? this.f.let(value) : value;
  }

  /** True where both operands are known to be the same register. */
  get ofOneRegister(): boolean {
    return false;
  }

  /** Reads the low `size` bytes of register operand `i`, with any bits above. */
  protected readLow(i: number, size: number): Expr {
    return this.readRegister(i, size);
  }

  /** Immediate of the record, sign-extended. */
  protected immediate(): Expr {
    return load.i64(CPU, this.rec, Rec.imm);
  }

  /** Reads register operand `i`. */
  protected readRegister(i: number, size: number): Expr {
    return loadSized(size, CPU, this.slot(i));
  }

  /** Writes register operand `i`. */
  protected writeRegister(i: number, value: Expr, size: number): void {
    this.storeReg(this.slot(i), value, { size, offset: 0 });
  }

  /** Writes operand `i`; after {@link modify} of the same operand it completes that. */
  set(i: number, value: Expr): void {
    const size = this.operandSize(i);
    if (!this.isMemory(i)) {
      this.writeRegister(i, value, size);
      return;
    }
    const ram = this.#rmwRam;
    const address = this.#rmwAddress;
    if (ram === undefined || address === undefined) {
      this.store(this.ea(), value, size);
      return;
    }
    const v = this.f.let(value);
    if (this.leaves) {
      this.f.storeSized(size, this.runtime.ram, ram, v);
      return;
    }
    this.f.ifLikely(
      ne(ram, i32(-1)),
      () => this.f.storeSized(size, this.runtime.ram, ram, v),
      () => this.storeSlowly(address, v, size),
    );
  }

  /** Calls helper `name`, which faults: nothing is changed yet. */
  trap(name: string, ...args: readonly Expr[]): void {
    this.f.call(this.helper(name), ...args, this.rec);
  }

  /** Reads operand `i` in order to write it: a memory operand is checked for writing first. */
  modify(i: number, upper: "clear" | "any" = "clear"): Expr {
    if (!this.isMemory(i)) return this.get(i, upper);
    const size = this.operandSize(i);
    const address = this.ea();
    const f = this.f;
    const page = this.cachedPage(address, "write");
    const ram = f.local(ValType.I32);
    const value = f.local(ValType.I64);
    this.#rmwRam = ram;
    this.#rmwAddress = address;
    if (this.leaveUnlessIn(page, address, size)) {
      f.set(ram, add(page.addend, wrap(address)));
      f.set(value, loadSized(size, this.runtime.ram, ram));
      return value;
    }
    f.ifLikely(
      this.isIn(page, address, size),
      () => {
        f.set(ram, add(page.addend, wrap(address)));
        f.set(value, loadSized(size, this.runtime.ram, ram));
      },
      () => {
        f.set(
          value,
          call(this.slow(this.runtime.modifySlow, size), address, this.recordFor(address)),
        );
        f.set(ram, i32(-1));
        page.missed();
      },
    );
    return value;
  }

  /** Atomically replaces memory operand 0 by `kind` of it and `operand`; gives what it was. */
  rmw(kind: Exclude<Locked, Locked.cmpxchg>, operand: Expr): Local {
    return this.atomic(this.ea(), this.operandSize(0), { kind, operand });
  }

  /** Direct branch: to the linked record where it is in this page, else by {@link Rec.imm}. */
  branch(): void {
    const f = this.f;
    const fuel = f.let(sub(this.s32(S.fuel), FuelCost.branch));
    const link = f.let(load.i32(CPU, this.rec, Rec.link));
    f.if(and(ne(link, i32(0)), geS(fuel, i32(0))), () => {
      this.setS32(S.fuel, fuel);
      this.dispatch(link);
    });
    const target = f.let(this.branchTarget());
    if (this.size !== 8) this.checkTarget(target);
    f.returnCall(this.helper("branchSlow"), this.rec, target);
  }

  /** Branches where `taken` holds (i32), else goes on behind the instruction. */
  branchIf(taken: Expr): void {
    this.f.if(taken, () => {
      this.#note(Rec.taken);
      this.branch();
    });
    this.#note(Rec.passed);
  }

  /** Notes in the record that the branch went one way. */
  #note(way: number): void {
    this.f.store8(CPU, this.rec, i32(1), way);
  }

  /** Goes on at `target`, the target of this direct call. */
  branchToCallee(target: Expr): void {
    this.jump(target);
  }

  /** Address of the target of a direct branch, cut to the operand size. */
  branchTarget(): Expr {
    const target = add(this.nextRip(), load.i64_32s(CPU, this.rec, Rec.imm));
    return this.size === 2 ? and(target, 0xffff) : this.size === 4 ? zeroExtend(target, 4) : target;
  }

  /** Continues at `rip`. Nothing may follow on this path. */
  jump(rip: Expr): void {
    this.f.returnCall(this.runtime.jump, rip);
  }

  /**
   * Faults unless near branches may go to `rip`: #GP(0) beyond the limit of CS, or where it is not
   * canonical. To be asked before anything is changed.
   */
  checkTarget(rip: Local): void {
    this.f.ifUnlikely(
      this.size === 8
        ? ne(shrS(shl(rip, 16), 16), rip)
        : ne(and(this.s32(S.codeTag), CodeMode.segmented), i32(0)),
      () => this.trap("checkTarget", rip),
    );
  }

  /** Continues with the next record. Nothing may follow on this path. */
  next(): void {
    this.dispatch(add(this.rec, RECORD));
  }

  /** Continues with `record`. */
  dispatch(record: Expr): void {
    const target = record.type === ValType.I32 ? this.f.let(record) : record;
    this.f.returnCallIndirect(
      this.runtime.handlerType,
      load.i32_16u(CPU, target, Rec.handler),
      target,
    );
  }

  /** Leaves generated code with `exit`. */
  leave(exit: number): void {
    this.f.return(i32(exit));
  }

  /** The handler ends itself on every path: no next record is dispatched after it. */
  end(): void {
    this.#ended = true;
  }

  /** True after {@link end}. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Raises exception `vector`, with an error code where one is given. Does not come back. */
  raise(vector: number, error?: Expr): void {
    this.f.call(
      this.runtime.raise,
      i32(vector),
      error ?? i32(0),
      i32(error === undefined ? 0 : 1),
      this.rec,
    );
    this.f.unreachable();
  }

  /**
   * Lets TypeScript do this instruction (host function `id`), with `S.rip` set to the next
   * instruction and `S.record` to this record. Ends the handler.
   */
  host(id: number): void {
    this.setS64(S.rip, this.nextRip());
    this.setS32(S.record, this.rec);
    const result = this.f.let(call(this.runtime.host, i32(id), this.rec));
    this.f.if(eq(result, HostResult.Next), () => this.next());
    this.f.if(eq(result, HostResult.Jump), () => this.jump(this.s64(S.rip)));
    this.f.return(this.s32(S.exit));
    this.end();
  }
}
