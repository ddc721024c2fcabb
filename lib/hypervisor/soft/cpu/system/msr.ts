/**
 * Model-specific registers and the time-stamp counter (Intel SDM vol. 4; AMD64 manual vol. 2, appendix
 * A). A register that the processor does not have raises #GP; those of real AMD parts that a stock
 * kernel sets up without asking are kept as they are written.
 *
 * @module
 */

import { hex } from "../../../../base/mod.ts";
import { HypervisorError } from "../../../errors.ts";
import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Reg, regOffset, S, Seg, SegField, segOffset, Vector } from "../state.ts";
import { Cr0, Efer, isCanonical } from "./access.ts";
import { setLow } from "./cpuid.ts";
import { flushAll } from "./control.ts";
import { lookAround, updateMode } from "./mode.ts";

/** Indexes of model-specific registers. */
export const Msr = {
  tsc: 0x10,
  apicBase: 0x1b,
  tscAdjust: 0x3b,
  mtrrCap: 0xfe,
  sysenterCs: 0x174,
  sysenterEsp: 0x175,
  sysenterEip: 0x176,
  mcgCap: 0x179,
  mcgStatus: 0x17a,
  miscEnable: 0x1a0,
  debugControl: 0x1d9,
  pat: 0x277,
  mtrrDefault: 0x2ff,
  tscDeadline: 0x6e0,
  efer: 0xc000_0080,
  star: 0xc000_0081,
  lstar: 0xc000_0082,
  cstar: 0xc000_0083,
  sfmask: 0xc000_0084,
  fsBase: 0xc000_0100,
  gsBase: 0xc000_0101,
  kernelGsBase: 0xc000_0102,
  tscAux: 0xc000_0103,
} as const;

/** EFER.AIBRSE: automatic IBRS, which has nothing to do here. */
const EFER_AIBRSE = 1 << 21;
const EFER_WRITABLE = Efer.SCE | Efer.LME | Efer.NXE | EFER_AIBRSE;

/** Registers that keep what is written, with what they hold at power-on. */
const plain = new Map<number, bigint>([
  [Msr.mcgStatus, 0n],
  [Msr.miscEnable, 1n],
  [Msr.debugControl, 0n],
  // AMD: SYSCFG, HWCR (the TSC runs at the P0 frequency), TOP_MEM, TOP_MEM2, NB_CFG, interrupt pending
  // message, MMIO configuration base, SMM base and mask, VM_CR, OS visible workarounds, and the
  // configuration registers of the units of the core.
  [0xc001_0010, 0n],
  [0xc001_0015, 1n << 24n],
  [0xc001_001a, 0n],
  [0xc001_001d, 0n],
  [0xc001_001f, 0n],
  [0xc001_0055, 0n],
  [0xc001_0058, 0n],
  [0xc001_0111, 0n],
  [0xc001_0112, 0n],
  [0xc001_0113, 0n],
  [0xc001_0114, 0n],
  [0xc001_0117, 0n],
  [0xc001_0140, 0n],
  [0xc001_0141, 0n],
  ...[0x20, 0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d].map((
    n,
  ): [number, bigint] => [0xc001_1000 + n, 0n]),
]);
const WRITE_BACK = 0x0606_0606_0606_0606n;
for (const n of [0x250, 0x258, 0x259]) plain.set(n, WRITE_BACK);
for (let n = 0x268; n <= 0x26f; n++) plain.set(n, WRITE_BACK);
// One variable range: the PCI hole below 4 GiB is uncached.
for (let n = 0x200; n < 0x210; n++) plain.set(n, 0n);
plain.set(0x200, 0xc000_0000n);
plain.set(0x201, 0x3fff_c000_0800n);
plain.set(Msr.mtrrDefault, 0xc06n);

/** What the plain registers of each processor hold, where it differs from power-on. */
const written = new WeakMap<HostContext, Map<number, bigint>>();

const fsBase = segOffset(Seg.FS) + SegField.base;
const gsBase = segOffset(Seg.GS) + SegField.base;

/** Guest TSC: nanoseconds plus the processor's offset. */
export function readTscValue(cpu: HostContext): bigint {
  return BigInt.asUintN(64, BigInt(Math.floor(cpu.platform.nowNs())) + cpu.get64(S.tscOffset));
}

