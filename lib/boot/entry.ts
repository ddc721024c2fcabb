/**
 * The state in which the boot processor enters a kernel.
 *
 * @module
 */

import type { Regs, Segment, Sregs, Vcpu } from "../hypervisor/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import {
  BOOT_GDT_ADDRESS,
  BOOT_PAGE_TABLES_ADDRESS,
  BOOT_PARAMS_ADDRESS,
  BOOT_STACK_ADDRESS,
  PVH_START_INFO_ADDRESS,
} from "./platform_layout.ts";

/** How and where a kernel is entered. Plain data, so that it can be posted to a vCPU's worker. */
export interface BootEntry {
  /**
   * `long64`: the 64-bit entry of the Linux boot protocol. `pvh32`: the 32-bit entry of PVH
   * (Xen docs/misc/pvh.pandoc).
   */
  readonly kind: "long64" | "pvh32";
  /** Physical address of the first instruction. */
  readonly rip: number;
}

const PAGE_BYTES = 0x1000;
const LARGE_PAGE_BYTES = 0x20_0000;
const ENTRIES = 512;
/** The first 4 GiB are mapped, which holds kernel, parameters, initrd and every device. */
const DIRECTORIES = 4;
const PRESENT_WRITABLE = 0x3;
const LARGE = 0x80;

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;

/** Selectors that the Linux boot protocol asks for: __BOOT_CS, __BOOT_DS, then a task segment. */
const CODE_SELECTOR = 0x10;
const DATA_SELECTOR = 0x18;
const TASK_SELECTOR = 0x20;
const TYPE_CODE = 0xb; // execute, read, accessed
const TYPE_DATA = 0x3; // read, write, accessed
const TYPE_TASK = 0xb; // 32/64-bit, busy

/** Writes the page tables and descriptors that {@link configureBootVcpu} points to. */
export function writeEntryState(memory: GuestMemory, entry: BootEntry): void {
  const gdt = new DataView(new ArrayBuffer(0x30));
  const segments = bootSegments(entry);
  for (const segment of [segments.cs, segments.ds, segments.tr]) {
    gdt.setBigUint64(segment.selector, descriptor(segment), true);
  }
  memory.writeFrom(BOOT_GDT_ADDRESS, new Uint8Array(gdt.buffer));
  if (entry.kind === "pvh32") return;

  const tables = new DataView(new ArrayBuffer((2 + DIRECTORIES) * PAGE_BYTES));
  const pointers = BOOT_PAGE_TABLES_ADDRESS + PAGE_BYTES;
  tables.setUint32(0, pointers | PRESENT_WRITABLE, true);
  for (let index = 0; index < DIRECTORIES; index++) {
    const directory = pointers + PAGE_BYTES * (index + 1);
    tables.setUint32(PAGE_BYTES + index * 8, directory | PRESENT_WRITABLE, true);
  }
  for (let index = 0; index < DIRECTORIES * ENTRIES; index++) {
    const page = index * LARGE_PAGE_BYTES + (LARGE | PRESENT_WRITABLE);
    tables.setUint32(2 * PAGE_BYTES + index * 8, page, true);
  }
  memory.writeFrom(BOOT_PAGE_TABLES_ADDRESS, new Uint8Array(tables.buffer));
}

/** Sets the registers of the boot processor, which enters the kernel when it first runs. */
export function configureBootVcpu(vcpu: Vcpu, entry: BootEntry): void {
  vcpu.setSregs(bootSregs(entry));
  vcpu.setRegs(bootRegs(entry));
}

function bootSregs(entry: BootEntry): Partial<Sregs> {
  const long = entry.kind === "long64";
  return {
    ...bootSegments(entry),
    gdt: { base: BigInt(BOOT_GDT_ADDRESS), limit: TASK_SELECTOR + 15 },
    idt: { base: 0n, limit: 0 },
    cr0: CR0_PE | CR0_ET | (long ? CR0_PG : 0n),
    cr3: long ? BigInt(BOOT_PAGE_TABLES_ADDRESS) : 0n,
    cr4: long ? CR4_PAE : 0n,
    efer: long ? EFER_LME | EFER_LMA : 0n,
  };
}

function bootRegs(entry: BootEntry): Regs {
  const regs: Regs = {
    rax: 0n,
    rbx: 0n,
    rcx: 0n,
    rdx: 0n,
    rsi: 0n,
    rdi: 0n,
    rsp: 0n,
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    rip: BigInt(entry.rip),
    rflags: 2n, // bit 1 is always set; interrupts are off
  };
  if (entry.kind === "long64") {
    regs.rsi = BigInt(BOOT_PARAMS_ADDRESS);
    regs.rsp = BigInt(BOOT_STACK_ADDRESS);
  } else {
    regs.rbx = BigInt(PVH_START_INFO_ADDRESS);
  }
  return regs;
}

/** PVH asks for a task segment with limit 0x67; the 64-bit entry does not mind it. */
function bootSegments({ kind }: BootEntry) {
  const long = kind === "long64";
  const flat: Segment = {
    base: 0n,
    limit: 0xffff_ffff,
    selector: DATA_SELECTOR,
    type: TYPE_DATA,
    present: true,
    dpl: 0,
    db: true,
    s: true,
    l: false,
    g: true,
    avl: false,
    unusable: false,
  };
  const cs = { ...flat, selector: CODE_SELECTOR, type: TYPE_CODE, db: !long, l: long };
  const tr = { ...flat, selector: TASK_SELECTOR, type: TYPE_TASK, limit: 0x67, s: false };
  return {
    cs,
    ds: flat,
    es: flat,
    fs: flat,
    gs: flat,
    ss: flat,
    tr: { ...tr, db: false, g: false },
    ldt: { ...flat, selector: 0, type: 2, limit: 0, s: false, db: false, g: false, unusable: true },
  };
}

/** A segment as its 8 bytes in a descriptor table; all bases here are 0 (Intel SDM vol. 3, 3.4.5). */
function descriptor(segment: Segment): bigint {
  const limit = BigInt(segment.g ? segment.limit >>> 12 : segment.limit);
  const flag = (set: boolean, bit: bigint) => set ? 1n << bit : 0n;
  return (limit & 0xffffn) | (limit >> 16n) << 48n | BigInt(segment.type) << 40n |
    flag(segment.s, 44n) | BigInt(segment.dpl) << 45n | flag(segment.present, 47n) |
    flag(segment.avl, 52n) | flag(segment.l, 53n) | flag(segment.db, 54n) | flag(segment.g, 55n);
}
