/**
 * Builder of functions in the WebAssembly binary format (core specification 3.0, 5.4 and 5.5.13).
 *
 * @module
 */

import { ByteWriter } from "./bytes.ts";
import { callIndex, Expr, Local } from "./expr.ts";
import { memarg } from "./memory_access.ts";
import { type FuncType, Op, OpFd, OpFe, ValType } from "./types.ts";

/** A function that can be called: imported or defined. */
export interface FuncRef {
  readonly index: number;
  readonly type: FuncType;
}

/** A target of branches. */
export interface Label {
  readonly depth: number;
}

/** Calls `func` for its value. */
export function call(func: FuncRef, ...args: Expr[]): Expr {
  const result = func.type.results[0];
  if (result === undefined) throw new TypeError("call of a function without result as a value");
  if (args.length !== func.type.params.length) throw new TypeError("argument count differs");
  return callIndex(result, func.index, args);
}

/** Body of a function under construction; statements are appended in order. */
export class FuncBuilder implements FuncRef {
  /** Place in the module; imports that come later move it. */
  index: number;
  readonly type: FuncType;
  /** Parameters, in order. */
  readonly params: readonly Local[];
  readonly #locals: ValType[] = [];
  /** Branch hints, as places in `out` and what is likely. */
  readonly #hints: [number, 0 | 1][] = [];
  #scope: Local[] | undefined;
  readonly #released = new Map<ValType, Local[]>();
  /** Where statements go. */
  out: ByteWriter = new ByteWriter(128);
  /** What stands before all of it. */
  readonly #front: ByteWriter = new ByteWriter(16);
  #depth = 0;

  constructor(index: number, type: FuncType) {
    this.index = index;
    this.type = type;
    this.params = type.params.map((t, i) => new Local(t, i));
  }

  /** How many blocks are open here. */
  get depth(): number {
    return this.#depth;
  }

  /** Parameter `i`. */
  param(i: number): Local {
    const p = this.params[i];
    if (p === undefined) throw new TypeError(`function has no parameter ${i}`);
    return p;
  }

  /**
   * Declares a local; with `value` it is set here. In {@link scope} it may be one that was released, so
   * it holds anything until it is set.
   */
  local(type: ValType, value?: Expr): Local {
    let local = this.#scope === undefined ? undefined : this.#released.get(type)?.pop();
    if (local === undefined) {
      local = new Local(type, this.params.length + this.#locals.length);
      this.#locals.push(type);
    }
    this.#scope?.push(local);
    if (value !== undefined) this.set(local, value);
    return local;
  }

  /**
   * Runs `body` and returns the locals that it declared, for {@link release}. Compilers take time by the
   * local at each branch, so long functions should not have many.
   */
  scope(body: () => void): readonly Local[] {
    const outer = this.#scope;
    const declared: Local[] = [];
    this.#scope = declared;
    body();
    this.#scope = outer;
    return declared;
  }

  /** Lets locals that nothing reads any more be declared again. */
  release(locals: readonly Local[]): void {
    for (const local of locals) {
      const list = this.#released.get(local.type);
      if (list === undefined) this.#released.set(local.type, [local]);
      else list.push(local);
    }
  }

  /** Declares an i64 local set to `value`. */
  let(value: Expr): Local {
    return this.local(value.type, value);
  }

  /** Puts the statements of `body`, without hints, in front of all: for what is known only behind them. */
  inFront(body: () => void): void {
    const out = this.out;
    const depth = this.#depth;
    this.out = this.#front;
    this.#depth = 0;
    body();
    this.out = out;
    this.#depth = depth;
  }

  /** Sets a local. */
  set(local: Local, value: Expr): void {
    if (local.type !== value.type) throw new TypeError("local and value differ in type");
    value.emit(this.out);
    this.out.localSet(local.index);
  }

  #store(code: number, place: { mem: number; offset: number }, address: Expr, value: Expr): void {
    address.emit(this.out);
    value.emit(this.out);
    this.out.u8(code);
    memarg(this.out, 0, place);
  }

  /** Stores the low `size` bytes of an i64. */
  storeSized(size: number, mem: number, address: Expr, value: Expr, offset = 0): void {
    const code = size === 1
      ? Op.i64_store8
      : size === 2
      ? Op.i64_store16
      : size === 4
      ? Op.i64_store32
      : Op.i64_store;
    this.#store(code, { mem, offset }, address, value);
  }

