/**
 * The packed virtqueue, device side (virtio 1.2, 2.8): one ring, in which the driver's descriptors become
 * the device's answers.
 *
 * It is as hostile as a split one, and treated as such: every number is read once, checked and then used,
 * and a driver that breaks the rules breaks its queue. Work per {@link PackedVirtqueue.pop} is bounded by
 * the queue's size, and by {@link MAX_CHAIN} for indirect tables. Nothing is allocated per operation.
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import { DescriptorChain } from "./chain.ts";
import type { DeviceMemory, MemoryArea } from "./device_memory.ts";
import type { DeviceQueue } from "./device_queue.ts";
import { VirtioError } from "./errors.ts";
import {
  EVENT_AREA_BYTES,
  EventArea,
  FLAGS_WORD,
  ID_WORD,
  MAX_PACKED_SIZE,
  PACKED_BEGIN,
  PackedFlag,
  RingPlace,
  WORDS,
} from "./packed_ring.ts";
import { MAX_CHAIN, type QueueFault, type QueueFaultReason } from "./queue_fault.ts";
import {
  DESCRIPTOR_BYTES,
  DescriptorFlag,
  descriptorTableBytes,
  type RingAddresses,
} from "./ring.ts";

const TWO_32 = 2 ** 32;

/** What a packed queue is made of: its ring, the driver's event area, the device's event area. */
export interface PackedVirtqueueSettings extends RingAddresses {
  /** Descriptors, up to 32768. */
  readonly size: number;
  /** Whether INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
  /** Whether EVENT_IDX was negotiated. */
  readonly eventIdx: boolean;
  /** Where to go on, as {@link DeviceQueue.base} gave it; at the begin where absent. */
  readonly base?: number;
}

/** A packed queue from start to stop. */
export class PackedVirtqueue implements DeviceQueue {
  readonly size: number;
  readonly #settings: PackedVirtqueueSettings;
  readonly #chain = new DescriptorChain();
  /** Per id, how many descriptors of the ring its chain has; 0 where the device does not hold it. */
  readonly #slots: Uint16Array;
  /** Next descriptor to take, and next to answer with. */
  readonly #next: RingPlace;
  readonly #used: RingPlace;

  #memory!: DeviceMemory;
  #ring!: MemoryArea;
  /** Where the ring lies in its area, in bytes. */
  #ringAt = 0;
  #driverEvents!: EventArea;
  #deviceEvents!: EventArea;

  #heldCount = 0;
  /** Descriptors of all chains that are held. */
  #heldSlots = 0;
  /** Descriptors that were answered with since it was last asked whether to notify. */
  #pushedSlots = 0;
  /** Whether it is unknown what the driver was told: a predecessor may have died before it did. */
  #neverAsked: boolean;
  #armed = true;
  #polled = false;
  #enabled = true;
  #budget = Infinity;
  #fault: QueueFault | undefined;

