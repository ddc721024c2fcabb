/**
 * Semantics inside a translated region: general registers and arithmetic flags are WebAssembly locals,
 * operands are known, and branches within the region stay in it.
 *
 * @module
 */

import {
  add,
  and,
  call,
  cond,
  eq,
  eqz,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  i32,
  i64,
  type Label,
  leS,
  leU,
  load,
  Local,
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
  zeroExtend,
} from "../../wasm/mod.ts";
import { type CachedPage, Cx, type FlagsOf, type Runtime } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, Exit, FlagKind, pseudoRecord, Rec, Reg, S, TlbField } from "../state.ts";
import { isPlain, keep, type LazyFlags, type PendingFlags } from "./lazy_flags.ts";

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

/** Farthest displacement from one before that is likely in the same page. */
const NEAR = 512;

/** A page that the block being written has looked up. */
export interface NearPage {
  readonly page: CachedPage;
  readonly disp: number;
  readonly writable: boolean;
  /** The registers of the address, -1 for none. */
  readonly registers: readonly number[];
}

/** The region around an instruction. */
export interface RegionFrame {
  /** The general registers; undefined for one that stays in the state, see chooseRegisters. */
  readonly gpr: readonly (Local | undefined)[];
  readonly flagResult: Local;
  readonly flagAux: Local;
  /** i32. */
  readonly flagKind: Local;
  /** Kind and result that CF follows from where flagKind has FlagKind.step. */
  readonly carryKind: Local;
  readonly carryResult: Local;
  readonly ripBase: Local;
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
  /** Offset of an entry of the region in its page `n`, and its {@link Rec.block}. */
  proofOf(n: number): { readonly offset: number; readonly entry: number };
  /** Notes that register `n` is used. */
  readonly read: Set<number>;
  /** Notes that register `n` is written. */
  readonly written: Set<number>;
}

const LOW = 0xffffffffn;

/** Instructions that do nothing behind their one store. */
const STORES_LAST = /^(mov|movnti|set\w+|add|or|adc|sbb|and|sub|xor|not)$/;

/** True where the instruction accesses the stack by RSP alone. */
export function usesStack(at: RegionInsn): boolean {
  if (/^(push|pop|call|ret)$/.test(at.insn.mnemonic)) return true;
  return at.mem && at.wide === undefined && gprOf(at.base) === 4 && gprOf(at.index) < 0 &&
    at.insn.mnemonic !== "lea";
}

