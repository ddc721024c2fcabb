/**
 * Control and debug registers, descriptor-table registers, TLB and cache control, HLT (Intel SDM vol. 3,
 * 2.5 and 2.8; vol. 2, MOV CR, MOV DR).
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Exit, Rec, S, Seg, SegAttr, Vector } from "../state.ts";
import {
  Cr0,
  Cr4,
  Efer,
  field16,
  is64,
  isCanonical,
  isLong,
  loadOwn,
  operandSize,
  segAttrs,
  setSlot,
  storeOwn,
} from "./access.ts";
import { PHYSICAL_BITS } from "./cpuid.ts";
import { chooseTlb, updateMode } from "./mode.ts";

const CR0_WRITABLE = BigInt(
  (Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG) >>> 0,
);
const CR4_WRITABLE = BigInt(Object.values(Cr4).reduce((all, bit) => all | bit, 0));
/** CR4 bits that change what translations mean. */
const CR4_FLUSHES = Cr4.PSE | Cr4.PAE | Cr4.PGE | Cr4.SMEP | Cr4.SMAP;

function supervisor(cpu: HostContext): void {
  if (cpu.get32(S.cpl) !== 0) cpu.raise(Vector.GP, 0);
}

/** Empties all TLBs. */
export function flushAll(cpu: HostContext): void {
  cpu.exports.flushTlb();
  cpu.flushCode();
}

/** The register operand in the width of the mode. */
function source(cpu: HostContext, record: number): bigint {
  const value = cpu.get64(field16(cpu, record, Rec.b));
  return is64(cpu) ? value : value & 0xffff_ffffn;
}

function setTarget(cpu: HostContext, record: number, low: bigint): void {
  setSlot(cpu, field16(cpu, record, Rec.b), { low, size: is64(cpu) ? 8 : 4 });
}

/** MOV from CR0, CR2, CR3, CR4, CR8. */
export const readControl: HostFunction = (cpu, record) => {
  const n = field16(cpu, record, Rec.a);
  if (![0, 2, 3, 4, 8].includes(n)) cpu.raise(Vector.UD);
  supervisor(cpu);
  let value: bigint;
  switch (n) {
    case 0:
      value = cpu.get64(S.cr0);
      break;
    case 2:
      value = cpu.get64(S.cr2);
      break;
    case 3:
      value = cpu.get64(S.cr3);
      break;
    case 4:
      value = cpu.get64(S.cr4);
      break;
    default:
      value = BigInt(cpu.platform.getTpr());
  }
  setTarget(cpu, record, value);
  return HostResult.Next;
};

/** MOV to CR0, CR2, CR3, CR4, CR8. */
export const writeControl: HostFunction = (cpu, record) => {
  const n = field16(cpu, record, Rec.a);
  if (![0, 2, 3, 4, 8].includes(n)) cpu.raise(Vector.UD);
  supervisor(cpu);
  const value = source(cpu, record);
  switch (n) {
    case 0:
      writeCr0(cpu, value);
      break;
    case 2:
      cpu.set64(S.cr2, value);
      return HostResult.Next;
    case 3:
      // Without PCID, bit 63 is reserved like the bits above physical addresses.
      if (isLong(cpu) && value >> BigInt(PHYSICAL_BITS) !== 0n) cpu.raise(Vector.GP, 0);
      cpu.set64(S.cr3, value);
      cpu.exports.flushLocal();
      break;
    case 4:
      writeCr4(cpu, value);
      break;
    default:
      if (value > 15n) cpu.raise(Vector.GP, 0);
      cpu.platform.setTpr(Number(value));
  }
  return HostResult.Jump;
};

/** Sets CR0 as MOV does; bit 4 is fixed. */
function writeCr0(cpu: HostContext, value: bigint): void {
  if (value >> 32n !== 0n) cpu.raise(Vector.GP, 0);
  const next = Number(BigInt.asIntN(32, value & CR0_WRITABLE)) | Cr0.ET;
  const paging = (next & Cr0.PG) !== 0;
  if (paging && (next & Cr0.PE) === 0) cpu.raise(Vector.GP, 0);
  if ((next & Cr0.NW) !== 0 && (next & Cr0.CD) === 0) cpu.raise(Vector.GP, 0);
  const before = cpu.get32(S.cr0);
  const efer = cpu.get32(S.efer);
  if (paging && (before & Cr0.PG) === 0 && (efer & Efer.LME) !== 0) {
    const cs = segAttrs(cpu, Seg.CS);
    const pae = (cpu.get32(S.cr4) & Cr4.PAE) !== 0;
    if (!pae || (cs & SegAttr.long) !== 0) cpu.raise(Vector.GP, 0);
    cpu.set32(S.efer, efer | Efer.LMA);
  } else if (!paging && (efer & Efer.LMA) !== 0) {
    if (is64(cpu)) cpu.raise(Vector.GP, 0);
    cpu.set32(S.efer, efer & ~Efer.LMA);
  }
  cpu.set64(S.cr0, BigInt(next >>> 0));
  if (((next ^ before) & (Cr0.PE | Cr0.WP | Cr0.PG)) !== 0) flushAll(cpu);
  updateMode(cpu);
}

