/**
 * IRET (Intel SDM vol. 2). Returns to virtual-8086 mode and to another task raise #GP: long mode has
 * neither, and nothing that this processor runs asks for them.
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { ARITH_FLAGS, Flag, S, Vector } from "../state.ts";
import { is64, isLong, isProtected, operandSize } from "./access.ts";
import { checkRip, dropInnerSegments, enterCode, enterReal, isCode64 } from "./code_segments.ts";
import { enterOuterStack, outerStack, returnTarget } from "./far_transfers.ts";
import { noticeInterrupts, RFLAGS_MASK, setOtherFlags, updateMode } from "./mode.ts";
import { changeableFlags, setStackPointer, Stack, stackMask } from "./stack.ts";

/** IRET, IRETD, IRETQ. */
export const interruptReturn: HostFunction = (cpu, record) => {
  const size = operandSize(cpu, record);
  const before = cpu.get32(S.flagOther);
  if (!isProtected(cpu)) returnReal(cpu, size);
  else {
    // With NT it would be a return to the previous task.
    if ((before & Flag.NT) !== 0) cpu.raise(Vector.GP, 0);
    returnProtected(cpu, size);
  }
  noticeInterrupts(cpu, before);
  if ((cpu.get32(S.flagOther) & Flag.TF) !== 0) cpu.set32(S.fuel, -1);
  return HostResult.Jump;
};

/** Sets the flags of `mask` from `flags`, of which `size` bytes were popped. */
function setFlags(cpu: HostContext, flags: bigint, at: { size: number; mask: number }): void {
  const mask = at.size === 2 ? at.mask & 0xffff : at.mask;
  const value = Number(BigInt.asIntN(32, flags));
  cpu.exports.setArithFlags(flags);
  // RF holds for the next instruction, where breakpoints are armed; else it is as good as gone.
  const gone = (cpu.get32(S.dr + 8 * 7) & 0xff) === 0 ? Flag.RF : 0;
  setOtherFlags(cpu, ((cpu.get32(S.flagOther) & ~mask) | (value & mask)) & ~gone);
}

function returnReal(cpu: HostContext, size: number): void {
  const stack = Stack.current(cpu);
  const offset = stack.pop(size);
  const selector = Number(stack.pop(size) & 0xffffn);
  const flags = stack.pop(size);
  enterReal(cpu, selector, offset);
  stack.commit();
  setFlags(cpu, flags, {
    size,
    mask: RFLAGS_MASK & ~(ARITH_FLAGS | Flag.VM | Flag.VIF | Flag.VIP),
  });
  updateMode(cpu);
}

function returnProtected(cpu: HostContext, size: number): void {
  const stack = Stack.current(cpu);
  const offset = stack.pop(size);
  const selector = Number(stack.pop(size) & 0xffffn);
  const flags = stack.pop(size);
  const cpl = cpu.get32(S.cpl);
  if (!isLong(cpu) && cpl === 0 && size === 4 && (flags & BigInt(Flag.VM)) !== 0n) {
    cpu.raise(Vector.GP, 0);
  }
  const d = returnTarget(cpu, selector);
  const rip = isCode64(cpu, d) ? offset : offset & 0xffff_ffffn;
  const level = selector & 3;
  const mask = changeableFlags(cpu) | (cpl === 0 ? Flag.VIF | Flag.VIP : 0);
  if (level === cpl && !is64(cpu)) {
    checkRip(cpu, d, rip);
    enterCode(cpu, { selector, descriptor: d, rip }, cpl);
    stack.commit();
  } else {
    const pointer = stack.pop(size);
    const ss = Number(stack.pop(size) & 0xffffn);
    const outer = outerStack(cpu, { selector: ss, level, code: d });
    checkRip(cpu, d, rip);
    enterOuterStack(cpu, ss, outer);
    enterCode(cpu, { selector, descriptor: d, rip }, level);
    const width = isCode64(cpu, d)
      ? 0xffff_ffff_ffff_ffffn
      : stackMask(outer === undefined ? 0 : outer.high);
    setStackPointer(cpu, pointer, width);
    if (level > cpl) dropInnerSegments(cpu, level);
  }
  updateMode(cpu);
  setFlags(cpu, flags, { size, mask });
}
