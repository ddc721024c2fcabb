/**
 * Register structures of KVM and those of the interface, each way (asm/kvm.h).
 *
 * @module
 */

import type { Regs, Segment, Sregs, TableRegister } from "../types.ts";

/** Size of `struct kvm_regs` in bytes. */
export const REGS_SIZE_BYTES = 144;
/** Size of `struct kvm_sregs` in bytes. */
export const SREGS_SIZE_BYTES = 312;

const REG_NAMES = [
  "rax",
  "rbx",
  "rcx",
  "rdx",
  "rsi",
  "rdi",
  "rsp",
  "rbp",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
  "rip",
  "rflags",
] as const satisfies readonly (keyof Regs)[];
const SEGMENT_NAMES = ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"] as const;
const SEGMENT_SIZE_BYTES = 24;
const TABLE_NAMES = ["gdt", "idt"] as const;
const TABLES_OFFSET = SEGMENT_NAMES.length * SEGMENT_SIZE_BYTES;
const TABLE_SIZE_BYTES = 16;
const SYSTEM_NAMES = ["cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apicBase"] as const;
const SYSTEM_OFFSET = TABLES_OFFSET + TABLE_NAMES.length * TABLE_SIZE_BYTES;

/** Reads `struct kvm_regs`. */
export function readRegs(view: DataView): Regs {
  const entries = REG_NAMES.map((name, index) => [name, view.getBigUint64(index * 8, true)]);
  return Object.fromEntries(entries) as Record<keyof Regs, bigint>;
}

/** Writes those of `regs` that are there into `struct kvm_regs`. */
export function writeRegs(view: DataView, regs: Partial<Regs>): void {
  REG_NAMES.forEach((name, index) => {
    const value = regs[name];
    if (value !== undefined) view.setBigUint64(index * 8, value, true);
  });
}

/** Reads `struct kvm_sregs`. */
export function readSregs(view: DataView): Sregs {
  const segment = (name: typeof SEGMENT_NAMES[number]) =>
    readSegment(view, SEGMENT_NAMES.indexOf(name) * SEGMENT_SIZE_BYTES);
  const table = (name: typeof TABLE_NAMES[number]): TableRegister => {
    const at = TABLES_OFFSET + TABLE_NAMES.indexOf(name) * TABLE_SIZE_BYTES;
    return { base: view.getBigUint64(at, true), limit: view.getUint16(at + 8, true) };
  };
  const system = (name: typeof SYSTEM_NAMES[number]) =>
    view.getBigUint64(SYSTEM_OFFSET + SYSTEM_NAMES.indexOf(name) * 8, true);
  return {
    cs: segment("cs"),
    ds: segment("ds"),
    es: segment("es"),
    fs: segment("fs"),
    gs: segment("gs"),
    ss: segment("ss"),
    tr: segment("tr"),
    ldt: segment("ldt"),
    gdt: table("gdt"),
    idt: table("idt"),
    cr0: system("cr0"),
    cr2: system("cr2"),
    cr3: system("cr3"),
    cr4: system("cr4"),
    cr8: system("cr8"),
    efer: system("efer"),
    apicBase: system("apicBase"),
  };
}

/** Writes those of `sregs` that are there into `struct kvm_sregs`. */
export function writeSregs(view: DataView, sregs: Partial<Sregs>): void {
  SEGMENT_NAMES.forEach((name, index) => {
    const value = sregs[name];
    if (value !== undefined) writeSegment(view, index * SEGMENT_SIZE_BYTES, value);
  });
  TABLE_NAMES.forEach((name, index) => {
    const value = sregs[name];
    if (value === undefined) return;
    view.setBigUint64(TABLES_OFFSET + index * TABLE_SIZE_BYTES, value.base, true);
    view.setUint16(TABLES_OFFSET + index * TABLE_SIZE_BYTES + 8, value.limit, true);
  });
  SYSTEM_NAMES.forEach((name, index) => {
    const value = sregs[name];
    if (value !== undefined) view.setBigUint64(SYSTEM_OFFSET + index * 8, value, true);
  });
}

function readSegment(view: DataView, at: number): Segment {
  const flag = (offset: number) => view.getUint8(at + offset) !== 0;
  return {
    base: view.getBigUint64(at, true),
    limit: view.getUint32(at + 8, true),
    selector: view.getUint16(at + 12, true),
    type: view.getUint8(at + 14),
    present: flag(15),
    dpl: view.getUint8(at + 16),
    db: flag(17),
    s: flag(18),
    l: flag(19),
    g: flag(20),
    avl: flag(21),
    unusable: flag(22),
  };
}

function writeSegment(view: DataView, at: number, segment: Segment): void {
  view.setBigUint64(at, segment.base, true);
  view.setUint32(at + 8, segment.limit, true);
  view.setUint16(at + 12, segment.selector, true);
  view.setUint8(at + 14, segment.type);
  view.setUint8(at + 15, Number(segment.present));
  view.setUint8(at + 16, segment.dpl);
  view.setUint8(at + 17, Number(segment.db));
  view.setUint8(at + 18, Number(segment.s));
  view.setUint8(at + 19, Number(segment.l));
  view.setUint8(at + 20, Number(segment.g));
  view.setUint8(at + 21, Number(segment.avl));
  view.setUint8(at + 22, Number(segment.unusable));
}