  /** Stores an i64. */
  store64(mem: number, address: Expr, value: Expr, offset = 0): void {
    this.#store(Op.i64_store, { mem, offset }, address, value);
  }

  /** Stores an i32. */
  store32(mem: number, address: Expr, value: Expr, offset = 0): void {
    this.#store(Op.i32_store, { mem, offset }, address, value);
  }

  /** Stores the low 16 bits of an i32. */
  store16(mem: number, address: Expr, value: Expr, offset = 0): void {
    this.#store(Op.i32_store16, { mem, offset }, address, value);
  }

  /** Stores the low 8 bits of an i32. */
  store8(mem: number, address: Expr, value: Expr, offset = 0): void {
    this.#store(Op.i32_store8, { mem, offset }, address, value);
  }

  /** Stores an f64. */
  storeF64(mem: number, address: Expr, value: Expr, offset = 0): void {
    this.#store(Op.f64_store, { mem, offset }, address, value);
  }

  /** Stores an f32. */
  storeF32(mem: number, address: Expr, value: Expr, offset = 0): void {
    this.#store(Op.f32_store, { mem, offset }, address, value);
  }

  /** Stores a v128. */
  storeV128(mem: number, address: Expr, value: Expr, offset = 0): void {
    address.emit(this.out);
    value.emit(this.out);
    this.out.u8(0xfd);
    this.out.u32(OpFd.v128_store);
    memarg(this.out, 0, { mem, offset });
  }

  /** `if (cond) then else otherwise`, where `cond` nearly always holds. */
  ifLikely(cond: Expr, then: () => void, otherwise?: () => void): void {
    this.#if(cond, then, { otherwise, hint: 1 });
  }

  /** `if (cond) then`, where `cond` hardly ever holds. */
  ifUnlikely(cond: Expr, then: () => void): void {
    this.#if(cond, then, { hint: 0 });
  }

  /** `if (cond) then else otherwise`. */
  if(cond: Expr, then: () => void, otherwise?: () => void): void {
    this.#if(cond, then, { otherwise });
  }