/** Number of the general register whose slot is at `slot`, or -1. */
function gprOf(slot: number): number {
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

/** Context of one instruction in a region. */
export class RegionCx extends Cx {
  readonly #at: RegionInsn;
  readonly #frame: RegionFrame;
  readonly #end: Label | undefined;
  /** Open blocks where every path through the instruction comes by. */
  readonly #depth: number;
  /** Address of the operand as its record says it. */
  #ea: Local | undefined;
  /** Addresses on the stack. */
  readonly #stack = new Set<Local>();
  /** What an instruction still does behind its last store. */
  #commit: (() => void) | undefined;
  /** True where the region is to be left behind the instruction when a store changed code. */
  stores = false;

  constructor(
    f: FuncBuilder,
    runtime: Runtime,
    options: { at: RegionInsn; frame: RegionFrame; end: Label | undefined },
  ) {
    super(f, runtime, {
      insn: options.at.insn,
      size: options.at.size,
      mem: options.at.mem,
      locked: options.at.locked,
      rec: i32(pseudoRecord(options.at.offset, options.at.stack)),
    });
    this.#at = options.at;
    this.#frame = options.frame;
    this.#end = options.end;
    this.#depth = f.depth;
    if (!isPlain(options.at)) options.frame.flags.pending = undefined;
  }

  protected override recordFor(address: Expr): Expr {
    const onStack = this.#at.stack || (address instanceof Local && this.#stack.has(address));
    return onStack === this.#at.stack ? this.rec : i32(pseudoRecord(this.#at.offset, true));
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

  override s32(offset: number): Expr {
    switch (offset) {
      case S.flagKind:
        return this.#frame.flagKind;
      case S.tlbBase:
        return this.#frame.tlbBase;
      default:
        return super.s32(offset);
    }
  }

  override setS64(offset: number, value: Expr): void {
    if (offset === S.flagResult || offset === S.flagAux) {
      const { flags, flagResult, flagAux } = this.#frame;
      this.f.set(offset === S.flagResult ? flagResult : flagAux, value);
      flags.pending = undefined;
    } else super.setS64(offset, value);
  }

  override setS32(offset: number, value: Expr): void {
    if (offset === S.flagKind) {
      this.f.set(this.#frame.flagKind, value);
      return;
    }
    super.setS32(offset, value);
    if (offset === S.tlbBase) this.#changeTlb();
  }

  /** What another TLB held may not be accessible now. */
  #changeTlb(): void {
    const { tlbBase, stackTag, pages } = this.#frame;
    this.f.set(tlbBase, super.s32(S.tlbBase));
    if (stackTag !== undefined) this.f.set(stackTag, i64(-1));
    pages.clear();
  }

  #gpr(n: number): Expr {
    const local = this.#frame.gpr[n];
    if (local === undefined) return super.reg(n, 8);
    this.#frame.read.add(n);
    return local;
  }

  override reg(n: number, size: number): Expr {
    return zeroExtend(this.#gpr(n), size);
  }

  override setReg(n: number, value: Expr, size: number): void {
    this.#write(n, value, { size, high: false });
  }

  #write(n: number, value: Expr, how: { size: number; high: boolean }): void {
    const local = this.#frame.gpr[n];
    for (const [key, { registers }] of this.#frame.pages) {
      if (registers.includes(n)) this.#frame.pages.delete(key);
    }
    const { size } = how;
    const whole = () => {
      if (size >= 4) return zeroExtend(value, size);
      const before = local ?? super.reg(n, 8);
      if (how.high) return or(and(before, ~0xff00n), shl(and(value, 0xff), 8));
      const mask = size === 1 ? 0xffn : 0xffffn;
      return or(and(before, ~mask), and(value, mask));
    };
    // All of it in memory, too: processors wait where a load needs more than the store before it wrote.
    if (local === undefined) super.setReg(n, whole(), 8);
    else {
      this.#frame.written.add(n);
      this.#frame.read.add(n);
      this.f.set(local, whole());
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

  override get ofOneRegister(): boolean {
    const { mem, a, b, insn } = this.#at;
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
    return i64(imm64(this.#at));
  }

  override rec16(field: number): Expr {
    switch (field) {
      case Rec.a:
        return i32(this.#at.a);
      case Rec.b:
        return i32(this.#at.b);
      case Rec.base:
        return i32(this.#at.base);
      case Rec.index:
        return i32(this.#at.index);
      case Rec.seg:
        return i32(this.#at.seg);
      default:
        throw new TypeError(`${this.insn.mnemonic}: field ${field} of a record`);
    }
  }

  override extra(): Expr {
    return i32(this.#at.extra);
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

  protected override get leaves(): boolean {
    return this.#frame.missed !== undefined;
  }

  #leave(): void {
    const { missed, block } = this.#frame;
    if (missed === undefined) throw new TypeError("a region that does not leave");
    this.f.set(block, i32(this.#at.offset));
    this.f.br(missed);
  }

  protected override leaveUnlessIn(page: CachedPage, address: Local, size: number): boolean {
    const { f } = this;
    if (!this.leaves) return false;
    const missing = () => eqz(this.isIn(page, address, size));
    f.ifUnlikely(missing(), () => {
      if (page.find === undefined) this.#leave();
      else {
        page.find();
        f.ifUnlikely(missing(), () => this.#leave());
      }
    });
    return true;
  }

  override mayFault(call: () => void): void {
    const { f } = this;
    const { faulted, faultTag } = this.#frame;
    if (!this.leaves) {
      call();
      return;
    }
    f.block((done) => {
      f.tryCatch(faultTag, () => {
        call();
        f.br(done);
      });
      f.br(faulted);
    });
  }

  override trap(name: string, ...args: readonly Expr[]): void {
    if (this.leaves) this.#leave();
    else super.trap(name, ...args);
  }

  override raise(vector: number, error?: Expr): void {
    if (this.leaves) this.#leave();
    else super.raise(vector, error);
  }

  protected override storeSlowly(address: Expr, value: Expr, size: number): void {
    super.storeSlowly(address, value, size);
    this.afterSlowStore();
  }

  protected override afterSlowStore(): void {
    if (this.#commit !== undefined || (!this.locked && STORES_LAST.test(this.insn.mnemonic))) {
      this.f.ifUnlikely(this.s32(S.codeChanged), () => {
        this.#commit?.();
        this.setS32(S.codeChanged, i32(0));
        this.#leaveFor(this.nextRip());
      });
      return;
    }
    this.stores = true;
    this.f.set(this.#frame.stale, this.s32(S.codeChanged));
  }

  override push(value: Expr, size: number): void {
    if (size !== 8) {
      super.push(value, size);
      return;
    }
    const v = this.f.let(value);
    const top = this.f.let(sub(this.reg(4, 8), 8));
    this.#stack.add(top);
    const commit = () => this.setReg(4, top, 8);
    if (this.insn.mnemonic === "push") this.#commit = commit;
    this.store(top, v, 8);
    commit();
  }

  override peek(size: number): Expr {
    if (size !== 8) return super.peek(size);
    const top = this.f.let(this.reg(4, 8));
    this.#stack.add(top);
    return this.load(top, 8);
  }

  override ea(): Local {
    const ea = super.ea();
    this.#ea ??= ea;
    const { base, index, wide } = this.#at;
    if (wide === undefined && gprOf(base) === 4 && gprOf(index) < 0) this.#stack.add(ea);
    return ea;
  }

  protected override cachedPage(address: Local, access: "read" | "write"): CachedPage {
    const { stackTag, stackAddend } = this.#frame;
    if (stackTag === undefined || !this.#stack.has(address)) return this.#nearPage(address, access);
    return {
      tag: stackTag,
      addend: stackAddend,
      own: false,
      aligned: true,
      find: () => {
        const { f } = this;
        const entry = f.let(this.tlbEntry(address));
        f.set(stackTag, load.i64(CPU, entry, TlbField.write));
        f.set(stackAddend, load.i32(CPU, entry, TlbField.addend));
      },
      missed: () => {
        const { f } = this;
        // Negative where the TLB has no such page to write.
        const found = f.let(call(this.helper("stackPage"), address));
        f.set(stackAddend, wrap(found));
        f.set(stackTag, or(and(address, ~0xfffn), shrS(found, 63)));
      },
    };
  }

  /**
   * The page of an access near one before with the same registers: what the TLB held then is held
   * against it, as nothing takes a page away within a region.
   */
  #nearPage(address: Local, access: "read" | "write"): CachedPage {
    const at = this.#at;
    if (address !== this.#ea || at.wide !== undefined) return super.cachedPage(address, access);
    const { pages } = this.#frame;
    const key = `${at.base} ${at.index} ${at.scale}`;
    const near = pages.get(key);
    const isNear = near !== undefined && Math.abs(near.disp - at.disp) <= NEAR;
    if (isNear && (access === "read" || near.writable)) return near.page;
    // For a write after a read, the same entry again: another page may be in it by now.
    const entry = isNear ? near.page.entry : undefined;
    const page = entry === undefined ? super.cachedPage(address, access) : {
      tag: load.i64(CPU, entry, TlbField.write),
      addend: load.i32(CPU, entry, TlbField.addend),
      entry,
      own: false,
      missed: () => {},
    };
    if (this.f.depth !== this.#depth) return page;
    const kept = { ...page, tag: this.f.let(page.tag), addend: this.f.let(page.addend) };
    pages.set(key, {
      page: { ...kept, own: false },
      disp: at.disp,
      // Where others may decode code in the page meanwhile, each store asks.
      writable: access === "write" && !this.runtime.smp,
      registers: [gprOf(at.base), gprOf(at.index)],
    });
    return kept;
  }

  // --- control flow ------------------------------------------------------------------------------

  override jump(rip: Expr): void {
    if (this.insn.mnemonic === "ret") {
      for (const offset of this.#frame.returns()) {
        this.f.if(eq(rip, add(this.#frame.ripBase, offset)), () => this.goTo(offset));
      }
    }
    this.#leaveFor(rip);
  }

  /** Goes on at `rip`, wherever that is. */
  #leaveFor(rip: Expr): void {
    this.f.set(this.#frame.target, rip);
    this.f.br(this.#frame.exit);
  }

  override next(): void {
    if (this.#end === undefined) {
      throw new TypeError(`${this.insn.mnemonic} does not end in between`);
    }
    this.f.br(this.#end);
  }

  /** A string instruction that is not finished begins again. */
  override dispatch(_record: Expr): void {
    this.#leaveFor(this.rip());
  }

  /** Behind the instruction: leaves where it changed code. */
  leaveWhereStale(): void {
    this.#leaveWhereStale(this.#at.next);
  }

  #leaveWhereStale(target: number): void {
    this.f.ifUnlikely(this.#frame.stale, () => {
      this.f.store32(CPU, i32(0), i32(0), S.codeChanged);
      this.#leaveFor(add(this.#frame.ripBase, target));
    });
  }

  override leave(exit: number): void {
    if (exit !== Exit.Fuel) throw new Untranslatable(this.insn.mnemonic);
    this.f.br(this.#frame.outOfFuel);
  }

  override branch(): void {
    const target = this.#at.next + this.#at.immLow;
    this.goTo(target);
  }

  override branchIf(taken: Expr): void {
    const label = this.#straightTo(this.#at.next + this.#at.immLow);
    if (label === undefined) this.f.if(taken, () => this.branch());
    else this.f.brIf(label, taken);
  }

  /** The label of the block at offset `target`, where a branch there has nothing else to do. */
  #straightTo(target: number): Label | undefined {
    const frame = this.#frame;
    const block = frame.blockAt(target);
    const near = block >= 0 && target > this.#at.offset &&
      frame.pageOf(target) === frame.pageOf(this.#at.offset);
    return near ? frame.labelOf(block) : undefined;
  }

  override branchToCallee(): void {
    const target = this.#at.next + this.#at.immLow;
    if (this.stores) this.#leaveWhereStale(target);
    this.goTo(target);
  }

  override branchTarget(): Expr {
    return add(this.#frame.ripBase, this.#at.next + this.#at.immLow);
  }

  /** Goes on at offset `target`, in the region where it is there. */
  goTo(target: number): void {
    const f = this.f;
    const frame = this.#frame;
    const block = frame.blockAt(target);
    if (block < 0) {
      this.#leaveFor(add(frame.ripBase, target));
      return;
    }
    const page = frame.pageOf(target);
    if (page !== frame.pageOf(this.#at.offset)) this.#checkPage(page, target);
    if (target <= this.#at.offset) {
      // A loop: let others in from time to time. Without fuel a jump comes back at once.
      const fuel = f.let(sub(this.s32(S.fuel), 1));
      this.setS32(S.fuel, fuel);
      f.ifUnlikely(ltS(fuel, i32(0)), () => this.#leaveFor(add(frame.ripBase, target)));
    }
    frame.enterBlock(block);
  }

  /**
   * In front of an instruction that reaches into another page of the region: goes on only where that lies
   * where the region has it; else the interpreter's guard sees to it.
   */
  checkSecondPage(): void {
    this.#checkPage(this.#frame.pageOf(this.#at.next - 1), this.#at.offset);
  }

  /**
   * Goes on only where page `n` of the region lies where the region has it, else by a jump: an entry of
   * the region is there only as long as the code is. What maps another page leaves the region.
   */
  #checkPage(n: number, target: number): void {
    const f = this.f;
    const frame = this.#frame;
    f.ifUnlikely(eqz(and(frame.known, 1 << n)), () => {
      const { offset, entry } = frame.proofOf(n);
      const proof = add(frame.ripBase, offset);
      f.if(
        eqz(call(this.helper("entersRegion"), proof, or(frame.self, entry << 16))),
        () => this.#leaveFor(add(frame.ripBase, target)),
      );
      f.set(frame.known, or(frame.known, 1 << n));
    });
  }

  // --- flags -------------------------------------------------------------------------------------

  override setFlags(result: Expr, aux: Expr, kind?: Expr): void {
    if (this.#skipsFlags()) return;
    this.#frame.flags.pending = undefined;
    super.setFlags(result, aux, kind);
  }

  override setCarryOverflow(cf: Expr, of: Expr): void {
    const { flags, flagKind, flagAux } = this.#frame;
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
    if (this.f.depth === this.#depth) this.#frame.flags.pending = note;
  }

  /** True where nobody will see the flags; then they are those of nothing. */
  #skipsFlags(): boolean {
    const { flags } = this.#frame;
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
    const { flags, flagKind, flagResult, carryKind, carryResult } = this.#frame;
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
    const p = this.#frame.flags.pending;
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
    const p = this.#frame.flags.pending;
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
    const p = this.#frame.flags.pending;
    return p === undefined ? super.zf() : eqz(high(p.result, p.size));
  }

  override sf(): Expr {
    const p = this.#frame.flags.pending;
    return p === undefined ? super.sf() : top(p.result, p.size);
  }

  override pf(): Expr {
    const p = this.#frame.flags.pending;
    return p === undefined ? super.pf() : this.parity(wrap(p.result));
  }

  override less(): Expr {
    const p = this.#frame.flags.pending;
    if (p === undefined) return super.less();
    const at = p.size;
    if (p.kind === "sub" && p.carry === undefined) return ltS(high(p.a, at), high(p.b, at));
    const value = high(p.result, at);
    return p.kind === "logic"
      ? ltS(value, value.type === ValType.I64 ? i64(0) : i32(0))
      : super.less();
  }

  override lessOrEqual(): Expr {
    const p = this.#frame.flags.pending;
    if (p?.kind === "sub" && p.carry === undefined) {
      return leS(high(p.a, p.size), high(p.b, p.size));
    }
    return super.lessOrEqual();
  }

  override belowOrEqual(): Expr {
    const p = this.#frame.flags.pending;
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
    const { flagResult, flagAux, flagKind, carryKind, carryResult } = this.#frame;
    const of = [flagKind, flagAux, flagResult, carryKind, carryResult];
    return cond(flagKind, call(this.helper("flagAuxOfStep"), ...of), flagAux);
  }

  override arithFlags(): Expr {
    super.setS64(S.flagResult, this.#frame.flagResult);
    super.setS64(S.flagAux, this.plainAux());
    super.setS32(S.flagKind, i32(FlagKind.plain));
    return super.arithFlags();
  }

  override setArithFlags(rflags: Expr): void {
    super.setArithFlags(rflags);
    this.setFlags(load.i64(CPU, i32(0), S.flagResult), load.i64(CPU, i32(0), S.flagAux));
  }

  override host(_id: number): void {
    throw new Untranslatable(this.insn.mnemonic);
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
