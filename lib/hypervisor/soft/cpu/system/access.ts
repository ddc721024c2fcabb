/**
 * Guest memory as system instructions use it: descriptor tables and task state segments, which the
 * processor reads at supervisor privilege whatever CPL is, and operands at the current privilege.
 *
 * @module
 */

import type { HostContext } from "../host_context.ts";
import { Access, CodeMode, Flag, Rec, S, Seg, SegAttr, SegField, segOffset } from "../state.ts";

/** CR0 bits. */
export const Cr0 = {
  PE: 1 << 0,
  MP: 1 << 1,
  EM: 1 << 2,
  TS: 1 << 3,
  ET: 1 << 4,
  NE: 1 << 5,
  WP: 1 << 16,
  AM: 1 << 18,
  NW: 1 << 29,
  CD: 1 << 30,
  PG: 1 << 31,
} as const;

/** CR4 bits of this processor. */
export const Cr4 = {
  TSD: 1 << 2,
  DE: 1 << 3,
  PSE: 1 << 4,
  PAE: 1 << 5,
  MCE: 1 << 6,
  PGE: 1 << 7,
  PCE: 1 << 8,
  OSFXSR: 1 << 9,
  OSXMMEXCPT: 1 << 10,
  FSGSBASE: 1 << 16,
  SMEP: 1 << 20,
  SMAP: 1 << 21,
} as const;

/** EFER bits. */
export const Efer = {
  SCE: 1 << 0,
  LME: 1 << 8,
  LMA: 1 << 10,
  NXE: 1 << 11,
  FFXSR: 1 << 14,
} as const;

/** True with CR0.PE. */
export function isProtected(cpu: HostContext): boolean {
  return (cpu.get32(S.cr0) & Cr0.PE) !== 0;
}

/** True with EFER.LMA: 64-bit or compatibility mode. */
export function isLong(cpu: HostContext): boolean {
  return (cpu.get32(S.efer) & Efer.LMA) !== 0;
}

/** True in 64-bit mode. */
export function is64(cpu: HostContext): boolean {
  return (cpu.get32(S.codeTag) & CodeMode.sizeMask) === CodeMode.bits64;
}

/** IOPL. */
export function iopl(cpu: HostContext): number {
  return (cpu.get32(S.flagOther) >>> 12) & 3;
}

/** True where bits 47 to 63 of `address` are equal. */
export function isCanonical(address: bigint): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(48, address)) === address;
}

/** Operand size in bytes of the instruction in `record`. */
export function operandSize(cpu: HostContext, record: number): number {
  return cpu.info(record).size;
}

/** Low word of the immediate of `record`. */
export function immediate(cpu: HostContext, record: number): number {
  return cpu.get32(record + Rec.imm);
}

/** u16 field of `record`. */
export function field16(cpu: HostContext, record: number, field: number): number {
  return cpu.u16[(record + field) >>> 1] as number;
}

/** Writes `value` to the register slot at state offset `slot`: 4 bytes clear the upper half. */
export function setSlot(
  cpu: HostContext,
  slot: number,
  value: { low: bigint; size: number },
): void {
  if (value.size === 8) cpu.set64(slot, value.low);
  else if (value.size === 4) cpu.set64(slot, BigInt.asUintN(32, value.low));
  else if (value.size === 2) cpu.u16[slot >>> 1] = Number(BigInt.asUintN(16, value.low));
  else cpu.u8[slot] = Number(BigInt.asUintN(8, value.low));
}

/** Access bits of an explicit access at the current privilege. */
export function ownAccess(cpu: HostContext): number {
  if (cpu.get32(S.cpl) === 3) return Access.user;
  return (cpu.get32(S.flagOther) & Flag.AC) !== 0 ? Access.smapOff : 0;
}

/**
 * Loads from a table of the processor: supervisor privilege, and 64-bit linear addresses in
 * compatibility mode too.
 */
export function loadImplicit(cpu: HostContext, linear: bigint, size: number): bigint {
  if (!isLong(cpu) || is64(cpu)) {
    return BigInt.asUintN(64, cpu.exports.systemLoad(linear, size, 0));
  }
  cpu.set64(S.linearMask, 0xffff_ffff_ffff_ffffn);
  try {
    return BigInt.asUintN(64, cpu.exports.systemLoad(linear, size, 0));
  } finally {
    cpu.set64(S.linearMask, 0xffff_ffffn);
  }
}

/** Stores as {@link loadImplicit} loads. */
export function storeImplicit(
  cpu: HostContext,
  linear: bigint,
  what: { value: bigint; size: number },
): void {
  if (!isLong(cpu) || is64(cpu)) {
    cpu.exports.systemStore(linear, what.value, what.size, 0);
    return;
  }
  cpu.set64(S.linearMask, 0xffff_ffff_ffff_ffffn);
  try {
    cpu.exports.systemStore(linear, what.value, what.size, 0);
  } finally {
    cpu.set64(S.linearMask, 0xffff_ffffn);
  }
}

/** Loads an operand at the current privilege, zero-extended. */
export function loadOwn(cpu: HostContext, linear: bigint, size: number): bigint {
  const mask = cpu.get64(S.linearMask);
  return BigInt.asUintN(64, cpu.exports.systemLoad(linear & mask, size, ownAccess(cpu)));
}

/** Stores an operand at the current privilege. */
export function storeOwn(
  cpu: HostContext,
  linear: bigint,
  what: { value: bigint; size: number },
): void {
  const mask = cpu.get64(S.linearMask);
  cpu.exports.systemStore(linear & mask, what.value, what.size, ownAccess(cpu));
}

/** Contents of a segment register. */
export interface SegmentValue {
  readonly selector: number;
  readonly base: bigint;
  /** Unsigned, in bytes. */
  readonly limit: number;
  readonly attrs: number;
}

/** Writes segment register `seg`. */
export function setSegment(cpu: HostContext, seg: Seg, value: SegmentValue): void {
  const at = segOffset(seg);
  cpu.set64(at + SegField.base, value.base);
  cpu.set32(at + SegField.limit, value.limit);
  cpu.set32(at + SegField.attrs, value.attrs);
  cpu.set32(at + SegField.selector, value.selector);
}

/** Attributes of segment register `seg`. */
export function segAttrs(cpu: HostContext, seg: Seg): number {
  return cpu.get32(segOffset(seg) + SegField.attrs);
}

/** Limit of segment register `seg`. */
export function segLimit(cpu: HostContext, seg: Seg): number {
  return cpu.get32(segOffset(seg) + SegField.limit) >>> 0;
}

/** True where `size` bytes at `offset` lie within the limit of a segment. */
export function withinLimit(
  at: { limit: number; attrs: number },
  offset: number,
  size: number,
): boolean {
  const last = offset + size - 1;
  const expandDown = (at.attrs & (SegAttr.code | SegAttr.expandDown)) === SegAttr.expandDown;
  if (!expandDown) return last <= at.limit;
  return offset > at.limit && last <= ((at.attrs & SegAttr.db) !== 0 ? 0xffff_ffff : 0xffff);
}

/** Writes a number to a register slot as {@link setSlot} writes a BigInt. */
export function setZeroExtended(
  cpu: HostContext,
  slot: number,
  what: { value: number; size: number },
): void {
  if (what.size === 1) cpu.u8[slot] = what.value;
  else if (what.size === 2) cpu.u16[slot >>> 1] = what.value;
  else {
    cpu.set32(slot, what.value);
    cpu.set32(slot + 4, 0);
  }
}
