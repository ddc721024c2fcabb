/**
 * Loading of segment registers, LDTR and TR, and the instructions that look at descriptors (Intel SDM
 * vol. 2, MOV, POP, LDS, LLDT, LTR, LAR, LSL, VERR).
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Flag, Rec, S, Seg, SEG_SIZE, SegAttr, SegField, segOffset, Vector } from "../state.ts";
import {
  field16,
  is64,
  isCanonical,
  isLong,
  isProtected,
  loadOwn,
  operandSize,
  setSegment,
  setSlot,
  storeImplicit,
} from "./access.ts";
import {
  attrsOf,
  baseOf,
  type Descriptor,
  dplOf,
  findDescriptor,
  isCode,
  isConforming,
  isPresent,
  isWritableData,
  limitOf,
  markAccessed,
  readDescriptor,
  readUpperBase,
  segmentOf,
  SystemType,
  typeOf,
} from "./descriptors.ts";
import { updateMode } from "./mode.ts";
import { dropStack } from "./stack.ts";

/** Real mode: the base is 16 times the selector; limit and rights stay as they are. */
export function loadRealSegment(cpu: HostContext, seg: Seg, selector: number): void {
  const at = segOffset(seg);
  cpu.set32(at + SegField.selector, selector);
  cpu.set64(at + SegField.base, BigInt(selector << 4));
  const attrs = cpu.get32(at + SegField.attrs);
  if ((attrs & SegAttr.unusable) !== 0 || (attrs & SegAttr.present) === 0) {
    const code = seg === Seg.CS ? SegAttr.code : 0;
    cpu.set32(
      at + SegField.attrs,
      SegAttr.present | SegAttr.s | SegAttr.writable | SegAttr.accessed | code,
    );
    cpu.set32(at + SegField.limit, 0xffff);
  }
}

/** Puts a null selector into `seg`, whose base becomes 0; SS keeps the privilege level. */
export function loadNull(cpu: HostContext, seg: Seg, selector: number): void {
  const dpl = seg === Seg.SS ? (selector & 3) << SegAttr.dplShift : 0;
  setSegment(cpu, seg, { selector, base: 0n, limit: 0, attrs: SegAttr.unusable | dpl });
}

/** Loads ES, SS, DS, FS or GS with all checks of the present mode. Does not update the mode. */
export function loadSegment(cpu: HostContext, seg: Seg, selector: number): void {
  if (!isProtected(cpu)) {
    loadRealSegment(cpu, seg, selector);
    return;
  }
  const error = selector & 0xfffc;
  const rpl = selector & 3;
  const cpl = cpu.get32(S.cpl);
  if (error === 0) {
    if (seg === Seg.SS && !(is64(cpu) && cpl < 3 && rpl === cpl)) cpu.raise(Vector.GP, 0);
    loadNull(cpu, seg, selector);
    return;
  }
  const d = readDescriptor(cpu, selector);
  if (seg === Seg.SS) {
    if (rpl !== cpl || dplOf(d) !== cpl || !isWritableData(d)) cpu.raise(Vector.GP, error);
    if (!isPresent(d)) cpu.raise(Vector.SS, error);
  } else {
    checkReadable(cpu, d, { error, rpl, cpl });
    if (!isPresent(d)) cpu.raise(Vector.NP, error);
  }
  markAccessed(cpu, d);
  setSegment(cpu, seg, segmentOf(selector, d));
}

function checkReadable(
  cpu: HostContext,
  d: Descriptor,
  at: { error: number; rpl: number; cpl: number },
): void {
  const code = isCode(d);
  const readable = (d.high & SegAttr.s) !== 0 && (!code || (d.high & SegAttr.writable) !== 0);
  if (!readable) cpu.raise(Vector.GP, at.error);
  if (code && isConforming(d)) return;
  if (at.rpl > dplOf(d) || at.cpl > dplOf(d)) cpu.raise(Vector.GP, at.error);
}

/** After a load of `seg`: goes on with the next record, or anew where code is decoded differently now. */
function afterLoad(cpu: HostContext, seg: Seg): HostResult {
  if (seg === Seg.SS) {
    updateMode(cpu);
    // Interrupts are held back until the next instruction is through.
    cpu.set32(S.shadow, 1);
    cpu.set32(S.fuel, -1);
    return HostResult.Jump;
  }
  if (seg === Seg.FS || seg === Seg.GS || is64(cpu)) return HostResult.Next;
  const before = cpu.get32(S.codeTag);
  updateMode(cpu);
  return cpu.get32(S.codeTag) === before ? HostResult.Next : HostResult.Jump;
}

function segmentNumber(cpu: HostContext, record: number, field: number): Seg {
  return (field16(cpu, record, field) - S.segs) / SEG_SIZE;
}

/** MOV to a segment register; the selector is in the scratch. */
export const moveToSegment: HostFunction = (cpu, record) => {
  const seg = segmentNumber(cpu, record, Rec.a);
  loadSegment(cpu, seg, cpu.get32(S.scratch) & 0xffff);
  return afterLoad(cpu, seg);
};

/** POP of a segment register; the value on the stack is in the scratch. */
export const popSegment: HostFunction = (cpu, record) => {
  const seg = segmentNumber(cpu, record, Rec.a);
  const selector = cpu.get32(S.scratch) & 0xffff;
  // The stack pointer moves in the old stack segment's size.
  const old = cpu.get32(segOffset(Seg.SS) + SegField.attrs);
  loadSegment(cpu, seg, selector);
  dropStack(cpu, operandSize(cpu, record), old);
  return afterLoad(cpu, seg);
};

