/**
 * The record of chains that a device holds of a packed queue (QEMU's docs/interop/vhost-user.rst, "Inflight
 * I/O tracking", packed virtqueue). It has copies of their descriptors, as the ring's own are overwritten by
 * answers to others, and where the device answers next, as a packed ring does not tell.
 *
 * The memory comes back from a front end, so it is as hostile as a ring.
 *
 * @module
 */

import { alignUp } from "../base/mod.ts";
import { VirtioError } from "./errors.ts";

const HEADER_BYTES = 32;
const ENTRY_BYTES = 32;
const VERSION = 1;
const TWO_32 = 2 ** 32;
/** Behind the last free entry. */
const NONE = 0xffff;

// Header: features (64), version (16), number of entries (16), first free entry (16) and as it was before the
// operation under way (16), place of the next answer (16) and so before (16), its round (8) and so before (8).
const VERSION_AT = 8;
const COUNT_AT = 10;
const FREE_AT = 12;
const OLD_FREE_AT = 14;
const USED_AT = 16;
const OLD_USED_AT = 18;
const USED_WRAP_AT = 20;
const OLD_USED_WRAP_AT = 21;
// Entry: inflight (8), padding (8), next entry (16), and for a chain's first one its last entry (16), number
// of entries (16) and counter (64); then the descriptor: id (16), flags (16), length (32), address (64).
const NEXT_AT = 2;
const LAST_AT = 4;
const NUM_AT = 6;
const COUNTER_AT = 8;
const ID_AT = 16;
const FLAGS_AT = 18;
const LENGTH_AT = 20;
const ADDRESS_AT = 24;

/** Bytes of the record of a packed queue of `size`. */
export function packedInflightBytes(size: number): number {
  return alignUp(HEADER_BYTES + ENTRY_BYTES * size, 64);
}

/** What a predecessor left. */
export interface PackedRecovery {
  /** Place and round of the next answer, as `RingPlace.encoded`. */
  readonly used: number;
  /** Descriptors of the chains that it held: so far behind that is what it would have taken next. */
  readonly slots: number;
  /** First entries of these chains, oldest first. */
  readonly chains: readonly number[];
}

/** A descriptor as the driver wrote it. */
export interface RecordedDescriptor {
  address: number;
  length: number;
  flags: number;
  id: number;
}

/** The record of one packed queue. What it was made of is not read back while it is used. */
export class PackedInflightQueue {
  readonly #view: DataView;
  readonly #words16: Uint16Array;
  readonly #size: number;
  /** As the entries say it: the next entry, and of the first ones of chains the last and how many. */
  readonly #next: Uint16Array;
  readonly #last: Uint16Array;
  readonly #num: Uint16Array;
  /** Per id, the first entry of its chain while that is held. */
  readonly #chains: Uint16Array;
  #free = NONE;
  #counter = 0;
  /** The chain that is being read: its first and last entry, and how many. */
  #first = NONE;
  #latest = NONE;
  #count = 0;

  /**
   * Over `packedInflightBytes(size)` bytes of shared memory; zeros are a new record.
   *
   * @throws {VirtioError} where they are of another size or not aligned.
   */
  constructor(bytes: Uint8Array, size: number) {
    if (bytes.byteLength < packedInflightBytes(size) || bytes.byteOffset % 8 !== 0) {
      throw new VirtioError(
        `inflight record of ${size} descriptors: expected ${packedInflightBytes(size)} aligned ` +
          `bytes, got ${bytes.byteLength} at ${bytes.byteOffset}`,
      );
    }
    this.#size = size;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#words16 = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    this.#next = new Uint16Array(size);
    this.#last = new Uint16Array(size);
    this.#num = new Uint16Array(size);
    this.#chains = new Uint16Array(size);
  }

