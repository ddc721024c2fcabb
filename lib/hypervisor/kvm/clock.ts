/**
 * Stopping and resuming guest time under KVM: the paravirtual clock, the TSC and the PIT.
 *
 * @module
 */

import { bufferAddress, ioctl, tryIoctl } from "../../host/mod.ts";
import { Request } from "./abi.ts";

const CLOCK_SIZE_BYTES = 48;
const PIT_SIZE_BYTES = 112;
const TSC_AT = CLOCK_SIZE_BYTES;
const PIT_AT = 64;
const MSR_TSC = 0x10;
const MSR_TSC_DEADLINE = 0x6e0;
/** Group and attribute KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET. */
const TSC_OFFSET_GROUP = 0;
const TSC_OFFSET_ATTRIBUTE = 0n;

/** Descriptors that hold the VM's clocks. */
export interface ClockFds {
  readonly vm: number;
  readonly vcpus: readonly number[];
}

/** Puts the state of the VM's clocks into `saved` (at least 176 bytes). */
export function saveClock(fds: ClockFds, saved: Uint8Array): void {
  const clock = new DataView(new ArrayBuffer(CLOCK_SIZE_BYTES));
  ioctl(fds.vm, Request.GetClock, clock, "KVM_GET_CLOCK");
  // The flags tell what the host can do; KVM_SET_CLOCK wants only those that change its meaning.
  clock.setUint32(8, 0, true);
  saved.set(new Uint8Array(clock.buffer));

  const tsc = new DataView(new ArrayBuffer(8));
  const first = fds.vcpus[0];
  tsc.setBigUint64(0, (first === undefined ? undefined : readMsr(first, MSR_TSC)) ?? 0n, true);
  saved.set(new Uint8Array(tsc.buffer), TSC_AT);

  const pit = new Uint8Array(PIT_SIZE_BYTES);
  ioctl(fds.vm, Request.GetPit2, pit, "KVM_GET_PIT2");
  saved.set(pit, PIT_AT);
}

/** Sets the VM's clocks to where {@link saveClock} found them. */
export function restoreClock(fds: ClockFds, saved: Uint8Array): void {
  const tscThen = new DataView(saved.slice(TSC_AT, TSC_AT + 8).buffer).getBigUint64(0, true);
  const first = fds.vcpus[0];
  const tscNow = first === undefined ? undefined : readMsr(first, MSR_TSC);
  if (tscNow !== undefined && tscNow > tscThen) {
    for (const fd of fds.vcpus) moveTsc(fd, tscThen - tscNow);
  }
  ioctl(fds.vm, Request.SetClock, saved.slice(0, CLOCK_SIZE_BYTES), "KVM_SET_CLOCK");
  // Setting the PIT starts its counters anew and drops the ticks that fell into the pause.
  ioctl(fds.vm, Request.SetPit2, saved.slice(PIT_AT, PIT_AT + PIT_SIZE_BYTES), "KVM_SET_PIT2");
  // So that the guest's soft-lockup detector does not count the pause. EINVAL: no kvmclock in use.
  for (const fd of fds.vcpus) tryIoctl(fd, Request.KvmclockCtrl);
}

/** Moves a vCPU's TSC by `ticks`, which keeps the vCPUs' TSCs in step; where KVM can. */
function moveTsc(fd: number, ticks: bigint): void {
  const value = new DataView(new ArrayBuffer(8));
  const attribute = new DataView(new ArrayBuffer(24));
  attribute.setUint32(4, TSC_OFFSET_GROUP, true);
  attribute.setBigUint64(8, TSC_OFFSET_ATTRIBUTE, true);
  attribute.setBigUint64(16, bufferAddress(value.buffer), true);
  if (tryIoctl(fd, Request.GetDeviceAttr, attribute) < 0) return;
  const offset = value.getBigUint64(0, true);
  value.setBigUint64(0, BigInt.asUintN(64, offset + ticks), true);
  if (tryIoctl(fd, Request.SetDeviceAttr, attribute) < 0) return;
  // An armed deadline is a host timer computed with the former offset: arm it again.
  const deadline = readMsr(fd, MSR_TSC_DEADLINE);
  if (deadline !== undefined && deadline !== 0n) writeMsr(fd, MSR_TSC_DEADLINE, deadline);
}

function readMsr(fd: number, index: number): bigint | undefined {
  const msr = msrEntry(index, 0n);
  return tryIoctl(fd, Request.GetMsrs, msr) === 1 ? msr.getBigUint64(16, true) : undefined;
}

function writeMsr(fd: number, index: number, value: bigint): void {
  tryIoctl(fd, Request.SetMsrs, msrEntry(index, value));
}

function msrEntry(index: number, value: bigint): DataView<ArrayBuffer> {
  const msr = new DataView(new ArrayBuffer(24));
  msr.setUint32(0, 1, true);
  msr.setUint32(8, index, true);
  msr.setBigUint64(16, value, true);
  return msr;
}