function isApic(index: number): boolean {
  return index === Msr.apicBase || index === Msr.tscDeadline || (index >= 0x800 && index < 0x900);
}

/** Value of register `index`; undefined where there is none. */
export function readMsrValue(cpu: HostContext, index: number): bigint | undefined {
  if (isApic(index)) return cpu.platform.readApicMsr(index) ?? undefined;
  switch (index) {
    case Msr.tsc:
      return readTscValue(cpu);
    case Msr.tscAdjust:
      return cpu.get64(S.tscOffset);
    case Msr.mtrrCap:
      // Eight variable ranges, fixed ranges, write-combining.
      return 0x508n;
    case Msr.sysenterCs:
      return cpu.get64(S.sysenterCs);
    case Msr.sysenterEsp:
      return cpu.get64(S.sysenterEsp);
    case Msr.sysenterEip:
      return cpu.get64(S.sysenterEip);
    case Msr.mcgCap:
      // No banks.
      return 0n;
    // Platform id, microcode revision.
    case 0x17:
    case 0x8b:
      return 0n;
    case Msr.pat:
      return cpu.get64(S.pat);
    case Msr.efer:
      return cpu.get64(S.efer);
    case Msr.star:
      return cpu.get64(S.star);
    case Msr.lstar:
      return cpu.get64(S.lstar);
    case Msr.cstar:
      return cpu.get64(S.cstar);
    case Msr.sfmask:
      return cpu.get64(S.sfmask);
    case Msr.fsBase:
      return cpu.get64(fsBase);
    case Msr.gsBase:
      return cpu.get64(gsBase);
    case Msr.kernelGsBase:
      return cpu.get64(S.kernelGsBase);
    case Msr.tscAux:
      return cpu.get64(S.tscAux);
    default: {
      const initial = plain.get(index);
      return initial === undefined ? undefined : written.get(cpu)?.get(index) ?? initial;
    }
  }
}

/** Writes register `index`; false where there is none or it does not take `value`. */
export function writeMsrValue(cpu: HostContext, index: number, value: bigint): boolean {
  if (isApic(index)) return cpu.platform.writeApicMsr(index, value) === true;
  switch (index) {
    case Msr.tsc:
      setTscOffset(cpu, value - BigInt(Math.floor(cpu.platform.nowNs())));
      return true;
    case Msr.tscAdjust:
      setTscOffset(cpu, value);
      return true;
    case Msr.sysenterCs:
      cpu.set64(S.sysenterCs, value);
      return true;
    case Msr.sysenterEsp:
      return setCanonical(cpu, S.sysenterEsp, value);
    case Msr.sysenterEip:
      return setCanonical(cpu, S.sysenterEip, value);
    // Microcode: update trigger of Intel, revision, loader of AMD.
    case 0x79:
    case 0x8b:
    case 0xc001_0020:
      return true;
    case Msr.pat:
      return writePat(cpu, value);
    case Msr.efer:
      return writeEfer(cpu, value);
    case Msr.star:
      cpu.set64(S.star, value);
      return true;
    case Msr.lstar:
      return setCanonical(cpu, S.lstar, value);
    case Msr.cstar:
      return setCanonical(cpu, S.cstar, value);
    case Msr.sfmask:
      cpu.set64(S.sfmask, value & 0xffff_ffffn);
      return true;
    case Msr.fsBase:
      return setCanonical(cpu, fsBase, value);
    case Msr.gsBase:
      return setCanonical(cpu, gsBase, value);
    case Msr.kernelGsBase:
      return setCanonical(cpu, S.kernelGsBase, value);
    case Msr.tscAux:
      if (value >> 32n !== 0n) return false;
      cpu.set64(S.tscAux, value);
      return true;
    default:
      return writePlain(cpu, index, value);
  }
}

function writePlain(cpu: HostContext, index: number, value: bigint): boolean {
  if (!plain.has(index)) return false;
  let values = written.get(cpu);
  if (values === undefined) written.set(cpu, values = new Map());
  values.set(index, value);
  return true;
}

function setCanonical(cpu: HostContext, at: number, value: bigint): boolean {
  if (!isCanonical(value)) return false;
  cpu.set64(at, value);
  return true;
}

