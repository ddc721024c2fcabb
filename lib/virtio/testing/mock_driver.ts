/**
 * The driver side of a split virtqueue, for tests and benchmarks: well-behaved by its methods, and as
 * malformed as one likes by writing to the rings.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import type { DeviceMemory, MemoryArea } from "../device_memory.ts";
import { VirtioError } from "../errors.ts";
import {
  AVAIL_NO_INTERRUPT,
  availableRingBytes,
  DESCRIPTOR_BYTES,
  DescriptorFlag,
  descriptorTableBytes,
  passesEvent,
  RING_ENTRIES,
  type RingAddresses,
  USED_ENTRY_BYTES,
  USED_NO_NOTIFY,
  usedRingBytes,
} from "../ring.ts";

/** A buffer of a chain. */
export interface DriverBuffer {
  readonly address: number;
  readonly length: number;
  /** Whether the device writes it. */
  readonly writable?: boolean;
}

/** What the fields of a descriptor are. */
export interface RawDescriptor {
  readonly address: number | bigint;
  readonly length: number;
  readonly flags: number;
  readonly next: number;
}

/** Settings of a {@link MockDriver}. */
export interface MockDriverOptions {
  /** Guest physical address from which on the rings lie, a multiple of 16. */
  readonly address: number;
  /** Descriptors. */
  readonly size: number;
  /** Whether notifications are asked for by ring index. */
  readonly eventIdx?: boolean;
}

/** Bytes of the rings of a {@link MockDriver} with `size` descriptors. */
export function mockRingBytes(size: number): number {
  const used = alignUp(descriptorTableBytes(size) + availableRingBytes(size), 4);
  return alignUp(used + usedRingBytes(size), 16);
}

/** A driver of one queue. */
export class MockDriver {
  /** Where the parts lie. */
  readonly addresses: RingAddresses;
  /** Descriptors. */
  readonly size: number;
  /** Bytes that the device wrote to the chain that {@link takeUsed} gave last. */
  usedLength = 0;

  readonly #area: MemoryArea;
  readonly #eventIdx: boolean;
  readonly #descriptorsAt: number;
  readonly #availableAt: number;
  readonly #usedAt: number;
  /** Number of descriptors of the chain that begins at each head. */
  readonly #chainLength: Uint16Array;
  readonly #nextFree: Uint16Array;
  #firstFree = 0;
  #freeCount: number;
  #available = 0;
  #announced = 0;
  #used = 0;

  /** Clears the rings at `options.address`. */
  constructor(memory: DeviceMemory, options: MockDriverOptions) {
    const { address, size, eventIdx = false } = options;
    const area = memory.findRange(address, mockRingBytes(size));
    if (area === undefined) throw new VirtioError("mock driver: the rings are not in one area");
    this.size = size;
    this.#area = area;
    this.#eventIdx = eventIdx;
    const availableRing = address + descriptorTableBytes(size);
    const usedRing = alignUp(availableRing + availableRingBytes(size), 4);
    this.addresses = { descriptorTable: address, availableRing, usedRing };
    this.#descriptorsAt = address - area.guestAddress;
    this.#availableAt = availableRing - area.guestAddress;
    this.#usedAt = usedRing - area.guestAddress;
    area.bytes.fill(0, this.#descriptorsAt, this.#descriptorsAt + mockRingBytes(size));
    this.#chainLength = new Uint16Array(size);
    this.#nextFree = Uint16Array.from({ length: size }, (_, index) => index + 1);
    this.#freeCount = size;
  }

  /** Bytes of the rings, for those who want to spoil them. */
  get ringBytes(): Uint8Array {
    return this.#area.bytes.subarray(
      this.#descriptorsAt,
      this.#descriptorsAt + mockRingBytes(this.size),
    );
  }

  /** Descriptors that are free. */
  get freeCount(): number {
    return this.#freeCount;
  }

  /** Index of the available ring, as published. */
  get availableIndex(): number {
    return this.#available;
  }

