/**
 * The stack in all its widths, and the stack instructions that generated code leaves to TypeScript
 * (Intel SDM vol. 1, 6.2 and 6.5; vol. 2, PUSHA, POPA, ENTER, LEAVE, POPF).
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Extra } from "../opcode.ts";
import {
  Access,
  Flag,
  Rec,
  Reg,
  S,
  Seg,
  SEG_SIZE,
  SegAttr,
  SegField,
  segOffset,
  Vector,
} from "../state.ts";
import {
  field16,
  immediate,
  iopl,
  is64,
  loadOwn,
  operandSize,
  ownAccess,
  segAttrs,
  segLimit,
  setSlot,
  withinLimit,
} from "./access.ts";
import { noticeInterrupts, setOtherFlags } from "./mode.ts";

const ALL = 0xffff_ffff_ffff_ffffn;

/** Where a stack lies and how wide its pointer is. */
export interface StackSpace {
  readonly base: bigint;
  readonly limit: number;
  readonly attrs: number;
  /** Mask of the stack pointer. */
  readonly mask: bigint;
  /** Access bits without read or write. */
  readonly access: number;
  /** Error code of #SS where the limit is exceeded. */
  readonly error: number;
}

/** Mask of a stack pointer by SS.B, outside 64-bit mode. */
export function stackMask(attrs: number): bigint {
  return (attrs & SegAttr.db) !== 0 ? 0xffff_ffffn : 0xffffn;
}

/** The stack in use. */
export function currentStack(cpu: HostContext): StackSpace {
  const attrs = segAttrs(cpu, Seg.SS);
  if (is64(cpu)) {
    return { base: 0n, limit: 0, attrs, mask: ALL, access: ownAccess(cpu), error: 0 };
  }
  return {
    base: cpu.segBase(Seg.SS),
    limit: segLimit(cpu, Seg.SS),
    attrs,
    mask: stackMask(attrs),
    access: ownAccess(cpu),
    error: 0,
  };
}

/** A stack with a pointer of its own; RSP changes only when {@link commit} is called. */
export class Stack {
  readonly #cpu: HostContext;
  readonly space: StackSpace;
  /** Stack pointer, within the mask. */
  pointer: bigint;

  constructor(cpu: HostContext, space: StackSpace, pointer: bigint) {
    this.#cpu = cpu;
    this.space = space;
    this.pointer = pointer & space.mask;
  }

  /** The stack in use, from RSP on. */
  static current(cpu: HostContext): Stack {
    return new Stack(cpu, currentStack(cpu), cpu.reg(Reg.rsp));
  }

