/**
 * The split virtqueue, device side (virtio 1.2, 2.7).
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
import type { DeviceMemory, MemoryArea } from "./device_memory.ts";
import type { DeviceQueue } from "./device_queue.ts";
import { VirtioError } from "./errors.ts";
import type { InflightQueue } from "./inflight.ts";
import { MAX_CHAIN, type QueueFault, type QueueFaultReason } from "./queue_fault.ts";
import {
  AVAIL_NO_INTERRUPT,
  availableRingBytes,
  DESCRIPTOR_BYTES,
  DescriptorFlag,
  descriptorTableBytes,
  isQueueSize,
  MAX_QUEUE_SIZE,
  passesEvent,
  RING_ENTRIES,
  RING_INDEX_WORD,
  type RingAddresses,
  USED_ENTRY_BYTES,
  USED_NO_NOTIFY,
  usedRingBytes,
} from "./ring.ts";

const TWO_32 = 2 ** 32;

/** What a queue is made of. */
export interface VirtqueueSettings extends RingAddresses {
  /** Descriptors, a power of two up to 32768. */
  readonly size: number;
  /** Whether INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
  /** Whether EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /** Index of the available ring to go on from; that of a new queue, 0, where absent. */
  readonly availableIndex?: number;
  /** Where it is recorded which chains the device holds, to survive its death. */
  readonly inflight?: InflightQueue | undefined;
}

/** A queue from start to stop. */
export class Virtqueue implements DeviceQueue {
  /** Descriptors. */
  readonly size: number;
  readonly #settings: VirtqueueSettings;
  readonly #mask: number;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  readonly #inflight: InflightQueue | undefined;
  readonly #chain = new DescriptorChain();
  /** Per head, whether the device holds it. */
  readonly #held: Uint8Array;

  #memory!: DeviceMemory;
  #descriptors!: MemoryArea;
  #available!: MemoryArea;
  #used!: MemoryArea;
  // Where the parts lie in their areas: bytes, and for the rings also 16-bit words.
  #descriptorsAt = 0;
  #availableWord = 0;
  #usedAt = 0;
  #usedWord = 0;

  /** Next entry of the available ring to take. */
  #next: number;
  /** The driver's index of the available ring, as last read. */
  #published: number;
  /** Next entry of the used ring to fill. */
  #usedIndex: number;
  /** Index of the used ring when it was last asked whether to notify. */
  #signalled = 0;
  /** Whether that was ever asked: before, it is unknown what the driver was told. */
  #everAsked = false;
  /** Whether something was pushed since. */
  #pushed: boolean;
  #heldCount = 0;
  /** Whether the driver was told to kick for the next chain. */
  #armed = true;
  #polled = false;
  #enabled = true;
  #fault: QueueFault | undefined;
  /** Heads that the device held when it died, oldest first. */
  #resubmit: readonly number[] = [];
  #resubmitted = 0;
  /** Whether the last chain was one of those. */
  #lastAgain = false;
  /** How many chains this turn may still take. */
  #budget = Infinity;

