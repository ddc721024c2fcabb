/**
 * Far CALL, JMP and RET (Intel SDM vol. 2 and vol. 3, 5.8). Task gates and task state segments as
 * targets raise #GP: hardware task switching exists only as far as long mode needs it, which is not at
 * all.
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Rec, Reg, S, Seg, SegAttr, Vector } from "../state.ts";
import {
  immediate,
  is64,
  isLong,
  isProtected,
  loadOwn,
  operandSize,
  segLimit,
  setSegment,
} from "./access.ts";
import {
  checkCodeSize,
  checkRip,
  dropInnerSegments,
  enterCode,
  enterReal,
  enterStack,
  innerStack,
  innerStack64,
  isCode64,
} from "./code_segments.ts";
import {
  type Descriptor,
  dplOf,
  findDescriptor,
  isCode,
  isConforming,
  isPresent,
  isWritableData,
  markAccessed,
  readDescriptor,
  readUpperBase,
  segmentOf,
  SystemType,
  typeOf,
} from "./descriptors.ts";
import { updateMode } from "./mode.ts";
import { loadNull } from "./segments.ts";
import { currentStack, setStackPointer, Stack, stackMask } from "./stack.ts";

interface FarPointer {
  readonly selector: number;
  readonly offset: bigint;
  readonly size: number;
}

function target(cpu: HostContext, record: number): FarPointer {
  const { size, mem } = cpu.info(record);
  if (!mem) {
    const offset = BigInt(cpu.get32(record + Rec.imm) >>> 0);
    return { selector: cpu.get32(record + Rec.imm + 4) & 0xffff, offset, size };
  }
  const ea = cpu.get64(S.tempEa);
  const offset = loadOwn(cpu, ea, size);
  return { selector: Number(loadOwn(cpu, ea + BigInt(size), 2)), offset, size };
}

/** Checks code segment `d` as the direct target of CALL or JMP. */
function checkDirect(cpu: HostContext, d: Descriptor, selector: number): void {
  const error = selector & 0xfffc;
  const cpl = cpu.get32(S.cpl);
  checkCodeSize(cpu, d, error);
  const allowed = isConforming(d) ? dplOf(d) <= cpl : (selector & 3) <= cpl && dplOf(d) === cpl;
  if (!allowed) cpu.raise(Vector.GP, error);
  if (!isPresent(d)) cpu.raise(Vector.NP, error);
}

interface Gate {
  readonly selector: number;
  readonly descriptor: Descriptor;
  readonly rip: bigint;
  /** Bytes of a pushed item. */
  readonly size: number;
  readonly parameters: number;
}

/** Reads and checks the call gate `d` and its target; #GP where `d` is no call gate. */
function readGate(cpu: HostContext, d: Descriptor, selector: number): Gate {
  const error = selector & 0xfffc;
  const long = isLong(cpu);
  const cpl = cpu.get32(S.cpl);
  const type = typeOf(d);
  const isGate = (d.high & SegAttr.s) === 0 &&
    (type === SystemType.callGate || (type === SystemType.callGate16 && !long));
  if (!isGate) cpu.raise(Vector.GP, error);
  if (dplOf(d) < cpl || dplOf(d) < (selector & 3)) cpu.raise(Vector.GP, error);
  let upper = 0n;
  if (long) {
    const second = readUpperBase(cpu, selector);
    if (second.type !== 0) cpu.raise(Vector.GP, error);
    upper = second.base;
  }
  if (!isPresent(d)) cpu.raise(Vector.NP, error);
  const code = d.low >>> 16;
  const codeError = code & 0xfffc;
  if (codeError === 0) cpu.raise(Vector.GP, 0);
  const c = readDescriptor(cpu, code);
  if (!isCode(c) || dplOf(c) > cpl) cpu.raise(Vector.GP, codeError);
  if (long && (c.high & (SegAttr.long | SegAttr.db)) !== SegAttr.long) {
    cpu.raise(Vector.GP, codeError);
  }
  if (!isPresent(c)) cpu.raise(Vector.NP, codeError);
  const low = (d.low & 0xffff) | (type === SystemType.callGate ? d.high & 0xffff_0000 : 0);
  return {
    selector: code,
    descriptor: c,
    rip: upper | BigInt(low >>> 0),
    size: long ? 8 : type === SystemType.callGate ? 4 : 2,
    parameters: d.high & 31,
  };
}