  #linear(offset: bigint, size: number): bigint {
    const { space } = this;
    const cpu = this.#cpu;
    if (space.mask === ALL) return offset;
    if (!withinLimit(space, Number(offset), size)) cpu.raise(Vector.SS, space.error);
    return (space.base + offset) & 0xffff_ffffn;
  }

  /** Pushes the low `size` bytes of `value`. */
  push(value: bigint, size: number): void {
    const top = (this.pointer - BigInt(size)) & this.space.mask;
    this.#cpu.exports.systemStore(this.#linear(top, size), value, size, this.space.access);
    this.pointer = top;
  }

  /** Pops `size` bytes, zero-extended. */
  pop(size: number): bigint {
    const { access } = this.space;
    const value = this.#cpu.exports.systemLoad(this.#linear(this.pointer, size), size, access);
    this.skip(size);
    return BigInt.asUintN(64, value);
  }

  /** Moves the pointer up by `bytes`. */
  skip(bytes: number): void {
    this.pointer = (this.pointer + BigInt(bytes)) & this.space.mask;
  }

  /** Checks that `bytes` below the pointer can be written. */
  reserve(bytes: number): void {
    const top = (this.pointer - BigInt(bytes)) & this.space.mask;
    const linear = this.#linear(top, bytes);
    const mask = this.#cpu.get64(S.linearMask);
    const access = this.space.access | Access.write;
    for (const at of [linear, (linear + BigInt(bytes - 1)) & mask]) {
      probe(this.#cpu, at, access);
    }
  }

  /** Makes the pointer RSP. */
  commit(): void {
    setStackPointer(this.#cpu, this.pointer, this.space.mask);
  }
}

/** Raises the fault that an access to `linear` would. */
export function probe(cpu: HostContext, linear: bigint, access: number): void {
  if (cpu.exports.tryWalk(linear, access) >= 0n) return;
  cpu.raise(
    cpu.get32(S.faultVector),
    cpu.get32(S.faultHasError) !== 0 ? cpu.get32(S.faultError) : undefined,
  );
}

/** Sets the part of RSP that `mask` covers; a 32-bit pointer clears the upper half. */
export function setStackPointer(cpu: HostContext, pointer: bigint, mask: bigint): void {
  if (mask === 0xffffn) {
    cpu.setReg(Reg.rsp, (cpu.reg(Reg.rsp) & ~0xffffn & ALL) | (pointer & 0xffffn));
  } else cpu.setReg(Reg.rsp, pointer & mask);
}

/** Moves RSP up by `bytes`, in the width that `attrs` of SS say. */
export function dropStack(cpu: HostContext, bytes: number, attrs: number): void {
  const mask = is64(cpu) ? ALL : stackMask(attrs);
  setStackPointer(cpu, cpu.reg(Reg.rsp) + BigInt(bytes), mask);
}

/** PUSHA, PUSHAD. */
export const pusha: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const stack = Stack.current(cpu);
  stack.reserve(8 * size);
  for (let n = 0; n < 8; n++) stack.push(cpu.reg(n), size);
  stack.commit();
  return HostResult.Next;
};

/** POPA, POPAD: the image of the stack pointer is skipped. */
export const popa: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const stack = Stack.current(cpu);
  const values: bigint[] = [];
  for (let n = 0; n < 8; n++) values.push(stack.pop(size));
  values.forEach((low, i) => {
    const n = 7 - i;
    if (n !== Reg.rsp) setSlot(cpu, S.regs + 8 * n, { low, size });
  });
  stack.commit();
  return HostResult.Next;
};

/** LEAVE of 2 and 4 bytes. */
export const leave: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const stack = new Stack(cpu, currentStack(cpu), cpu.reg(Reg.rbp));
  const low = stack.pop(size);
  stack.commit();
  setSlot(cpu, S.regs + 8 * Reg.rbp, { low, size });
  return HostResult.Next;
};

/** ENTER. */
export const enter: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const imm = immediate(cpu, record);
  const bytes = imm & 0xffff;
  const level = (imm >>> 16) & 31;
  const stack = Stack.current(cpu);
  const { mask } = stack.space;
  stack.push(cpu.reg(Reg.rbp), size);
  const frame = stack.pointer;
  if (level > 0) {
    const outer = new Stack(cpu, stack.space, cpu.reg(Reg.rbp));
    for (let n = 1; n < level; n++) {
      outer.skip(-size);
      const display = new Stack(cpu, stack.space, outer.pointer);
      stack.push(display.pop(size), size);
    }
    stack.push(frame, size);
  }
  // The new top must be writable, as for a push of nothing.
  const top = (stack.pointer - BigInt(bytes)) & mask;
  new Stack(cpu, stack.space, top + BigInt(size)).reserve(size);
  stack.pointer = top;
  stack.commit();
  const rbp = S.regs + 8 * Reg.rbp;
  if (size === 2) cpu.u16[rbp >>> 1] = Number(frame & 0xffffn);
  else setSlot(cpu, rbp, { low: frame, size });
  return HostResult.Next;
};

