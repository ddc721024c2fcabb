/**
 * Builder of functions and modules in the WebAssembly binary format (core specification 3.0, 5.5).
 *
 * @module
 */

import { ByteWriter } from "./bytes.ts";
import { callIndex, Expr, Local, memarg } from "./expr.ts";
import { Priority, writePriorities } from "./priorities.ts";
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

/** A memory to import. */
export interface MemoryImport {
  readonly minPages: number;
  readonly maxPages: number;
  readonly shared: boolean;
}

/** Builder of a module. Imports come first, then functions. */
export class ModuleBuilder {
  readonly #types: FuncType[] = [];
  readonly #typeKeys = new Map<string, number>();
  readonly #imports = new ByteWriter();
  #importCount = 0;
  #importedFuncs = 0;
  readonly #funcs: FuncBuilder[] = [];
  readonly #exports = new ByteWriter();
  #exportCount = 0;
  #tableSize = 0;
  #elements: FuncRef[] = [];
  #importedTags = 0;
  #importsTable = false;
  readonly #optimized: FuncRef[] = [];
  readonly #names: [FuncRef, string][] = [];

  /** Index of a signature. */
  typeIndex(type: FuncType): number {
    const key = `${type.params.join()}>${type.results.join()}`;
    let index = this.#typeKeys.get(key);
    if (index === undefined) {
      index = this.#types.length;
      this.#types.push(type);
      this.#typeKeys.set(key, index);
    }
    return index;
  }

  #import(module: string, name: string, kind: number): void {
    this.#imports.name(module);
    this.#imports.name(name);
    this.#imports.u8(kind);
    this.#importCount++;
  }

  /**
   * Imports a function. Functions that have begun already move up by one, so until the last import no
   * call of them and no export may be written.
   */
  importFunc(module: string, name: string, type: FuncType): FuncRef {
    if (this.#exportCount > 0) throw new TypeError("imports come before exports");
    for (const func of this.#funcs) func.index++;
    this.#import(module, name, 0);
    this.#imports.u32(this.typeIndex(type));
    return { index: this.#importedFuncs++, type };
  }

  /** Imports a memory; its index is the order of import. */
  importMemory(module: string, name: string, memory: MemoryImport): void {
    this.#import(module, name, 2);
    this.#imports.u8(memory.shared ? 3 : 1);
    this.#imports.u32(memory.minPages);
    this.#imports.u32(memory.maxPages);
  }

  /** Imports table 0 of functions, which has `minSize` slots at least; see {@link tableSlot}. */
  importTable(module: string, name: string, minSize: number): void {
    this.#import(module, name, 1);
    this.#imports.u8(0x70);
    this.#imports.u8(0);
    this.#imports.u32(minSize);
    this.#importsTable = true;
  }

  /** Imports a tag without values and returns its index. */
  importTag(module: string, name: string): number {
    this.#import(module, name, 4);
    this.#imports.u8(0);
    this.#imports.u32(this.typeIndex({ params: [], results: [] }));
    return this.#importedTags++;
  }

  /** Begins a function; its body is added to the returned builder. */
  func(params: readonly ValType[], results: readonly ValType[] = []): FuncBuilder {
    const type = { params, results };
    this.typeIndex(type);
    const builder = new FuncBuilder(this.#importedFuncs + this.#funcs.length, type);
    this.#funcs.push(builder);
    return builder;
  }

  /** Names a function for profiles. */
  nameFunc(func: FuncRef, name: string): void {
    this.#names.push([func, name]);
  }

  /** Has V8 optimize a function as soon as the module is compiled. */
  optimize(func: FuncRef): void {
    this.#optimized.push(func);
  }

  /** Exports a function. */
  exportFunc(name: string, func: FuncRef): void {
    this.#exports.name(name);
    this.#exports.u8(0);
    this.#exports.u32(func.index);
    this.#exportCount++;
  }

  /** Appends `func` to table 0 and returns its slot. */
  tableSlot(func: FuncRef): number {
    this.#elements.push(func);
    return this.#tableSize++;
  }

  /** The module's bytes, in a buffer of that length: they are kept for long. */
  finish(): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter(1 << 14);
    out.raw([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    const section = (id: number, fill: (s: ByteWriter) => void) => {
      const s = new ByteWriter(1024);
      fill(s);
      out.u8(id);
      out.u32(s.length);
      out.append(s);
    };
    section(1, (s) => {
      s.u32(this.#types.length);
      for (const type of this.#types) {
        s.u8(0x60);
        s.u32(type.params.length);
        s.raw(type.params);
        s.u32(type.results.length);
        s.raw(type.results);
      }
    });
    section(2, (s) => {
      s.u32(this.#importCount);
      s.append(this.#imports);
    });
    section(3, (s) => {
      s.u32(this.#funcs.length);
      for (const func of this.#funcs) s.u32(this.typeIndex(func.type));
    });
    if (this.#tableSize > 0 && !this.#importsTable) {
      section(4, (s) => {
        s.u32(1);
        s.u8(0x70);
        s.u8(1);
        s.u32(this.#tableSize);
        s.u32(this.#tableSize);
      });
    }
    section(7, (s) => {
      s.u32(this.#exportCount);
      s.append(this.#exports);
    });
    if (this.#elements.length > 0) {
      section(9, (s) => {
        s.u32(1);
        s.u32(0);
        s.u8(Op.i32_const);
        s.s32(0);
        s.u8(Op.end);
        s.u32(this.#elements.length);
        for (const func of this.#elements) s.u32(func.index);
      });
    }
    const hinted = this.#funcs.filter((func) => func.hasHints);
    if (hinted.length > 0) {
      section(0, (s) => {
        s.name("metadata.code.branch_hint");
        s.u32(hinted.length);
        for (const func of hinted) func.finishHints(s);
      });
    }
    writePriorities(out, this.#optimized.map(({ index }) => [index, Priority.Optimize]));
    section(10, (s) => {
      s.u32(this.#funcs.length);
      for (const func of this.#funcs) func.finish(s);
    });
    if (this.#names.length > 0) {
      section(0, (s) => {
        s.name("name");
        const names = new ByteWriter(1024);
        names.u32(this.#names.length);
        for (const [func, name] of this.#names.sort(([a], [b]) => a.index - b.index)) {
          names.u32(func.index);
          names.name(name);
        }
        s.u8(1);
        s.u32(names.length);
        s.append(names);
      });
    }
    return out.finish().slice();
  }
}