/** Cuts an offset to what a code segment of the target's size uses. */
function cutRip(cpu: HostContext, d: Descriptor, rip: bigint): bigint {
  return isCode64(cpu, d) ? rip : rip & 0xffff_ffffn;
}

/** Far JMP. */
export const farJump: HostFunction = (cpu, record) => {
  const { selector, offset } = target(cpu, record);
  if (!isProtected(cpu)) {
    enterReal(cpu, selector, offset);
    updateMode(cpu);
    return HostResult.Jump;
  }
  if ((selector & 0xfffc) === 0) cpu.raise(Vector.GP, 0);
  const d = readDescriptor(cpu, selector);
  const cpl = cpu.get32(S.cpl);
  if (isCode(d)) {
    checkDirect(cpu, d, selector);
    const rip = cutRip(cpu, d, offset);
    checkRip(cpu, d, rip);
    enterCode(cpu, { selector, descriptor: d, rip }, cpl);
  } else {
    const gate = readGate(cpu, d, selector);
    const c = gate.descriptor;
    if (!isConforming(c) && dplOf(c) !== cpl) cpu.raise(Vector.GP, gate.selector & 0xfffc);
    checkRip(cpu, c, gate.rip);
    enterCode(cpu, gate, cpl);
  }
  updateMode(cpu);
  return HostResult.Jump;
};

/** Far CALL. */
export const farCall: HostFunction = (cpu, record) => {
  const { selector, offset, size } = target(cpu, record);
  const cpl = cpu.get32(S.cpl);
  const back = cpu.get64(S.rip);
  if (!isProtected(cpu)) {
    const stack = Stack.current(cpu);
    stack.reserve(2 * size);
    if (offset > BigInt(segLimit(cpu, Seg.CS))) cpu.raise(Vector.GP, 0);
    stack.push(BigInt(cpu.selector(Seg.CS)), size);
    stack.push(back, size);
    enterReal(cpu, selector, offset);
    stack.commit();
  } else {
    if ((selector & 0xfffc) === 0) cpu.raise(Vector.GP, 0);
    const d = readDescriptor(cpu, selector);
    if (isCode(d)) {
      checkDirect(cpu, d, selector);
      const rip = cutRip(cpu, d, offset);
      checkRip(cpu, d, rip);
      pushReturn(cpu, size);
      enterCode(cpu, { selector, descriptor: d, rip }, cpl);
    } else callGate(cpu, readGate(cpu, d, selector));
  }
  updateMode(cpu);
  return HostResult.Jump;
};

/** Pushes CS and RIP of the next instruction on the stack in use. */
function pushReturn(cpu: HostContext, size: number): void {
  const stack = Stack.current(cpu);
  stack.push(BigInt(cpu.selector(Seg.CS)), size);
  stack.push(cpu.get64(S.rip), size);
  stack.commit();
}

function callGate(cpu: HostContext, gate: Gate): void {
  const cpl = cpu.get32(S.cpl);
  const d = gate.descriptor;
  checkRip(cpu, d, gate.rip);
  if (isConforming(d) || dplOf(d) === cpl) {
    pushReturn(cpu, gate.size);
    enterCode(cpu, gate, cpl);
    return;
  }
  const level = dplOf(d);
  const inner = isLong(cpu) ? innerStack64(cpu, level, 0) : innerStack(cpu, level, 0);
  const parameters: bigint[] = [];
  if (!isLong(cpu)) {
    const old = Stack.current(cpu);
    for (let n = 0; n < gate.parameters; n++) parameters.push(old.pop(gate.size));
  }
  const oldMask = currentStack(cpu).mask;
  const oldPointer = cpu.reg(Reg.rsp) & oldMask;
  withLongAddresses(cpu, () => {
    const stack = new Stack(cpu, inner.space, inner.pointer);
    stack.push(BigInt(cpu.selector(Seg.SS)), gate.size);
    stack.push(oldPointer, gate.size);
    for (const value of parameters.reverse()) stack.push(value, gate.size);
    stack.push(BigInt(cpu.selector(Seg.CS)), gate.size);
    stack.push(cpu.get64(S.rip), gate.size);
    enterStack(cpu, inner, level);
    enterCode(cpu, gate, level);
    stack.commit();
  });
}

