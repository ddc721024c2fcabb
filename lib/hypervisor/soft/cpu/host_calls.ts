/**
 * Numbers of the instructions that TypeScript completes (see {@link Cx.host}). Ids from 1000 belong to
 * the floating-point part.
 *
 * @module
 */

/** Host call ids. */
export enum Host {
  loadSegment,
  popSegment,
  pusha,
  popa,
  leave,
  enter,
  xlat,
  popf,
  farCall,
  farJump,
  farReturn,
  interruptReturn,
  softwareInterrupt,
  breakpoint,
  overflow,
  icebp,
  portIn,
  portOut,
  portInString,
  portOutString,
  halt,
  readControl,
  writeControl,
  readDebug,
  writeDebug,
  storeTable,
  loadTable,
  invalidatePage,
  readMsr,
  writeMsr,
  readPmc,
  cpuid,
  sysenter,
  sysexit,
  verify,
  loadAccess,
  loadSelector,
  clearTaskSwitched,
  loadMachineStatus,
  writeBackCaches,
  bound,
  loadFarPointer,
  syscall,
  sysret,
  random,
}

/** First id of the floating-point part. */
export const FIRST_FLOAT_HOST = 1000;
