/**
 * What follows from the control registers and segments: the mode that code is decoded for, privilege,
 * the data TLB in force. Flags as a whole, and power-on state.
 *
 * @module
 */

import type { HostContext } from "../host_context.ts";
import {
  ARITH_FLAGS,
  Check,
  CodeMode,
  Flag,
  Reg,
  S,
  Seg,
  SegAttr,
  SegField,
  segOffset,
  TLB_CHECKED,
  TLB_SUPER,
  TLB_SUPER_AC,
  TLB_USER,
} from "../state.ts";
import { Cr0, Cr4, Efer, setSegment } from "./access.ts";

/** Bits of RFLAGS that exist on this processor. */
export const RFLAGS_MASK = 0x3f_7fd7;

const PLAIN_DATA = SegAttr.present | SegAttr.s | SegAttr.writable;
const PLAIN_CODE = PLAIN_DATA | SegAttr.code;
const KIND = SegAttr.present | SegAttr.s | SegAttr.writable | SegAttr.code | SegAttr.unusable;

/** True where segment `seg` covers 4 GiB from 0 and any access of its kind is allowed. */
function isFlat(cpu: HostContext, seg: Seg): boolean {
  const at = segOffset(seg);
  const attrs = cpu.get32(at + SegField.attrs);
  if (cpu.get32(at + SegField.limit) !== -1) return false;
  if (cpu.get32(at + SegField.base) !== 0) return false;
  if (seg === Seg.CS) return (attrs & KIND) === PLAIN_CODE;
  return (attrs & (KIND | SegAttr.expandDown)) === PLAIN_DATA;
}

/** Recomputes the fields of the state that follow from control registers, segments and flags. */
export function updateMode(cpu: HostContext): void {
  const cr0 = cpu.get32(S.cr0);
  const cr4 = cpu.get32(S.cr4);
  const cs = cpu.get32(segOffset(Seg.CS) + SegField.attrs);
  // CPL is the DPL of SS at any time; real mode has only level 0.
  const cpl = (cr0 & Cr0.PE) === 0
    ? 0
    : (cpu.get32(segOffset(Seg.SS) + SegField.attrs) >>> SegAttr.dplShift) & 3;
  const long = (cpu.get32(S.efer) & Efer.LMA) !== 0;
  let tag: number;
  if (long && (cs & SegAttr.long) !== 0) {
    tag = CodeMode.bits64;
    cpu.set32(S.linearMask, -1);
    cpu.set32(S.linearMask + 4, -1);
  } else {
    tag = (cs & SegAttr.db) !== 0 ? CodeMode.bits32 : CodeMode.bits16;
    if (
      !isFlat(cpu, Seg.CS) || !isFlat(cpu, Seg.DS) || !isFlat(cpu, Seg.ES) || !isFlat(cpu, Seg.SS)
    ) tag |= CodeMode.segmented;
    cpu.set32(S.linearMask, -1);
    cpu.set32(S.linearMask + 4, 0);
  }
  if (cpl === 3) tag |= CodeMode.user;
  cpu.set32(S.codeTag, tag);
  cpu.set32(S.cpl, cpl);
  chooseTlb(cpu);
  const x87 = (cr0 & (Cr0.EM | Cr0.TS)) !== 0 ? 1 : 0;
  const sse = x87 !== 0 || (cr4 & Cr4.OSFXSR) === 0 ? 2 : 0;
  cpu.set32(S.fpuTrap, x87 | sse);
}

/** Sets RFLAGS as a whole, reserved bits as they are fixed. */
export function loadFlags(cpu: HostContext, rflags: bigint): void {
  cpu.exports.setArithFlags(rflags);
  setOtherFlags(cpu, Number(BigInt.asIntN(32, rflags)));
}

/** Sets RFLAGS but for the arithmetic flags; the AC flag chooses the TLB. */
export function setOtherFlags(cpu: HostContext, flags: number): void {
  const other = (flags & RFLAGS_MASK & ~ARITH_FLAGS) | 2;
  cpu.set32(S.flagOther, other);
  chooseTlb(cpu);
}

/** Puts the data TLB in force that follows from privilege, EFLAGS.AC, CR0.AM and DR7. */
export function chooseTlb(cpu: HostContext): void {
  const user = cpu.get32(S.cpl) === 3;
  const ac = (cpu.get32(S.flagOther) & Flag.AC) !== 0;
  let checks = 0;
  if (user && ac && (cpu.get32(S.cr0) & Cr0.AM) !== 0) checks |= Check.alignment;
  if (hasDataBreakpoints(cpu.get32(S.dr + 8 * 7))) checks |= Check.breakpoints;
  cpu.set32(S.checks, checks);
  const plain = user ? TLB_USER : ac ? TLB_SUPER_AC : TLB_SUPER;
  cpu.set32(S.tlbBase, checks !== 0 ? TLB_CHECKED : plain);
}

