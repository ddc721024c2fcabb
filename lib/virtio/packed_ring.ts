/**
 * The layout of a packed virtqueue (virtio 1.2, 2.8), shared by device and driver side. Its descriptors
 * are as long as those of a split one: address (64), length (32), id (16), flags (16).
 *
 * @module
 */

import type { MemoryArea } from "./device_memory.ts";
import { DESCRIPTOR_BYTES } from "./ring.ts";

/** Flags of a descriptor beside those of the split ring (2.8.1): both count rounds of the ring. */
export const PackedFlag = { Available: 1 << 7, Used: 1 << 15 } as const;

/** Bytes of the driver's and of the device's event area: where and in which round (16), flags (16). */
export const EVENT_AREA_BYTES = 4;
/** What one side wants to be told of (2.8.10). */
export const EventFlag = { All: 0, Nothing: 1, Descriptor: 2 } as const;
/** Most descriptors: a place and a round go into 16 bits. */
export const MAX_PACKED_SIZE = 32768;

/** Where a new queue begins, as vhost-user encodes it: both sides at 0 in the first round. */
export const PACKED_BEGIN = 0x8000_8000;

/** 16-bit words of a descriptor. */
export const WORDS = DESCRIPTOR_BYTES / 2;
/** Which of them is the id. */
export const ID_WORD = 6;
/** Which of them has the flags. */
export const FLAGS_WORD = 7;

/** A place in the ring, and the round that it is reached in: 1 in the first one, then 0, and so on. */
export class RingPlace {
  readonly #size: number;
  /** Number of the descriptor. */
  slot = 0;
  /** 1 or 0. */
  wrap = 1;

  constructor(size: number) {
    this.#size = size;
  }

  /** Descriptors after which it is in the same place and round again. */
  get period(): number {
    return 2 * this.#size;
  }

  /** Goes on by `count`, at most the ring's size, or back. */
  move(count: number): void {
    this.slot += count;
    if (this.slot >= this.#size) this.slot -= this.#size;
    else if (this.slot < 0) this.slot += this.#size;
    else return;
    this.wrap ^= 1;
  }

  /** Both in 16 bits, as event areas have them. */
  get encoded(): number {
    return this.slot | this.wrap << 15;
  }

  /** As `encoded` was; false where there is no such place. */
  decode(encoded: number): boolean {
    const slot = encoded & 0x7fff;
    if (slot >= this.#size) return false;
    this.slot = slot;
    this.wrap = encoded >>> 15 & 1;
    return true;
  }

  /** Descriptors from `encoded` to here, up to twice the ring's size; NaN for no place. */
  since(encoded: number): number {
    const slot = encoded & 0x7fff;
    if (slot >= this.#size) return NaN;
    const there = slot + ((encoded >>> 15 & 1) === this.wrap ? 0 : this.#size);
    const distance = this.slot - there;
    return distance >= 0 ? distance : distance + this.period;
  }
}

/** An event area: what one side wants to be told of by the other. */
export class EventArea {
  readonly #words16: Uint16Array;
  readonly #at: number;

  /** At `address`, a multiple of 4, of `area`. */
  constructor(area: MemoryArea, address: number) {
    this.#words16 = area.words16;
    this.#at = (address - area.guestAddress) / 2;
  }

  /** Wants to be told of the descriptor at `place`, in its round. */
  want(place: number): void {
    Atomics.store(this.#words16, this.#at, place);
    Atomics.store(this.#words16, this.#at + 1, EventFlag.Descriptor);
  }

  /** Wants to be told of everything, or of nothing. */
  wantAll(on: boolean): void {
    Atomics.store(this.#words16, this.#at + 1, on ? EventFlag.All : EventFlag.Nothing);
  }

  /**
   * Whether the other side wants to be told, now that `count` descriptors up to `place` were passed.
   *
   * @param byPlace whether it may name a place
   */
  isWanted(place: RingPlace, count: number, byPlace: boolean): boolean {
    const flags = Atomics.load(this.#words16, this.#at + 1) & 3;
    if (flags === EventFlag.Nothing) return false;
    if (!byPlace || flags !== EventFlag.Descriptor) return true;
    // No place is one that is passed again and again: who names it is told in any case.
    const since = place.since(Atomics.load(this.#words16, this.#at));
    return Number.isNaN(since) || (since > 0 && since <= count) || count >= place.period;
  }
}