  /**
   * A queue over rings in `memory`.
   *
   * @throws {VirtioError} where size or addresses cannot be those of a queue.
   */
  constructor(memory: DeviceMemory, settings: VirtqueueSettings) {
    const { size, availableIndex = 0, inflight } = settings;
    if (!isQueueSize(size)) {
      throw new VirtioError(
        `queue: expected a power of two up to ${MAX_QUEUE_SIZE} as size, got ${size}`,
      );
    }
    this.size = size;
    this.#settings = settings;
    this.#mask = size - 1;
    this.#indirect = settings.indirect;
    this.#eventIdx = settings.eventIdx;
    this.#inflight = inflight;
    this.#held = new Uint8Array(size);
    if (!this.#locate(memory)) throw new VirtioError(`queue: ${this.#misplaced(memory)}`);
    // The used index is the device's own; after a restart the ring is where it is remembered.
    this.#usedIndex = Atomics.load(this.#used.words16, this.#usedWord + RING_INDEX_WORD);
    // A predecessor may have died before it notified the driver.
    this.#pushed = this.#usedIndex !== 0;
    this.#next = availableIndex & 0xffff;
    if (inflight !== undefined) {
      this.#resubmit = inflight.recover(this.#usedIndex);
      if (this.#resubmit.length > 0) {
        this.#next = (this.#usedIndex + this.#resubmit.length) & 0xffff;
      }
    }
    this.#published = this.#next;
    this.#used.view.setUint16(this.#usedAt, 0, true);
    this.#arm();
  }

  /** What the driver did wrong, if it did. */
  get fault(): QueueFault | undefined {
    return this.#fault;
  }

  /** Index of the available ring to go on from, for another queue over the same rings. */
  get base(): number {
    return this.#next;
  }

  /** Index of the used ring. */
  get usedIndex(): number {
    return this.#usedIndex;
  }

  /** Chains that the device holds. */
  get heldCount(): number {
    return this.#heldCount;
  }

  /** Whether chains come out. */
  get enabled(): boolean {
    return this.#enabled;
  }

  /** Whether {@link pop} ended because the turn's share was used up. */
  get turnExhausted(): boolean {
    return this.#budget === 0;
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
    else this.#arm();
  }

  /** Lets {@link pop} give at most `chains` until {@link endTurn}, so that no queue starves another. */
  beginTurn(chains: number): void {
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
    if (!this.#locate(memory)) this.#break("ring-outside-memory", this.#misplaced(memory));
  }

  /**
   * Takes the next chain. When there is none, the driver kicks for the next one.
   *
   * @param chain what to fill; the queue's own where absent, which the next call fills anew
   * @returns `chain`, or undefined where there is none (or the queue is broken or disabled)
   */
  pop(chain: DescriptorChain = this.#chain): DescriptorChain | undefined {
    if (this.#fault !== undefined || !this.#enabled || this.#budget === 0) return undefined;
    if (this.#resubmitted < this.#resubmit.length) return this.#popAgain(chain);
    const next = this.#next;
    if (next === this.#published && !this.#lookForMore()) return undefined;
    const entry = this.#availableWord + RING_ENTRIES / 2 + (next & this.#mask);
    const head = this.#available.words16[entry]!;
    if (!this.#take(chain, head)) return undefined;
    this.#next = (next + 1) & 0xffff;
    this.#lastAgain = false;
    this.#inflight?.take(head);
    if (this.#armed) this.#disarm();
    return chain;
  }

  /**
   * Puts the chain that {@link pop} gave last back, as if it had not been taken.
   *
   * @throws {VirtioError} where it is not held.
   */
  unpop(head: number): void {
    this.#release(head);
    this.#budget++;
    if (this.#lastAgain) {
      this.#resubmitted--;
      return;
    }
    this.#inflight?.drop(head);
    this.#next = (this.#next - 1) & 0xffff;
  }

  /**
   * Gives a chain back to the driver.
   *
   * @param head the chain's
   * @param writtenBytes how much of its writable pieces was written, from their begin on
   * @throws {VirtioError} where it is not held.
   */
  push(head: number, writtenBytes: number): void {
    this.#release(head);
    if (this.#fault !== undefined) return;
    const used = this.#usedIndex;
    const at = this.#usedAt + RING_ENTRIES + (used & this.#mask) * USED_ENTRY_BYTES;
    const { view, words16 } = this.#used;
    view.setUint32(at, head, true);
    view.setUint32(at + 4, writtenBytes, true);
    const now = (used + 1) & 0xffff;
    this.#usedIndex = now;
    this.#pushed = true;
    this.#inflight?.batch(head);
    // What was written must be seen before the index is.
    Atomics.store(words16, this.#usedWord + RING_INDEX_WORD, now);
    this.#inflight?.finish(head, now);
  }

  /**
   * Whether the driver wants to be notified of what was pushed since the last time that this was asked;
   * if so, the caller notifies it.
   */
  needsNotification(): boolean {
    if (!this.#pushed || this.#fault !== undefined) return false;
    this.#pushed = false;
    const now = this.#usedIndex;
    const before = this.#signalled;
    this.#signalled = now;
    const { words16 } = this.#available;
    // These loads are ordered behind the store of the used index: all are sequentially consistent.
    if (!this.#eventIdx) {
      return (Atomics.load(words16, this.#availableWord) & AVAIL_NO_INTERRUPT) === 0;
    }
    const event = Atomics.load(words16, this.#availableWord + RING_ENTRIES / 2 + this.size);
    if (this.#everAsked) return passesEvent(event, now, before);
    this.#everAsked = true;
    return true;
  }

  #popAgain(chain: DescriptorChain): DescriptorChain | undefined {
    const head = this.#resubmit[this.#resubmitted]!;
    if (!this.#take(chain, head)) return undefined;
    this.#resubmitted++;
    this.#lastAgain = true;
    return chain;
  }

  /** Reads the chain at `head` and holds it. */
  #take(chain: DescriptorChain, head: number): boolean {
    if (head >= this.size) {
      return this.#break("head-out-of-range", `descriptor ${head} of ${this.size}`);
    }
    if (this.#held[head] !== 0) {
      return this.#break("head-in-use", `descriptor ${head} is offered twice`);
    }
    chain.begin(head);
    if (!this.#walk(chain, head)) return false;
    this.#held[head] = 1;
    this.#heldCount++;
    this.#budget--;
    return true;
  }

  #release(head: number): void {
    if (!(head < this.size) || this.#held[head] !== 1) {
      throw new VirtioError(`queue: chain ${head} is given back, but the device does not hold it`);
    }
    this.#held[head] = 0;
    this.#heldCount--;
  }

  /** Whether the driver has published more chains; if not, it kicks when it does. */
  #lookForMore(): boolean {
    const { words16 } = this.#available;
    const at = this.#availableWord + RING_INDEX_WORD;
    let index = Atomics.load(words16, at);
    if (index === this.#next) {
      if (this.#polled) return false;
      this.#arm();
      // It may have published one before it saw that kicks are wanted.
      index = Atomics.load(words16, at);
      if (index === this.#next) return false;
    }
    const count = (index - this.#next) & 0xffff;
    if (count > this.size) {
      return this.#break(
        "available-index",
        `${count} chains are offered at once, by a queue of ${this.size}`,
      );
    }
    this.#published = index;
    return true;
  }

  /** Asks for a kick for the next chain. */
  #arm(): void {
    const { words16 } = this.#used;
    if (this.#eventIdx) {
      const at = this.#usedWord + RING_ENTRIES / 2 + this.size * (USED_ENTRY_BYTES / 2);
      Atomics.store(words16, at, this.#next);
    } else {
      Atomics.store(words16, this.#usedWord, 0);
    }
    this.#armed = true;
  }

  #disarm(): void {
    this.#armed = false;
    // With EVENT_IDX, the index that was asked for lies behind by now.
    if (!this.#eventIdx) Atomics.store(this.#used.words16, this.#usedWord, USED_NO_NOTIFY);
  }

  #walk(chain: DescriptorChain, head: number): boolean {
    const { view } = this.#descriptors;
    let index = head;
    for (let left = this.size; left > 0; left--) {
      const at = this.#descriptorsAt + index * DESCRIPTOR_BYTES;
      const address = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const length = view.getUint32(at + 8, true);
      const flags = view.getUint16(at + 12, true);
      const next = view.getUint16(at + 14, true);
      if ((flags & DescriptorFlag.Indirect) !== 0) {
        return this.#walkIndirect(chain, address, { length, flags });
      }
      if (!this.#append(chain, address, length, flags)) return false;
      if ((flags & DescriptorFlag.Next) === 0) return true;
      if (next >= this.size) {
        return this.#break("next-out-of-range", `descriptor ${next} of ${this.size}`);
      }
      index = next;
    }
    return this.#break("chain-too-long", `the chain at ${head} has more than ${this.size}`);
  }

  #walkIndirect(
    chain: DescriptorChain,
    table: number,
    { length, flags }: { length: number; flags: number },
  ): boolean {
    if (!this.#indirect) return this.#break("indirect-not-negotiated", `at chain ${chain.head}`);
    if ((flags & DescriptorFlag.Next) !== 0) {
      return this.#break("indirect-with-next", `at chain ${chain.head}`);
    }
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0) {
      return this.#break("indirect-length", `${length} bytes`);
    }
    const count = length / DESCRIPTOR_BYTES;
    let index = 0;
    for (let left = Math.max(this.size, MAX_CHAIN); left > 0; left--) {
      const address = table + index * DESCRIPTOR_BYTES;
      const area = this.#memory.findRange(address, DESCRIPTOR_BYTES);
      if (area === undefined) {
        return this.#break("indirect-outside-memory", `a descriptor at ${hexOf(address)}`);
      }
      const { view } = area;
      const at = address - area.guestAddress;
      const buffer = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const bufferBytes = view.getUint32(at + 8, true);
      const bufferFlags = view.getUint16(at + 12, true);
      const next = view.getUint16(at + 14, true);
      if ((bufferFlags & DescriptorFlag.Indirect) !== 0) {
        return this.#break("indirect-nested", `at chain ${chain.head}`);
      }
      if (!this.#append(chain, buffer, bufferBytes, bufferFlags)) return false;
      if ((bufferFlags & DescriptorFlag.Next) === 0) return true;
      if (next >= count) {
        return this.#break("next-out-of-range", `descriptor ${next} of a table of ${count}`);
      }
      index = next;
    }
    return this.#break("chain-too-long", `the indirect chain at ${chain.head} has no end`);
  }

  #append(chain: DescriptorChain, address: number, length: number, flags: number): boolean {
    const reason = chain.append(this.#memory, address, length, flags);
    if (reason === undefined) return true;
    return this.#break(reason, `${length} bytes at ${hexOf(address)}, in chain ${chain.head}`);
  }

  #break(reason: QueueFaultReason, message: string): false {
    this.#fault ??= { reason, message: `${reason}: ${message}` };
    return false;
  }

  /** Finds the parts of the queue in `memory`. */
  #locate(memory: DeviceMemory): boolean {
    const { descriptorTable, availableRing, usedRing } = this.#settings;
    const descriptors = memory.findRange(descriptorTable, descriptorTableBytes(this.size));
    const available = memory.findRange(availableRing, availableRingBytes(this.size));
    const used = memory.findRange(usedRing, usedRingBytes(this.size));
    if (descriptors === undefined || available === undefined || used === undefined) return false;
    if (descriptorTable % 16 !== 0 || availableRing % 2 !== 0 || usedRing % 4 !== 0) return false;
    this.#memory = memory;
    this.#descriptors = descriptors;
    this.#available = available;
    this.#used = used;
    this.#descriptorsAt = descriptorTable - descriptors.guestAddress;
    this.#availableWord = (availableRing - available.guestAddress) / 2;
    this.#usedAt = usedRing - used.guestAddress;
    this.#usedWord = this.#usedAt / 2;
    return true;
  }

  #misplaced(memory: DeviceMemory): string {
    const { descriptorTable, availableRing, usedRing } = this.#settings;
    const areas = memory.areas.map((area) => `${hex(area.guestAddress)}+${hex(area.sizeBytes)}`);
    return `expected rings of ${this.size} aligned and each in one of ${
      areas.join(", ") || "no"
    } ` +
      `memory, got descriptors at ${hexOf(descriptorTable)}, available ring at ` +
      `${hexOf(availableRing)}, used ring at ${hexOf(usedRing)}`;
  }
}

function hexOf(address: number): string {
  return Number.isSafeInteger(address) && address >= 0 ? hex(address) : String(address);
}
