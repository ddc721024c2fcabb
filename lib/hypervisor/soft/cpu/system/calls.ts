/**
 * Fast system calls: SYSCALL, SYSRET (AMD64 manual vol. 2, 6.1.1; in compatibility mode too),
 * SYSENTER, SYSEXIT (Intel SDM vol. 3, 5.8.7).
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Flag, Reg, regOffset, S, Seg, SegAttr, SegField, segOffset, Vector } from "../state.ts";
import { Efer, is64, isCanonical, isLong, isProtected, operandSize } from "./access.ts";
import { noticeInterrupts, RFLAGS_MASK, setOtherFlags, updateMode } from "./mode.ts";

const DATA = SegAttr.present | SegAttr.s | SegAttr.writable | SegAttr.accessed | SegAttr.db |
  SegAttr.granularity;
const CODE32 = DATA | SegAttr.code;
const CODE64 = (CODE32 & ~SegAttr.db) | SegAttr.long;

/** Loads CS and SS flat, without looking at a descriptor. */
function setFlat(
  cpu: HostContext,
  what: { cs: number; ss: number; code64: boolean; cpl: number },
): void {
  const dpl = what.cpl << SegAttr.dplShift;
  const cs = segOffset(Seg.CS);
  cpu.set32(cs + SegField.base, 0);
  cpu.set32(cs + SegField.base + 4, 0);
  cpu.set32(cs + SegField.limit, -1);
  cpu.set32(cs + SegField.attrs, (what.code64 ? CODE64 : CODE32) | dpl);
  cpu.set32(cs + SegField.selector, what.cs);
  const ss = segOffset(Seg.SS);
  cpu.set32(ss + SegField.base, 0);
  cpu.set32(ss + SegField.base + 4, 0);
  cpu.set32(ss + SegField.limit, -1);
  cpu.set32(ss + SegField.attrs, DATA | dpl);
  cpu.set32(ss + SegField.selector, what.ss);
}

/** Copies an i64 of the state as two halves. */
function copy64(cpu: HostContext, to: number, from: number): void {
  cpu.set32(to, cpu.get32(from));
  cpu.set32(to + 4, cpu.get32(from + 4));
}

/** Copies the low half of an i64 and clears the upper one. */
function copy32(cpu: HostContext, to: number, from: number): void {
  cpu.set32(to, cpu.get32(from));
  cpu.set32(to + 4, 0);
}

const RCX = regOffset(Reg.rcx);
const R11 = regOffset(11);

/** SYSCALL. */
export const syscall: HostFunction = (cpu) => {
  if ((cpu.get32(S.efer) & Efer.SCE) === 0 || !isProtected(cpu)) cpu.raise(Vector.UD);
  const cs = cpu.get32(S.star + 4) & 0xfffc;
  const segments = { cs, ss: (cs + 8) & 0xffff, cpl: 0 };
  if (!isLong(cpu)) {
    copy32(cpu, RCX, S.rip);
    copy32(cpu, S.rip, S.star);
    setFlat(cpu, { ...segments, code64: false });
    updateMode(cpu);
    setOtherFlags(cpu, cpu.get32(S.flagOther) & ~(Flag.IF | Flag.VM | Flag.RF));
    return HostResult.Jump;
  }
  const flags = cpu.getRflags();
  copy64(cpu, RCX, S.rip);
  const low = Number(BigInt.asIntN(32, flags));
  cpu.set32(R11, low & ~Flag.RF);
  cpu.set32(R11 + 4, 0);
  copy64(cpu, S.rip, is64(cpu) ? S.lstar : S.cstar);
  setFlat(cpu, { ...segments, code64: true });
  const cleared = low & ~(cpu.get32(S.sfmask) | Flag.RF);
  cpu.exports.setArithFlags(BigInt(cleared >>> 0));
  cpu.set32(S.flagOther, 0);
  updateMode(cpu);
  setOtherFlags(cpu, cleared);
  return HostResult.Jump;
};

/** SYSRET. */
export const sysret: HostFunction = (cpu, record) => {
  if ((cpu.get32(S.efer) & Efer.SCE) === 0 || !isProtected(cpu)) cpu.raise(Vector.UD);
  if (cpu.get32(S.cpl) !== 0) cpu.raise(Vector.GP, 0);
  const before = cpu.get32(S.flagOther);
  const star = cpu.get32(S.star + 4) >>> 16;
  const wide = operandSize(cpu, record) === 8;
  if (wide && !isCanonical(cpu.reg(Reg.rcx))) cpu.raise(Vector.GP, 0);
  const ss = ((star + 8) | 3) & 0xffff;
  const cs = ((wide ? star + 16 : star) | 3) & 0xffff;
  if (wide) copy64(cpu, S.rip, RCX);
  else copy32(cpu, S.rip, RCX);
  setFlat(cpu, { cs, ss, code64: wide, cpl: 3 });
  updateMode(cpu);
  if (isLong(cpu)) {
    // RF and VM read as zero.
    const flags = cpu.get32(R11) & RFLAGS_MASK & ~(Flag.RF | Flag.VM);
    cpu.exports.setArithFlags(BigInt(flags >>> 0));
    setOtherFlags(cpu, flags);
  } else setOtherFlags(cpu, before | Flag.IF);
  noticeInterrupts(cpu, before);
  if ((cpu.get32(S.flagOther) & Flag.TF) !== 0) cpu.set32(S.fuel, -1);
  return HostResult.Jump;
};

/** SYSENTER. */
export const sysenter: HostFunction = (cpu) => {
  const cs = cpu.get32(S.sysenterCs) & 0xfffc;
  if (!isProtected(cpu) || cs === 0) cpu.raise(Vector.GP, 0);
  const long = isLong(cpu);
  setOtherFlags(cpu, cpu.get32(S.flagOther) & ~(Flag.IF | Flag.VM));
  setFlat(cpu, { cs, ss: cs + 8, code64: long, cpl: 0 });
  if (long) {
    copy64(cpu, S.rip, S.sysenterEip);
    copy64(cpu, regOffset(Reg.rsp), S.sysenterEsp);
  } else {
    copy32(cpu, S.rip, S.sysenterEip);
    copy32(cpu, regOffset(Reg.rsp), S.sysenterEsp);
  }
  updateMode(cpu);
  return HostResult.Jump;
};

/** SYSEXIT. */
export const sysexit: HostFunction = (cpu, record) => {
  const base = cpu.get32(S.sysenterCs) & 0xfffc;
  if (!isProtected(cpu) || base === 0 || cpu.get32(S.cpl) !== 0) cpu.raise(Vector.GP, 0);
  const wide = operandSize(cpu, record) === 8 && isLong(cpu);
  const rip = cpu.reg(Reg.rdx);
  const rsp = cpu.reg(Reg.rcx);
  if (wide && !(isCanonical(rip) && isCanonical(rsp))) cpu.raise(Vector.GP, 0);
  const cs = (base + (wide ? 32 : 16)) | 3;
  setFlat(cpu, { cs, ss: cs + 8, code64: wide, cpl: 3 });
  cpu.set64(S.rip, wide ? rip : rip & 0xffff_ffffn);
  cpu.setReg(Reg.rsp, wide ? rsp : rsp & 0xffff_ffffn);
  updateMode(cpu);
  return HostResult.Jump;
};
