/**
 * Where the state of a software vCPU lies in its linear memory (memory 0 of the generated modules).
 * Generated code, decoder and runtime all use these offsets; nothing else says where a thing is.
 *
 * @module
 */

/** Index of the CPU state memory in generated modules. */
export const CPU = 0;
/** Index of the guest RAM memory in generated modules. */
export const RAM = 1;
/** Index of the memory that all vCPUs share, where there are several (see cpu_team.ts). */
export const VM = 2;

/** Numbers of the segment registers, as instructions encode them; then LDTR and TR. */
export enum Seg {
  ES,
  CS,
  SS,
  DS,
  FS,
  GS,
  LDTR,
  TR,
}

/** Byte size of a segment's slot. */
export const SEG_SIZE = 32;
/** Offsets within a segment's slot. */
export const SegField = {
  /** i64: linear base. */
  base: 0,
  /** i32, unsigned: limit in bytes, granularity applied. */
  limit: 8,
  /** i32: bits 8 to 23 of the descriptor's high dword in place (type, S, DPL, P, AVL, L, D/B, G). */
  attrs: 12,
  /** i32: selector. */
  selector: 16,
} as const;

/** Bits of {@link SegField.attrs} (Intel SDM vol. 3, 3.4.5). */
export const SegAttr = {
  typeShift: 8,
  accessed: 1 << 8,
  writable: 1 << 9,
  /** Expand-down for data, conforming for code. */
  expandDown: 1 << 10,
  code: 1 << 11,
  s: 1 << 12,
  dplShift: 13,
  present: 1 << 15,
  avl: 1 << 20,
  long: 1 << 21,
  db: 1 << 22,
  granularity: 1 << 23,
  /** Ours: the register holds a null or unusable segment. */
  unusable: 1 << 0,
} as const;

