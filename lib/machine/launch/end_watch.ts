/**
 * Sees to it that the process of a device ends: by itself, as long as it is at work for that, and else by
 * force.
 *
 * @module
 */

import { Logger, Ticker } from "../../base/mod.ts";
import { readProcessStat } from "../../host/mod.ts";

const log = new Logger("sandbox");

/** How long a process may do nothing, in ms, before it counts as hung. */
const IDLE_MS = 5_000;
/** How long it may take in all, in ms, such as to write what it holds to a slow disk. */
const LONGEST_MS = 60_000;
/** How long the kernel may take to end a process that is killed, in ms. */
const KILL_MS = 5_000;
/** How often to look, in ms. */
const LOOK_MS = 250;

/** A process that shall end. */
export interface EndingProcess {
  readonly pid: number;
  kill(): boolean;
}

/** Settings of an {@link EndWatch}. */
export interface EndWatchOptions {
  /** Who it is, for messages. */
  readonly name: string;
  readonly idleMs?: number;
  readonly longestMs?: number;
}

/** Watches a process that has been told to end, until it is disposed. */
export class EndWatch implements Disposable {
  /** Resolves where the process does not even end when it is killed. */
  readonly givenUp: Promise<void>;
  readonly #process: EndingProcess;
  readonly #name: string;
  readonly #idleMs: number;
  readonly #longestMs: number;
  readonly #ticker: Ticker;
  readonly #giveUp: () => void;
  readonly #startMs = performance.now();
  #activeMs = this.#startMs;
  #killedMs: number | undefined;
  #cpuTimeMs: number | undefined;

  constructor(process: EndingProcess, options: EndWatchOptions) {
    const { name, idleMs = IDLE_MS, longestMs = LONGEST_MS } = options;
    this.#process = process;
    this.#name = name;
    this.#idleMs = idleMs;
    this.#longestMs = longestMs;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.givenUp = promise;
    this.#giveUp = resolve;
    this.#ticker = new Ticker(LOOK_MS, () => this.#look());
  }

  [Symbol.dispose](): void {
    this.#ticker[Symbol.dispose]();
  }

  #look(): void {
    const nowMs = performance.now();
    if (this.#killedMs !== undefined) {
      if (nowMs - this.#killedMs < KILL_MS) return;
      log.warn(`${this.#name}: the kernel does not end process ${this.#process.pid}; it is left`);
      this[Symbol.dispose]();
      this.#giveUp();
      return;
    }
    if (this.#isActive()) this.#activeMs = nowMs;
    const isIdle = nowMs - this.#activeMs >= this.#idleMs;
    if (!isIdle && nowMs - this.#startMs < this.#longestMs) return;
    const found = isIdle
      ? `has done nothing for ${this.#idleMs / 1000} s`
      : `is still at work ${this.#longestMs / 1000} s`;
    log.warn(
      `${this.#name} (process ${this.#process.pid}) ${found} after it was told to end, and is killed`,
    );
    this.#killedMs = nowMs;
    this.#process.kill();
  }

  /** Whether it computes, or waits for a processor or for the host's disks. */
  #isActive(): boolean {
    const folder = `/proc/${this.#process.pid}`;
    try {
      const { cpuTimeMs } = readProcessStat(`${folder}/stat`);
      const hasComputed = cpuTimeMs !== this.#cpuTimeMs;
      this.#cpuTimeMs = cpuTimeMs;
      if (hasComputed) return true;
      return [...Deno.readDirSync(`${folder}/task`)].some(({ name }) =>
        "RD".includes(readProcessStat(`${folder}/task/${name}/stat`).state)
      );
    } catch {
      // It, or one of its threads, ends right now.
      return false;
    }
  }
}