  /**
   * Begins at other ring indices than 0, before anything is offered: indices wrap around at 2^16.
   */
  startAt(index: number): void {
    this.#available = this.#announced = this.#used = index & 0xffff;
    this.setAvailableIndex(index & 0xffff);
    this.#area.view.setUint16(this.#usedAt + 2, index & 0xffff, true);
    if (this.#eventIdx) this.wantInterrupts(true);
  }

  /**
   * Makes a chain and offers it.
   *
   * @returns its head, or -1 where descriptors are lacking
   */
  add(buffers: readonly DriverBuffer[]): number {
    const head = this.prepare(buffers);
    if (head >= 0) this.offer(head);
    return head;
  }

  /** Makes a chain in a table of its own at `table`, and offers it. */
  addIndirect(buffers: readonly DriverBuffer[], table: number): number {
    buffers.forEach(({ address, length, writable }, index) => {
      const last = index === buffers.length - 1;
      const flags = (writable ? DescriptorFlag.Write : 0) | (last ? 0 : DescriptorFlag.Next);
      const at = table - this.#area.guestAddress + index * DESCRIPTOR_BYTES;
      putDescriptor(this.#area.view, at, { address, length, flags, next: last ? 0 : index + 1 });
    });
    const length = buffers.length * DESCRIPTOR_BYTES;
    const head = this.#allocate();
    if (head < 0) return -1;
    this.#chainLength[head] = 1;
    this.writeDescriptor(head, {
      address: table,
      length,
      flags: DescriptorFlag.Indirect,
      next: 0,
    });
    this.offer(head);
    return head;
  }

  /** Makes a chain, which can be offered again and again with {@link offer}. */
  prepare(buffers: readonly DriverBuffer[]): number {
    if (buffers.length === 0 || buffers.length > this.#freeCount) return -1;
    const indices = buffers.map(() => this.#allocate());
    buffers.forEach(({ address, length, writable }, index) => {
      const next = indices[index + 1];
      const flags = (writable ? DescriptorFlag.Write : 0) |
        (next === undefined ? 0 : DescriptorFlag.Next);
      this.writeDescriptor(indices[index]!, { address, length, flags, next: next ?? 0 });
    });
    const head = indices[0]!;
    this.#chainLength[head] = buffers.length;
    return head;
  }

  /** Puts a chain into the available ring; {@link publish} shows it to the device. */
  offer(head: number): void {
    const slot = this.#available & (this.size - 1);
    this.#area.words16[(this.#availableAt + RING_ENTRIES) / 2 + slot] = head;
    this.#available = (this.#available + 1) & 0xffff;
  }

  /**
   * Shows the device what was offered.
   *
   * @returns whether it wants to be kicked for that
   */
  publish(): boolean {
    const { words16 } = this.#area;
    const before = this.#announced;
    const now = this.#available;
    Atomics.store(words16, this.#availableAt / 2 + 1, now);
    this.#announced = now;
    if (now === before) return false;
    if (!this.#eventIdx) return (Atomics.load(words16, this.#usedAt / 2) & USED_NO_NOTIFY) === 0;
    const at = this.#usedAt / 2 + RING_ENTRIES / 2 + this.size * (USED_ENTRY_BYTES / 2);
    return passesEvent(Atomics.load(words16, at), now, before);
  }

  /**
   * Takes a chain that the device has used; {@link usedLength} then is what it wrote.
   *
   * @returns its head, or -1 where there is none
   */
  takeUsed(): number {
    const index = Atomics.load(this.#area.words16, this.#usedAt / 2 + 1);
    if (index === this.#used) return -1;
    const slot = this.#used & (this.size - 1);
    const at = this.#usedAt + RING_ENTRIES + slot * USED_ENTRY_BYTES;
    const head = this.#area.view.getUint32(at, true);
    this.usedLength = this.#area.view.getUint32(at + 4, true);
    this.#used = (this.#used + 1) & 0xffff;
    return head;
  }

  /** Frees the descriptors of a chain that the device has used. */
  free(head: number): void {
    let index = head;
    for (let left = this.#chainLength[head]!; left > 0; left--) {
      const at = this.#descriptorsAt + index * DESCRIPTOR_BYTES;
      const next = this.#area.view.getUint16(at + 14, true);
      this.#nextFree[index] = this.#firstFree;
      this.#firstFree = index;
      this.#freeCount++;
      index = next;
    }
    this.#chainLength[head] = 0;
  }

  /**
   * Says whether the device is to interrupt for the next used chain.
   *
   * @returns whether there is one already
   */
  wantInterrupts(on: boolean): boolean {
    const { words16 } = this.#area;
    if (this.#eventIdx) {
      const at = (this.#availableAt + RING_ENTRIES) / 2 + this.size;
      // An index that was just passed is passed again only after 2^16 chains.
      Atomics.store(words16, at, on ? this.#used : (this.#used - 1) & 0xffff);
    } else {
      Atomics.store(words16, this.#availableAt / 2, on ? 0 : AVAIL_NO_INTERRUPT);
    }
    return Atomics.load(words16, this.#usedAt / 2 + 1) !== this.#used;
  }

  /** With EVENT_IDX: interrupt when `count` more chains were used. */
  wantInterruptAfter(count: number): void {
    const at = (this.#availableAt + RING_ENTRIES) / 2 + this.size;
    Atomics.store(this.#area.words16, at, (this.#used + count - 1) & 0xffff);
  }

  /** Writes a descriptor, whatever it says. */
  writeDescriptor(index: number, descriptor: RawDescriptor): void {
    putDescriptor(this.#area.view, this.#descriptorsAt + index * DESCRIPTOR_BYTES, descriptor);
  }

  /** Writes an entry of the available ring, whatever it says. */
  writeAvailable(slot: number, head: number): void {
    const at = this.#availableAt + RING_ENTRIES + (slot & (this.size - 1)) * 2;
    this.#area.view.setUint16(at, head, true);
  }

  /** Writes the index of the available ring, whatever it says. */
  setAvailableIndex(index: number): void {
    Atomics.store(this.#area.words16, this.#availableAt / 2 + 1, index & 0xffff);
  }

  #allocate(): number {
    if (this.#freeCount === 0) return -1;
    const index = this.#firstFree;
    this.#firstFree = this.#nextFree[index]!;
    this.#freeCount--;
    return index;
  }
}

function putDescriptor(view: DataView, at: number, descriptor: RawDescriptor): void {
  view.setBigUint64(at, BigInt.asUintN(64, BigInt(descriptor.address)), true);
  view.setUint32(at + 8, descriptor.length >>> 0, true);
  view.setUint16(at + 12, descriptor.flags, true);
  view.setUint16(at + 14, descriptor.next, true);
}