/** Byte offsets of the state. */
export const S = {
  /** 16 general registers of 8 bytes, in encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8 ... */
  regs: 0x000,
  /** i64, always zero: what an absent base or index register reads. */
  zero: 0x080,
  /** i64: instruction pointer minus its offset in the 4 KiB page of linear memory. */
  ripBase: 0x088,
  /** i64: instruction pointer, valid while no generated code runs. */
  rip: 0x090,
  /** i64: last result, sign-extended; see FlagKind. */
  flagResult: 0x098,
  /** i64: what the other flags follow from; see FlagKind. */
  flagAux: 0x0a0,
  /** i32: RFLAGS without CF, PF, AF, ZF, SF, OF; bit 1 is set. */
  flagOther: 0x0a8,
  /** i32: what is left (see FuelCost) before generated code returns to look around. */
  fuel: 0x0ac,
  /** i32: other workers set bits for interrupt work, to leave run() and the like, see Mailbox. */
  mailbox: 0x0b0,
  /** i32: record where execution stopped (faults, host calls). */
  record: 0x0b4,
  /** i32: base of the data TLB of the present privilege (see TLB_*). */
  tlbBase: 0x0b8,
  /** i32: low bits of a tag in the instruction TLB for the present mode (see CodeMode). */
  codeTag: 0x0bc,
  /** i32: page map of the code page that executes. */
  pageMap: 0x0c0,
  /** i32: interrupts are held back for one instruction (STI, MOV SS). */
  shadow: 0x0c4,
  /** i64: mask of linear addresses: all ones in 64-bit mode, else 32 bits. */
  linearMask: 0x0c8,
  /** i64: linear address computed by an address record; stands as a base register. */
  tempEa: 0x0d0,
  /** i32: current privilege level. */
  cpl: 0x0d8,
  /** i32: vector of the pending fault. */
  faultVector: 0x0dc,
  /** i32: its error code. */
  faultError: 0x0e0,
  /** i32: 1 where it has an error code. */
  faultHasError: 0x0e4,
  /** i32: 1 when RIP of the fault is already in `rip` (host calls), 0 when it is that of `record`. */
  faultRipSet: 0x0e8,
  /** i32: reason code of the last exit of generated code for TypeScript (Exit). */
  exit: 0x0ec,
  /** i64: scratch of accesses to devices. */
  mmioData: 0x0f0,
  /** 8 segments of SEG_SIZE bytes. */
  segs: 0x100,
  gdtBase: 0x200,
  gdtLimit: 0x208,
  idtBase: 0x210,
  idtLimit: 0x218,
  cr0: 0x220,
  cr2: 0x228,
  cr3: 0x230,
  cr4: 0x238,
  efer: 0x240,
  star: 0x248,
  lstar: 0x250,
  cstar: 0x258,
  sfmask: 0x260,
  kernelGsBase: 0x268,
  tscAux: 0x270,
  sysenterCs: 0x278,
  sysenterEsp: 0x280,
  sysenterEip: 0x288,
  pat: 0x290,
  tscOffset: 0x298,
  /** Debug registers 0 to 7, i64 each. */
  dr: 0x2a0,
  /** i32: MXCSR. */
  mxcsr: 0x2e0,
  /** i32: x87 control word. */
  fpuCw: 0x2e4,
  /** i32: x87 status word (TOP in bits 11 to 13). */
  fpuSw: 0x2e8,
  /** i32: x87 tags, one bit a physical register: 1 is empty. */
  fpuEmpty: 0x2ec,
  /** i64: last x87 instruction pointer. */
  fpuIp: 0x2f0,
  /** i64: last x87 data pointer. */
  fpuDp: 0x2f8,
  /** i32: last x87 opcode, 11 bits. */
  fpuOpcode: 0x300,
  /** i32: selectors of the last x87 instruction and operand (CS low half, DS high half). */
  fpuSelectors: 0x304,
  /** i32: x87 and SSE usability: bit 0: x87 raises #NM or #UD slowly (CR0.EM|TS), bit 1: SSE does. */
  fpuTrap: 0x308,
  /** 8 physical x87 registers of 16 bytes: mantissa i64 (this is MM0 to MM7), sign and exponent i16. */
  fpu: 0x400,
  /** 16 XMM registers of 16 bytes. */
  xmm: 0x480,
  /** 64 bytes of scratch for SIMD helpers. */
  scratch: 0x580,
  /** i64: page-table entry result of the last walk: physical address of the page. */
  walkPhysical: 0x5c0,
  /** i32: flags of the last walk, see WalkFlag. */
  walkFlags: 0x5c8,
  /** i32: set when a store changed decoded code; regions that see it leave and clear it. */
  codeChanged: 0x5cc,
  /** i32: exceptions of the floating-point operation in progress (FpFlag, C1); zero between them. */
  fpFlags: 0x5d0,
  /** i32: sign and exponent of an 80-bit result, whose significand a function returned. */
  fpExponent: 0x5d4,
  /** Unrounded result: i32 sign, i32 exponent, i64 high and low significand (see softfloat.ts). */
  fpSign: 0x5d8,
  fpExp: 0x5dc,
  fpHigh: 0x5e0,
  fpLow: 0x5e8,
  /** i64: address of the memory operand of the x87 instruction in progress. */
  fpDp: 0x5f0,
  /** i32: its opcode of 11 bits; bit 31: it has a memory operand. */
  fpOpcode: 0x5f8,
  /** i32: what accesses are checked for, see Check; not 0 makes `tlbBase` TLB_CHECKED. */
  checks: 0x30c,
  /** i32: 1 from the delivery of an NMI to the next IRET. */
  nmiBlocked: 0x310,
  /** i64: a TLB may hold 4 KiB pieces of a large page in a 512 GiB range with this bit; see mmu/tlb.ts. */
  largePages: 0x318,
  /** i32: PAUSE instructions since the runtime looked at it, where there are several vCPUs. */
  pauses: 0x320,
  /** i32: what `flagAux` means; see FlagKind. */
  flagKind: 0x324,
  /** i64: bytes of RAM from guest physical 0. */
  ramLow: 0x328,
  /** i64: bytes of RAM from 4 GiB; in the RAM memory they follow the low ones. */
  ramHigh: 0x330,
  /** i64: instructions that a region began, where they are counted. */
  regionCount: 0x600,
  /** i64: entries of the data TLBs that were filled. */
  tlbFills: 0x7f8,
  /** First byte behind the fixed state. */
  end: 0x800,
} as const;

