/**
 * Compiles the modules of the last run before a vCPU asks for them, on a thread that has little else to
 * do. Modules of the same bytes are one for all of a process, so the vCPU finds them ready.
 *
 * @module
 */

import { openUnit, readStore, type StoreOptions } from "./store.ts";
import type { UnitHeader } from "./store_format.ts";

/** How long to work without looking at anything else, in milliseconds. */
const SLICE_MS = 4;
/** How long modules are kept that nobody asked for, in milliseconds: a start takes a few seconds. */
const KEPT_MS = 15_000;

/** Compiles what a file has that the last run used; lets go of it after a while. */
export class Precompiler implements Disposable {
  /** They stay compiled as long as someone holds them. */
  #modules: WebAssembly.Module[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #done = Promise.withResolvers<void>();
  /** Resolves when all is compiled. */
  readonly done: Promise<void> = this.#done.promise;

  /** @param options Says where the file is, when whoever makes this has done what is urgent. */
  constructor(options: () => StoreOptions) {
    this.#later(0, () => {
      const headers = readStore(options()).filter(({ heat }) => heat.warm !== 0);
      this.#work(headers.values());
    });
  }

  /** Modules that are held at present. */
  get modules(): number {
    return this.#modules.length;
  }

  #work(headers: Iterator<UnitHeader>): void {
    const end = performance.now() + SLICE_MS;
    for (let next = headers.next(); next.done !== true; next = headers.next()) {
      this.#compile(next.value);
      if (performance.now() > end) {
        this.#later(0, () => this.#work(headers));
        return;
      }
    }
    this.#done.resolve();
    Deno.unrefTimer(this.#later(KEPT_MS, () => this[Symbol.dispose]()));
  }

  #compile(header: UnitHeader): void {
    const unit = openUnit(header);
    if (unit === undefined) return;
    try {
      this.#modules.push(new WebAssembly.Module(unit.bytes));
    } catch (error) {
      // Of a file that somebody made who does not know what modules look like.
      if (!(error instanceof WebAssembly.CompileError)) throw error;
    }
  }

  #later(ms: number, work: () => void): ReturnType<typeof setTimeout> {
    this.#timer = setTimeout(work, ms);
    return this.#timer;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#modules = [];
  }
}
