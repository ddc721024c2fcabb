/**
 * State that a vCPU has before the boot code sets its registers: CPUID, MSRs, FPU, local APIC.
 *
 * @module
 */

import { ioctl, tryIoctl } from "../../host/mod.ts";
import { HypervisorError } from "../errors.ts";
import { Request } from "./abi.ts";
import { type CpuidEntry, encodeCpuid, vcpuCpuid } from "./cpuid.ts";

/** What the VM knows about the vCPU. */
export interface VcpuSetup {
  readonly id: number;
  readonly vcpuCount: number;
  readonly tscDeadline: boolean;
  readonly supportedCpuid: readonly CpuidEntry[];
}

const FPU_SIZE_BYTES = 416;
const FPU_FCW_AT = 128;
const FPU_MXCSR_AT = 408;
/** Control words after FNINIT and at reset (Intel SDM vol. 1, 8.1.5 and 10.2.3). */
const FPU_FCW = 0x37f;
const FPU_MXCSR = 0x1f80;

const LAPIC_SIZE_BYTES = 1024;
const LAPIC_LVT_LINT0 = 0x350;
const LAPIC_LVT_LINT1 = 0x360;
const DELIVERY_EXTINT = 7 << 8;
const DELIVERY_NMI = 4 << 8;

const MSR_MISC_ENABLE = 0x1a0;
const MSR_MTRR_DEF_TYPE = 0x2ff;
const MSR_MTRR_PHYS_BASE0 = 0x200;
const MSR_MTRR_PHYS_MASK0 = 0x201;
const MISC_ENABLE_FAST_STRING = 1n;
const MTRR_ENABLED_WRITE_BACK = 0x806n;
const MTRR_VALID = 0x800n;
/** The PCI hole, uncached. */
const HOLE_START = 0xc000_0000n;
const HOLE_SIZE = 0x4000_0000n;

/**
 * MSRs that are 0 at boot: SYSENTER_CS, _ESP, _EIP, STAR, LSTAR, CSTAR, SYSCALL_MASK,
 * KERNEL_GS_BASE, TSC.
 */
const ZERO_MSRS = [
  0x174,
  0x175,
  0x176,
  0xc000_0081,
  0xc000_0082,
  0xc000_0083,
  0xc000_0084,
  0xc000_0102,
  0x10,
] as const;

/** Brings vCPU `fd` into that state. */
export function setUpVcpu(fd: number, setup: VcpuSetup): void {
  const cpuid = vcpuCpuid(setup.supportedCpuid, {
    apicId: setup.id,
    vcpuCount: setup.vcpuCount,
    tscDeadline: setup.tscDeadline,
  });
  ioctl(fd, Request.SetCpuid2, encodeCpuid(cpuid), "KVM_SET_CPUID2");
  setMsrs(fd, setup.id, ZERO_MSRS.map((index) => [index, 0n]));
  // Without these a guest runs, only with other memory types.
  for (const msr of memoryTypeMsrs(cpuid)) trySetMsr(fd, msr);
  setFpu(fd);
  if (setup.id === 0) setLint(fd);
}

function memoryTypeMsrs(cpuid: readonly CpuidEntry[]): [number, bigint][] {
  const addressBits = (cpuid.find(({ leaf }) => leaf === 0x8000_0008)?.eax ?? 36) & 0xff;
  const addressMask = (1n << BigInt(Math.max(addressBits, 36))) - 1n;
  return [
    [MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING],
    [MSR_MTRR_PHYS_BASE0, HOLE_START],
    [MSR_MTRR_PHYS_MASK0, addressMask & ~(HOLE_SIZE - 1n) | MTRR_VALID],
    [MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK],
  ];
}

function setMsrs(fd: number, id: number, msrs: readonly (readonly [number, bigint])[]): void {
  const count = ioctl(fd, Request.SetMsrs, encodeMsrs(msrs), "KVM_SET_MSRS");
  if (count === msrs.length) return;
  const refused = msrs[count]?.[0] ?? 0;
  throw new HypervisorError(`vCPU ${id}: KVM refuses MSR 0x${refused.toString(16)}`);
}

function trySetMsr(fd: number, msr: readonly [number, bigint]): void {
  tryIoctl(fd, Request.SetMsrs, encodeMsrs([msr]));
}

function encodeMsrs(msrs: readonly (readonly [number, bigint])[]): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(8 + msrs.length * 16));
  view.setUint32(0, msrs.length, true);
  msrs.forEach(([index, value], position) => {
    view.setUint32(8 + position * 16, index, true);
    view.setBigUint64(16 + position * 16, value, true);
  });
  return view;
}

function setFpu(fd: number): void {
  const fpu = new DataView(new ArrayBuffer(FPU_SIZE_BYTES));
  fpu.setUint16(FPU_FCW_AT, FPU_FCW, true);
  fpu.setUint32(FPU_MXCSR_AT, FPU_MXCSR, true);
  ioctl(fd, Request.SetFpu, fpu, "KVM_SET_FPU");
}

/** The PIC at LINT0 and NMIs at LINT1, as firmware leaves them on the boot processor. */
function setLint(fd: number): void {
  const lapic = new DataView(new ArrayBuffer(LAPIC_SIZE_BYTES));
  ioctl(fd, Request.GetLapic, lapic, "KVM_GET_LAPIC");
  lapic.setUint32(LAPIC_LVT_LINT0, DELIVERY_EXTINT, true);
  lapic.setUint32(LAPIC_LVT_LINT1, DELIVERY_NMI, true);
  ioctl(fd, Request.SetLapic, lapic, "KVM_SET_LAPIC");
}