/**
 * What the TLBs hold, so that flushes need not search where nothing is; apart from the state above, as
 * it goes with their contents. All are i32.
 */
export const TlbNotes = {
  /** 1 where the user's TLB was filled, and that of the supervisor with AC set. */
  user: 0x800,
  ac: 0x804,
  /** How often the instruction TLB was filled with a page that is not global; at most one more than `mostCode`. */
  code: 0x808,
  /** How often an entry was filled that a load of CR3 takes away; it stays at one more than `most`. */
  count: 0x80c,
  /** Addresses of the first `most` of those entries. */
  entries: 0x810,
  most: 400,
  /** Numbers, an u16 each, of the first `mostCode` entries of the instruction TLB that such a page was put in. */
  codeEntries: 0xe90,
  mostCode: 180,
} as const;

/** What decoding goes by, in TypeScript and in generated code. All are i32. */
export const CodeNotes = {
  /** Where the next record goes. */
  arenaTop: 0xe80,
  /** Up to where generated code may make records by itself. */
  arenaLimit: 0xe84,
  /** Instructions decoded. */
  decoded: 0xe88,
  /** Entries of RUN_LOG. */
  runs: 0xe8c,
} as const;

/** 256 dwords: remainders of bytes for CRC32; made at its first use. */
export const CRC_TABLE = 0x1000;

/** Offset of general register `n`. */
export function regOffset(n: number): number {
  return S.regs + 8 * n;
}

/** Offset of segment `seg`'s slot. */
export function segOffset(seg: number): number {
  return S.segs + SEG_SIZE * seg;
}

/** Encoding numbers of general registers. */
export const Reg = {
  rax: 0,
  rcx: 1,
  rdx: 2,
  rbx: 3,
  rsp: 4,
  rbp: 5,
  rsi: 6,
  rdi: 7,
} as const;

/**
 * Data TLB: three tables of TLB_ENTRIES entries: user, supervisor, supervisor with AC set (SMAP off).
 * An entry: i64 tag for reads, i64 tag for writes, i64 physical page, i32 addend (offset in
 * Runtime.ram minus linear address, modulo 2^32), i32 unused. A tag is the linear page; low bits set never match.
 */
export const TLB_ENTRIES = 8192;
export const TLB_ENTRY = 32;
export const TLB_TABLE = TLB_ENTRIES * TLB_ENTRY;
export const TLB_USER = 0x1_0000;
export const TLB_SUPER = TLB_USER + TLB_TABLE;
export const TLB_SUPER_AC = TLB_SUPER + TLB_TABLE;
/** Never filled: every access takes the slow path, for alignment checks and data breakpoints. */
export const TLB_CHECKED = TLB_SUPER_AC + TLB_TABLE;
export const TLB_END = TLB_CHECKED + TLB_TABLE;
export const TlbField = { read: 0, write: 8, physical: 16, addend: 24 } as const;

/**
 * Instruction TLB: entries of 16 bytes: i64 tag (linear page | CodeMode bits), i32 page map, i32
 * WalkFlag.global or 0. As many as a kernel's code has pages: filling one takes the checksum of all code
 * in the page, most of which no cache has, as what runs was made of it long ago.
 */
export const ITLB_ENTRIES = 4096;
export const ITLB_ENTRY = 16;
export const ITLB = TLB_END;
export const ITLB_END = ITLB + ITLB_ENTRIES * ITLB_ENTRY;

/** Bits of the code mode: part of the key of decoded code. */
export const CodeMode = {
  bits16: 0,
  bits32: 1,
  bits64: 2,
  sizeMask: 3,
  /** Privilege 3: keeps user and supervisor translations apart in the instruction TLB. */
  user: 4,
  /** Any of CS, DS, ES, SS is not flat (base 0, limit 4 GiB, usable): accesses are checked. */
  segmented: 8,
} as const;

