/**
 * Sees to it that a device ends, in its process or in its worker: by itself, as long as it is at work for
 * that, and else by force.
 *
 * @module
 */

import { Logger, Ticker } from "../../base/mod.ts";
import { readProcessStat } from "../../host/mod.ts";

const log = new Logger("sandbox");

/** How long a device may do nothing, in ms, before it counts as hung. */
const IDLE_MS = 5_000;
/** How long it may take in all, in ms, such as to write what it holds to a slow disk. */
const LONGEST_MS = 60_000;
/** How long the kernel may take to end a process that is killed, in ms. */
const KILL_MS = 5_000;
/** How often to look, in ms. */
const LOOK_MS = 250;

/** What a device that shall end runs in. */
export interface EndingDevice {
  /** For messages, such as `process 12`. */
  readonly what: string;
  /** Whether it computes, or waits for a processor or for the host's disks, or has since the last look. */
  isActive(): boolean;
  /** Ends it by force; it may take its time. */
  kill(): void;
}

/** A process of its own; `kill` sends it SIGKILL. */
export function endingProcess(pid: number, kill: () => void): EndingDevice {
  const folder = `/proc/${pid}`;
  const activity = new Activity(`${folder}/stat`, () => threadsIn(folder));
  return { what: `process ${pid}`, isActive: () => activity.look(), kill };
}

/**
 * A thread of this process, of number `thread()` once that is known: until then it starts, and is at work.
 */
export function endingThread(thread: () => number | undefined, kill: () => void): EndingDevice {
  const folder = "/proc/self";
  let activity: Activity | undefined;
  return {
    get what() {
      return `thread ${thread() ?? "without a number"}`;
    },
    isActive: () => {
      const tid = thread();
      if (tid === undefined) return true;
      const own = `${folder}/task/${tid}/stat`;
      // What the kernel does for it has threads of its own; whose they are, they do not tell.
      const works = (path: string) =>
        path === own || readProcessStat(path).name.startsWith("iou-wrk-");
      activity ??= new Activity(own, () => threadsIn(folder).filter(works));
      return activity.look();
    },
    kill,
  };
}

/** What is done in a process or thread, as it is looked at now and then. */
class Activity {
  readonly #stat: string;
  readonly #threads: () => readonly string[];
  #cpuTimeMs: number | undefined;

  /**
   * @param stat file that says how long it has computed
   * @param threads such files of its threads
   */
  constructor(stat: string, threads: () => readonly string[]) {
    this.#stat = stat;
    this.#threads = threads;
  }

  look(): boolean {
    try {
      const { cpuTimeMs } = readProcessStat(this.#stat);
      const hasComputed = cpuTimeMs !== this.#cpuTimeMs;
      this.#cpuTimeMs = cpuTimeMs;
      if (hasComputed) return true;
      return this.#threads().some((path) => "RD".includes(readProcessStat(path).state));
    } catch {
      // It, or one of its threads, ends right now.
      return false;
    }
  }
}

function threadsIn(folder: string): string[] {
  return [...Deno.readDirSync(`${folder}/task`)].map(({ name }) => `${folder}/task/${name}/stat`);
}

/** Settings of an {@link EndWatch}. */
export interface EndWatchOptions {
  /** Who it is, for messages. */
  readonly name: string;
  readonly idleMs?: number;
  readonly longestMs?: number;
}

/** Watches a device that has been told to end, until it is disposed. */
export class EndWatch implements Disposable {
  /** Resolves where it does not even end when it is killed. */
  readonly givenUp: Promise<void>;
  readonly #device: EndingDevice;
  readonly #name: string;
  readonly #idleMs: number;
  readonly #longestMs: number;
  readonly #ticker: Ticker;
  readonly #giveUp: () => void;
  readonly #startMs = performance.now();
  #activeMs = this.#startMs;
  #killedMs: number | undefined;

  constructor(device: EndingDevice, options: EndWatchOptions) {
    const { name, idleMs = IDLE_MS, longestMs = LONGEST_MS } = options;
    this.#device = device;
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
      log.warn(`${this.#name}: the kernel does not end ${this.#device.what}; it is left`);
      this[Symbol.dispose]();
      this.#giveUp();
      return;
    }
    if (this.#device.isActive()) this.#activeMs = nowMs;
    const isIdle = nowMs - this.#activeMs >= this.#idleMs;
    if (!isIdle && nowMs - this.#startMs < this.#longestMs) return;
    const found = isIdle
      ? `has done nothing for ${this.#idleMs / 1000} s`
      : `is still at work ${this.#longestMs / 1000} s`;
    log.warn(
      `${this.#name} (${this.#device.what}) ${found} after it was told to end, and is killed`,
    );
    this.#killedMs = nowMs;
    this.#device.kill();
  }
}
