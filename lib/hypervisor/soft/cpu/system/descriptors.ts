/**
 * Segment descriptors (Intel SDM vol. 3, 3.4.5 and 3.5).
 *
 * @module
 */

import type { HostContext } from "../host_context.ts";
import { S, Seg, SegAttr, SegField, segOffset, Vector } from "../state.ts";
import { loadImplicit, segLimit, type SegmentValue, storeImplicit } from "./access.ts";

/** The two halves of an 8-byte descriptor and where it lies. */
export interface Descriptor {
  readonly low: number;
  readonly high: number;
  readonly linear: bigint;
}

/** Which fault a bad selector raises, and the EXT bit of its error code. */
export interface SelectorFault {
  readonly vector?: number;
  readonly ext?: number;
}

/** Bits of a descriptor's high half that {@link SegAttr} keeps. */
const ATTRS = 0x00f0_ff00;

/** Types of system descriptors, as the type field has them with S clear. */
export const SystemType = {
  tss16: 0x1,
  ldt: 0x2,
  tss16Busy: 0x3,
  callGate16: 0x4,
  taskGate: 0x5,
  interruptGate16: 0x6,
  trapGate16: 0x7,
  tss: 0x9,
  tssBusy: 0xb,
  callGate: 0xc,
  interruptGate: 0xe,
  trapGate: 0xf,
} as const;

/** Type field of a descriptor. */
export function typeOf(d: { high: number }): number {
  return (d.high >>> 8) & 15;
}

/** Privilege level of a descriptor. */
export function dplOf(d: { high: number }): number {
  return (d.high >>> 13) & 3;
}

/** True where the descriptor is marked present. */
export function isPresent(d: { high: number }): boolean {
  return (d.high & SegAttr.present) !== 0;
}

/** True for code segments. */
export function isCode(d: { high: number }): boolean {
  return (d.high & (SegAttr.s | SegAttr.code)) === (SegAttr.s | SegAttr.code);
}

/** True for conforming code segments, given that it is code. */
export function isConforming(d: { high: number }): boolean {
  return (d.high & SegAttr.expandDown) !== 0;
}

/** True for writable data segments. */
export function isWritableData(d: { high: number }): boolean {
  return (d.high & (SegAttr.s | SegAttr.code | SegAttr.writable)) ===
    (SegAttr.s | SegAttr.writable);
}

/** Base address of a descriptor, 32 bits. */
export function baseOf(d: { low: number; high: number }): number {
  return ((d.low >>> 16) | ((d.high & 0xff) << 16) | (d.high & 0xff00_0000)) >>> 0;
}

/** Limit in bytes. */
export function limitOf(d: { low: number; high: number }): number {
  const limit = (d.low & 0xffff) | (d.high & 0x000f_0000);
  return (d.high & SegAttr.granularity) !== 0 ? ((limit << 12) | 0xfff) >>> 0 : limit;
}

/** Attributes as segment registers keep them. */
export function attrsOf(d: { high: number }): number {
  return d.high & ATTRS;
}

/** Register contents for `selector` and its descriptor. */
export function segmentOf(selector: number, d: Descriptor): SegmentValue {
  return { selector, base: BigInt(baseOf(d)), limit: limitOf(d), attrs: attrsOf(d) };
}

/**
 * Linear address of the descriptor that `selector` names, or -1n beyond its table.
 * @param size Bytes that must be within the table.
 */
function descriptorAddress(cpu: HostContext, selector: number, size: number): bigint {
  const offset = selector & 0xfff8;
  if ((selector & 4) !== 0) {
    const ldt = segOffset(Seg.LDTR);
    if ((cpu.get32(ldt + SegField.attrs) & SegAttr.present) === 0) return -1n;
    if (offset + size - 1 > segLimit(cpu, Seg.LDTR)) return -1n;
    return cpu.get64(ldt + SegField.base) + BigInt(offset);
  }
  if (offset + size - 1 > (cpu.get32(S.gdtLimit) & 0xffff)) return -1n;
  return cpu.get64(S.gdtBase) + BigInt(offset);
}

/** The descriptor of `selector`, or undefined beyond the table's limit. */
export function findDescriptor(cpu: HostContext, selector: number): Descriptor | undefined {
  const linear = descriptorAddress(cpu, selector, 8);
  if (linear < 0n) return undefined;
  const bits = loadImplicit(cpu, linear, 8);
  return {
    low: Number(BigInt.asUintN(32, bits)),
    high: Number(BigInt.asIntN(32, bits >> 32n)),
    linear,
  };
}

/** The descriptor of `selector`; #GP (or another fault) where the table ends before it. */
export function readDescriptor(
  cpu: HostContext,
  selector: number,
  fault: SelectorFault = {},
): Descriptor {
  const d = findDescriptor(cpu, selector);
  if (d === undefined) {
    cpu.raise(fault.vector ?? Vector.GP, (selector & 0xfffc) | (fault.ext ?? 0));
  }
  return d;
}

/** Upper half of the base in the second 8 bytes of a 16-byte descriptor; #GP beyond the table. */
export function readUpperBase(cpu: HostContext, selector: number): { base: bigint; type: number } {
  const linear = descriptorAddress(cpu, selector, 16);
  if (linear < 0n) cpu.raise(Vector.GP, selector & 0xfffc);
  const bits = loadImplicit(cpu, linear + 8n, 8);
  return {
    base: BigInt.asUintN(32, bits) << 32n,
    type: Number(BigInt.asUintN(5, bits >> 40n)),
  };
}

/** Marks a code or data descriptor accessed. */
export function markAccessed(cpu: HostContext, d: Descriptor): void {
  if ((d.high & SegAttr.accessed) !== 0) return;
  const value = BigInt(((d.high >>> 8) & 0xff) | 1);
  storeImplicit(cpu, d.linear + 5n, { value, size: 1 });
}
