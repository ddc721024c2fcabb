/**
 * The driver side of a packed virtqueue, for tests and benchmarks: well-behaved by its methods, and as
 * malformed as one likes by writing to the ring.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import type { DeviceMemory, MemoryArea } from "../device_memory.ts";
import { VirtioError } from "../errors.ts";
import {
  EVENT_AREA_BYTES,
  EventArea,
  FLAGS_WORD,
  ID_WORD,
  PackedFlag,
  RingPlace,
  WORDS,
} from "../packed_ring.ts";
import {
  DESCRIPTOR_BYTES,
  DescriptorFlag,
  descriptorTableBytes,
  type RingAddresses,
} from "../ring.ts";
import type { DriverBuffer, MockDriverOptions } from "./mock_driver.ts";

/** Bytes of the ring and the event areas of a {@link MockPackedDriver} with `size` descriptors. */
export function mockPackedRingBytes(size: number): number {
  return alignUp(descriptorTableBytes(size) + 2 * EVENT_AREA_BYTES, 16);
}

/** A driver of one packed queue. */
export class MockPackedDriver {
  /** Where the ring and the event areas lie. */
  readonly addresses: RingAddresses;
  /** Descriptors. */
  readonly size: number;
  /** Bytes that the device wrote to the chain that {@link takeUsed} gave last. */
  usedLength = 0;

  readonly #area: MemoryArea;
  readonly #eventIdx: boolean;
  readonly #at: number;
  readonly #own: EventArea;
  readonly #device: EventArea;
  readonly #next: RingPlace;
  readonly #used: RingPlace;
  /** Descriptors of the chain of each id; 0 where the id is free. */
  readonly #slots: Uint16Array;
  #freeCount: number;
  /** Flags of the first descriptor of each chain that the device does not see so far, and where. */
  #hidden: { readonly word: number; readonly flags: number }[] = [];
  #hiddenSlots = 0;

  /** Clears the ring at `options.address`. */
  constructor(memory: DeviceMemory, options: MockDriverOptions) {
    const { address, size, eventIdx = false } = options;
    const area = memory.findRange(address, mockPackedRingBytes(size));
    if (area === undefined) throw new VirtioError("mock driver: the ring is not in one area");
    this.size = size;
    this.#area = area;
    this.#eventIdx = eventIdx;
    const availableRing = address + descriptorTableBytes(size);
    const usedRing = availableRing + EVENT_AREA_BYTES;
    this.addresses = { descriptorTable: address, availableRing, usedRing };
    this.#at = address - area.guestAddress;
    this.ringBytes.fill(0);
    this.#own = new EventArea(area, availableRing);
    this.#device = new EventArea(area, usedRing);
    this.#next = new RingPlace(size);
    this.#used = new RingPlace(size);
    this.#slots = new Uint16Array(size);
    this.#freeCount = size;
  }

  /** Bytes of the ring and the event areas, for those who want to spoil them. */
  get ringBytes(): Uint8Array {
    return this.#area.bytes.subarray(this.#at, this.#at + mockPackedRingBytes(this.size));
  }

  /** Descriptors that are free. */
  get freeCount(): number {
    return this.#freeCount;
  }