function writeCr4(cpu: HostContext, value: bigint): void {
  if ((value & ~CR4_WRITABLE) !== 0n) cpu.raise(Vector.GP, 0);
  const next = Number(value);
  const before = cpu.get32(S.cr4);
  if (isLong(cpu) && (next & Cr4.PAE) === 0) cpu.raise(Vector.GP, 0);
  cpu.set64(S.cr4, value);
  if (((next ^ before) & CR4_FLUSHES) !== 0) flushAll(cpu);
  updateMode(cpu);
}

/** LMSW: the low four bits of CR0; PE cannot be cleared. */
export const loadMachineStatus: HostFunction = (cpu) => {
  supervisor(cpu);
  const before = cpu.get32(S.cr0);
  const value = cpu.get32(S.scratch);
  writeCr0(cpu, BigInt(((before & ~14) | (value & 15)) >>> 0));
  return HostResult.Jump;
};

/** CLTS. */
export const clearTaskSwitched: HostFunction = (cpu) => {
  supervisor(cpu);
  cpu.set32(S.cr0, cpu.get32(S.cr0) & ~Cr0.TS);
  updateMode(cpu);
  return HostResult.Next;
};

function debugRegister(cpu: HostContext, record: number): number {
  let n = field16(cpu, record, Rec.a);
  if (n > 7) cpu.raise(Vector.UD);
  if (n === 4 || n === 5) {
    if ((cpu.get32(S.cr4) & Cr4.DE) !== 0) cpu.raise(Vector.UD);
    n += 2;
  }
  supervisor(cpu);
  return n;
}

/** MOV from a debug register. */
export const readDebug: HostFunction = (cpu, record) => {
  const n = debugRegister(cpu, record);
  setTarget(cpu, record, cpu.get64(S.dr + 8 * n));
  return HostResult.Next;
};

/** MOV to a debug register. While breakpoints are armed, the runtime goes instruction by instruction. */
export const writeDebug: HostFunction = (cpu, record) => {
  const n = debugRegister(cpu, record);
  let value = source(cpu, record);
  if (n >= 6) {
    if (value >> 32n !== 0n) cpu.raise(Vector.GP, 0);
    value = n === 6 ? (value & 0xe00fn) | 0xffff_0ff0n : (value & 0xffff_2fffn) | 0x400n;
  }
  cpu.set64(S.dr + 8 * n, value);
  chooseTlb(cpu);
  cpu.set32(S.fuel, -1);
  return HostResult.Jump;
};

/** SGDT (0F 01 /0) and SIDT (0F 01 /1). */
export const storeTable: HostFunction = (cpu, record) => {
  const interrupts = cpu.info(record).insn.digit === 1;
  const ea = cpu.get64(S.tempEa);
  const limit = BigInt(cpu.get32(interrupts ? S.idtLimit : S.gdtLimit) & 0xffff);
  const base = cpu.get64(interrupts ? S.idtBase : S.gdtBase);
  if (is64(cpu)) {
    storeOwn(cpu, ea + 2n, { value: base, size: 8 });
    storeOwn(cpu, ea, { value: limit, size: 2 });
  } else storeOwn(cpu, ea, { value: limit | ((base & 0xffff_ffffn) << 16n), size: 6 });
  return HostResult.Next;
};

/** LGDT (0F 01 /2) and LIDT (0F 01 /3). */
export const loadTable: HostFunction = (cpu, record) => {
  supervisor(cpu);
  const interrupts = cpu.info(record).insn.digit === 3;
  const ea = cpu.get64(S.tempEa);
  const limit = Number(loadOwn(cpu, ea, 2));
  let base = loadOwn(cpu, ea + 2n, is64(cpu) ? 8 : 4);
  if (is64(cpu)) {
    if (!isCanonical(base)) cpu.raise(Vector.GP, 0);
  } else if (operandSize(cpu, record) === 2) base &= 0xff_ffffn;
  cpu.set32(interrupts ? S.idtLimit : S.gdtLimit, limit);
  cpu.set64(interrupts ? S.idtBase : S.gdtBase, base);
  return HostResult.Next;
};

/** INVLPG. */
export const invalidatePage: HostFunction = (cpu) => {
  supervisor(cpu);
  const linear = cpu.get64(S.tempEa);
  // In 64-bit mode a non-canonical address names no translation.
  if (is64(cpu) && !isCanonical(linear)) return HostResult.Next;
  if (cpu.exports.flushPage(linear) === 0) flushAll(cpu);
  return HostResult.Jump;
};

/** INVD, WBINVD: there is no cache. */
export const writeBackCaches: HostFunction = (cpu) => {
  supervisor(cpu);
  return HostResult.Next;
};

/** HLT. */
export const halt: HostFunction = (cpu) => {
  supervisor(cpu);
  cpu.set32(S.exit, Exit.Halt);
  return HostResult.Leave;
};
