/**
 * Descriptor tables and page tables of a test guest, written into its memory.
 *
 * @module
 */

import type { GuestMemory } from "../../memory/mod.ts";
import {
  DATA,
  GDT,
  IDT,
  IST1_STACK,
  IST2_STACK,
  PAGE_TABLES,
  RING0_STACK,
  Selector,
  TSS,
} from "./layout.ts";

/** Bits of page table entries (Intel SDM vol. 3, 4.5). */
export const Pte = {
  Present: 1n,
  Write: 2n,
  User: 4n,
  Accessed: 0x20n,
  Dirty: 0x40n,
  Large: 0x80n,
  Global: 0x100n,
  NoExecute: 1n << 63n,
} as const;

/** Bytes of a page. */
export type PageSize = 0x1000 | 0x20_0000 | 0x4000_0000;

const CODE64 = 0x00af_9b00_0000_ffffn;
const DATA_FLAT = 0x00cf_9300_0000_ffffn;
const CODE32 = 0x00cf_9b00_0000_ffffn;
const CODE16 = 0x0000_9b00_0000_ffffn;
const DATA16 = 0x0000_9300_0000_ffffn;
const USER_CODE32 = 0x00cf_fb00_0000_ffffn;
const USER_DATA = 0x00cf_f300_0000_ffffn;
const USER_CODE64 = 0x00af_fb00_0000_ffffn;
const TSS_SIZE_BYTES = 0x68;

/** Bytes of the GDT, for its limit. */
export const GDT_SIZE_BYTES = 0x68;

/** Writes the GDT of {@link Selector} and the TSS, which has the form for 64-bit or 32-bit mode. */
export function writeGdt(memory: GuestMemory, bits: 32 | 64): void {
  const entries = [0n, CODE64, DATA_FLAT, CODE32, CODE16, DATA16];
  entries.push(USER_CODE32, USER_DATA, USER_CODE64);
  entries.forEach((entry, index) => memory.writeU64(GDT + index * 8, entry));
  // Available TSS, with room for the I/O permission bitmap.
  writeDescriptor(memory, Selector.Tss, { base: TSS, limit: 0x3ff, access: 0x89 });
  memory.writeU64(GDT + Selector.Tss + 8, 0n);
  if (bits === 64) {
    memory.writeU64(TSS + 4, BigInt(RING0_STACK));
    memory.writeU64(TSS + 0x24, BigInt(IST1_STACK));
    memory.writeU64(TSS + 0x2c, BigInt(IST2_STACK));
  } else {
    memory.writeU32(TSS + 4, RING0_STACK);
    memory.writeU32(TSS + 8, Selector.Data);
  }
  memory.writeU16(TSS + 0x66, TSS_SIZE_BYTES);
  memory.fill(TSS + TSS_SIZE_BYTES, 0x3ff - TSS_SIZE_BYTES, 0xff);
}

/** Writes a segment descriptor of 8 bytes into the GDT. */
export function writeDescriptor(
  memory: GuestMemory,
  selector: number,
  descriptor: { base: number; limit: number; access: number; flags?: number },
): void {
  const { base, limit, access, flags = 0 } = descriptor;
  const value = BigInt(limit & 0xffff) | BigInt(base & 0xff_ffff) << 16n |
    BigInt(access) << 40n | BigInt(limit >>> 16 & 0xf) << 48n | BigInt(flags) << 52n |
    BigInt(base >>> 24) << 56n;
  memory.writeU64(GDT + (selector & ~7), value);
}

/** A gate of the IDT. */
export interface Gate {
  readonly offset: number;
  /** {@link Selector.Code64} or Code32 where absent. */
  readonly selector?: number;
  /** Interrupt gate (0xe, the default) or trap gate (0xf). */
  readonly type?: number;
  readonly dpl?: number;
  readonly ist?: number;
  readonly present?: boolean;
}

/** Writes a gate of 16 bytes for 64-bit mode. */
export function writeGate64(memory: GuestMemory, vector: number, gate: Gate): void {
  const { offset, selector = Selector.Code64, ist = 0 } = gate;
  memory.writeU16(IDT + vector * 16, offset & 0xffff);
  memory.writeU16(IDT + vector * 16 + 2, selector);
  memory.writeU8(IDT + vector * 16 + 4, ist);
  memory.writeU8(IDT + vector * 16 + 5, gateAccess(gate));
  memory.writeU16(IDT + vector * 16 + 6, offset >>> 16 & 0xffff);
  memory.writeU64(IDT + vector * 16 + 8, BigInt(Math.floor(offset / 2 ** 32)));
}

