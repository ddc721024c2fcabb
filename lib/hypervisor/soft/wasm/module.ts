/**
 * Builder of modules in the WebAssembly binary format (core specification 3.0, 5.5).
 *
 * @module
 */

import { ByteWriter } from "./bytes.ts";
import { FuncBuilder, type FuncRef } from "./func.ts";
import { Priority, writePriorities } from "./priorities.ts";
import { type FuncType, Op, type ValType } from "./types.ts";

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
  readonly #data: [number, Uint8Array][] = [];

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

  /** Has memory 0 hold `bytes` at `offset` when the module is instantiated. */
  data(offset: number, bytes: Uint8Array): void {
    this.#data.push([offset, bytes]);
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
    if (this.#data.length > 0) {
      section(11, (s) => {
        s.u32(this.#data.length);
        for (const [offset, bytes] of this.#data) {
          s.u32(0);
          s.u8(Op.i32_const);
          s.s32(offset);
          s.u8(Op.end);
          s.u32(bytes.length);
          s.raw(bytes);
        }
      });
    }
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
