/**
 * Guest memory of one instruction under construction: the TLB first, slow paths behind it.
 *
 * @module
 */

import {
  add,
  and,
  atomicRmw,
  call,
  cond,
  eq,
  type Expr,
  type FuncRef,
  i32,
  i64,
  load,
  loadSized,
  type Local,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
} from "../wasm/mod.ts";
import { CPU, Rec, S, TLB_ENTRIES, TLB_ENTRY, TlbField } from "./state.ts";
import { type CachedPage, Locked, lockedOpcode } from "./cx_runtime.ts";
import { FlagsCx } from "./flags_cx.ts";

/** Guest memory of an instruction, beside its flags. */
export abstract class MemoryCx extends FlagsCx {
  #ea: Local | undefined;

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

  /** True where {@link leaveUnlessIn} does what it says. */
  protected get leaves(): boolean {
    return false;
  }

  /** Emits `call`, which may fault. */
  mayFault(call: () => void): void {
    call();
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

  /** Called behind a store of generated helpers that may have changed code. */
  protected afterSlowStore(): void {}

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

  /** A full barrier, where anybody can see it. */
  fence(): void {
    if (this.runtime.smp) this.f.fence();
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
}