/** Writes a gate of 8 bytes for protected mode. */
export function writeGate32(memory: GuestMemory, vector: number, gate: Gate): void {
  const { offset, selector = Selector.Code32 } = gate;
  memory.writeU16(IDT + vector * 8, offset & 0xffff);
  memory.writeU16(IDT + vector * 8 + 2, selector);
  memory.writeU8(IDT + vector * 8 + 4, 0);
  memory.writeU8(IDT + vector * 8 + 5, gateAccess(gate));
  memory.writeU16(IDT + vector * 8 + 6, offset >>> 16);
}

function gateAccess({ type = 0xe, dpl = 0, present = true }: Gate): number {
  return (present ? 0x80 : 0) | dpl << 5 | type;
}

/** Four-level page tables that grow page by page. */
export class PageTables {
  /** Value for CR3. */
  readonly root: number = PAGE_TABLES;
  readonly #memory: GuestMemory;
  #next = PAGE_TABLES + 0x1000;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    memory.fill(PAGE_TABLES, 0x1000);
  }

  /** Maps the first 4 GiB at their own addresses with 2 MiB pages of ring 0, but the first with 4 KiB. */
  static identity(memory: GuestMemory): PageTables {
    const tables = new PageTables(memory);
    for (let address = 0x20_0000; address < 0x1_0000_0000; address += 0x20_0000) {
      tables.map(address, address, { size: 0x20_0000 });
    }
    for (let address = 0; address < 0x20_0000; address += 0x1000) tables.map(address, address);
    return tables;
  }

  /** Maps one page; `flags` replace Present and Write. */
  map(
    virtual: number | bigint,
    physical: number | bigint,
    options: { size?: PageSize; flags?: bigint } = {},
  ): void {
    const { size = 0x1000, flags = Pte.Present | Pte.Write } = options;
    const at = this.entryAddress(virtual, size);
    this.#memory.writeU64(at, BigInt(physical) | flags | (size === 0x1000 ? 0n : Pte.Large));
  }

  /** Address of the entry that maps `virtual` with a page of `size`; makes the tables above it. */
  entryAddress(virtual: number | bigint, size: PageSize = 0x1000): number {
    const address = BigInt.asUintN(48, BigInt(virtual));
    const leafShift = size === 0x1000 ? 12n : size === 0x20_0000 ? 21n : 30n;
    let table = this.root;
    for (let shift = 39n;; shift -= 9n) {
      const at = table + Number(address >> shift & 511n) * 8;
      if (shift === leafShift) return at;
      const entry = this.#memory.readU64(at);
      if ((entry & Pte.Present) === 0n || (entry & Pte.Large) !== 0n) {
        this.#memory.fill(this.#next, 0x1000);
        this.#memory.writeU64(at, BigInt(this.#next) | Pte.Present | Pte.Write | Pte.User);
        table = this.#next;
        this.#next += 0x1000;
      } else {
        table = Number(entry & 0x000f_ffff_ffff_f000n);
      }
    }
  }

  /** Address of the entry at one level (4 is the top) that leads to `virtual`. */
  tableEntryAddress(virtual: number | bigint, level: 4 | 3 | 2): number {
    const address = BigInt.asUintN(48, BigInt(virtual));
    let table = this.root;
    for (let current = 4;; current--) {
      const shift = BigInt(12 + 9 * (current - 1));
      const at = table + Number(address >> shift & 511n) * 8;
      if (current === level) return at;
      table = Number(this.#memory.readU64(at) & 0x000f_ffff_ffff_f000n);
    }
  }

  /** The entry that maps `virtual` with a page of `size`. */
  entry(virtual: number | bigint, size: PageSize = 0x1000): bigint {
    return this.#memory.readU64(this.entryAddress(virtual, size));
  }
}

/** Address of result `index` (64 bits each). */
export function result(index: number): number {
  return DATA + index * 8;
}