  /**
   * Goes on with what a predecessor left that was not stopped; undefined where there is nothing.
   *
   * @param isOffered whether the descriptor at a place, as `RingPlace.encoded`, is offered in its round
   * @throws {VirtioError} where it is no record of this queue.
   */
  recover(isOffered: (place: number) => boolean): PackedRecovery | undefined {
    const view = this.#view;
    const size = this.#size;
    if (view.getUint16(VERSION_AT, true) !== VERSION || view.getUint16(COUNT_AT, true) !== size) {
      return undefined;
    }
    this.#finishAnswer(isOffered);
    // Of a chain that was being taken or answered just then, nothing else says that it is not held.
    let entry = view.getUint16(FREE_AT, true);
    for (let left = size; left > 0 && entry < size; left--) {
      view.setUint8(at(entry), 0);
      entry = view.getUint16(at(entry) + NEXT_AT, true);
    }
    const slot = view.getUint16(USED_AT, true);
    const wrap = view.getUint8(USED_WRAP_AT);
    if (slot >= size || wrap > 1) {
      throw new VirtioError(`inflight record: expected a place in a ring of ${size}, got ${slot}`);
    }
    const held = this.#held();
    const entries = held.flatMap((chain) => chain.entries);
    this.#linkFree(entries);
    const chains = held.map((chain) => chain.entries[0]!);
    return { used: slot | wrap << 15, slots: entries.length, chains };
  }

