/**
 * The split virtqueue, device side (virtio 1.2, 2.7).
 *
 * @module
 */

import type { DescriptorChain } from "./chain.ts";
import type { DeviceMemory, MemoryArea } from "./device_memory.ts";
import { VirtioError } from "./errors.ts";
import type { InflightQueue } from "./inflight.ts";
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
  USED_ENTRY_BYTES,
  USED_NO_NOTIFY,
  usedRingBytes,
} from "./ring.ts";
import { Virtqueue, type VirtqueueSettings } from "./virtqueue.ts";

const TWO_32 = 2 ** 32;

/** What a split queue is made of; its size is a power of two up to 32768. */
export interface SplitVirtqueueSettings extends VirtqueueSettings {
  /** Index of the available ring to go on from; that of a new queue, 0, where absent. */
  readonly availableIndex?: number;
  /** Where it is recorded which chains the device holds, to survive its death. */
  readonly inflight?: InflightQueue | undefined;
}

/** A split queue from start to stop. */
export class SplitVirtqueue extends Virtqueue {
  protected override readonly linkedTables = true;
  readonly #mask: number;
  readonly #inflight: InflightQueue | undefined;

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
  /** Heads that the device held when it died, oldest first. */
  #resubmit: readonly number[] = [];
  #resubmitted = 0;
  /** Whether the last chain was one of those. */
  #lastAgain = false;

  /**
   * A queue over rings in `memory`.
   *
   * @throws {VirtioError} where size or addresses cannot be those of a queue.
   */
  constructor(memory: DeviceMemory, settings: SplitVirtqueueSettings) {
    const { size, availableIndex = 0, inflight } = settings;
    if (!isQueueSize(size)) {
      throw new VirtioError(
        `queue: expected a power of two up to ${MAX_QUEUE_SIZE} as size, got ${size}`,
      );
    }
    super(settings);
    this.#mask = size - 1;
    this.#inflight = inflight;
    this.start(memory);
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
    this.arm();
  }

  /** Index of the available ring to go on from. */
  override get base(): number {
    return this.#next;
  }

  /** Index of the used ring. */
  get usedIndex(): number {
    return this.#usedIndex;
  }

  override get offered(): number {
    return Atomics.load(this.#available.words16, this.#availableWord + RING_INDEX_WORD);
  }

  override needsNotification(): boolean {
    if (!this.#pushed || this.fault !== undefined) return false;
    this.#pushed = false;
    const now = this.#usedIndex;
    const before = this.#signalled;
    this.#signalled = now;
    const { words16 } = this.#available;
    // These loads are ordered behind the store of the used index: all are sequentially consistent.
    if (!this.eventIdx) {
      return (Atomics.load(words16, this.#availableWord) & AVAIL_NO_INTERRUPT) === 0;
    }
    const event = Atomics.load(words16, this.#availableWord + RING_ENTRIES / 2 + this.size);
    if (this.#everAsked) return passesEvent(event, now, before);
    this.#everAsked = true;
    return true;
  }

  protected override take(chain: DescriptorChain): number {
    if (this.#resubmitted < this.#resubmit.length) return this.#takeAgain(chain);
    const next = this.#next;
    if (next === this.#published && !this.#lookForMore()) return 0;
    const entry = this.#availableWord + RING_ENTRIES / 2 + (next & this.#mask);
    const head = this.#available.words16[entry]!;
    if (!this.#read(chain, head)) return 0;
    this.#next = (next + 1) & 0xffff;
    this.#lastAgain = false;
    this.#inflight?.take(head);
    return 1;
  }

  protected override putBack(head: number): void {
    if (this.#lastAgain) {
      this.#resubmitted--;
      return;
    }
    this.#inflight?.drop(head);
    this.#next = (this.#next - 1) & 0xffff;
  }

  protected override putUsed(head: number, writtenBytes: number): void {
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

  protected override wantKick(): void {
    const { words16 } = this.#used;
    if (this.eventIdx) {
      const at = this.#usedWord + RING_ENTRIES / 2 + this.size * (USED_ENTRY_BYTES / 2);
      Atomics.store(words16, at, this.#next);
    } else {
      Atomics.store(words16, this.#usedWord, 0);
    }
  }

  protected override wantNoKick(): void {
    Atomics.store(this.#used.words16, this.#usedWord, USED_NO_NOTIFY);
  }

  protected override locate(memory: DeviceMemory): boolean {
    const { descriptorTable, availableRing, usedRing } = this.addresses;
    const descriptors = memory.findRange(descriptorTable, descriptorTableBytes(this.size));
    const available = memory.findRange(availableRing, availableRingBytes(this.size));
    const used = memory.findRange(usedRing, usedRingBytes(this.size));
    if (descriptors === undefined || available === undefined || used === undefined) return false;
    if (descriptorTable % 16 !== 0 || availableRing % 2 !== 0 || usedRing % 4 !== 0) return false;
    this.#descriptors = descriptors;
    this.#available = available;
    this.#used = used;
    this.#descriptorsAt = descriptorTable - descriptors.guestAddress;
    this.#availableWord = (availableRing - available.guestAddress) / 2;
    this.#usedAt = usedRing - used.guestAddress;
    this.#usedWord = this.#usedAt / 2;
    return true;
  }

  /** Takes the next one of the chains that a predecessor held. */
  #takeAgain(chain: DescriptorChain): number {
    if (!this.#read(chain, this.#resubmit[this.#resubmitted]!)) return 0;
    this.#resubmitted++;
    this.#lastAgain = true;
    return 1;
  }

  /** Whether the driver has published more chains; if not, it kicks when it does. */
  #lookForMore(): boolean {
    const { words16 } = this.#available;
    const at = this.#availableWord + RING_INDEX_WORD;
    let index = Atomics.load(words16, at);
    if (index === this.#next) {
      if (this.polled) return false;
      this.arm();
      // It may have published one before it saw that kicks are wanted.
      index = Atomics.load(words16, at);
      if (index === this.#next) return false;
    }
    const count = (index - this.#next) & 0xffff;
    if (count > this.size) {
      return this.break(
        "available-index",
        `${count} chains are offered at once, by a queue of ${this.size}`,
      );
    }
    this.#published = index;
    return true;
  }

  /** Reads the chain that begins at descriptor `head`. */
  #read(chain: DescriptorChain, head: number): boolean {
    if (!this.admits(head)) return false;
    chain.begin(head);
    const { view } = this.#descriptors;
    let index = head;
    for (let left = this.size; left > 0; left--) {
      const at = this.#descriptorsAt + index * DESCRIPTOR_BYTES;
      const address = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const length = view.getUint32(at + 8, true);
      const flags = view.getUint16(at + 12, true);
      const next = view.getUint16(at + 14, true);
      if ((flags & DescriptorFlag.Indirect) !== 0) {
        return this.appendTable(chain, address, length, flags);
      }
      if (!this.append(chain, address, length, flags)) return false;
      if ((flags & DescriptorFlag.Next) === 0) return true;
      if (next >= this.size) {
        return this.break("next-out-of-range", `descriptor ${next} of ${this.size}`);
      }
      index = next;
    }
    return this.break("chain-too-long", `the chain at ${head} has more than ${this.size}`);
  }
}
