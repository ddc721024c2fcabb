/**
 * Instances of translated modules: those that code uses, and as many of the others as there is room for, as
 * they may be of use again.
 *
 * @module
 */

import type { Tag } from "../../wasm/mod.ts";
import type { CodeCache, CodePage } from "../code_cache.ts";
import type { Unit } from "./unit.ts";

/** What V8 takes for a module beside what its bytes become, and for a byte of it, about. */
const MODULE_BYTES = 12 << 10;
const BYTES_PER_BYTE = 10;

/**
 * About what modules in use may take, unless told otherwise. With 192 MiB, half an hour of mixed load made its
 * modules ten times over; a boot uses 15.
 */
const CODE_LIMIT_BYTES = 256 << 20;

/** Which part of that instances may take that nothing uses at present. */
const IDLE_PART = 16;

/** A unit that has an instance. */
export interface Live {
  readonly unit: Unit;
  readonly instance: WebAssembly.Instance;
  /** Its regions that are installed, by number. */
  readonly installed: Map<number, Installed>;
}

/** A region that is installed in one page at least. */
export interface Installed {
  readonly live: Live;
  readonly region: number;
  readonly slot: number;
  /** True where no other is to have its code, but for what is short. */
  readonly large: boolean;
  /** Pages where it is entered: without one nothing leads to it. */
  readonly entered: CodePage[];
  /** Others that hold a part of its code. */
  joined: readonly CodePage[];
}

/** What instances are made with. */
export interface InstancesOptions {
  readonly cpuMemory: WebAssembly.Memory;
  readonly ramMemory: WebAssembly.Memory;
  readonly table: WebAssembly.Table;
  readonly tag: Tag;
  readonly exports: WebAssembly.Exports;
  readonly code: CodeCache;
  /** About how much memory modules in use may take; 256 MiB where it is absent. */
  readonly codeLimitBytes?: number | undefined;
}

/** Counters of instances. */
export interface InstanceStats {
  modules: number;
  /** Milliseconds to make modules and instances. */
  compileMilliseconds: number;
  /** Estimate of what V8 holds for modules in use. */
  liveBytes: number;
  /** The same of modules that were thrown away, since the beginning. */
  droppedBytes: number;
}

/** Instances of one vCPU. */
export class Instances {
  readonly #options: InstancesOptions;
  readonly #stats: InstanceStats;
  readonly #limit: number;
  readonly #live = new Map<Unit, Live>();
  /**
   * Those of them that no code uses any more, the last ones at the end: it may come back. (References
   * that do not keep would keep all the same, as a vCPU runs in one task of JavaScript's.)
   */
  readonly #idle = new Set<Live>();
  #idleBytes = 0;
  /**
   * Those that code used when all was thrown away, as there was too much: what still runs takes them back
   * without being compiled again. The others go where there is need of room.
   */
  readonly #aside = new Set<Live>();
  #asideBytes = 0;

  /** @param stats What it counts in. */
  constructor(options: InstancesOptions, stats: InstanceStats) {
    this.#options = options;
    this.#stats = stats;
    this.#limit = options.codeLimitBytes ?? CODE_LIMIT_BYTES;
  }

  /** How many are kept, in use or not. */
  get size(): number {
    return this.#live.size;
  }

  /** Whether those in use take more than they may. */
  get isFull(): boolean {
    return this.#stats.liveBytes > this.#limit;
  }

  /** Whether there is room for much that may turn out to be of no use. */
  get hasPlenty(): boolean {
    return this.#stats.liveBytes + this.#idleBytes < this.#limit / 2;
  }

  /** The one of `unit`, where there is one. */
  get(unit: Unit): Live | undefined {
    return this.#live.get(unit);
  }

  /** The one of `unit`, made where there is none; undefined where that is not possible. */
  make(unit: Unit): Live | undefined {
    const known = this.#live.get(unit);
    if (known !== undefined) return known;
    const start = performance.now();
    const { cpuMemory, ramMemory, table, tag, exports } = this.#options;
    try {
      const instance = new WebAssembly.Instance(new WebAssembly.Module(unit.bytes), {
        e: {
          cpu: cpuMemory,
          ram: ramMemory,
          table,
          fault: tag as unknown as WebAssembly.ImportValue,
        },
        i: exports as unknown as WebAssembly.ModuleImports,
      });
      const live: Live = { unit, instance, installed: new Map() };
      this.#live.set(unit, live);
      this.#keepIdle(live);
      this.#stats.modules++;
      return live;
    } catch (error) {
      // Of a file that somebody made who does not know what modules look like.
      if (error instanceof WebAssembly.CompileError || error instanceof WebAssembly.LinkError) {
        return undefined;
      }
      throw error;
    } finally {
      this.#stats.compileMilliseconds += performance.now() - start;
    }
  }

  /** Notes that code uses `live`. */
  use(live: Live): void {
    const bytes = costOf(live.unit);
    this.#stats.liveBytes += bytes;
    if (this.#idle.delete(live)) this.#idleBytes -= bytes;
    else if (this.#aside.delete(live)) this.#asideBytes -= bytes;
    this.#makeRoom();
  }

  /** Notes that no code uses `live` any more. */
  rest(live: Live): void {
    this.#stats.liveBytes -= costOf(live.unit);
    this.#keepIdle(live);
  }

  /** Keeps what no code uses, and lets go of those that nobody has used for longest. */
  #keepIdle(live: Live): void {
    if (this.#options.code.isFlushing) {
      this.#aside.add(live);
      this.#asideBytes += costOf(live.unit);
      this.#makeRoom();
      return;
    }
    this.#idle.add(live);
    this.#idleBytes += costOf(live.unit);
    for (const oldest of this.#idle) {
      if (this.#idleBytes <= this.#limit / IDLE_PART || oldest === live) break;
      this.#idle.delete(oldest);
      this.#idleBytes -= costOf(oldest.unit);
      this.#drop(oldest);
    }
    this.#makeRoom();
  }

  /** Lets go of what was put aside, as far as all would take more than it may. */
  #makeRoom(): void {
    for (const oldest of this.#aside) {
      if (this.#stats.liveBytes + this.#idleBytes + this.#asideBytes <= this.#limit) break;
      this.#aside.delete(oldest);
      this.#asideBytes -= costOf(oldest.unit);
      this.#drop(oldest);
    }
  }

  #drop(live: Live): void {
    this.#live.delete(live.unit);
    this.#stats.droppedBytes += costOf(live.unit);
  }
}

/** What V8 takes for the module of `unit`, about, in bytes. */
export function costOf(unit: Unit): number {
  return MODULE_BYTES + BYTES_PER_BYTE * unit.bytes.length;
}
