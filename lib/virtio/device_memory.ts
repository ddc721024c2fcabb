/**
 * Guest memory as a device sees it: a few areas, each a piece of guest physical addresses mapped
 * somewhere in this process. Addresses come from the guest and are hostile: a range is looked up
 * before it is used.
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import { MemorySpan } from "../host/mod.ts";
import { type GuestMemory, PAGE_SIZE } from "../memory/mod.ts";
import { VirtioError } from "./errors.ts";

/** Where an area lies. */
export interface AreaPlace {
  /** Guest physical address of its first byte, a multiple of the page size. */
  readonly guestAddress: number;
  /** The name that a vhost-user front end has for its first byte; the guest address where absent. */
  readonly userAddress?: number;
}

/** A contiguous piece of guest memory, mapped in this process. */
export class MemoryArea {
  /** Guest physical address of its first byte. */
  readonly guestAddress: number;
  /** First guest physical address behind it. */
  readonly endAddress: number;
  /** The front end's address of its first byte. */
  readonly userAddress: number;
  /** Its bytes. */
  readonly sizeBytes: number;
  /** Its memory, for scatter/gather calls. */
  readonly span: MemorySpan;
  /** All of it. */
  readonly bytes: Uint8Array;
  /** All of it. */
  readonly view: DataView;
  /** All of it, for atomic accesses to ring indices. */
  readonly words16: Uint16Array;

  /**
   * Over `bytes`, page-aligned memory that stays mapped as long as the area is used.
   *
   * @throws {VirtioError} where it is not made of pages.
   */
  constructor(bytes: Uint8Array, place: AreaPlace) {
    const { guestAddress, userAddress = guestAddress } = place;
    const sizeBytes = bytes.byteLength;
    const valid = isPageMultiple(guestAddress) && isPageMultiple(sizeBytes) && sizeBytes > 0 &&
      Number.isSafeInteger(guestAddress + sizeBytes) &&
      Number.isSafeInteger(userAddress) && userAddress >= 0 &&
      Number.isSafeInteger(userAddress + sizeBytes);
    if (!valid) {
      throw new VirtioError(
        `memory area: expected whole pages, got ${sizeBytes} bytes at ${hexOf(guestAddress)} ` +
          `(user address ${hexOf(userAddress)})`,
      );
    }
    this.guestAddress = guestAddress;
    this.endAddress = guestAddress + sizeBytes;
    this.userAddress = userAddress;
    this.sizeBytes = sizeBytes;
    this.span = new MemorySpan(bytes);
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, sizeBytes);
    this.words16 = new Uint16Array(bytes.buffer, bytes.byteOffset, sizeBytes / 2);
  }
}

/** The areas of a guest's memory; they do not overlap. */
export class DeviceMemory {
  /** By ascending guest address. */
  readonly areas: readonly MemoryArea[];
  // What was found last; most accesses go where the one before went.
  #recent: MemoryArea | undefined;

  /** @throws {VirtioError} where two areas overlap. */
  constructor(areas: readonly MemoryArea[]) {
    this.areas = areas.toSorted((a, b) => a.guestAddress - b.guestAddress);
    requireDisjoint(this.areas, "guestAddress");
    requireDisjoint(areas.toSorted((a, b) => a.userAddress - b.userAddress), "userAddress");
    this.#recent = this.areas[0];
  }

  /** All of `memory`, which must outlive the result. User addresses are guest addresses. */
  static of(memory: GuestMemory): DeviceMemory {
    return new DeviceMemory(
      memory.regions.map(({ guestAddress, sizeBytes }) =>
        new MemoryArea(memory.slice(guestAddress, sizeBytes), { guestAddress })
      ),
    );
  }

  /** The area that the byte at `address` is in. */
  find(address: number): MemoryArea | undefined {
    const recent = this.#recent;
    if (recent !== undefined && address >= recent.guestAddress && address < recent.endAddress) {
      return recent;
    }
    const { areas } = this;
    for (let index = 0; index < areas.length; index++) {
      const area = areas[index]!;
      if (address >= area.guestAddress && address < area.endAddress) return this.#recent = area;
    }
    return undefined;
  }

  /** The area that holds all of `length` bytes at `address`. */
  findRange(address: number, length: number): MemoryArea | undefined {
    const area = this.find(address);
    return area !== undefined && address + length <= area.endAddress ? area : undefined;
  }

  /** The guest physical address of the byte that the front end calls `userAddress`. */
  guestAddressOf(userAddress: number): number | undefined {
    for (const area of this.areas) {
      const offset = userAddress - area.userAddress;
      if (offset >= 0 && offset < area.sizeBytes) return area.guestAddress + offset;
    }
    return undefined;
  }
}

function isPageMultiple(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value % PAGE_SIZE === 0;
}

function hexOf(value: number): string {
  return Number.isSafeInteger(value) && value >= 0 ? hex(value) : String(value);
}

function requireDisjoint(
  sorted: readonly MemoryArea[],
  key: "guestAddress" | "userAddress",
): void {
  sorted.forEach((area, index) => {
    const next = sorted[index + 1];
    if (next === undefined || area[key] + area.sizeBytes <= next[key]) return;
    throw new VirtioError(
      `memory areas: expected them apart, got ${area.sizeBytes} bytes at ${hex(area[key])} and ` +
        `${next.sizeBytes} bytes at ${hex(next[key])} (${key})`,
    );
  });
}
