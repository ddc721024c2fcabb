/**
 * The packed virtqueue, device side (virtio 1.2, 2.8): one ring, in which the driver's descriptors become
 * the device's answers. Its driver and device areas say what either side wants to be told of.
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import type { DescriptorChain } from "./chain.ts";
import type { DeviceMemory, MemoryArea } from "./device_memory.ts";
import { VirtioError } from "./errors.ts";
import type { PackedInflightQueue, RecordedDescriptor } from "./packed_inflight.ts";
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
import { DESCRIPTOR_BYTES, DescriptorFlag, descriptorTableBytes } from "./ring.ts";
import { Virtqueue, type VirtqueueSettings } from "./virtqueue.ts";

const TWO_32 = 2 ** 32;

/** What a packed queue is made of; any size up to 32768 will do. */
export interface PackedVirtqueueSettings extends VirtqueueSettings {
  /**
   * Where to go on, as {@link PackedVirtqueue.base} gave it; at the begin where absent. A predecessor that was
   * not stopped has left that in its record.
   */
  readonly base?: number;
  /** Where it is recorded which chains the device holds, to survive its death. */
  readonly inflight?: PackedInflightQueue | undefined;
}

/** A packed queue from start to stop. */
export class PackedVirtqueue extends Virtqueue {
  protected override readonly linkedTables = false;
  /** Next descriptor to take, and next to answer with. */
  readonly #next: RingPlace;
  readonly #used: RingPlace;

  #ring!: MemoryArea;
  /** Where the ring lies in its area, in bytes. */
  #ringAt = 0;
  #driverEvents!: EventArea;
  #deviceEvents!: EventArea;

  /** Descriptors that were answered with since it was last asked whether to notify. */
  #pushedSlots = 0;
  /** Whether it is unknown what the driver was told: a predecessor may have died before it did. */
  #neverAsked: boolean;

  readonly #inflight: PackedInflightQueue | undefined;
  /** First entries of chains that the device held when it died, oldest first. */
  #resubmit: readonly number[] = [];
  #resubmitted = 0;
  /** Whether the last chain was one of those. */
  #lastAgain = false;
  readonly #recorded: RecordedDescriptor = { address: 0, length: 0, flags: 0, id: 0 };

  /**
   * A queue over a ring in `memory`.
   *
   * @throws {VirtioError} where size, addresses or base cannot be those of a queue.
   */
  constructor(memory: DeviceMemory, settings: PackedVirtqueueSettings) {
    const { size, base = PACKED_BEGIN, inflight } = settings;
    if (!Number.isInteger(size) || size < 1 || size > MAX_PACKED_SIZE) {
      throw new VirtioError(`queue: expected a size up to ${MAX_PACKED_SIZE}, got ${size}`);
    }
    super(settings);
    this.#next = new RingPlace(size);
    this.#used = new RingPlace(size);
    if (!this.#next.decode(base & 0xffff) || !this.#used.decode(base >>> 16)) {
      throw new VirtioError(`queue: expected places in a ring of ${size}, got ${hex(base)}`);
    }
    this.#neverAsked = base >>> 0 !== PACKED_BEGIN;
    this.#inflight = inflight;
    this.start(memory);
    if (inflight !== undefined) this.#recover(inflight);
    this.arm();
  }

