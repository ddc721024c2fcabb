/**
 * Checks that all transfers to another code segment share, and the stacks of inner levels (Intel SDM
 * vol. 3, 5.8 and 8.7).
 *
 * @module
 */

import type { HostContext } from "../host_context.ts";
import { S, Seg, SegAttr, SegField, segOffset, Vector } from "../state.ts";
import { isCanonical, isLong, loadImplicit, segAttrs, segLimit, setSegment } from "./access.ts";
import {
  type Descriptor,
  dplOf,
  isCode,
  isConforming,
  isPresent,
  isWritableData,
  markAccessed,
  readDescriptor,
  segmentOf,
  SystemType,
  typeOf,
} from "./descriptors.ts";
import { loadNull, loadRealSegment } from "./segments.ts";
import { stackMask, type StackSpace } from "./stack.ts";

const ALL = 0xffff_ffff_ffff_ffffn;

/** A code segment that control goes to. */
export interface CodeTarget {
  readonly selector: number;
  readonly descriptor: Descriptor;
  readonly rip: bigint;
}

/** True where descriptor `d` is 64-bit code, given that long mode is active. */
export function isCode64(cpu: HostContext, d: Descriptor): boolean {
  return isLong(cpu) && (d.high & SegAttr.long) !== 0;
}

/** #GP(selector) unless L and D of a code descriptor go together. */
export function checkCodeSize(cpu: HostContext, d: Descriptor, error: number): void {
  if (isCode64(cpu, d) && (d.high & SegAttr.db) !== 0) cpu.raise(Vector.GP, error);
}

/** #GP(0) where `rip` is not canonical or beyond the limit of the code segment. */
export function checkRip(cpu: HostContext, d: Descriptor, rip: bigint): void {
  const bad = isCode64(cpu, d) ? !isCanonical(rip) : rip > BigInt(segmentOf(0, d).limit);
  if (bad) cpu.raise(Vector.GP, 0);
}

/** Loads CS for privilege `cpl` and sets RIP. The mode must be updated afterwards. */
export function enterCode(cpu: HostContext, target: CodeTarget, cpl: number): void {
  const { descriptor, selector } = target;
  markAccessed(cpu, descriptor);
  const value = segmentOf((selector & 0xfffc) | cpl, descriptor);
  setSegment(cpu, Seg.CS, isCode64(cpu, descriptor) ? { ...value, base: 0n } : value);
  setPrivilege(cpu, cpl);
  cpu.set64(S.rip, target.rip);
}

/** CPL is kept as the DPL of SS. */
export function setPrivilege(cpu: HostContext, cpl: number): void {
  const at = segOffset(Seg.SS) + SegField.attrs;
  cpu.set32(at, (cpu.get32(at) & ~(3 << SegAttr.dplShift)) | (cpl << SegAttr.dplShift));
}

/** Far transfer in real mode. */
export function enterReal(cpu: HostContext, selector: number, offset: bigint): void {
  if (offset > BigInt(segLimit(cpu, Seg.CS))) cpu.raise(Vector.GP, 0);
  loadRealSegment(cpu, Seg.CS, selector);
  cpu.set64(S.rip, offset);
}

/** SS and its stack for an inner level. */
export interface InnerStack {
  readonly space: StackSpace;
  readonly pointer: bigint;
  readonly selector: number;
  /** Absent in long mode, where SS becomes null. */
  readonly descriptor?: Descriptor;
}

/** Stack of level `dpl` from the TSS, outside long mode; #TS or #SS with `ext` where it is unusable. */
export function innerStack(cpu: HostContext, dpl: number, ext: number): InnerStack {
  const wide = (segAttrs(cpu, Seg.TR) >>> SegAttr.typeShift & 8) !== 0;
  const at = wide ? 4 + 8 * dpl : 2 + 4 * dpl;
  const taskError = (cpu.selector(Seg.TR) & 0xfffc) | ext;
  if (at + (wide ? 5 : 3) > segLimit(cpu, Seg.TR)) cpu.raise(Vector.TS, taskError);
  const tss = cpu.segBase(Seg.TR) + BigInt(at);
  const pointer = loadImplicit(cpu, tss, wide ? 4 : 2);
  const selector = Number(loadImplicit(cpu, tss + (wide ? 4n : 2n), 2));
  const error = (selector & 0xfffc) | ext;
  if ((selector & 0xfffc) === 0) cpu.raise(Vector.TS, ext);
  const descriptor = readDescriptor(cpu, selector, { vector: Vector.TS, ext });
  if ((selector & 3) !== dpl || dplOf(descriptor) !== dpl || !isWritableData(descriptor)) {
    cpu.raise(Vector.TS, error);
  }
  if (!isPresent(descriptor)) cpu.raise(Vector.SS, error);
  const value = segmentOf(selector, descriptor);
  return {
    space: {
      base: value.base,
      limit: value.limit,
      attrs: value.attrs,
      mask: stackMask(value.attrs),
      access: 0,
      error,
    },
    pointer,
    selector,
    descriptor,
  };
}

/** Stack pointer at offset `at` in the 64-bit TSS; #TS beyond its limit, #SS where not canonical. */
export function taskStackPointer(cpu: HostContext, at: number, ext: number): bigint {
  if (at + 7 > segLimit(cpu, Seg.TR)) {
    cpu.raise(Vector.TS, (cpu.selector(Seg.TR) & 0xfffc) | ext);
  }
  const pointer = loadImplicit(cpu, cpu.segBase(Seg.TR) + BigInt(at), 8);
  if (!isCanonical(pointer)) cpu.raise(Vector.SS, ext);
  return pointer;
}

/** Stack of level `dpl` in long mode. */
export function innerStack64(cpu: HostContext, dpl: number, ext: number): InnerStack {
  return {
    space: { base: 0n, limit: 0, attrs: 0, mask: ALL, access: 0, error: 0 },
    pointer: taskStackPointer(cpu, 4 + 8 * dpl, ext),
    selector: dpl,
  };
}

/** Loads SS as {@link innerStack} found it, for privilege `cpl`. */
export function enterStack(cpu: HostContext, stack: InnerStack, cpl: number): void {
  if (stack.descriptor === undefined) loadNull(cpu, Seg.SS, cpl);
  else {
    markAccessed(cpu, stack.descriptor);
    setSegment(cpu, Seg.SS, segmentOf(stack.selector, stack.descriptor));
  }
}

/** After a return to an outer level: data segments of inner levels become null. */
export function dropInnerSegments(cpu: HostContext, cpl: number): void {
  for (const seg of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
    const attrs = segAttrs(cpu, seg);
    if ((attrs & SegAttr.unusable) !== 0) continue;
    if (isCode({ high: attrs }) && isConforming({ high: attrs })) continue;
    if (dplOf({ high: attrs }) < cpl) loadNull(cpu, seg, 0);
  }
}

/** True where the present TSS is one of 32 (or 64) bits. */
export function hasTask32(cpu: HostContext): boolean {
  const type = typeOf({ high: segAttrs(cpu, Seg.TR) });
  return type === SystemType.tss || type === SystemType.tssBusy;
}