  /** Where a queue over this ring begins, as vhost-user encodes it. */
  get base(): number {
    return (this.#next.encoded | this.#used.encoded << 16) >>> 0;
  }

  /** Begins at another place, before anything is offered. */
  startAt(slot: number, wrap: number): void {
    for (const place of [this.#next, this.#used]) {
      place.slot = slot;
      place.wrap = wrap;
    }
    for (let index = 0; index < this.size; index++) {
      // As it is left: behind the place all is used of the round before.
      const used = index < slot ? wrap : wrap ^ 1;
      this.#writeFlags(index, used !== 0 ? PackedFlag.Available | PackedFlag.Used : 0);
    }
    this.wantInterrupts(true);
  }

  /**
   * Makes a chain; {@link publish} shows it to the device.
   *
   * @returns its id, or -1 where descriptors are lacking
   */
  add(buffers: readonly DriverBuffer[]): number {
    const id = this.#slots.indexOf(0);
    if (buffers.length === 0 || buffers.length > this.#freeCount || id < 0) return -1;
    buffers.forEach(({ address, length, writable }, index) => {
      const flags = (writable ? DescriptorFlag.Write : 0) |
        (index < buffers.length - 1 ? DescriptorFlag.Next : 0);
      this.#put({ address, length, flags, id }, index === 0);
    });
    this.#slots[id] = buffers.length;
    this.#freeCount -= buffers.length;
    return id;
  }

  /** Makes a chain in a table of its own at `table`. */
  addIndirect(buffers: readonly DriverBuffer[], table: number): number {
    const id = this.#slots.indexOf(0);
    if (this.#freeCount === 0 || id < 0) return -1;
    buffers.forEach(({ address, length, writable }, index) => {
      const at = table - this.#area.guestAddress + index * DESCRIPTOR_BYTES;
      const flags = writable ? DescriptorFlag.Write : 0;
      putDescriptor(this.#area.view, at, { address, length, id: 0, flags });
    });
    const length = buffers.length * DESCRIPTOR_BYTES;
    this.#put({ address: table, length, flags: DescriptorFlag.Indirect, id }, true);
    this.#slots[id] = 1;
    this.#freeCount--;
    return id;
  }

  /**
   * Shows the device what was made.
   *
   * @returns whether it wants to be kicked for that
   */
  publish(): boolean {
    const count = this.#hiddenSlots;
    for (const { word, flags } of this.#hidden) {
      Atomics.store(this.#area.words16, word, flags);
    }
    this.#hidden = [];
    this.#hiddenSlots = 0;
    return count > 0 && this.#device.isWanted(this.#next, count, this.#eventIdx);
  }

  /**
   * Takes a chain that the device has used, and frees its descriptors; {@link usedLength} then is what it
   * wrote.
   *
   * @returns its id, or -1 where there is none
   */
  takeUsed(): number {
    const { slot, wrap } = this.#used;
    const at = this.#at + slot * DESCRIPTOR_BYTES;
    const flags = Atomics.load(this.#area.words16, at / 2 + FLAGS_WORD);
    const round = wrap !== 0;
    const isUsed = ((flags & PackedFlag.Available) !== 0) === round &&
      ((flags & PackedFlag.Used) !== 0) === round;
    if (!isUsed) return -1;
    const id = this.#area.view.getUint16(at + ID_WORD * 2, true);
    this.usedLength = this.#area.view.getUint32(at + 8, true);
    const count = this.#slots[id] ?? 0;
    if (count === 0) throw new VirtioError(`mock driver: id ${id} was used, but not offered`);
    this.#slots[id] = 0;
    this.#freeCount += count;
    this.#used.move(count);
    return id;
  }

  /** Says whether the device is to interrupt for the next used chain. */
  wantInterrupts(on: boolean): void {
    if (on && this.#eventIdx) this.#own.want(this.#used.encoded);
    else this.#own.wantAll(on);
  }

  /** With EVENT_IDX: interrupt when `count` more descriptors were used. */
  wantInterruptAfter(count: number): void {
    const place = new RingPlace(this.size);
    place.decode(this.#used.encoded);
    place.move(count - 1);
    this.#own.want(place.encoded);
  }

  /** Writes a descriptor, whatever it says. */
  writeDescriptor(index: number, descriptor: RawPackedDescriptor): void {
    putDescriptor(this.#area.view, this.#at + index * DESCRIPTOR_BYTES, descriptor);
  }

  /** Flags by which the descriptor at `ahead` places from the next one is offered. */
  offering(ahead = 0): number {
    const place = new RingPlace(this.size);
    place.decode(this.#next.encoded);
    place.move(ahead);
    return place.wrap !== 0 ? PackedFlag.Available : PackedFlag.Used;
  }

  #put(descriptor: RawPackedDescriptor, first: boolean): void {
    const { slot } = this.#next;
    const flags = descriptor.flags | this.offering();
    this.writeDescriptor(slot, { ...descriptor, flags });
    if (first) {
      const word = this.#at / 2 + slot * WORDS + FLAGS_WORD;
      // What was there before is not offered: it was used.
      this.#writeFlags(slot, this.#next.wrap !== 0 ? 0 : PackedFlag.Available | PackedFlag.Used);
      this.#hidden.push({ word, flags });
    }
    this.#hiddenSlots++;
    this.#next.move(1);
  }

  #writeFlags(slot: number, flags: number): void {
    this.#area.words16[this.#at / 2 + slot * WORDS + FLAGS_WORD] = flags;
  }
}

/** What the fields of a descriptor are. */
export interface RawPackedDescriptor {
  readonly address: number | bigint;
  readonly length: number;
  readonly id: number;
  readonly flags: number;
}

function putDescriptor(view: DataView, at: number, descriptor: RawPackedDescriptor): void {
  view.setBigUint64(at, BigInt.asUintN(64, BigInt(descriptor.address)), true);
  view.setUint32(at + 8, descriptor.length >>> 0, true);
  view.setUint16(at + ID_WORD * 2, descriptor.id, true);
  view.setUint16(at + FLAGS_WORD * 2, descriptor.flags, true);
}