/** Where single instructions are decoded to be run apart: 8 records. */
export const SCRATCH_RECORDS = ITLB_END;
/** Runs of records that TypeScript has yet to take notice of: page map, first record, end. */
export const RUN_LOG = SCRATCH_RECORDS + 8 * 32;
export const RUN_LOG_ENTRY = 12;
export const RUN_LOG_ENTRIES = 256;
/** A page's bytes while it is decoded. */
export const CODE_BYTES = 0x12_1000;
/** What the generated decoder goes by, see decode_tables.ts: up to FIXED_END. */
export const DECODE_TABLES = CODE_BYTES + 4096 + 64;
/** First byte behind the tables of fixed size, a multiple of 64 KiB. */
export const FIXED_END = 0x13_0000;

/** Kinds of access that a page walk is asked for. */
export const Access = {
  read: 0,
  write: 1,
  /** User privilege. */
  user: 2,
  fetch: 4,
  /** Supervisor access that SMAP does not restrict (AC is set). */
  smapOff: 8,
  /** Report -1 instead of a fault, change nothing. */
  probe: 16,
  /** Report -1 instead of a fault, but mark what is accessed. */
  quiet: 32,
} as const;

/** What a page walk found. */
export const WalkFlag = {
  /** May be written at this privilege and is already marked dirty. */
  writable: 1,
  /** A global page, which loads of CR3 leave in the TLBs. */
  global: 2,
} as const;

/** Decoded instructions: records of fixed size. */
export const RECORD = 32;
/** Bit of {@link Rec.scale}: the address is one of the stack segment; not canonical, it is #SS. */
export const STACK_ADDRESS = 0x80;
/** Offsets in a record. */
export const Rec = {
  /** u16: slot of the handler in table 0. */
  handler: 0,
  /** u16: where the handler is a region, which entry of it this is, see Entry; else 0. */
  block: 2,
  /** u16: offset of the instruction in its page. */
  off: 4,
  /** u16: offset of the next instruction (up to 4096 + 14). */
  next: 6,
  /** u16: state offset of the register operand of the ModRM reg field (or the opcode). */
  a: 8,
  /** u16: state offset of the register operand of the ModRM rm field. */
  b: 10,
  /** u16: state offset of the base register of the memory operand. */
  base: 12,
  /** u16: state offset of the index register. */
  index: 14,
  /** u16: state offset of the i64 segment base to add. */
  seg: 16,
  /** u8: log2 of the index scale, and {@link STACK_ADDRESS}, which shifts do not see. */
  scale: 18,
  /** u8: free for the instruction (condition, segment number, ...). */
  extra: 19,
  /** i32: displacement. */
  disp: 20,
  /** u8, of conditional branches: 1 once the interpreter went there and once it went on behind. */
  taken: 20,
  passed: 21,
  /** i64: immediate; or for direct branches i32 displacement, then i32 linked target record. */
  imm: 24,
  link: 28,
} as const;

/**
 * What stands for a record in translated code, which knows no record addresses and so may be kept
 * longer than they last: bit 31, whether the instruction addresses the stack, and its offset from
 * `S.ripBase` as a signed number of 30 bits.
 */
export const PseudoRecord = { mark: 0x8000_0000 | 0, stack: 1 << 30, offsetBits: 30 } as const;

/** Makes a pseudo record, see {@link PseudoRecord}. */
export function pseudoRecord(offset: number, stack: boolean): number {
  const mask = (1 << PseudoRecord.offsetBits) - 1;
  return PseudoRecord.mark | (stack ? PseudoRecord.stack : 0) | (offset & mask);
}

/** Offset from `S.ripBase` of the instruction that pseudo record `record` (negative) stands for. */
export function pseudoOffset(record: number): number {
  return record << (32 - PseudoRecord.offsetBits) >> (32 - PseudoRecord.offsetBits);
}