  /** Next available and next used place, of 15 bits and a round each. */
  override get base(): number {
    return (this.#next.encoded | this.#used.encoded << 16) >>> 0;
  }

  override get offered(): number {
    return this.#next.encoded * 2 + (this.#isAvailable() ? 1 : 0);
  }

  override end(): void {
    // The chains that a broken queue held are not to come again either.
    const holds = this.heldCount > 0 || this.#resubmitted < this.#resubmit.length;
    if (!holds || this.fault !== undefined) this.#inflight?.end();
  }

  override needsNotification(): boolean {
    if (this.fault !== undefined) return false;
    const count = this.#pushedSlots;
    if (count === 0 && !this.#neverAsked) return false;
    this.#pushedSlots = 0;
    // The loads in there are ordered behind the store of the flags: all are sequentially consistent.
    const isWanted = this.#driverEvents.isWanted(this.#used, count, this.eventIdx);
    if (!this.#neverAsked) return isWanted;
    this.#neverAsked = false;
    return true;
  }

  protected override take(chain: DescriptorChain): number {
    if (this.#resubmitted < this.#resubmit.length) return this.#takeAgain(chain);
    if (!this.#isAvailable() && !this.#lookForMore()) return 0;
    const slots = this.#read(chain);
    if (slots === 0 || !this.admits(chain.head)) return 0;
    this.#next.move(slots);
    this.#lastAgain = false;
    this.#inflight?.take(chain.head);
    return slots;
  }

  protected override putBack(head: number, slots: number): void {
    if (this.#lastAgain) {
      this.#resubmitted--;
      return;
    }
    this.#inflight?.drop(head);
    this.#next.move(-slots);
  }

  protected override putUsed(head: number, writtenBytes: number, slots: number): void {
    const used = this.#used;
    const { view, words16 } = this.#ring;
    const at = this.#ringAt + used.slot * DESCRIPTOR_BYTES;
    view.setUint32(at + 8, writtenBytes, true);
    view.setUint16(at + ID_WORD * 2, head, true);
    const flags = (used.wrap !== 0 ? PackedFlag.Available | PackedFlag.Used : 0) |
      (writtenBytes > 0 ? DescriptorFlag.Write : 0);
    used.move(slots);
    this.#inflight?.answer(head, used.encoded);
    // What was written must be seen before the flags are.
    Atomics.store(words16, at / 2 + FLAGS_WORD, flags);
    this.#inflight?.finish(head);
    this.#pushedSlots += slots;
  }

  protected override wantKick(): void {
    if (this.eventIdx) this.#deviceEvents.want(this.#next.encoded);
    else this.#deviceEvents.wantAll(true);
  }

  protected override wantNoKick(): void {
    this.#deviceEvents.wantAll(false);
  }

  protected override locate(memory: DeviceMemory): boolean {
    const { descriptorTable, availableRing, usedRing } = this.addresses;
    const ring = memory.findRange(descriptorTable, descriptorTableBytes(this.size));
    const driver = memory.findRange(availableRing, EVENT_AREA_BYTES);
    const device = memory.findRange(usedRing, EVENT_AREA_BYTES);
    if (ring === undefined || driver === undefined || device === undefined) return false;
    if (descriptorTable % 16 !== 0 || availableRing % 4 !== 0 || usedRing % 4 !== 0) return false;
    this.#ring = ring;
    this.#ringAt = descriptorTable - ring.guestAddress;
    this.#driverEvents = new EventArea(driver, availableRing);
    this.#deviceEvents = new EventArea(device, usedRing);
    return true;
  }

  /** Goes on with what a predecessor recorded, or begins a record. */
  #recover(inflight: PackedInflightQueue): void {
    const { size } = this;
    const found = inflight.recover((encoded) => {
      const place = new RingPlace(size);
      return place.decode(encoded) && this.#isOffered(place);
    });
    if (found === undefined) {
      inflight.begin(this.#used.encoded);
      return;
    }
    this.#used.decode(found.used);
    this.#next.decode(found.used);
    this.#next.move(found.slots);
    this.#resubmit = found.chains;
    this.#neverAsked = true;
  }

  /** Takes the next one of the chains that a predecessor held. */
  #takeAgain(chain: DescriptorChain): number {
    const inflight = this.#inflight!;
    const first = this.#resubmit[this.#resubmitted]!;
    const count = inflight.count(first);
    const recorded = this.#recorded;
    chain.begin(0);
    for (let left = count, entry = first; left > 0; left--) {
      entry = inflight.read(entry, recorded);
      const { address, length, flags, id } = recorded;
      chain.head = id;
      const added = (flags & DescriptorFlag.Indirect) !== 0
        ? this.appendTable(chain, address, length, flags)
        : this.append(chain, address, length, flags);
      if (!added) return 0;
    }
    if (!this.admits(chain.head)) return 0;
    inflight.retake(chain.head, first);
    this.#resubmitted++;
    this.#lastAgain = true;
    return count;
  }

  /** Whether the driver offers the next descriptor. */
  #isAvailable(): boolean {
    return this.#isOffered(this.#next);
  }

  /** Whether the driver offers the descriptor at a place in its round. */
  #isOffered({ slot, wrap }: RingPlace): boolean {
    const at = this.#ringAt / 2 + slot * WORDS + FLAGS_WORD;
    const flags = Atomics.load(this.#ring.words16, at);
    return ((flags & PackedFlag.Available) !== 0) === (wrap !== 0) &&
      ((flags & PackedFlag.Used) !== 0) !== (wrap !== 0);
  }

  /** Asks for a kick, and whether there is something after all; it may have come before that was seen. */
  #lookForMore(): boolean {
    if (this.polled) return false;
    this.arm();
    return this.#isAvailable();
  }

  /** Reads the next chain. The result is how many descriptors of the ring it has, 0 for a broken one. */
  #read(chain: DescriptorChain): number {
    const { view } = this.#ring;
    const free = this.size - this.heldSlots;
    let { slot } = this.#next;
    chain.begin(0);
    for (let count = 1; count <= free; count++) {
      const at = this.#ringAt + slot * DESCRIPTOR_BYTES;
      const address = view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
      const length = view.getUint32(at + 8, true);
      const flags = view.getUint16(at + FLAGS_WORD * 2, true);
      // That of the last one counts (2.8.6).
      chain.head = view.getUint16(at + ID_WORD * 2, true);
      this.#inflight?.add(address, length, flags, chain.head);
      if ((flags & DescriptorFlag.Indirect) !== 0) {
        return this.appendTable(chain, address, length, flags) ? count : 0;
      }
      if (!this.append(chain, address, length, flags)) return 0;
      if ((flags & DescriptorFlag.Next) === 0) return count;
      slot = slot + 1 === this.size ? 0 : slot + 1;
    }
    const { size } = this;
    this.break("chain-too-long", `more than the ${free} of ${size} that the device does not hold`);
    return 0;
  }
}
