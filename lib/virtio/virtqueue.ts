/**
 * A virtqueue, device side (virtio 1.2, 2.6): what split (2.7) and packed (2.8) ones have in common.
 *
 * The rings are the driver's memory, and the driver is hostile: every number of them is read once,
 * checked and then used. A driver that breaks the rules breaks its queue, with a {@link QueueFault};
 * from then on nothing comes out of it and nothing goes in, and the device asks for a reset.
 *
 * Work per {@link Virtqueue.pop} is bounded by the queue's size, and by {@link MAX_CHAIN} for indirect
 * tables. Nothing is allocated per operation.
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import { DescriptorChain } from "./chain.ts";
import type { DeviceMemory } from "./device_memory.ts";
import { VirtioError } from "./errors.ts";
import { FLAGS_WORD } from "./packed_ring.ts";
import { MAX_CHAIN, type QueueFault, type QueueFaultReason } from "./queue_fault.ts";
import { DESCRIPTOR_BYTES, DescriptorFlag, type RingAddresses } from "./ring.ts";

const TWO_32 = 2 ** 32;

/** What any queue is made of. */
export interface VirtqueueSettings extends RingAddresses {
  /** Descriptors; which sizes there are is a matter of the ring's layout. */
  readonly size: number;
  /** Whether INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
  /** Whether EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
}

/** A queue from start to stop. */
export abstract class Virtqueue {
  /** Descriptors. */
  readonly size: number;
  /** Where the driver says that the queue's areas are. */
  protected readonly addresses: RingAddresses;
  /** Whether either side names the index or place that it wants to be told of. */
  protected readonly eventIdx: boolean;
  /**
   * Whether a descriptor of an indirect table names the next one (2.7.5.3); else they follow each other to
   * the table's end (2.8.7).
   */
  protected abstract readonly linkedTables: boolean;
  readonly #indirect: boolean;
  readonly #chain = new DescriptorChain();
  /** Per head, how many slots of the ring its chain has; 0 where the device does not hold it. */
  readonly #slots: Uint16Array;
  #memory!: DeviceMemory;
  #heldCount = 0;
  #heldSlots = 0;
  /** Whether the driver was told to kick for the next chain. */
  #armed = false;
  #polled = false;
  #enabled = true;
  /** How many chains this turn may take, and may still. */
  #share = Infinity;
  #budget = Infinity;
  #fault: QueueFault | undefined;

  /** A queue whose size is checked; the heir goes on with {@link start}. */
  protected constructor({ size, indirect, eventIdx, ...addresses }: VirtqueueSettings) {
    this.size = size;
    this.addresses = addresses;
    this.eventIdx = eventIdx;
    this.#indirect = indirect;
    this.#slots = new Uint16Array(size);
  }

  /** Where another queue over the same rings goes on, as vhost-user encodes it. */
  abstract get base(): number;

  /** A number that is another one when the driver has offered more; for who looks for chains by itself. */
  abstract get offered(): number;

  /** The queue was stopped, and whoever goes on knows its {@link base}. */
  end(): void {}

  /**
   * Whether the driver wants to be notified of what was pushed since the last time that this was asked;
   * if so, the caller notifies it.
   */
  abstract needsNotification(): boolean;

  /**
   * Reads the next chain of the ring.
   *
   * @returns the slots of the ring that it has; 0 where there is none, or a rule is broken
   */
  protected abstract take(chain: DescriptorChain): number;
  /** Undoes the last {@link take}, of a chain of `slots`. */
  protected abstract putBack(head: number, slots: number): void;
  /** Tells the driver that the chain at `head`, of `slots`, is used. */
  protected abstract putUsed(head: number, writtenBytes: number, slots: number): void;
  /** Asks the driver for a kick for the next chain. */
  protected abstract wantKick(): void;
  /** Tells the driver that no kick is needed. */
  protected abstract wantNoKick(): void;
  /** Finds the queue's areas in `memory`; false where they are not in there, or not aligned. */
  protected abstract locate(memory: DeviceMemory): boolean;

