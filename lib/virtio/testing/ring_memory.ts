/**
 * Memory for tests of queues, surrounded by pages that nobody may touch.
 *
 * @module
 */

import { DeviceMemory, MemoryArea } from "../device_memory.ts";

const PAGE = 4096;

/** An area of {@link RingMemory}. */
export interface RingArea {
  readonly guestAddress: number;
  readonly sizeBytes: number;
}

/** Areas of one buffer, with guard bytes before, between and behind them. */
export class RingMemory {
  /** The areas. */
  readonly memory: DeviceMemory;
  readonly #guards: Uint8Array[] = [];

  /** @param shared whether other workers can have the buffer */
  constructor(areas: readonly RingArea[], shared = false) {
    const total = areas.reduce((sum, area) => sum + area.sizeBytes + PAGE, PAGE);
    const all = new Uint8Array(shared ? new SharedArrayBuffer(total) : new ArrayBuffer(total));
    let at = PAGE;
    this.#guards.push(all.subarray(0, PAGE));
    this.memory = new DeviceMemory(areas.map(({ guestAddress, sizeBytes }) => {
      const bytes = all.subarray(at, at + sizeBytes);
      at += sizeBytes + PAGE;
      this.#guards.push(all.subarray(at - PAGE, at));
      return new MemoryArea(bytes, { guestAddress });
    }));
    for (const guard of this.#guards) guard.fill(0xa5);
  }

  /** Whether all guard bytes are as they were. */
  intact(): boolean {
    return this.#guards.every((guard) => guard.every((byte) => byte === 0xa5));
  }
}
