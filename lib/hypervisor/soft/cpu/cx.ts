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
  atomicRmw,
  call,
  cond,
  constantOf,
  eq,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  geS,
  i32,
  i64,
  load,
  loadSized,
  type Local,
  mul,
  ne,
  OpFe,
  or,
  shl,
  shrS,
  shrU,
  signExtend,
  sub,
  ValType,
  wrap,
  xor as xor64,
  zeroExtend,
} from "../wasm/mod.ts";
import { type Insn, sizeOf } from "./opcode.ts";
import {
  CodeMode,
  CPU,
  FlagKind,
  FuelCost,
  Rec,
  RECORD,
  regOffset,
  S,
  TLB_ENTRIES,
  TLB_ENTRY,
  TlbField,
} from "./state.ts";

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

/** The context of one handler. */
export class Cx {
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
  #ea: Local | undefined;
  #rmwRam: Local | undefined;
  #rmwAddress: Local | undefined;
  #ended = false;

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

  // --- state -------------------------------------------------------------------------------------

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
    this.#storeReg(i32(0), value, { size, offset: regOffset(n) });
  }

  #storeReg(address: Expr, value: Expr, at: { size: number; offset: number }): void {
    if (at.size === 4) this.f.store64(CPU, address, zeroExtend(value, 4), at.offset);
    else this.f.storeSized(at.size, CPU, address, value, at.offset);
  }

  // --- record ------------------------------------------------------------------------------------

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

  // --- operands ----------------------------------------------------------------------------------

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
    this.#storeReg(this.slot(i), value, { size, offset: 0 });
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

  /** The record as faults at `address` shall find it. */
  protected recordFor(_address: Expr): Expr {
    return this.rec;
  }

  /**
   * Where accesses that the TLB does not have leave the function, emits that they do unless `size` bytes at
   * `address` are in `page`, and says true: they are from there on. Handlers do them by a slow path.
   */
  protected leaveUnlessIn(_page: CachedPage, _address: Local, _size: number): boolean {
    return false;
  }

  /** Emits `call`, which may fault. */
  mayFault(call: () => void): void {
    call();
  }

  /** Calls helper `name`, which faults: nothing is changed yet. */
  trap(name: string, ...args: readonly Expr[]): void {
    this.f.call(this.helper(name), ...args, this.rec);
  }

  /** Checks that `size` bytes at `address` can be written, or faults. */
  probeWrite(address: Expr, size: number): void {
    this.mayFault(() =>
      this.f.call(this.runtime.probeWrite, address, i32(size), this.recordFor(address))
    );
  }

  /** The slow path of a store. */
  protected storeSlowly(address: Expr, value: Expr, size: number): void {
    this.f.call(this.slow(this.runtime.storeSlow, size), address, value, this.recordFor(address));
  }

  /** True where {@link leaveUnlessIn} does what it says. */
  protected get leaves(): boolean {
    return false;
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

  /**
   * Atomically changes `size` (1, 2, 4, 8) bytes at linear `address`; gives what they were. Aligned ones
   * are atomic operations of WebAssembly, which are full barriers too.
   */
  atomic(
    address: Local,
    size: number,
    how: { kind: Locked; operand: Expr; expected?: Expr },
  ): Local {
    const f = this.f;
    const { kind } = how;
    const operand = f.let(how.operand);
    const expected = f.let(how.expected ?? i64(0));
    const entry = f.let(this.tlbEntry(address));
    const old = f.local(ValType.I64);
    const page: CachedPage = {
      tag: load.i64(CPU, entry, TlbField.write),
      addend: load.i32(CPU, entry, TlbField.addend),
      own: true,
      // Misaligned addresses match no tag.
      aligned: true,
      missed: () => {},
    };
    const quickly = () => {
      const at = { mem: this.runtime.ram, address: add(page.addend, wrap(address)) };
      const args = kind === Locked.cmpxchg ? [expected, operand] : [operand];
      f.set(old, atomicRmw(lockedOpcode(kind), size, at, ...args));
    };
    if (this.leaveUnlessIn(page, address, size)) {
      quickly();
      return old;
    }
    f.if(
      this.isIn(page, address, size),
      quickly,
      () => {
        const slow = this.helper(`locked${size}`);
        f.set(old, call(slow, address, operand, expected, i32(kind), this.rec));
        this.afterSlowStore();
      },
    );
    return old;
  }

  /** Calls helper `name`, which changes memory at `address`. */
  lockedSlowly(name: string, address: Local): void {
    this.mayFault(() => this.f.call(this.helper(name), address, this.rec));
    this.afterSlowStore();
  }

  /** Called behind a store of generated helpers that may have changed code. */
  protected afterSlowStore(): void {}

  /** A full barrier, where anybody can see it. */
  fence(): void {
    if (this.runtime.smp) this.f.fence();
  }

  // --- guest memory ------------------------------------------------------------------------------

  /** Linear address of the memory operand, computed once. */
  ea(): Local {
    this.#ea ??= this.f.let(this.address());
    return this.#ea;
  }

  /** Base + index + displacement of the record. */
  protected address(): Expr {
    return add(
      add(
        load.i64(CPU, this.rec16(Rec.base)),
        shl(
          load.i64(CPU, this.rec16(Rec.index)),
          load.i64_8u(CPU, this.rec, Rec.scale),
        ),
      ),
      load.i64_32s(CPU, this.rec, Rec.disp),
    );
  }

  /** Effective address without segment base, as LEA gives it (the decoder adds no base there). */
  offset(): Local {
    return this.ea();
  }

  /** Moves the memory operand by `delta` bytes (bit strings). */
  moveEa(delta: Expr): void {
    const ea = this.ea();
    this.#ea = this.f.let(and(add(ea, delta), this.s64(S.linearMask)));
  }

  /** Pushes the low `size` bytes of `value`. */
  push(value: Expr, size: number): void {
    if (size !== 8) {
      this.f.call(this.helper("push"), value, i32(size), this.rec);
      return;
    }
    const v = this.f.let(value);
    const top = this.f.let(sub(this.reg(4, 8), 8));
    this.store(top, v, 8);
    this.setReg(4, top, 8);
  }

  /** The value on top of the stack, without removing it. */
  peek(size: number): Expr {
    if (size !== 8) return call(this.helper("peek"), i32(size), this.rec);
    return this.load(this.f.let(this.reg(4, 8)), 8);
  }

  /** Removes `size` bytes from the stack. */
  dropStack(size: number): void {
    if (size !== 8) this.f.call(this.helper("dropStack"), i64(size));
    else this.setReg(4, add(this.reg(4, 8), 8), 8);
  }

  /** Removes 8 and `extra` bytes (i64) from the 64-bit stack. */
  dropStack64(extra: Expr): void {
    this.setReg(4, add(add(this.reg(4, 8), 8), extra), 8);
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

  protected tlbEntry(address: Expr): Expr {
    return add(
      this.s32(S.tlbBase),
      and(shrU(wrap(address), 12 - Math.log2(TLB_ENTRY)), (TLB_ENTRIES - 1) * TLB_ENTRY),
    );
  }

  /** Linear page of the last byte: equals the tag only where the access stays in one page. */
  #pageOf(address: Expr, size: number): Expr {
    return and(size === 1 ? address : add(address, size - 1), ~0xfffn);
  }

  /** What stands in the TLB where the page of `address` would be. */
  protected cachedPage(address: Local, access: "read" | "write"): CachedPage {
    const entry = this.f.let(this.tlbEntry(address));
    return {
      tag: load.i64(CPU, entry, TlbField[access]),
      addend: load.i32(CPU, entry, TlbField.addend),
      entry,
      own: true,
      missed: () => {},
    };
  }

  /** True (i32) where all `size` bytes at `address` are in `page`. */
  protected isIn(page: CachedPage, address: Local, size: number): Expr {
    if (page.aligned === true && size <= 8) {
      return eq(and(address, ~0xfffn | BigInt(size - 1)), page.tag);
    }
    const end = eq(this.#pageOf(address, size), page.tag);
    return page.own || size === 1 ? end : and(end, eq(this.#pageOf(address, 1), page.tag));
  }

  /** The slow helper for `size` bytes. */
  slow(helpers: ReadonlyMap<number, FuncRef>, size: number): FuncRef {
    const helper = helpers.get(size);
    if (helper === undefined) throw new TypeError(`no helper for accesses of ${size} bytes`);
    return helper;
  }

  /** Loads `size` (1, 2, 4, 8) bytes from linear `address`; faults as the guest's paging says. */
  load(address: Local, size: number): Local {
    const f = this.f;
    const page = this.cachedPage(address, "read");
    const value = f.local(ValType.I64);
    const quickly = () =>
      f.set(value, loadSized(size, this.runtime.ram, add(page.addend, wrap(address))));
    if (this.leaveUnlessIn(page, address, size)) {
      quickly();
      return value;
    }
    f.ifLikely(
      this.isIn(page, address, size),
      quickly,
      () => {
        f.set(
          value,
          call(this.slow(this.runtime.loadSlow, size), address, this.recordFor(address)),
        );
        page.missed();
      },
    );
    return value;
  }

  /** Stores the low `size` (1, 2, 4, 8) bytes of `value` at linear `address`. */
  store(address: Local, value: Expr, size: number): void {
    const f = this.f;
    const v = f.let(value);
    const page = this.cachedPage(address, "write");
    const quickly = () => f.storeSized(size, this.runtime.ram, add(page.addend, wrap(address)), v);
    if (this.leaveUnlessIn(page, address, size)) {
      quickly();
      return;
    }
    f.ifLikely(
      this.isIn(page, address, size),
      quickly,
      () => {
        this.storeSlowly(address, v, size);
        page.missed();
      },
    );
  }

  /** Offset in Runtime.ram of linear `address` where the TLB has its page for that access, else -1 (i32). */
  ramOf(address: Local, access: "read" | "write"): Expr {
    const page = this.cachedPage(address, access);
    return cond(
      this.isIn(page, address, 1),
      add(page.addend, wrap(address)),
      i32(-1),
    );
  }

  /** Loads 16 bytes as v128. */
  load128(address: Local): Local {
    const f = this.f;
    const page = this.cachedPage(address, "read");
    const value = f.local(ValType.V128);
    const quickly = () =>
      f.set(value, load.v128(this.runtime.ram, add(page.addend, wrap(address))));
    if (this.leaveUnlessIn(page, address, 16)) {
      quickly();
      return value;
    }
    f.ifLikely(
      this.isIn(page, address, 16),
      quickly,
      () => {
        const low = f.let(call(this.slow(this.runtime.loadSlow, 8), address, this.rec));
        const high = f.let(call(this.slow(this.runtime.loadSlow, 8), add(address, 8), this.rec));
        this.setS64(S.scratch, low);
        this.setS64(S.scratch + 8, high);
        f.set(value, load.v128(CPU, i32(0), S.scratch));
        page.missed();
      },
    );
    return value;
  }

  /** Stores 16 bytes; nothing is written where any of them faults. */
  store128(address: Local, value: Expr): void {
    const f = this.f;
    const v = f.let(value);
    const page = this.cachedPage(address, "write");
    const quickly = () => f.storeV128(this.runtime.ram, add(page.addend, wrap(address)), v);
    if (this.leaveUnlessIn(page, address, 16)) {
      quickly();
      return;
    }
    f.ifLikely(
      this.isIn(page, address, 16),
      quickly,
      () => {
        f.call(this.runtime.probeWrite, address, i32(16), this.recordFor(address));
        f.storeV128(CPU, i32(0), v, S.scratch);
        this.storeSlowly(address, this.s64(S.scratch), 8);
        this.storeSlowly(add(address, 8), this.s64(S.scratch + 8), 8);
        page.missed();
      },
    );
  }

  // --- control flow ------------------------------------------------------------------------------

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

  // --- flags -------------------------------------------------------------------------------------

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

  /** A registered helper function. */
  helper(name: string): FuncRef {
    const helper = this.runtime.helpers.get(name);
    if (helper === undefined) throw new TypeError(`no helper ${name}`);
    return helper;
  }
}