/** XLAT: AL from DS:[rBX + AL]. */
export const xlat: HostFunction = (cpu, record) => {
  const extra = (cpu.u8[record + Rec.extra] as number) & Extra.addressMask;
  const addressMask = extra === 0 ? ALL : extra === 1 ? 0xffff_ffffn : 0xffffn;
  const offset = (cpu.reg(Reg.rbx) + (cpu.reg(Reg.rax) & 0xffn)) & addressMask;
  const linear = segmented(cpu, { slot: field16(cpu, record, Rec.seg), offset, size: 1 });
  cpu.u8[S.regs] = Number(loadOwn(cpu, linear, 1));
  return HostResult.Next;
};

/**
 * Linear address of `offset` in the segment whose state slot is `slot` (or the zero slot), checked
 * against its limit and rights.
 */
export function segmented(
  cpu: HostContext,
  at: { slot: number; offset: bigint; size: number; write?: boolean },
): bigint {
  if (is64(cpu)) return BigInt.asUintN(64, cpu.get64(at.slot) + at.offset);
  const seg: Seg = (at.slot - S.segs) / SEG_SIZE;
  const attrs = cpu.get32(at.slot + SegField.attrs);
  const code = (attrs & SegAttr.code) !== 0;
  const allowed = (attrs & SegAttr.writable) !== 0;
  const denied = at.write === true ? code || !allowed : code && !allowed;
  const limit = cpu.get32(at.slot + SegField.limit) >>> 0;
  if (
    denied || (attrs & SegAttr.unusable) !== 0 || (attrs & SegAttr.present) === 0 ||
    !withinLimit({ limit, attrs }, Number(at.offset), at.size)
  ) cpu.raise(seg === Seg.SS ? Vector.SS : Vector.GP, 0);
  return (cpu.get64(at.slot) + at.offset) & 0xffff_ffffn;
}

/** POPF; the value on the stack is in the scratch. */
export const popf: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const value = cpu.get32(S.scratch);
  const before = cpu.get32(S.flagOther);
  dropStack(cpu, size, cpu.get32(segOffset(Seg.SS) + SegField.attrs));
  // RF is cleared, VM, VIF and VIP stay as they are.
  const mask = changeableFlags(cpu) & (size === 2 ? 0xffff : ~Flag.RF);
  cpu.exports.setArithFlags(BigInt(value >>> 0));
  setOtherFlags(cpu, (before & ~mask & ~(size === 2 ? 0 : Flag.RF)) | (value & mask));
  noticeInterrupts(cpu, before);
  return (cpu.get32(S.flagOther) & (Flag.TF | Flag.IF) & ~before) !== 0
    ? afterFlags(cpu)
    : HostResult.Next;
};

/** Flags besides the arithmetic ones that POPF and IRET may change at this privilege. */
export function changeableFlags(cpu: HostContext): number {
  let mask = Flag.TF | Flag.DF | Flag.NT | Flag.RF | Flag.AC | Flag.ID;
  const cpl = cpu.get32(S.cpl);
  if (cpl === 0) mask |= Flag.IOPL;
  if (cpl <= iopl(cpu)) mask |= Flag.IF;
  return mask;
}

/** TF or IF came on: single-stepping and interrupts begin with the next instruction. */
function afterFlags(cpu: HostContext): HostResult {
  if ((cpu.get32(S.flagOther) & Flag.TF) !== 0) cpu.set32(S.fuel, -1);
  return HostResult.Jump;
}

/** BOUND: #BR where the index is outside the two bounds in memory. */
export const bound: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const ea = cpu.get64(S.tempEa);
  const bits = 8 * size;
  const lower = BigInt.asIntN(bits, loadOwn(cpu, ea, size));
  const upper = BigInt.asIntN(bits, loadOwn(cpu, ea + BigInt(size), size));
  const index = BigInt.asIntN(bits, cpu.get64(field16(cpu, record, Rec.a)));
  if (index < lower || index > upper) cpu.raise(Vector.BR);
  return HostResult.Next;
};