/** LDS, LES, LSS, LFS, LGS. */
export const loadFarPointer: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const ea = cpu.get64(S.tempEa);
  const low = loadOwn(cpu, ea, size);
  const selector = Number(loadOwn(cpu, ea + BigInt(size), 2));
  const seg = segmentNumber(cpu, record, Rec.b);
  loadSegment(cpu, seg, selector);
  setSlot(cpu, field16(cpu, record, Rec.a), { low, size });
  return afterLoad(cpu, seg);
};

/** LLDT (0F 00 /2) and LTR (0F 00 /3). */
export const loadSystemSelector: HostFunction = (cpu, record) => {
  if (!isProtected(cpu)) cpu.raise(Vector.UD);
  if (cpu.get32(S.cpl) !== 0) cpu.raise(Vector.GP, 0);
  const selector = cpu.get32(S.scratch) & 0xffff;
  if (cpu.info(record).insn.digit === 2) loadLdt(cpu, selector);
  else loadTask(cpu, selector);
  return HostResult.Next;
};

function loadLdt(cpu: HostContext, selector: number): void {
  const error = selector & 0xfffc;
  if (error === 0) {
    loadNull(cpu, Seg.LDTR, selector);
    return;
  }
  if ((selector & 4) !== 0) cpu.raise(Vector.GP, error);
  const d = readDescriptor(cpu, selector);
  if ((d.high & SegAttr.s) !== 0 || typeOf(d) !== SystemType.ldt) cpu.raise(Vector.GP, error);
  if (!isPresent(d)) cpu.raise(Vector.NP, error);
  setSegment(cpu, Seg.LDTR, { ...segmentOf(selector, d), base: systemBase(cpu, selector, d) });
}

/** Base of an LDT or TSS descriptor, 64 bits wide in long mode. */
function systemBase(cpu: HostContext, selector: number, d: Descriptor): bigint {
  if (!isLong(cpu)) return BigInt(baseOf(d));
  const upper = readUpperBase(cpu, selector);
  const base = upper.base | BigInt(baseOf(d));
  if (upper.type !== 0 || !isCanonical(base)) cpu.raise(Vector.GP, selector & 0xfffc);
  return base;
}

function loadTask(cpu: HostContext, selector: number): void {
  const error = selector & 0xfffc;
  if (error === 0) cpu.raise(Vector.GP, 0);
  if ((selector & 4) !== 0) cpu.raise(Vector.GP, error);
  const d = readDescriptor(cpu, selector);
  const type = typeOf(d);
  const available = type === SystemType.tss || (type === SystemType.tss16 && !isLong(cpu));
  if ((d.high & SegAttr.s) !== 0 || !available) cpu.raise(Vector.GP, error);
  if (!isPresent(d)) cpu.raise(Vector.NP, error);
  const base = systemBase(cpu, selector, d);
  const busy = d.high | (2 << SegAttr.typeShift);
  storeImplicit(cpu, d.linear + 5n, { value: BigInt((busy >>> 8) & 0xff), size: 1 });
  setSegment(cpu, Seg.TR, {
    selector,
    base,
    limit: limitOf(d),
    attrs: attrsOf({ high: busy }),
  });
}

function setZero(cpu: HostContext, on: boolean): void {
  const flags = BigInt.asUintN(64, cpu.exports.arithFlags()) & ~BigInt(Flag.ZF);
  cpu.exports.setArithFlags(on ? flags | BigInt(Flag.ZF) : flags);
}

/** The descriptor of `selector` where privilege allows looking at it. */
function visible(cpu: HostContext, selector: number): Descriptor | undefined {
  if ((selector & 0xfffc) === 0) return undefined;
  const d = findDescriptor(cpu, selector);
  if (d === undefined) return undefined;
  if (isCode(d) && isConforming(d)) return d;
  return Math.max(cpu.get32(S.cpl), selector & 3) > dplOf(d) ? undefined : d;
}

/** VERR (0F 00 /4) and VERW (0F 00 /5). */
export const verify: HostFunction = (cpu, record) => {
  if (!isProtected(cpu)) cpu.raise(Vector.UD);
  const d = visible(cpu, cpu.get32(S.scratch) & 0xffff);
  const write = cpu.info(record).insn.digit === 5;
  const segment = d !== undefined && (d.high & SegAttr.s) !== 0;
  const allowed = (d?.high ?? 0) & SegAttr.writable;
  const code = d !== undefined && isCode(d);
  setZero(cpu, segment && (write ? !code && allowed !== 0 : !code || allowed !== 0));
  return HostResult.Next;
};

const LAR_LEGACY = [1, 2, 3, 4, 5, 9, 11, 12];
const LAR_LONG = [2, 9, 11, 12];
const LSL_LEGACY = [1, 2, 3, 9, 11];
const LSL_LONG = [2, 9, 11];

/** LAR (0F 02) and LSL (0F 03). */
export const loadAccess: HostFunction = (cpu, record) => {
  if (!isProtected(cpu)) cpu.raise(Vector.UD);
  const { insn, size } = cpu.info(record);
  const rights = insn.opcode === 0x02;
  const d = visible(cpu, cpu.get32(S.scratch) & 0xffff);
  const long = isLong(cpu);
  const types = rights ? (long ? LAR_LONG : LAR_LEGACY) : (long ? LSL_LONG : LSL_LEGACY);
  if (d === undefined || ((d.high & SegAttr.s) === 0 && !types.includes(typeOf(d)))) {
    setZero(cpu, false);
    return HostResult.Next;
  }
  const value = rights ? d.high & 0x00ff_ff00 : limitOf(d);
  setSlot(cpu, field16(cpu, record, Rec.a), { low: BigInt(value >>> 0), size });
  setZero(cpu, true);
  return HostResult.Next;
};