  /**
   * A queue over a ring in `memory`.
   *
   * @throws {VirtioError} where size, addresses or base cannot be those of a queue.
   */
  constructor(memory: DeviceMemory, settings: PackedVirtqueueSettings) {
    const { size, base = PACKED_BEGIN } = settings;
    if (!Number.isInteger(size) || size < 1 || size > MAX_PACKED_SIZE) {
      throw new VirtioError(`queue: expected a size up to ${MAX_PACKED_SIZE}, got ${size}`);
    }
    this.size = size;
    this.#settings = settings;
    this.#slots = new Uint16Array(size);
    this.#next = new RingPlace(size);
    this.#used = new RingPlace(size);
    if (!this.#next.decode(base & 0xffff) || !this.#used.decode(base >>> 16)) {
      throw new VirtioError(`queue: expected places in a ring of ${size}, got ${hex(base)}`);
    }
    this.#neverAsked = base >>> 0 !== PACKED_BEGIN;
    if (!this.#locate(memory)) throw new VirtioError(`queue: ${this.#misplaced()}`);
    this.#arm();
  }

  get fault(): QueueFault | undefined {
    return this.#fault;
  }

  /** Next available and next used place, of 15 bits and a round each. */
  get base(): number {
    return (this.#next.encoded | this.#used.encoded << 16) >>> 0;
  }

  get heldCount(): number {
    return this.#heldCount;
  }

  get turnExhausted(): boolean {
    return this.#budget === 0;
  }

  setEnabled(on: boolean): void {
    this.#enabled = on;
  }

  setPolled(on: boolean): void {
    this.#polled = on;
    if (this.#fault !== undefined) return;
    if (on) this.#disarm();
    else this.#arm();
  }

  beginTurn(chains: number): void {
    this.#budget = chains;
  }

  endTurn(): void {
    this.#budget = Infinity;
  }

  setMemory(memory: DeviceMemory): void {
    if (!this.#locate(memory)) this.#break("ring-outside-memory", this.#misplaced());
  }

  pop(chain: DescriptorChain = this.#chain): DescriptorChain | undefined {
    if (this.#fault !== undefined || !this.#enabled || this.#budget === 0) return undefined;
    if (!this.#isAvailable() && !this.#lookForMore()) return undefined;
    const count = this.#walk(chain);
    if (count === 0) return undefined;
    const { head } = chain;
    if (head >= this.size) {
      this.#break("head-out-of-range", `id ${head} in a queue of ${this.size}`);
      return undefined;
    }
    if (this.#slots[head] !== 0) {
      this.#break("head-in-use", `id ${head} is offered twice`);
      return undefined;
    }
    this.#slots[head] = count;
    this.#heldSlots += count;
    this.#heldCount++;
    this.#budget--;
    this.#next.move(count);
    if (this.#armed) this.#disarm();
    return chain;
  }

  unpop(head: number): void {
    this.#next.move(-this.#release(head));
    this.#budget++;
  }

  push(head: number, writtenBytes: number): void {
    const count = this.#release(head);
    if (this.#fault !== undefined) return;
    const used = this.#used;
    const { view, words16 } = this.#ring;
    const at = this.#ringAt + used.slot * DESCRIPTOR_BYTES;
    view.setUint32(at + 8, writtenBytes, true);
    view.setUint16(at + ID_WORD * 2, head, true);
    const flags = (used.wrap !== 0 ? PackedFlag.Available | PackedFlag.Used : 0) |
      (writtenBytes > 0 ? DescriptorFlag.Write : 0);
    // What was written must be seen before the flags are.
    Atomics.store(words16, at / 2 + FLAGS_WORD, flags);
    used.move(count);
    this.#pushedSlots += count;
  }

  needsNotification(): boolean {
    if (this.#fault !== undefined) return false;
    const count = this.#pushedSlots;
    if (count === 0 && !this.#neverAsked) return false;
    this.#pushedSlots = 0;
    // The loads in there are ordered behind the store of the flags: all are sequentially consistent.
    const isWanted = this.#driverEvents.isWanted(this.#used, count, this.#settings.eventIdx);
    if (!this.#neverAsked) return isWanted;
    this.#neverAsked = false;
    return true;
  }

  #release(head: number): number {
    const count = this.#slots[head] ?? 0;
    if (count === 0) {
      throw new VirtioError(`queue: chain ${head} is given back, but the device does not hold it`);
    }
    this.#slots[head] = 0;
    this.#heldSlots -= count;
    this.#heldCount--;
    return count;
  }

  /** Whether the driver offers the next descriptor. */
  #isAvailable(): boolean {
    const { slot, wrap } = this.#next;
    const at = this.#ringAt / 2 + slot * WORDS + FLAGS_WORD;
    const flags = Atomics.load(this.#ring.words16, at);
    return ((flags & PackedFlag.Available) !== 0) === (wrap !== 0) &&
      ((flags & PackedFlag.Used) !== 0) !== (wrap !== 0);
  }

  /** Asks for a kick, and whether there is something after all; it may have come before that was seen. */
  #lookForMore(): boolean {
    if (this.#polled) return false;
    this.#arm();
    return this.#isAvailable();
  }

  #arm(): void {
    if (this.#settings.eventIdx) this.#deviceEvents.want(this.#next.encoded);
    else this.#deviceEvents.wantAll(true);
    this.#armed = true;
  }

  #disarm(): void {
    this.#armed = false;
    // With EVENT_IDX, the place that was asked for lies behind by now.
    if (!this.#settings.eventIdx) this.#deviceEvents.wantAll(false);
  }

  /** Reads the next chain. The result is how many descriptors of the ring it has, 0 for a broken one. */
  #walk(chain: DescriptorChain): number {
    const { view } = this.#ring;
    const free = this.size - this.#heldSlots;
    let { slot } = this.#next;
    chain.begin(0);
    for (let count = 1; count <= free; count++) {
      const at = this.#ringAt + slot * DESCRIPTOR_BYTES;
      const address = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const length = view.getUint32(at + 8, true);
      const flags = view.getUint16(at + FLAGS_WORD * 2, true);
      // That of the last one counts (2.8.6).
      chain.head = view.getUint16(at + ID_WORD * 2, true);
      if ((flags & DescriptorFlag.Indirect) !== 0) {
        return this.#walkIndirect(chain, address, { length, flags }) ? count : 0;
      }
      if (!this.#append(chain, address, length, flags)) return 0;
      if ((flags & DescriptorFlag.Next) === 0) return count;
      slot = slot + 1 === this.size ? 0 : slot + 1;
    }
    const { size } = this;
    this.#break("chain-too-long", `more than the ${free} of ${size} that the device does not hold`);
    return 0;
  }

  /** The entries of a table follow each other, and say nothing of a next one (2.8.7). */
  #walkIndirect(
    chain: DescriptorChain,
    table: number,
    { length, flags }: { length: number; flags: number },
  ): boolean {
    if (!this.#settings.indirect) {
      return this.#break("indirect-not-negotiated", `at chain ${chain.head}`);
    }
    if ((flags & DescriptorFlag.Next) !== 0) {
      return this.#break("indirect-with-next", `at chain ${chain.head}`);
    }
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0) {
      return this.#break("indirect-length", `${length} bytes`);
    }
    const count = length / DESCRIPTOR_BYTES;
    if (count > Math.max(this.size, MAX_CHAIN)) {
      return this.#break("chain-too-long", `an indirect table of ${count} at chain ${chain.head}`);
    }
    for (let index = 0; index < count; index++) {
      const address = table + index * DESCRIPTOR_BYTES;
      const area = this.#memory.findRange(address, DESCRIPTOR_BYTES);
      if (area === undefined) {
        return this.#break("indirect-outside-memory", `a descriptor at ${hexOf(address)}`);
      }
      const { view } = area;
      const at = address - area.guestAddress;
      const buffer = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const bufferBytes = view.getUint32(at + 8, true);
      const bufferFlags = view.getUint16(at + FLAGS_WORD * 2, true);
      if ((bufferFlags & DescriptorFlag.Indirect) !== 0) {
        return this.#break("indirect-nested", `at chain ${chain.head}`);
      }
      if (!this.#append(chain, buffer, bufferBytes, bufferFlags)) return false;
    }
    return true;
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
    const ring = memory.findRange(descriptorTable, descriptorTableBytes(this.size));
    const driver = memory.findRange(availableRing, EVENT_AREA_BYTES);
    const device = memory.findRange(usedRing, EVENT_AREA_BYTES);
    if (ring === undefined || driver === undefined || device === undefined) return false;
    if (descriptorTable % 16 !== 0 || availableRing % 4 !== 0 || usedRing % 4 !== 0) return false;
    this.#memory = memory;
    this.#ring = ring;
    this.#ringAt = descriptorTable - ring.guestAddress;
    this.#driverEvents = new EventArea(driver, availableRing);
    this.#deviceEvents = new EventArea(device, usedRing);
    return true;
  }

  #misplaced(): string {
    const { descriptorTable, availableRing, usedRing } = this.#settings;
    return `expected a ring of ${this.size} aligned and each part in one area of memory, got ` +
      `descriptors at ${hexOf(descriptorTable)}, the driver's events at ${hexOf(availableRing)}, ` +
      `the device's at ${hexOf(usedRing)}`;
  }
}

function hexOf(address: number): string {
  return Number.isSafeInteger(address) && address >= 0 ? hex(address) : String(address);
}