  #if(
    cond: Expr,
    then: () => void,
    options: { otherwise?: (() => void) | undefined; hint?: 0 | 1 },
  ): void {
    const { otherwise, hint } = options;
    cond.emit(this.out);
    if (hint !== undefined) this.#hints.push([this.out.length, hint]);
    this.out.u8(Op.if);
    this.out.u8(0x40);
    this.#depth++;
    then();
    if (otherwise !== undefined) {
      this.out.u8(Op.else);
      otherwise();
    }
    this.#depth--;
    this.out.u8(Op.end);
  }

  /** A block; branching to the label leaves it. */
  block(body: (label: Label) => void): void {
    this.#nest(Op.block, body);
  }

  /** A loop; branching to the label begins it again. */
  loop(body: (label: Label) => void): void {
    this.#nest(Op.loop, body);
  }

  #nest(code: number, body: (label: Label) => void): void {
    this.out.u8(code);
    this.out.u8(0x40);
    this.#depth++;
    body({ depth: this.#depth });
    this.#depth--;
    this.out.u8(Op.end);
  }

  /** Branches to `label`. */
  br(label: Label): void {
    this.out.u8(Op.br);
    this.out.u32(this.#depth - label.depth);
  }

  /** Branches to `label` where `cond` is not zero. */
  brIf(label: Label, cond: Expr): void {
    cond.emit(this.out);
    this.out.u8(Op.br_if);
    this.out.u32(this.#depth - label.depth);
  }

  /** As {@link brIf}, where `cond` hardly ever holds. */
  brIfUnlikely(label: Label, cond: Expr): void {
    cond.emit(this.out);
    this.#hints.push([this.out.length, 0]);
    this.out.u8(Op.br_if);
    this.out.u32(this.#depth - label.depth);
  }

  /** Branches to `labels[value]`, or to `fallback` beyond them. */
  brTable(value: Expr, labels: readonly Label[], fallback: Label): void {
    value.emit(this.out);
    this.out.u8(Op.br_table);
    this.out.u32(labels.length);
    for (const label of labels) this.out.u32(this.#depth - label.depth);
    this.out.u32(this.#depth - fallback.depth);
  }

  /** Returns, with `value` where the function has a result. */
  return(value?: Expr): void {
    value?.emit(this.out);
    this.out.u8(Op.return);
  }

  /** Calls a function for its effect; a result is dropped. */
  call(func: FuncRef, ...args: Expr[]): void {
    if (args.length !== func.type.params.length) throw new TypeError("argument count differs");
    for (const arg of args) arg.emit(this.out);
    this.out.u8(Op.call);
    this.out.u32(func.index);
    for (let i = 0; i < func.type.results.length; i++) this.out.u8(Op.drop);
  }

  /** Evaluates for effect and drops. */
  drop(value: Expr): void {
    value.emit(this.out);
    this.out.u8(Op.drop);
  }

  /** Tail call. */
  returnCall(func: FuncRef, ...args: Expr[]): void {
    if (args.length !== func.type.params.length) throw new TypeError("argument count differs");
    for (const arg of args) arg.emit(this.out);
    this.out.u8(Op.return_call);
    this.out.u32(func.index);
  }

  /** Tail call through table 0. */
  returnCallIndirect(typeIndex: number, target: Expr, ...args: Expr[]): void {
    for (const arg of args) arg.emit(this.out);
    target.emit(this.out);
    this.out.u8(Op.return_call_indirect);
    this.out.u32(typeIndex);
    this.out.u32(0);
  }

  /** Calls through table 0 for the value of the callee. */
  callIndirect(typeIndex: number, target: Expr, ...args: Expr[]): void {
    for (const arg of args) arg.emit(this.out);
    target.emit(this.out);
    this.out.u8(Op.call_indirect);
    this.out.u32(typeIndex);
    this.out.u32(0);
  }

  /** `body`, whose exceptions of `tag` (without values) continue behind this statement. */
  tryCatch(tag: number, body: () => void): void {
    this.out.u8(Op.block);
    this.out.u8(0x40);
    this.#depth++;
    this.out.u8(Op.try_table);
    this.out.u8(0x40);
    this.out.u32(1); // one catch clause
    this.out.u8(0x00); // catch tag label
    this.out.u32(tag);
    this.out.u32(0); // the block around
    this.#depth++;
    body();
    this.#depth--;
    this.out.u8(Op.end);
    this.#depth--;
    this.out.u8(Op.end);
  }

  /** Throws `tag` without values. */
  throw(tag: number): void {
    this.out.u8(Op.throw);
    this.out.u32(tag);
  }

  /** A full barrier between memory accesses before and after it. */
  fence(): void {
    this.out.u8(0xfe);
    this.out.u32(OpFe.fence);
    this.out.u8(0);
  }

  /** Marks a place that cannot be reached. */
  unreachable(): void {
    this.out.u8(Op.unreachable);
  }

  /** `memory.copy` from `srcMem` to `dstMem`. */
  memoryCopy(dstMem: number, srcMem: number, dst: Expr, src: Expr, length: Expr): void {
    dst.emit(this.out);
    src.emit(this.out);
    length.emit(this.out);
    this.out.u8(0xfc);
    this.out.u32(10);
    this.out.u32(dstMem);
    this.out.u32(srcMem);
  }

  /** `memory.fill`. */
  memoryFill(mem: number, dst: Expr, value: Expr, length: Expr): void {
    dst.emit(this.out);
    value.emit(this.out);
    length.emit(this.out);
    this.out.u8(0xfc);
    this.out.u32(11);
    this.out.u32(mem);
  }

  #head(): ByteWriter {
    const head = new ByteWriter(16);
    const groups: [number, ValType][] = [];
    for (const type of this.#locals) {
      const last = groups.at(-1);
      if (last !== undefined && last[1] === type) last[0]++;
      else groups.push([1, type]);
    }
    head.u32(groups.length);
    for (const [count, type] of groups) {
      head.u32(count);
      head.u8(type);
    }
    return head;
  }

  /** True where branches have hints. */
  get hasHints(): boolean {
    return this.#hints.length > 0;
  }

  /** Appends the branch hints as an entry of the section for them (Branch Hinting proposal). */
  finishHints(section: ByteWriter): void {
    const start = this.#head().length + this.#front.length;
    section.u32(this.index);
    section.u32(this.#hints.length);
    for (const [at, hint] of this.#hints) {
      section.u32(start + at);
      section.u32(1);
      section.u8(hint);
    }
  }

  /** Ends the body and appends it as a code entry. */
  finish(section: ByteWriter): void {
    const head = this.#head();
    section.u32(head.length + this.#front.length + this.out.length + 1);
    section.append(head);
    section.append(this.#front);
    section.append(this.out);
    section.u8(Op.end);
  }
}
