/**
 * A queue as a front end describes it to a back end: its size, where it lies, the descriptors by which both
 * sides wake each other, and the virtqueue while it is started.
 *
 * @module
 */

import { type Epoll, Fd, PollEvent } from "../../host/mod.ts";
import type { DeviceMemory } from "../device_memory.ts";
import { VhostUserError, VirtioError } from "../errors.ts";
import { Feature } from "../features.ts";
import { PackedVirtqueue } from "../packed_virtqueue.ts";
import type { RingAddresses } from "../ring.ts";
import { SplitVirtqueue } from "../split_virtqueue.ts";
import type { Virtqueue } from "../virtqueue.ts";
import type { InflightArea } from "./inflight_area.ts";
import type { VringAddresses } from "./message.ts";

/** What a {@link Vring} is started with. */
export interface VringStart {
  readonly memory: DeviceMemory;
  /** Where it lies, of {@link Vring.locate}. */
  readonly rings: RingAddresses;
  /** Features that the front end has chosen. */
  readonly features: bigint;
  /** Record of what is in flight. */
  readonly inflight: InflightArea | undefined;
}

/** What a front end has said of a queue. */
export class Vring implements Disposable {
  readonly index: number;
  size = 0;
  addresses: VringAddresses | undefined;
  base = 0;
  enabled = false;
  kick: Fd | undefined;
  call: Fd | undefined;
  error: Fd | undefined;
  /** While it is started. */
  queue: Virtqueue | undefined;
  /** Whether the device is to look at it. */
  pending = false;
  /** What the driver had offered when it was last looked for. */
  seen = -1;
  faultTold = false;
  readonly #epoll: Epoll;

  /** @param epoll in which its kicks come with the token 1 + `index` */
  constructor(index: number, epoll: Epoll) {
    this.index = index;
    this.#epoll = epoll;
  }

  /**
   * Where it lies in `memory`.
   *
   * @throws {VhostUserError} where that is not known yet, or is no memory.
   */
  locate(memory: DeviceMemory): RingAddresses {
    const { addresses, index, size } = this;
    if (addresses === undefined || size === 0) {
      throw refused(`queue ${index}: expected size and addresses before its start`);
    }
    const translated = (address: number) => {
      const found = memory.guestAddressOf(address);
      if (found !== undefined) return found;
      throw refused(`queue ${index}: address 0x${address.toString(16)} is not memory`);
    };
    return {
      descriptorTable: translated(addresses.descriptorTable),
      availableRing: translated(addresses.availableRing),
      usedRing: translated(addresses.usedRing),
    };
  }

  /**
   * Starts it, from its base.
   *
   * @returns the virtqueue
   * @throws {VhostUserError} where it cannot lie there.
   */
  start({ memory, rings, features, inflight }: VringStart): Virtqueue {
    const { base, index, size } = this;
    try {
      const settings = {
        ...rings,
        size,
        indirect: (features & Feature.RingIndirectDesc) !== 0n,
        eventIdx: (features & Feature.RingEventIdx) !== 0n,
      };
      this.queue = (features & Feature.RingPacked) !== 0n
        ? new PackedVirtqueue(memory, {
          ...settings,
          base,
          inflight: inflight?.packedQueue(index, size),
        })
        : new SplitVirtqueue(memory, {
          ...settings,
          availableIndex: base,
          inflight: inflight?.queue(index, size),
        });
    } catch (cause) {
      if (!(cause instanceof VirtioError)) throw cause;
      throw new VhostUserError("refused", `queue ${index}: ${cause.message}`, { cause });
    }
    this.faultTold = false;
    this.seen = -1;
    return this.queue;
  }

  /** Waits for kicks at a copy of `fd`, and no longer at the one before. */
  setKick(fd: Fd): void {
    this.dropKick();
    using kick = fd.dup();
    this.#epoll.add(kick, PollEvent.In, 1 + this.index);
    this.kick = Fd.adopt(kick.take());
  }

  /** Waits for no kicks. */
  dropKick(): void {
    if (this.kick === undefined) return;
    this.#epoll.remove(this.kick);
    this.kick.close();
    this.kick = undefined;
  }

  /** Closes its descriptors. */
  [Symbol.dispose](): void {
    this.dropKick();
    this.call?.close();
    this.error?.close();
  }
}

/** What a front end asked for is not possible. */
export function refused(message: string): VhostUserError {
  return new VhostUserError("refused", message);
}
