/**
 * System instructions of the software processor, exceptions and interrupts.
 *
 * @module
 */

import type { HostFunction } from "../host_context.ts";
import { Host } from "../host_calls.ts";
import { syscall, sysenter, sysexit, sysret } from "./calls.ts";
import {
  clearTaskSwitched,
  halt,
  invalidatePage,
  loadMachineStatus,
  loadTable,
  readControl,
  readDebug,
  storeTable,
  writeBackCaches,
  writeControl,
  writeDebug,
} from "./control.ts";
import { cpuid } from "./cpuid.ts";
import { farCall, farJump, farReturn } from "./far_transfers.ts";
import { breakpoint, icebp, overflow, softwareInterrupt } from "./interrupts.ts";
import { interruptReturn } from "./iret.ts";
import { rdmsr, readPmc, wrmsr } from "./msr.ts";
import { portIn, portInString, portOut, portOutString } from "./ports.ts";
import { random } from "./random.ts";
import {
  loadAccess,
  loadFarPointer,
  loadSystemSelector,
  moveToSegment,
  popSegment,
  verify,
} from "./segments.ts";
import { bound, enter, leave, popa, popf, pusha, xlat } from "./stack.ts";
import { x87HostFunctions } from "../x87/mod.ts";

export { cpuidLeaf, type CpuidResult } from "./cpuid.ts";
export { deliver, type Delivery } from "./interrupts.ts";
export { loadFlags, resetCpu, updateMode } from "./mode.ts";
export { Msr, readMsr, writeMsr } from "./msr.ts";

/** TypeScript's part of system instructions, by host call. */
export const hostFunctions: ReadonlyMap<number, HostFunction> = new Map<number, HostFunction>([
  [Host.loadSegment, moveToSegment],
  [Host.popSegment, popSegment],
  [Host.pusha, pusha],
  [Host.popa, popa],
  [Host.leave, leave],
  [Host.enter, enter],
  [Host.xlat, xlat],
  [Host.popf, popf],
  [Host.farCall, farCall],
  [Host.farJump, farJump],
  [Host.farReturn, farReturn],
  [Host.interruptReturn, interruptReturn],
  [Host.softwareInterrupt, softwareInterrupt],
  [Host.breakpoint, breakpoint],
  [Host.overflow, overflow],
  [Host.icebp, icebp],
  [Host.portIn, portIn],
  [Host.portOut, portOut],
  [Host.portInString, portInString],
  [Host.portOutString, portOutString],
  [Host.halt, halt],
  [Host.readControl, readControl],
  [Host.writeControl, writeControl],
  [Host.readDebug, readDebug],
  [Host.writeDebug, writeDebug],
  [Host.storeTable, storeTable],
  [Host.loadTable, loadTable],
  [Host.invalidatePage, invalidatePage],
  [Host.readMsr, rdmsr],
  [Host.writeMsr, wrmsr],
  [Host.readPmc, readPmc],
  [Host.cpuid, cpuid],
  [Host.sysenter, sysenter],
  [Host.sysexit, sysexit],
  [Host.verify, verify],
  [Host.loadAccess, loadAccess],
  [Host.loadSelector, loadSystemSelector],
  [Host.clearTaskSwitched, clearTaskSwitched],
  [Host.loadMachineStatus, loadMachineStatus],
  [Host.writeBackCaches, writeBackCaches],
  [Host.bound, bound],
  [Host.loadFarPointer, loadFarPointer],
  [Host.syscall, syscall],
  [Host.sysret, sysret],
  [Host.random, random],
  ...x87HostFunctions,
]);
