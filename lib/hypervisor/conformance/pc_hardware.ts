/**
 * How a guest programs a PC's interrupt controllers and timers; each function appends code.
 *
 * @module
 */

import { type Assembler, at } from "./asm/mod.ts";
import { Port } from "./layout.ts";

/** Address of the local APIC. */
export const LAPIC = 0xfee0_0000;
/** Address of the I/O APIC. */
export const IOAPIC = 0xfec0_0000;

/** Registers of the local APIC (Intel SDM vol. 3, table 11-1). */
export const Lapic = {
  Id: 0x20,
  Version: 0x30,
  Tpr: 0x80,
  Eoi: 0xb0,
  Spurious: 0xf0,
  IcrLow: 0x300,
  IcrHigh: 0x310,
  LvtTimer: 0x320,
  LvtLint0: 0x350,
  LvtLint1: 0x360,
  TimerInitial: 0x380,
  TimerCurrent: 0x390,
  TimerDivide: 0x3e0,
} as const;

/** Registers of the I/O APIC. */
export const Ioapic = { Version: 1, Redirection: 0x10 } as const;

/** Writes a register of the local APIC. In 64-bit code; clobbers rdx. */
export function setLapicReg(a: Assembler, register: number, value: number): Assembler {
  return a.mov("edx", LAPIC + register).mov(at("rdx", { size: 4 }), value);
}

/** Reads a register of the local APIC into eax. */
export function getLapicReg(a: Assembler, register: number): Assembler {
  return a.mov("eax", LAPIC + register).mov("eax", at("rax"));
}

/**
 * Interrupts on for a moment. It has exits in it: an engine may look for interrupts only then, as long
 * as the guest does not sleep.
 */
export function takeInterrupts(a: Assembler): Assembler {
  a.op("sti").op("nop");
  for (let times = 0; times < 4; times++) a.out(Port.Moment, "al").op("pause");
  return a.op("cli");
}

/** Ends an interrupt at the local APIC. Clobbers rdx. */
export function eoi(a: Assembler): Assembler {
  return setLapicReg(a, Lapic.Eoi, 0);
}

/** Sets a redirection entry of the I/O APIC. Clobbers rdx. */
export function setIoapicPin(
  a: Assembler,
  entry: { pin: number; low: number; high?: number },
): Assembler {
  const { pin, low, high = 0 } = entry;
  a.mov("edx", IOAPIC);
  a.mov(at("rdx", { size: 4 }), Ioapic.Redirection + 2 * pin + 1);
  a.mov(at("rdx", { size: 4, disp: 0x10 }), high);
  a.mov(at("rdx", { size: 4 }), Ioapic.Redirection + 2 * pin);
  return a.mov(at("rdx", { size: 4, disp: 0x10 }), low);
}

/** Reads a register of the I/O APIC into eax. Clobbers rdx. */
export function getIoapicReg(a: Assembler, index: number): Assembler {
  a.mov("edx", IOAPIC).mov(at("rdx", { size: 4 }), index);
  return a.mov("eax", at("rdx", { disp: 0x10 }));
}

/** Initializes both PICs at vectors `base` and `base + 8`; `mask` is the first one's. Clobbers al. */
export function programPics(
  a: Assembler,
  { base, mask }: { base: number; mask: number },
): Assembler {
  const bytes: readonly (readonly [number, number])[] = [
    [0x20, 0x11],
    [0xa0, 0x11],
    [0x21, base],
    [0xa1, base + 8],
    [0x21, 4],
    [0xa1, 2],
    [0x21, 1],
    [0xa1, 1],
    [0x21, mask],
    [0xa1, 0xff],
  ];
  for (const [port, value] of bytes) a.mov("al", value).out(port, "al");
  return a;
}

/** Masks both PICs. Clobbers al. */
export function maskPics(a: Assembler): Assembler {
  return a.mov("al", 0xff).out(0x21, "al").out(0xa1, "al");
}

/** Starts channel 0 of the PIT in `mode`. Clobbers al. */
export function pit(a: Assembler, { mode, count }: { mode: number; count: number }): Assembler {
  a.mov("al", 0x30 | mode << 1).out(0x43, "al");
  return a.mov("al", count & 0xff).out(0x40, "al").mov("al", count >> 8).out(0x40, "al");
}

/** Writes a model-specific register. Clobbers rax, rcx, rdx. */
export function wrmsr(a: Assembler, index: number, value: number | bigint): Assembler {
  const low = Number(BigInt(value) & 0xffff_ffffn);
  const high = Number(BigInt(value) >> 32n);
  return a.mov("ecx", index).mov("eax", low).mov("edx", high).op("wrmsr");
}