/** Slots of the handler table at first; translated code comes behind the handlers. */
export const HANDLER_SLOTS = 8192;

/** Parts of {@link Rec.block}: the entry's number, and which of the region's pages it lies in. */
export const Entry = { numberMask: 0x0fff, pageShift: 12 } as const;

/** Pages of a region at most. */
export const REGION_PAGES = 16;

/**
 * Bytes that a slot of the handler table has for the pages of the region in it: for each an u16, the number
 * of the page map, from 1 on, of the page that holds that part of its code; 0 where none does.
 */
export const REGION_PARTS: number = 2 * REGION_PAGES;

/** Bytes of a page map: an i32 record address per byte of a page. */
export const PAGE_MAP = 4096 * 4;

/**
 * What control transfers take from the fuel, about as many as they take time: branches of the
 * interpreter with what leads to them, jumps through the instruction TLB. Branches back within
 * translated code take 1. So samples of the guest fall where its time goes.
 */
export const FuelCost = { branch: 8, jump: 4 } as const;

/** Why generated code came back to TypeScript. */
export enum Exit {
  /** Fuel is used up; `rip` is set. */
  Fuel,
  /** `rip` is set; its code is not translated or not decoded. */
  Lookup,
  /** A fault was thrown; fault* say which. */
  Fault,
  /** HLT; `rip` is that of the next instruction. */
  Halt,
  /** Leave to the runtime, `rip` is set, mode may have changed. */
  Resume,
}

/** Exception vectors (Intel SDM vol. 3, 6.3.1). */
export const Vector = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  MC: 18,
  XM: 19,
} as const;

/** Bits of `S.checks`. */
export const Check = {
  /** Misaligned accesses raise #AC. */
  alignment: 1,
  /** Data breakpoints are armed. */
  breakpoints: 2,
  /** Accesses are noted, to compare a region with the interpreter. */
  log: 4,
} as const;

/** Bits of the mailbox. */
export const Mailbox = {
  interrupt: 1,
  leave: 2,
  /** Another vCPU wrote to decoded code, or may have (see cpu_team.ts). */
  code: 4,
} as const;

/** RFLAGS bits. */
export const Flag = {
  CF: 1 << 0,
  PF: 1 << 2,
  AF: 1 << 4,
  ZF: 1 << 6,
  SF: 1 << 7,
  TF: 1 << 8,
  IF: 1 << 9,
  DF: 1 << 10,
  OF: 1 << 11,
  IOPL: 3 << 12,
  NT: 1 << 14,
  RF: 1 << 16,
  VM: 1 << 17,
  AC: 1 << 18,
  VIF: 1 << 19,
  VIP: 1 << 20,
  ID: 1 << 21,
} as const;

/**
 * What `flagAux` holds. ZF, SF and PF come from `flagResult`, the result sign-extended to 64 bits.
 * Kind 0: bit 63 CF, bit 62 carry into the sign (OF = 63 ^ 62), bit 3 AF, bit 0 inverts SF, bits 8 to 15
 * are xored into the byte whose parity is PF. Other kinds: the second operand of an addition or
 * subtraction, from which and the result helper `flagAuxOf` computes what kind 0 holds.
 */
export const FlagKind = {
  plain: 0,
  /** Set in all other kinds. */
  operands: 16,
  /** A carry or borrow was added or subtracted too. */
  carryIn: 1,
  sub: 2,
  /** CF is not that of the operation but FlagKind.carry (INC, DEC). */
  keepsCarry: 4,
  carry: 8,
  /** CF is FlagKind.carry and OF is FlagKind.overflow (rotations). */
  keepsBoth: 64,
  overflow: 128,
  /**
   * Only within regions, of INC and DEC: CF is that of another kind and result, which go with `flagAux`;
   * the second operand is 1.
   */
  step: 32,
  /** From this bit on: 64 minus the bits of the operands. */
  shiftAt: 8,
} as const;

/** The arithmetic flags, kept apart in flagResult, flagAux and flagKind. */
export const ARITH_FLAGS = Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.OF;