  /** What the driver did wrong, if it did: nothing comes out any more, and nothing goes in. */
  get fault(): QueueFault | undefined {
    return this.#fault;
  }

  /** Chains that the device holds. */
  get heldCount(): number {
    return this.#heldCount;
  }

  /** Slots of the ring that those chains have. */
  protected get heldSlots(): number {
    return this.#heldSlots;
  }

  /** Whether the device looks for chains by itself. */
  protected get polled(): boolean {
    return this.#polled;
  }

  /** Whether {@link pop} ended because the turn's share was used up. */
  get turnExhausted(): boolean {
    return this.#budget === 0;
  }

  /** How many chains the turn has taken. */
  get turnChains(): number {
    return this.#share - this.#budget;
  }

  /** Stops or lets on what comes out; chains that are held are pushed all the same. */
  setEnabled(on: boolean): void {
    this.#enabled = on;
  }

  /** For a device that looks for chains by itself: the driver need not kick. */
  setPolled(on: boolean): void {
    this.#polled = on;
    if (this.#fault !== undefined) return;
    if (on) this.#disarm();
    else this.arm();
  }

  /** Lets {@link pop} give at most `chains` until {@link endTurn}, so that no queue starves another. */
  beginTurn(chains: number): void {
    this.#share = chains;
    this.#budget = chains;
  }

  /** Ends what {@link beginTurn} began. */
  endTurn(): void {
    this.#budget = Infinity;
  }

  /**
   * Goes on with other mappings of guest memory. Pieces of chains that are held are void: the device
   * has none in work.
   */
  setMemory(memory: DeviceMemory): void {
    if (this.locate(memory)) this.#memory = memory;
    else this.break("ring-outside-memory", this.#misplaced(memory));
  }

  /**
   * Takes the next chain. When there is none, the driver kicks for the next one.
   *
   * @param chain what to fill; the queue's own where absent, which the next call fills anew
   * @returns `chain`, or undefined where there is none (or the queue is broken or disabled)
   */
  pop(chain: DescriptorChain = this.#chain): DescriptorChain | undefined {
    if (this.#fault !== undefined || !this.#enabled || this.#budget === 0) return undefined;
    const slots = this.take(chain);
    if (slots === 0) return undefined;
    this.#slots[chain.head] = slots;
    this.#heldSlots += slots;
    this.#heldCount++;
    this.#budget--;
    if (this.#armed) this.#disarm();
    return chain;
  }

  /**
   * Puts the chain that {@link pop} gave last back, as if it had not been taken.
   *
   * @throws {VirtioError} where it is not held.
   */
  unpop(head: number): void {
    const slots = this.#release(head);
    this.#budget++;
    this.putBack(head, slots);
  }

  /**
   * Gives a chain back to the driver.
   *
   * @param head the chain's
   * @param writtenBytes how much of its writable pieces was written, from their begin on
   * @throws {VirtioError} where it is not held.
   */
  push(head: number, writtenBytes: number): void {
    const slots = this.#release(head);
    if (this.#fault === undefined) this.putUsed(head, writtenBytes, slots);
  }

  /**
   * Finds the queue's areas.
   *
   * @throws {VirtioError} where they are not in `memory`, each in one piece, or not aligned.
   */
  protected start(memory: DeviceMemory): void {
    if (!this.locate(memory)) throw new VirtioError(`queue: ${this.#misplaced(memory)}`);
    this.#memory = memory;
  }

  /** Asks for a kick for the next chain; the next one that comes out ends that. */
  protected arm(): void {
    this.wantKick();
    this.#armed = true;
  }

  /** Whether a chain may have `head`: there is such a one, and the device does not hold it. */
  protected admits(head: number): boolean {
    if (head >= this.size) {
      return this.break("head-out-of-range", `chain ${head} in a queue of ${this.size}`);
    }
    if (this.#slots[head] !== 0) {
      return this.break("head-in-use", `chain ${head} is offered twice`);
    }
    return true;
  }

  /** Adds a buffer to `chain`; false where it breaks a rule. */
  protected append(
    chain: DescriptorChain,
    address: number,
    length: number,
    flags: number,
  ): boolean {
    const reason = chain.append(this.#memory, address, length, flags);
    if (reason === undefined) return true;
    return this.break(reason, `${length} bytes at ${hexOf(address)}, in chain ${chain.head}`);
  }

  /** Adds the buffers of an indirect table, to which a descriptor refers; false where a rule is broken. */
  protected appendTable(
    chain: DescriptorChain,
    table: number,
    length: number,
    flags: number,
  ): boolean {
    if (!this.#indirect) return this.break("indirect-not-negotiated", `at chain ${chain.head}`);
    if ((flags & DescriptorFlag.Next) !== 0) {
      return this.break("indirect-with-next", `at chain ${chain.head}`);
    }
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0) {
      return this.break("indirect-length", `${length} bytes`);
    }
    const count = length / DESCRIPTOR_BYTES;
    const most = Math.max(this.size, MAX_CHAIN);
    const linked = this.linkedTables;
    const memory = this.#memory;
    const whole = memory.findRange(table, length);
    let index = 0;
    // A table that says by itself that it is too long is not begun.
    for (let left = linked || count <= most ? most : 0; left > 0; left--) {
      const address = table + index * DESCRIPTOR_BYTES;
      const area = whole ?? memory.findRange(address, DESCRIPTOR_BYTES);
      if (area === undefined) {
        return this.break("indirect-outside-memory", `a descriptor at ${hexOf(address)}`);
      }
      const { view } = area;
      const at = address - area.guestAddress;
      const buffer = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const bufferBytes = view.getUint32(at + 8, true);
      const bufferFlags = view.getUint16(linked ? at + 12 : at + FLAGS_WORD * 2, true);
      const next = view.getUint16(at + 14, true);
      if ((bufferFlags & DescriptorFlag.Indirect) !== 0) {
        return this.break("indirect-nested", `at chain ${chain.head}`);
      }
      if (!this.append(chain, buffer, bufferBytes, bufferFlags)) return false;
      if (linked) {
        if ((bufferFlags & DescriptorFlag.Next) === 0) return true;
        if (next >= count) {
          return this.break("next-out-of-range", `descriptor ${next} of a table of ${count}`);
        }
        index = next;
      } else if (++index === count) return true;
    }
    return this.break("chain-too-long", `more than ${most} in the table of chain ${chain.head}`);
  }

  /** Breaks the queue: the driver did not keep to the rule `reason`. */
  protected break(reason: QueueFaultReason, message: string): false {
    this.#fault ??= { reason, message: `${reason}: ${message}` };
    return false;
  }

  #disarm(): void {
    this.#armed = false;
    // With EVENT_IDX, what was asked for lies behind by now.
    if (!this.eventIdx) this.wantNoKick();
  }

  #release(head: number): number {
    const slots = this.#slots[head] ?? 0;
    if (slots === 0) {
      throw new VirtioError(`queue: chain ${head} is given back, but the device does not hold it`);
    }
    this.#slots[head] = 0;
    this.#heldSlots -= slots;
    this.#heldCount--;
    return slots;
  }

  #misplaced(memory: DeviceMemory): string {
    const { descriptorTable, availableRing, usedRing } = this.addresses;
    const areas = memory.areas.map((area) => `${hex(area.guestAddress)}+${hex(area.sizeBytes)}`);
    return `expected rings of ${this.size} aligned and each in one of ${
      areas.join(", ") || "no"
    } ` +
      `memory, got the descriptor area at ${hexOf(descriptorTable)}, the driver area at ` +
      `${hexOf(availableRing)}, the device area at ${hexOf(usedRing)}`;
  }
}

function hexOf(address: number): string {
  return Number.isSafeInteger(address) && address >= 0 ? hex(address) : String(address);
}
