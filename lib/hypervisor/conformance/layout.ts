/**
 * Where things lie in a test guest. All below 64 KiB, so that real mode reaches it with segment 0.
 *
 * @module
 */

/** Global descriptor table, see {@link Selector}. */
export const GDT = 0x1000;
/** Interrupt descriptor table. */
export const IDT = 0x2000;
/** Task state segment; its I/O permission bitmap begins at 0x68. */
export const TSS = 0x3000;
/** A page for the guest's results. */
export const DATA = 0x5000;
/** What the fault handler noted, see {@link FaultRecord}. */
export const FAULT = 0x6000;
/** First byte behind the stack of ring 3. */
export const USER_STACK = 0x7800;
/** First byte behind the first stack. */
export const STACK = 0x8000;
/** First byte behind the stack that the TSS names for ring 0. */
export const RING0_STACK = 0x9000;
/** First byte behind the stack that the TSS names as IST1. */
export const IST1_STACK = 0x9800;
/** First byte behind the stack that the TSS names as IST2. */
export const IST2_STACK = 0xa000;
/** Code of the guest. */
export const CODE = 0xa000;
/** Page tables, up to {@link FREE}. */
export const PAGE_TABLES = 0x1_0000;
/** From here on memory is free for the test. */
export const FREE = 0x10_0000;
/** RAM of a test guest in bytes. */
export const MEMORY_SIZE_BYTES = 0x100_0000;

/** Selectors in the table at {@link GDT}. */
export const Selector = {
  Code64: 0x08,
  Data: 0x10,
  Code32: 0x18,
  Code16: 0x20,
  Data16: 0x28,
  // In the order that SYSRET wants.
  UserCode32: 0x33,
  UserData: 0x3b,
  UserCode64: 0x43,
  /** Two entries in 64-bit mode. */
  Tss: 0x48,
  /** Free for the test: two entries. */
  Spare: 0x58,
  Spare2: 0x60,
} as const;

/** Ports of a test guest. */
export const Port = {
  /** 32-bit OUT: a value for {@link RecordingIo.reports}. */
  Report: 0xe8,
  /** OUT: the test goes on outside while the guest runs on. */
  Note: 0xe9,
  /** OUT: nothing but a moment outside. */
  Moment: 0xed,
  /** OUT: the guest is done. */
  Done: 0xf4,
} as const;

/** Fields at {@link FAULT}, 64 bits each. */
export const FaultRecord = {
  Vector: 0,
  ErrorCode: 8,
  Rip: 16,
  Cs: 24,
  Rflags: 32,
  Rsp: 40,
  Ss: 48,
  Cr2: 56,
  /** How many faults came. */
  Count: 64,
  /** Where the handler goes on instead of at the fault; 0 ends the test. */
  Resume: 72,
} as const;