function setTscOffset(cpu: HostContext, offset: bigint): void {
  cpu.set64(S.tscOffset, offset);
  cpu.platform.setTscOffset?.(Number(BigInt.asIntN(64, offset)));
}

function writePat(cpu: HostContext, value: bigint): boolean {
  for (let n = 0n; n < 64n; n += 8n) {
    const type = Number((value >> n) & 0xffn);
    if (type > 7 || type === 2 || type === 3) return false;
  }
  cpu.set64(S.pat, value);
  return true;
}

function writeEfer(cpu: HostContext, value: bigint): boolean {
  const before = cpu.get32(S.efer);
  // LMA follows CR0.PG; what is written there does not count.
  const asked = value & ~BigInt(Efer.LMA);
  if ((asked & ~BigInt(EFER_WRITABLE)) !== 0n) return false;
  const next = Number(asked) | (before & Efer.LMA);
  const paging = (cpu.get32(S.cr0) & Cr0.PG) !== 0;
  if (paging && ((next ^ before) & Efer.LME) !== 0) return false;
  cpu.set32(S.efer, next);
  if (((next ^ before) & Efer.NXE) !== 0) flushAll(cpu);
  updateMode(cpu);
  return true;
}

function supervisor(cpu: HostContext): void {
  if (cpu.get32(S.cpl) !== 0) cpu.raise(Vector.GP, 0);
}

const RAX = regOffset(Reg.rax);
const RCX = regOffset(Reg.rcx);
const RDX = regOffset(Reg.rdx);

/** State offset of the bases that kernels switch often, else -1. */
function hotBase(index: number): number {
  switch (index) {
    case Msr.fsBase:
      return fsBase;
    case Msr.gsBase:
      return gsBase;
    case Msr.kernelGsBase:
      return S.kernelGsBase;
    default:
      return -1;
  }
}

/** RDMSR. */
export const rdmsr: HostFunction = (cpu) => {
  supervisor(cpu);
  const index = cpu.get32(RCX) >>> 0;
  const hot = hotBase(index);
  if (hot >= 0) {
    setLow(cpu, Reg.rax, cpu.get32(hot));
    setLow(cpu, Reg.rdx, cpu.get32(hot + 4));
    return HostResult.Next;
  }
  const value = readMsrValue(cpu, index);
  if (value === undefined) return cpu.raise(Vector.GP, 0);
  setLow(cpu, Reg.rax, Number(BigInt.asIntN(32, value)));
  setLow(cpu, Reg.rdx, Number(BigInt.asIntN(32, value >> 32n)));
  return HostResult.Next;
};

/** WRMSR. */
export const wrmsr: HostFunction = (cpu) => {
  supervisor(cpu);
  const index = cpu.get32(RCX) >>> 0;
  const low = cpu.get32(RAX);
  const high = cpu.get32(RDX);
  const hot = hotBase(index);
  if (hot >= 0) {
    const sign = high >> 15;
    if (sign !== 0 && sign !== -1) cpu.raise(Vector.GP, 0);
    cpu.set32(hot, low);
    cpu.set32(hot + 4, high);
    return HostResult.Next;
  }
  const value = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
  if (!writeMsrValue(cpu, index, value)) cpu.raise(Vector.GP, 0);
  lookAround(cpu);
  return HostResult.Jump;
};

/** RDPMC: there are no counters. */
export const readPmc: HostFunction = (cpu) => cpu.raise(Vector.GP, 0);

/**
 * Register `index`, for the engine interface.
 * @throws {HypervisorError} where the processor has no such register.
 */
export function readMsr(cpu: HostContext, index: number): bigint {
  const value = readMsrValue(cpu, index);
  if (value === undefined) throw new HypervisorError(`no model-specific register ${hex(index)}`);
  return value;
}

/**
 * Sets register `index`, for the engine interface.
 * @throws {HypervisorError} where there is no such register or it does not take `value`.
 */
export function writeMsr(cpu: HostContext, index: number, value: bigint): void {
  if (writeMsrValue(cpu, index, value)) return;
  throw new HypervisorError(`model-specific register ${hex(index)} does not take ${hex(value)}`);
}