/** Whether DR7 arms a breakpoint on data. */
function hasDataBreakpoints(dr7: number): boolean {
  if ((dr7 & 0xff) === 0) return false;
  for (let n = 0; n < 4; n++) {
    if (((dr7 >>> (2 * n)) & 3) !== 0 && ((dr7 >>> (16 + 4 * n)) & 1) !== 0) return true;
  }
  return false;
}

/** Where interrupts have just been enabled: have the runtime look for them at the next branch. */
export function noticeInterrupts(cpu: HostContext, before: number): void {
  if ((before & Flag.IF) === 0 && (cpu.get32(S.flagOther) & Flag.IF) !== 0) lookAround(cpu);
}

/** Generated code goes back to the runtime at the next jump where something waits there. */
export function lookAround(cpu: HostContext): void {
  if (cpu.get32(S.mailbox) !== 0) cpu.set32(S.fuel, -1);
}

/** State after power-on and INIT (Intel SDM vol. 3, 10.1.1), without the TLBs. */
export function resetCpu(cpu: HostContext): void {
  for (let n = 0; n < 16; n++) cpu.setReg(n, 0n);
  // Family, model and stepping, as CPUID leaf 1 gives them.
  cpu.setReg(Reg.rdx, BigInt(SIGNATURE));
  cpu.set64(S.zero, 0n);
  cpu.set64(S.rip, 0xfff0n);
  cpu.set64(S.flagAux, 0n);
  cpu.set64(S.flagResult, 1n);
  cpu.exports.setArithFlags(0n);
  cpu.set32(S.flagOther, 2);
  cpu.set32(S.shadow, 0);
  const data = SegAttr.present | SegAttr.s | SegAttr.writable | SegAttr.accessed;
  for (const seg of [Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS]) {
    setSegment(cpu, seg, { selector: 0, base: 0n, limit: 0xffff, attrs: data });
  }
  setSegment(cpu, Seg.CS, {
    selector: 0xf000,
    base: 0xffff_0000n,
    limit: 0xffff,
    attrs: data | SegAttr.code,
  });
  setSegment(cpu, Seg.LDTR, {
    selector: 0,
    base: 0n,
    limit: 0xffff,
    attrs: SegAttr.present | (2 << SegAttr.typeShift),
  });
  setSegment(cpu, Seg.TR, {
    selector: 0,
    base: 0n,
    limit: 0xffff,
    attrs: SegAttr.present | (0xb << SegAttr.typeShift),
  });
  cpu.set64(S.gdtBase, 0n);
  cpu.set32(S.gdtLimit, 0xffff);
  cpu.set64(S.idtBase, 0n);
  cpu.set32(S.idtLimit, 0xffff);
  cpu.set64(S.cr0, 0x6000_0010n);
  for (
    const at of [
      S.cr2,
      S.cr3,
      S.cr4,
      S.efer,
      S.star,
      S.lstar,
      S.cstar,
      S.sfmask,
      S.kernelGsBase,
      S.tscAux,
      S.sysenterCs,
      S.sysenterEsp,
      S.sysenterEip,
    ]
  ) cpu.set64(at, 0n);
  cpu.set64(S.pat, 0x0007_0406_0007_0406n);
  for (let n = 0; n < 8; n++) cpu.set64(S.dr + 8 * n, 0n);
  cpu.set64(S.dr + 8 * 6, 0xffff_0ff0n);
  cpu.set64(S.dr + 8 * 7, 0x400n);
  cpu.set32(S.mxcsr, 0x1f80);
  cpu.set32(S.fpuCw, 0x37f);
  cpu.set32(S.fpuSw, 0);
  cpu.set32(S.fpuEmpty, 0xff);
  cpu.set64(S.fpuIp, 0n);
  cpu.set64(S.fpuDp, 0n);
  cpu.set32(S.fpuOpcode, 0);
  cpu.set32(S.fpuSelectors, 0);
  for (let at = S.fpu; at < S.scratch; at += 8) cpu.set64(at, 0n);
  updateMode(cpu);
}

/** EAX of CPUID leaf 1: AMD family 12h, model 1, stepping 0. */
export const SIGNATURE = 0x0030_0f10;