/** Runs `f` with 64-bit linear addresses where long mode is active, also in compatibility mode. */
export function withLongAddresses(cpu: HostContext, f: () => void): void {
  if (!isLong(cpu) || is64(cpu)) {
    f();
    return;
  }
  cpu.set64(S.linearMask, 0xffff_ffff_ffff_ffffn);
  try {
    f();
  } finally {
    cpu.set64(S.linearMask, 0xffff_ffffn);
  }
}

/** Far RET, with the immediate's number of bytes removed from both stacks. */
export const farReturn: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const bytes = cpu.info(record).insn.operands.length > 0 ? immediate(cpu, record) & 0xffff : 0;
  const stack = Stack.current(cpu);
  const offset = stack.pop(size);
  const selector = Number(stack.pop(size) & 0xffffn);
  if (!isProtected(cpu)) {
    enterReal(cpu, selector, offset);
    stack.skip(bytes);
    stack.commit();
    updateMode(cpu);
    return HostResult.Jump;
  }
  const cpl = cpu.get32(S.cpl);
  const d = returnTarget(cpu, selector);
  const rip = cutRip(cpu, d, offset);
  const rpl = selector & 3;
  if (rpl === cpl) {
    checkRip(cpu, d, rip);
    enterCode(cpu, { selector, descriptor: d, rip }, cpl);
    stack.skip(bytes);
    stack.commit();
  } else {
    stack.skip(bytes);
    const pointer = stack.pop(size);
    const ss = Number(stack.pop(size) & 0xffffn);
    const outer = outerStack(cpu, { selector: ss, level: rpl, code: d });
    checkRip(cpu, d, rip);
    enterOuterStack(cpu, ss, outer);
    enterCode(cpu, { selector, descriptor: d, rip }, rpl);
    const mask = isCode64(cpu, d)
      ? 0xffff_ffff_ffff_ffffn
      : stackMask(outer === undefined ? 0 : outer.high);
    setStackPointer(cpu, pointer + BigInt(bytes), mask);
    dropInnerSegments(cpu, rpl);
  }
  updateMode(cpu);
  return HostResult.Jump;
};

/** Checks the code segment that RETF or IRET returns to. */
export function returnTarget(cpu: HostContext, selector: number): Descriptor {
  const error = selector & 0xfffc;
  if (error === 0) cpu.raise(Vector.GP, 0);
  const d = findDescriptor(cpu, selector);
  const rpl = selector & 3;
  if (d === undefined || !isCode(d) || rpl < cpu.get32(S.cpl)) cpu.raise(Vector.GP, error);
  checkCodeSize(cpu, d, error);
  if (isConforming(d) ? dplOf(d) > rpl : dplOf(d) !== rpl) cpu.raise(Vector.GP, error);
  if (!isPresent(d)) cpu.raise(Vector.NP, error);
  return d;
}

/** Checks the stack segment that a return to `level` loads; undefined where it is null. */
export function outerStack(
  cpu: HostContext,
  at: { selector: number; level: number; code: Descriptor },
): Descriptor | undefined {
  const error = at.selector & 0xfffc;
  if (error === 0) {
    const allowed = isCode64(cpu, at.code) && at.level !== 3 && (at.selector & 3) === at.level;
    if (!allowed) cpu.raise(Vector.GP, 0);
    return undefined;
  }
  const d = readDescriptor(cpu, at.selector);
  if ((at.selector & 3) !== at.level || !isWritableData(d) || dplOf(d) !== at.level) {
    cpu.raise(Vector.GP, error);
  }
  if (!isPresent(d)) cpu.raise(Vector.SS, error);
  return d;
}

/** Loads SS with what {@link outerStack} gave. */
export function enterOuterStack(
  cpu: HostContext,
  selector: number,
  d: Descriptor | undefined,
): void {
  if (d === undefined) loadNull(cpu, Seg.SS, selector);
  else {
    markAccessed(cpu, d);
    setSegment(cpu, Seg.SS, segmentOf(selector, d));
  }
}