  /** Begins anew, where the next answer is at `used`. */
  begin(used: number): void {
    const view = this.#view;
    this.#publish(VERSION_AT, 0);
    for (let entry = 0; entry < this.#size; entry++) view.setUint8(at(entry), 0);
    this.#linkFree([]);
    this.#setUsed(used);
    view.setUint16(OLD_USED_AT, used & 0x7fff, true);
    view.setUint8(OLD_USED_WRAP_AT, used >>> 15 & 1);
    view.setUint16(COUNT_AT, this.#size, true);
    this.#publish(VERSION_AT, VERSION);
  }

  /** The front end knows where the queue goes on, and nothing is held: the record has nothing to say. */
  end(): void {
    this.#publish(VERSION_AT, 0);
  }

  /** The device reads the next descriptor of a chain. */
  add(address: number, length: number, flags: number, id: number): void {
    const entry = this.#free;
    // More than there are descriptors: the queue will say so.
    if (entry === NONE) return;
    const view = this.#view;
    const place = at(entry);
    view.setUint16(place + ID_AT, id, true);
    view.setUint16(place + FLAGS_AT, flags, true);
    view.setUint32(place + LENGTH_AT, length, true);
    setNumber(view, place + ADDRESS_AT, address);
    if (this.#count++ === 0) this.#first = entry;
    this.#latest = entry;
    this.#setFree(this.#next[entry]!);
  }

  /** The device takes the chain `id`, whose descriptors it has read. */
  take(id: number): void {
    const view = this.#view;
    const first = this.#first;
    const place = at(first);
    this.#last[first] = this.#latest;
    this.#num[first] = this.#count;
    view.setUint16(place + LAST_AT, this.#latest, true);
    view.setUint16(place + NUM_AT, this.#count, true);
    setNumber(view, place + COUNTER_AT, this.#counter++);
    view.setUint8(place, 1);
    // From here on it counts.
    this.#publish(OLD_FREE_AT, this.#free);
    this.#count = 0;
    this.#chains[id] = first;
  }

  /** The device takes a chain of its predecessor's again, `id`, of which `entry` is the first. */
  retake(id: number, entry: number): void {
    this.#chains[id] = entry;
  }

  /** The device gives the chain `id` back as if it had not taken it. */
  drop(id: number): void {
    const entry = this.#chains[id]!;
    this.#view.setUint8(at(entry), 0);
    this.#release(entry);
    this.#publish(OLD_FREE_AT, this.#free);
  }

  /** The device is about to answer the chain `id`, behind which the next answer is at `used`. */
  answer(id: number, used: number): void {
    this.#release(this.#chains[id]!);
    this.#setUsed(used);
  }

  /** The answer to the chain `id` was published. */
  finish(id: number): void {
    const view = this.#view;
    view.setUint8(at(this.#chains[id]!), 0);
    this.#publish(OLD_FREE_AT, this.#free);
    this.#publish(OLD_USED_AT, view.getUint16(USED_AT, true));
    view.setUint8(OLD_USED_WRAP_AT, view.getUint8(USED_WRAP_AT));
  }

  /** Descriptors of a predecessor's chain that begins at `entry`. */
  count(entry: number): number {
    return this.#num[entry]!;
  }

  /** Reads the descriptor in `entry`; the result is the entry behind it in its chain. */
  read(entry: number, descriptor: RecordedDescriptor): number {
    const view = this.#view;
    const place = at(entry);
    descriptor.id = view.getUint16(place + ID_AT, true);
    descriptor.flags = view.getUint16(place + FLAGS_AT, true);
    descriptor.length = view.getUint32(place + LENGTH_AT, true);
    descriptor.address = getNumber(view, place + ADDRESS_AT);
    return this.#next[entry]!;
  }

  /** What was begun of an answer is done where the driver can have seen it, and else undone. */
  #finishAnswer(isOffered: (place: number) => boolean): void {
    const view = this.#view;
    const used = view.getUint16(USED_AT, true);
    const wrap = view.getUint8(USED_WRAP_AT);
    const oldUsed = view.getUint16(OLD_USED_AT, true);
    const oldWrap = view.getUint8(OLD_USED_WRAP_AT);
    const free = view.getUint16(FREE_AT, true);
    // Also the round: a chain may have as many descriptors as the ring.
    const isUnderWay = used !== oldUsed || wrap !== oldWrap;
    // Once it was published, the free entries are the first to be noted.
    const isNoted = free === view.getUint16(OLD_FREE_AT, true);
    if (isUnderWay && (isNoted || !isOffered(oldUsed | (oldWrap & 1) << 15))) {
      this.#publish(OLD_FREE_AT, free);
      this.#publish(OLD_USED_AT, used);
      view.setUint8(OLD_USED_WRAP_AT, wrap);
      return;
    }
    view.setUint16(USED_AT, oldUsed, true);
    view.setUint8(USED_WRAP_AT, oldWrap);
    view.setUint16(FREE_AT, view.getUint16(OLD_FREE_AT, true), true);
  }

  /** Chains that are held, oldest first. */
  #held(): { readonly counter: number; readonly entries: readonly number[] }[] {
    const view = this.#view;
    const size = this.#size;
    const seen = new Uint8Array(size);
    const held: { counter: number; entries: number[] }[] = [];
    for (let first = 0; first < size; first++) {
      if (view.getUint8(at(first)) !== 1) continue;
      const counter = getNumber(view, at(first) + COUNTER_AT);
      if (counter < Number.MAX_SAFE_INTEGER / 2) {
        this.#counter = Math.max(this.#counter, counter + 1);
      }
      const count = view.getUint16(at(first) + NUM_AT, true);
      const entries: number[] = [];
      for (let entry = first; entries.length < count && entry < size && seen[entry] === 0;) {
        seen[entry] = 1;
        entries.push(entry);
        entry = this.#next[entry] = view.getUint16(at(entry) + NEXT_AT, true);
      }
      if (count === 0 || entries.length < count) {
        throw new VirtioError(`inflight record: entry ${first} begins no chain of ${count}`);
      }
      this.#num[first] = count;
      this.#last[first] = entries.at(-1)!;
      held.push({ counter, entries });
    }
    return held.sort((a, b) => a.counter - b.counter);
  }

  /** Makes a list of all entries that are not in `held`. */
  #linkFree(held: readonly number[]): void {
    const taken = new Set(held);
    let first = NONE;
    for (let entry = this.#size - 1; entry >= 0; entry--) {
      if (taken.has(entry)) continue;
      this.#link(entry, first);
      first = entry;
    }
    this.#setFree(first);
    this.#publish(OLD_FREE_AT, first);
  }

  /** Puts a chain's entries before those that are free. */
  #release(first: number): void {
    this.#link(this.#last[first]!, this.#free);
    this.#setFree(first);
  }

  #link(entry: number, next: number): void {
    this.#next[entry] = next;
    this.#view.setUint16(at(entry) + NEXT_AT, next, true);
  }

  #setFree(entry: number): void {
    this.#free = entry;
    this.#view.setUint16(FREE_AT, entry, true);
  }

  #setUsed(used: number): void {
    this.#view.setUint16(USED_AT, used & 0x7fff, true);
    this.#view.setUint8(USED_WRAP_AT, used >>> 15 & 1);
  }

  // As in the record of split queues: stores before it are not moved behind it.
  #publish(place: number, value: number): void {
    Atomics.store(this.#words16, place / 2, value);
  }
}

function at(entry: number): number {
  return HEADER_BYTES + entry * ENTRY_BYTES;
}

function getNumber(view: DataView, place: number): number {
  return view.getUint32(place, true) + view.getUint32(place + 4, true) * TWO_32;
}

function setNumber(view: DataView, place: number, value: number): void {
  view.setUint32(place, value % TWO_32, true);
  view.setUint32(place + 4, value / TWO_32, true);
}
