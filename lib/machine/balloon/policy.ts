/**
 * When a VM gives memory back to a host that runs short of it, and when it gets it again. Only the
 * decisions: time, chance and what the host says come from outside.
 *
 * @module
 */

import { GIB, MIB } from "../../base/mod.ts";

/** Steps from nothing to the largest balloon. */
const STEPS = 16;
/** After a low-memory event, no other one is heard for so long, and up to so much more, in ms. */
const QUIET_MS = 1000;
const QUIET_JITTER_MS = 200;
/** When it is first looked whether memory can be given again, in s, and up to so much later. */
const FIRST_CHECK_S = 60;
const FIRST_CHECK_JITTER_S = 12;
/** How often it is looked after that. */
const CHECK_INTERVAL_S = 30;
const CHECK_INTERVAL_JITTER_S = 6;

/** What a host has to spare. */
export interface MemoryOnHand {
  /** What programs could still get, in MiB. */
  readonly availableMib: number;
  /** What of it is to be left alone, in MiB: below it, memory is low. */
  readonly marginMib: number;
}

/** Settings of a {@link BalloonPolicy}. */
export interface BalloonPolicyOptions {
  /** Guest RAM in bytes. */
  readonly memoryBytes: number;
  /**
   * A number from 0 up to 1, without 1; `Math.random` where absent. Several VMs on one host must not
   * move at the same moment.
   */
  readonly random?: () => number;
}

/** The largest balloon of a guest with `memoryBytes` of RAM; 0 where it has none to give. */
export function largestBalloonBytes(memoryBytes: number): number {
  if (memoryBytes >= 3 * GIB / 2) return memoryBytes - GIB;
  if (memoryBytes >= GIB / 2) return Math.floor(memoryBytes / 2);
  return 0;
}

/** The size of one balloon over time. Times are in ms of any clock that does not go back. */
export class BalloonPolicy {
  /** The largest that it becomes by itself. */
  readonly largestBytes: number;
  /** By how much it grows or shrinks at once. */
  readonly stepBytes: number;
  readonly #random: () => number;
  #targetBytes = 0;
  #quietUntilMs = -Infinity;
  #checkAtMs = Infinity;
  #checkIntervalMs = Infinity;

  constructor(options: BalloonPolicyOptions) {
    this.largestBytes = largestBalloonBytes(options.memoryBytes);
    this.stepBytes = Math.floor(this.largestBytes / STEPS);
    this.#random = options.random ?? Math.random;
  }

  /** How large the balloon shall be. */
  get targetBytes(): number {
    return this.#targetBytes;
  }

  /** When {@link check} is due; Infinity while there is nothing to look for. */
  get checkAtMs(): number {
    return this.#checkAtMs;
  }

  /** When the next low-memory event counts. */
  get quietUntilMs(): number {
    return this.#quietUntilMs;
  }

  /** Somebody else has set the balloon's size, from which things go on. */
  adjusted(bytes: number): void {
    this.#targetBytes = bytes;
  }

  /** Memory is low. Returns whether that counted: it does not in the quiet time after another one. */
  lowMemory(nowMs: number): boolean {
    if (nowMs < this.#quietUntilMs) return false;
    const grown = Math.min(this.#targetBytes + this.stepBytes, this.largestBytes);
    this.#targetBytes = Math.max(this.#targetBytes, grown);
    this.#quietUntilMs = nowMs + QUIET_MS + this.#below(QUIET_JITTER_MS);
    this.#checkAtMs = nowMs + 1000 * (FIRST_CHECK_S + this.#below(FIRST_CHECK_JITTER_S));
    this.#checkIntervalMs = 1000 * (CHECK_INTERVAL_S + this.#below(CHECK_INTERVAL_JITTER_S));
    return true;
  }

  /**
   * Looks whether memory can be given to the guest again, where that is due.
   *
   * @param onHand asked for only where it matters
   */
  check(nowMs: number, onHand: () => MemoryOnHand): void {
    if (nowMs < this.#checkAtMs) return;
    if (this.#targetBytes === 0) {
      this.#checkAtMs = Infinity;
      return;
    }
    // Checks that were missed, as by a host that slept, are not made up for.
    const missed = Math.floor((nowMs - this.#checkAtMs) / this.#checkIntervalMs);
    this.#checkAtMs += (missed + 1) * this.#checkIntervalMs;
    const { availableMib, marginMib } = onHand();
    // With less to spare, the next low-memory event would follow.
    if (availableMib < marginMib + 2 * Math.floor(this.stepBytes / MIB)) return;
    this.#targetBytes = Math.max(this.#targetBytes - this.stepBytes, 0);
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }
}
