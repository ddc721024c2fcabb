/**
 * Operands of the test assembler: registers, memory, label references.
 *
 * @module
 */

/** Width of an operand in bytes. */
export type Size = 1 | 2 | 4 | 8;

const NAMES_64 = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"] as const;
const NAMES_32 = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"] as const;
const NAMES_16 = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"] as const;
const NAMES_8 = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"] as const;
const NAMES_8_HIGH = ["ah", "ch", "dh", "bh"] as const;
const NUMBERS = ["8", "9", "10", "11", "12", "13", "14", "15"] as const;

type Extended = `r${typeof NUMBERS[number]}`;

/** A general register by its name. */
export type Reg =
  | typeof NAMES_64[number]
  | typeof NAMES_32[number]
  | typeof NAMES_16[number]
  | typeof NAMES_8[number]
  | typeof NAMES_8_HIGH[number]
  | Extended
  | `${Extended}${"d" | "w" | "b"}`;

/** A segment register. */
export type SegmentReg = "es" | "cs" | "ss" | "ds" | "fs" | "gs";
/** A control or debug register. */
export type SystemReg =
  | `cr${0 | 2 | 3 | 4 | 8}`
  | `dr${0 | 1 | 2 | 3 | 6 | 7}`;
/** An SSE register. */
export type XmmReg = `xmm${0 | 1 | 2 | 3 | 4 | 5 | 6 | 7}`;

/** Encoding of a general register. */
export interface RegInfo {
  readonly code: number;
  readonly size: Size;
  /** `spl` to `dil` exist only with a REX prefix. */
  readonly needsRex: boolean;
  /** `ah` to `bh` exist only without one. */
  readonly forbidsRex: boolean;
}

const REGISTERS: ReadonlyMap<string, RegInfo> = buildRegisters();
const SEGMENTS: readonly string[] = ["es", "cs", "ss", "ds", "fs", "gs"];

function buildRegisters(): Map<string, RegInfo> {
  const map = new Map<string, RegInfo>();
  const plain = (names: readonly string[], size: Size, first: number, high = false) =>
    names.forEach((name, index) =>
      map.set(name, {
        code: index + first,
        size,
        needsRex: size === 1 && !high && first === 0 && index >= 4,
        forbidsRex: high,
      })
    );
  plain(NAMES_64, 8, 0);
  plain(NAMES_32, 4, 0);
  plain(NAMES_16, 2, 0);
  plain(NAMES_8, 1, 0);
  plain(NAMES_8_HIGH, 1, 4, true);
  plain(NUMBERS.map((number) => `r${number}`), 8, 8);
  plain(NUMBERS.map((number) => `r${number}d`), 4, 8);
  plain(NUMBERS.map((number) => `r${number}w`), 2, 8);
  plain(NUMBERS.map((number) => `r${number}b`), 1, 8);
  return map;
}

/** The value of a label, plus `addend`. */
export interface Ref {
  readonly label: string;
  readonly addend: number;
}

/** A number or the value of a label. */
export type Imm = number | bigint | Ref;

/** A memory operand. */
export interface Mem {
  readonly base?: Reg | "rip";
  readonly index?: Reg;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly disp?: number | Ref;
  readonly segment?: SegmentReg;
  /** Where no register operand tells the width. */
  readonly size?: Size;
}

/** Anything that can be read or written. */
export type RegOrMem = Reg | Mem;

/** The value of `label`, plus `addend` bytes. */
export function ref(label: string, addend = 0): Ref {
  return { label, addend };
}

/** Memory at `base` (a register, an address or a label) with further parts. */
export function at(base: Reg | "rip" | number | Ref, more: Omit<Mem, "base"> = {}): Mem {
  return typeof base === "string" ? { base, ...more } : { disp: base, ...more };
}

/** Whether `operand` names a general register. */
export function isReg(operand: unknown): operand is Reg {
  return typeof operand === "string" && REGISTERS.has(operand);
}

/** Whether `operand` names a segment register. */
export function isSegment(operand: unknown): operand is SegmentReg {
  return typeof operand === "string" && SEGMENTS.includes(operand);
}

/** Whether `operand` names a control or debug register. */
export function isSystemReg(operand: unknown): operand is SystemReg {
  return typeof operand === "string" && /^[cd]r[0-8]$/.test(operand);
}

/** Whether `operand` is a label reference. */
export function isRef(operand: unknown): operand is Ref {
  return typeof operand === "object" && operand !== null && "label" in operand;
}

/** Whether `operand` is memory. */
export function isMem(operand: unknown): operand is Mem {
  return typeof operand === "object" && operand !== null && !("label" in operand);
}

/** Encoding of register `name`. */
export function regInfo(name: Reg): RegInfo {
  const info = REGISTERS.get(name);
  if (info === undefined) throw new TypeError(`no register ${name}`);
  return info;
}

/** Number of segment register `name`. */
export function segmentCode(name: SegmentReg): number {
  return SEGMENTS.indexOf(name);
}

/** The prefix that overrides the segment. */
export function segmentPrefix(name: SegmentReg): number {
  const prefix = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65][segmentCode(name)];
  if (prefix === undefined) throw new TypeError(`no segment ${name}`);
  return prefix;
}
