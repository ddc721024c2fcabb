/**
 * The queues of a device as its driver has set them up: starts them at the back end and at each successor
 * of it, and holds them still meanwhile where that is wanted.
 *
 * @module
 */

import { signalEvent } from "../../host/mod.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import {
  availableRingBytes,
  descriptorTableBytes,
  EVENT_AREA_BYTES,
  Feature,
  PACKED_BEGIN,
  type QueueSetup,
  usedRingBytes,
  type VhostUserFrontend,
  type Wishes,
} from "../../virtio/mod.ts";
import { MachineError } from "../errors.ts";

/** What {@link DeviceQueues} are made of. */
export interface DeviceQueuesOptions {
  /** Name of the device, for messages. */
  readonly name: string;
  readonly memory: GuestMemory;
  /** How many the guest sees. */
  readonly queueCount: number;
  /** Most descriptors of each. */
  readonly queueSize: number;
}

/** The queues of a device. What is asked of a back end fails as its front end's methods do. */
export class DeviceQueues {
  readonly #options: DeviceQueuesOptions;
  /** Queues that run, as they were started. */
  readonly #running = new Map<number, QueueSetup>();
  /** Features that the back end runs with. */
  #active: bigint | undefined;
  /**
   * Where the queues go on that stand still; undefined while they do not. A queue whose back end died before
   * it told goes on behind what it has used, as its ring or the record of its requests says.
   */
  #halted: Map<number, number | undefined> | undefined;

  constructor(options: DeviceQueuesOptions) {
    this.#options = options;
  }

  /** Queues that run, as they were started. */
  get running(): readonly QueueSetup[] {
    return [...this.#running.values()];
  }

  /** Whether they stand still. */
  get halted(): boolean {
    return this.#halted !== undefined;
  }

  /** Whether they stand still, and the back end told where each of them goes on: it holds nothing of them. */
  get areStopped(): boolean {
    const halted = this.#halted;
    if (halted === undefined) return false;
    return [...this.#running.keys()].every((index) => halted.get(index) !== undefined);
  }

  /** The driver starts anew. */
  async reset(frontend: VhostUserFrontend): Promise<void> {
    if (this.#active !== undefined) await frontend.reset();
    this.#active = undefined;
    this.#running.clear();
    this.#halted = undefined;
  }

  /**
   * Starts those that do not run yet.
   *
   * @throws {MachineError} where the guest has put one where it has no memory.
   */
  async start(
    frontend: VhostUserFrontend,
    { features, queues }: { readonly features: bigint; readonly queues: Wishes["queues"] },
  ): Promise<void> {
    const packed = isPacked(features);
    for (const queue of queues) this.#requireRings(queue, { packed });
    const fresh = queues.filter(({ index }) => !this.#running.has(index));
    for (const queue of fresh) {
      this.#running.set(queue.index, queue);
      this.#halted?.set(queue.index, packed ? PACKED_BEGIN : 0);
    }
    const starting = this.#halted === undefined ? fresh : [];
    if (this.#active === undefined) {
      this.#active = features & frontend.features;
      await frontend.activate({ ...this.#activation(this.#active), queues: starting });
    } else {
      const { memory } = this.#options;
      await Promise.all(starting.map((queue) => frontend.startQueue(queue, memory)));
    }
  }

  /** The driver resets a queue. */
  async stop(frontend: VhostUserFrontend, index: number): Promise<void> {
    if (!this.#running.has(index)) return;
    if (!this.#halted?.delete(index)) {
      await frontend.enableQueue(index, false);
      await frontend.stopQueue(index);
    }
    // Where the back end died before that, its successor takes the queue up and stops it. What is not answered
    // by now must not come again from the one that the driver starts next.
    frontend.forgetRequests(index);
    this.#running.delete(index);
  }

  /** Lets the back end leave the guest's memory alone. */
  async halt(frontend: VhostUserFrontend): Promise<void> {
    if (this.#halted !== undefined) return;
    const halted = new Map<number, number | undefined>();
    this.#halted = halted;
    await Promise.all([...this.#running.keys()].map(async (index) => {
      try {
        halted.set(index, await frontend.stopQueue(index));
      } catch (error) {
        if (frontend.end !== undefined) halted.set(index, undefined);
        throw error;
      }
    }));
  }

  /** Starts again those that stand still; not at a back end that died meanwhile, but at its successor. */
  async goOn(frontend: VhostUserFrontend): Promise<void> {
    const halted = this.#halted;
    if (halted === undefined || frontend.end !== undefined) return;
    this.#halted = undefined;
    const { memory } = this.#options;
    const active = this.#active;
    await Promise.all([...halted].map(async ([index, stoppedAt]) => {
      const queue = this.#running.get(index)!;
      // Of a packed queue its record tells, once it was begun.
      const base = stoppedAt ??
        (isPacked(active) ? queue.base ?? PACKED_BEGIN : memory.readU16(queue.usedRing + 2));
      const started = { ...queue, base };
      // A back end that dies before it begins leaves that to its successor.
      this.#running.set(index, started);
      await frontend.startQueue(started, memory);
      // An interrupt may have been lost with the descriptor that it had before.
      signalEvent(frontend.queueEvents(index).call);
    }));
  }

  /** Lets a successor take up what its predecessor did, unless they stand still. */
  async takeUp(frontend: VhostUserFrontend): Promise<void> {
    if (this.#active === undefined) return;
    const activation = this.#activation(this.#active);
    if (this.#halted !== undefined) {
      // They go on when they may, from where they were stopped.
      await frontend.activate({ ...activation, queues: [], resume: true });
      return;
    }
    const queues = this.running;
    await frontend.activate({ ...activation, queues, resume: true });
    // What the dead one had used without telling.
    for (const { index } of queues) signalEvent(frontend.queueEvents(index).call);
  }

  #activation(features: bigint) {
    const { memory, queueCount, queueSize } = this.#options;
    // The record has room also for queues that start later.
    return { features, memory, record: { queueCount, queueSize } };
  }

  /** @throws {MachineError} where the guest has put a queue where it has no memory. */
  #requireRings(queue: QueueSetup, { packed }: { readonly packed: boolean }): void {
    const { name, memory } = this.#options;
    const { index, size } = queue;
    const availableBytes = packed ? EVENT_AREA_BYTES : availableRingBytes(size);
    const usedBytes = packed ? EVENT_AREA_BYTES : usedRingBytes(size);
    const fits = memory.contains(queue.descriptorTable, descriptorTableBytes(size)) &&
      memory.contains(queue.availableRing, availableBytes) &&
      memory.contains(queue.usedRing, usedBytes) &&
      queue.descriptorTable % 16 === 0 && queue.availableRing % (packed ? 4 : 2) === 0 &&
      queue.usedRing % 4 === 0;
    if (!fits) throw new MachineError(`${name}: queue ${index} is not in the guest's memory`);
  }
}

function isPacked(features: bigint | undefined): boolean {
  return ((features ?? 0n) & Feature.RingPacked) !== 0n;
}
