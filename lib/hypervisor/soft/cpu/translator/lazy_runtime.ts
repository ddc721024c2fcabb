/**
 * The interpreter's functions as imports of a module of regions: each is imported when it is first
 * asked for, since making an instance takes time by the import.
 *
 * @module
 */

import { type FuncRef, type ModuleBuilder, ValType } from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import type { RuntimeExport, RuntimeExports } from "../interpreter.ts";

/** A map whose values are imported when they are got. */
class Imported<K> extends Map<K, FuncRef> {
  readonly #items: ReadonlyMap<K, RuntimeExport>;
  readonly #bring: (item: RuntimeExport) => FuncRef;

  constructor(items: ReadonlyMap<K, RuntimeExport>, bring: (item: RuntimeExport) => FuncRef) {
    super();
    this.#items = items;
    this.#bring = bring;
  }

  override get(key: K): FuncRef | undefined {
    const item = this.#items.get(key);
    return item === undefined ? undefined : this.#bring(item);
  }
}

/** {@link Runtime} of a module of regions. */
export class LazyRuntime implements Runtime {
  readonly loadSlow: ReadonlyMap<number, FuncRef>;
  readonly storeSlow: ReadonlyMap<number, FuncRef>;
  readonly modifySlow: ReadonlyMap<number, FuncRef>;
  readonly helpers: Map<string, FuncRef>;
  readonly handlerType: number;
  readonly #exported: RuntimeExports;
  readonly #module: ModuleBuilder;
  readonly #refs = new Map<string, FuncRef>();
  readonly #lockstep: boolean;

  /** @param lockstep Jumps leave instead of going on while the region is compared. */
  constructor(module: ModuleBuilder, exported: RuntimeExports, lockstep: boolean) {
    this.#module = module;
    this.#exported = exported;
    this.#lockstep = lockstep;
    const bring = (item: RuntimeExport) => this.#bring(item);
    this.loadSlow = new Imported(exported.loadSlow, bring);
    this.storeSlow = new Imported(exported.storeSlow, bring);
    this.modifySlow = new Imported(exported.modifySlow, bring);
    this.helpers = new Imported(exported.helpers, bring);
    this.handlerType = module.typeIndex({ params: [ValType.I32], results: [ValType.I32] });
  }

  get ram(): number {
    return this.#exported.ram;
  }

  get smp(): boolean {
    return this.#exported.smp;
  }

  get probeWrite(): FuncRef {
    return this.#bring(this.#exported.probeWrite);
  }

  get jump(): FuncRef {
    const jumpOut = this.#exported.helpers.get("jumpOut");
    return this.#bring(this.#lockstep && jumpOut !== undefined ? jumpOut : this.#exported.jump);
  }

  get raise(): FuncRef {
    return this.#bring(this.#exported.raise);
  }

  /** Regions hold no host calls. */
  get host(): FuncRef {
    throw new TypeError("host call in a region");
  }

  #bring(item: RuntimeExport): FuncRef {
    let ref = this.#refs.get(item.name);
    if (ref === undefined) {
      ref = this.#module.importFunc("i", item.name, item.type);
      this.#refs.set(item.name, ref);
    }
    return ref;
  }
}
