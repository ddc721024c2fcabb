/**
 * Drives a VM's balloon: by what a user asks for, and by what the host runs short of.
 *
 * @module
 */

import { describeError, formatSize, Logger } from "../../base/mod.ts";
import type { BalloonReport, DeviceControlClient } from "../../devices/mod.ts";
import { MachineError } from "../errors.ts";
import { BalloonPolicy } from "./policy.ts";
import type { LowMemorySource } from "./sources.ts";

const log = new Logger("balloon");

/** How long a guest may take for fresh statistics before the last known ones have to do, in ms. */
const FRESH_STATISTICS_MS = 1000;

/** Time, as the keeper sees it. */
export interface KeeperClock {
  /** In ms; does not go back. */
  nowMs(): number;
  /** Calls `callback` once after `delayMs`. */
  after(delayMs: number, callback: () => void): Disposable;
}

const REAL_CLOCK: KeeperClock = {
  nowMs: () => performance.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};

/** Settings of a {@link BalloonKeeper}. */
export interface BalloonKeeperOptions {
  /** The balloon device. */
  readonly client: Pick<DeviceControlClient, "request">;
  /** Guest RAM in bytes. */
  readonly memoryBytes: number;
  /** Who tells that memory is low; without, only users change the size. Disposed with the keeper. */
  readonly source?: LowMemorySource | undefined;
  readonly clock?: KeeperClock;
  readonly random?: () => number;
}

/** Keeps the balloon at its size. */
export class BalloonKeeper implements Disposable {
  readonly #client: BalloonKeeperOptions["client"];
  readonly #memoryBytes: number;
  readonly #policy: BalloonPolicy;
  readonly #source: LowMemorySource | undefined;
  readonly #clock: KeeperClock;
  readonly #timers: { quiet?: Disposable; check?: Disposable } = {};
  /** The size that somebody waits for. */
  #reaching: { readonly targetBytes: number; readonly reached: Promise<void> } | undefined;
  #closed = false;

  constructor(options: BalloonKeeperOptions) {
    const { client, memoryBytes, source, clock = REAL_CLOCK, random } = options;
    this.#client = client;
    this.#memoryBytes = memoryBytes;
    this.#policy = new BalloonPolicy({
      memoryBytes,
      ...(random === undefined ? {} : { random }),
    });
    this.#source = source;
    this.#clock = clock;
    if (source === undefined) return;
    if (this.#policy.largestBytes === 0) {
      log.debug("the guest is too small to give memory back by itself");
      return;
    }
    log.debug(`memory is given back as ${source.description} demands`);
    source.listen(() => this.#lowMemory());
  }

  /** How large the balloon shall be, in bytes. */
  get targetBytes(): number {
    return this.#policy.targetBytes;
  }

  /**
   * Sets the size, as a user wishes.
   *
   * @param options.wait whether to wait until the guest has made it so, however long that takes
   * @param options.signal ends the waiting; the size stays wanted
   * @throws {MachineError} where it is more than the guest has
   * @throws {DeviceControlError} where the device is gone, or another size was asked for meanwhile.
   */
  async adjust(
    targetBytes: number,
    options: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    if (targetBytes > this.#memoryBytes) {
      throw new MachineError(
        `balloon: expected at most the guest's ${formatSize(this.#memoryBytes)}, got ` +
          formatSize(targetBytes),
      );
    }
    this.#policy.adjusted(targetBytes);
    if (options.wait) await unlessAborted(this.#reach(targetBytes), options.signal);
    else await this.#ask(targetBytes);
  }

  /** Tells the device the size again: it was started anew. */
  repeat(): void {
    this.#tell(this.#policy.targetBytes);
  }

  /** What the guest reports; without an answer in time, what it reported last. */
  async report(): Promise<BalloonReport> {
    try {
      return await this.#client.request("balloonStats", { fresh: true }, {
        timeoutMs: FRESH_STATISTICS_MS,
      });
    } catch (error) {
      log.debug(describeError(error));
      return await this.#client.request("balloonStats", { fresh: false });
    }
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#timers.quiet?.[Symbol.dispose]();
    this.#timers.check?.[Symbol.dispose]();
    this.#source?.[Symbol.dispose]();
  }

  #lowMemory(): void {
    const nowMs = this.#clock.nowMs();
    const before = this.#policy.targetBytes;
    if (this.#closed || !this.#policy.lowMemory(nowMs)) return;
    this.#apply(before);
    this.#source?.pause();
    this.#timers.quiet = this.#clock.after(this.#policy.quietUntilMs - nowMs, () => {
      if (!this.#closed) this.#source?.listen(() => this.#lowMemory());
    });
    this.#awaitCheck();
  }

  #check(): void {
    const source = this.#source;
    if (this.#closed || source === undefined) return;
    const before = this.#policy.targetBytes;
    try {
      this.#policy.check(this.#clock.nowMs(), source.meter);
    } catch (error) {
      log.warn(`available memory is not known: ${describeError(error)}`);
    }
    this.#apply(before);
    this.#awaitCheck();
  }

  #awaitCheck(): void {
    this.#timers.check?.[Symbol.dispose]();
    delete this.#timers.check;
    const { checkAtMs } = this.#policy;
    if (checkAtMs === Infinity) return;
    const delayMs = Math.max(checkAtMs - this.#clock.nowMs(), 0);
    this.#timers.check = this.#clock.after(delayMs, () => this.#check());
  }

  /** Tells the device where the policy's size has changed. */
  #apply(before: number): void {
    const { targetBytes } = this.#policy;
    if (targetBytes === before) return;
    log.debug(`balloon from ${formatSize(before)} to ${formatSize(targetBytes)}`);
    this.#tell(targetBytes);
  }

  /** The guest has made it so. All who wait for one size share a request: the device takes only some. */
  #reach(targetBytes: number): Promise<void> {
    if (this.#reaching?.targetBytes === targetBytes) return this.#reaching.reached;
    const reached = this.#client
      .request("balloonAdjust", { targetBytes, wait: true }, { timeoutMs: Infinity })
      .then(() => {})
      .finally(() => {
        if (this.#reaching?.reached === reached) this.#reaching = undefined;
      });
    // There may be nobody left who waits when the device refuses.
    reached.catch(() => {});
    this.#reaching = { targetBytes, reached };
    return reached;
  }

  async #ask(targetBytes: number): Promise<void> {
    // Who waits for another size hears from the device that there is another one now.
    if (this.#reaching?.targetBytes !== targetBytes) this.#reaching = undefined;
    await this.#client.request("balloonAdjust", { targetBytes, wait: false });
  }

  #tell(targetBytes: number): void {
    this.#ask(targetBytes).catch((error) => {
      if (!this.#closed) log.warn(describeError(error));
    });
  }
}

/** What `promise` gives, or the reason of `signal` where that comes first. */
async function unlessAborted(promise: Promise<void>, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal?.reason);
  signal?.addEventListener("abort", abort);
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
