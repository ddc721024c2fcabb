/**
 * Guest memory of an instruction inside a translated region: accesses that the TLB does not have leave it, and
 * pages that were looked up before are kept.
 *
 * @module
 */

import {
  and,
  call,
  eqz,
  type Expr,
  i32,
  i64,
  load,
  Local,
  ltU,
  ne,
  or,
  shrS,
  sub,
  wrap,
} from "../../wasm/mod.ts";
import type { CachedPage } from "../cx.ts";
import { CPU, pseudoRecord, S, TlbField } from "../state.ts";
import { isPlain } from "./lazy_flags.ts";
import { gprOf, type NearPage } from "./region_frame.ts";
import { RegionFlagsCx } from "./region_flags_cx.ts";

/** Farthest displacement from one before that is likely in the same page. */
const NEAR = 512;

/** Instructions that do nothing behind their one store. */
const STORES_LAST = /^(mov|movnti|set\w+|add|or|adc|sbb|and|sub|xor|not)$/;

/** Guest memory of an instruction in a region, beside its registers and flags. */
export abstract class RegionMemoryCx extends RegionFlagsCx {
  /** Address of the operand as its record says it. */
  #ea: Local | undefined;
  /** Addresses on the stack. */
  readonly #stack = new Set<Local>();
  /** The page of the operand's last access, where the block keeps it. */
  #accessed: CachedPage | undefined;
  /** What an instruction still does behind its last store. */
  #commit: (() => void) | undefined;
  /** True where the region is to be left behind the instruction when a store changed code. */
  stores = false;

  protected override recordFor(address: Expr): Expr {
    const onStack = this.at.stack || (address instanceof Local && this.#stack.has(address));
    return onStack === this.at.stack
      ? this.rec
      : i32(pseudoRecord(this.at.offset - this.frame.origin, true));
  }

  protected override get leaves(): boolean {
    return this.frame.missed !== undefined;
  }

  #leave(): void {
    const { missed, block } = this.frame;
    if (missed === undefined) throw new TypeError("a region that does not leave");
    this.f.set(block, i32(this.at.offset));
    this.f.br(missed);
  }

  protected override leaveUnlessIn(page: CachedPage, address: Local, size: number): boolean {
    const { f } = this;
    if (!this.leaves) return false;
    const near = this.#nearOf(page);
    const { disp } = this.at;
    if (near !== undefined && near.from <= disp && disp + size <= near.to) return true;
    const missing = () => eqz(this.isIn(page, address, size));
    f.ifUnlikely(missing(), () => {
      if (page.find === undefined) this.#leave();
      else {
        page.find();
        f.ifUnlikely(missing(), () => this.#leave());
      }
    });
    // What has an end in between may go on without this.
    if (near !== undefined && f.depth === this.depth && isPlain(this.at)) {
      const isFirst = near.from === near.to;
      near.from = isFirst ? disp : Math.min(near.from, disp);
      near.to = isFirst ? disp + size : Math.max(near.to, disp + size);
    }
    return true;
  }

  /** What is known of `page`, where it is that of the operand and the block keeps it. */
  #nearOf(page: CachedPage): NearPage | undefined {
    const near = this.frame.pages.get(this.#key);
    return this.#accessed === page && near?.page.tag === page.tag ? near : undefined;
  }

  /** Of what is known to be in a page, another address is in it where it is not too far from its beginning. */
  protected override isIn(page: CachedPage, address: Local, size: number): Expr {
    const near = this.#nearOf(page);
    if (!isKnown(near)) return super.isIn(page, address, size);
    return ltU(sub(address, page.tag), i64(BigInt(4097 - size)));
  }

  override mayFault(call: () => void): void {
    const { f } = this;
    const { faulted, faultTag } = this.frame;
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
        this.leaveFor(this.nextRip());
      });
      return;
    }
    this.stores = true;
    this.f.set(this.frame.stale, this.s32(S.codeChanged));
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
    const { base, index, wide } = this.at;
    if (wide === undefined && gprOf(base) === 4 && gprOf(index) < 0) this.#stack.add(ea);
    return ea;
  }

  protected override cachedPage(address: Local, access: "read" | "write"): CachedPage {
    const { stackTag, stackAddend } = this.frame;
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

  /** What addresses with the operand's registers have in common. */
  get #key(): string {
    const { base, index, scale } = this.at;
    return `${base} ${index} ${scale}`;
  }

  /**
   * The page of an access near one before with the same registers: what the TLB held then is held
   * against it, as nothing takes a page away within a region.
   */
  #nearPage(address: Local, access: "read" | "write"): CachedPage {
    const at = this.at;
    if (address !== this.#ea || at.wide !== undefined) return super.cachedPage(address, access);
    const { pages } = this.frame;
    const near = pages.get(this.#key);
    const isNear = near !== undefined && Math.abs(near.disp - at.disp) <= NEAR;
    if (isNear && (access === "read" || near.writable)) {
      this.#accessed = near.page;
      return near.page;
    }
    // For a write after a read, the same entry again: another page may be in it by now.
    const entry = isNear ? near.page.entry : undefined;
    if (entry !== undefined && isKnown(near) && this.leaves && this.f.depth === this.depth) {
      return this.#writable(near, entry);
    }
    const page = entry === undefined ? super.cachedPage(address, access) : {
      tag: load.i64(CPU, entry, TlbField.write),
      addend: load.i32(CPU, entry, TlbField.addend),
      entry,
      own: false,
      missed: () => {},
    };
    if (this.f.depth !== this.depth) return page;
    const kept = { ...page, tag: this.f.let(page.tag), addend: this.f.let(page.addend) };
    pages.set(this.#key, {
      page: { ...kept, own: false },
      disp: at.disp,
      // Where others may decode code in the page meanwhile, each store asks.
      writable: access === "write" && !this.runtime.smp,
      registers: [gprOf(at.base), gprOf(at.index)],
      from: at.disp,
      to: at.disp,
    });
    this.#accessed = kept;
    return kept;
  }

  /** `near`, of which `entry` was read: goes on where it may be written. */
  #writable(near: NearPage, entry: Local): CachedPage {
    this.f.ifUnlikely(ne(load.i64(CPU, entry, TlbField.write), near.page.tag), () => this.#leave());
    if (!this.runtime.smp && isPlain(this.at)) {
      this.frame.pages.set(this.#key, { ...near, writable: true });
    }
    this.#accessed = near.page;
    return near.page;
  }
}

/** Whether something is known to be in the page of `near`. */
function isKnown(near: NearPage | undefined): near is NearPage {
  return near !== undefined && near.from < near.to;
}
