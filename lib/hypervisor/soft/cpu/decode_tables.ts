/**
 * The opcode table as the generated decoder (fast_decode.ts) reads it: bytes in the state memory, for
 * 64-bit mode.
 *
 * @module
 */

import { comparing, groupRows } from "./decoder.ts";
import type { SpecialHandlers } from "./interpreter.ts";
import { type Insn, segWords, sizeOf, Trait } from "./opcode.ts";
import { DECODE_TABLES, FIXED_END, S, SEG_SIZE, segOffset } from "./state.ts";

/** Handlers that are not of a row: an i32 each. */
export const Special = {
  goTo: DECODE_TABLES,
  invalid: DECODE_TABLES + 4,
  tooLong: DECODE_TABLES + 8,
  addressWide: DECODE_TABLES + 12,
  addressMasked: DECODE_TABLES + 16,
} as const;

/** What the 256 bytes are as prefixes. */
export const PREFIXES = DECODE_TABLES + 32;

/** Kinds of prefixes; 0 is an opcode. */
export const Prefix = {
  rex: 1,
  /** A segment that 64-bit mode does not look at. */
  ignored: 2,
  opsize: 4,
  addressSize: 8,
  lock: 0x10,
  repne: 0x20,
  rep: 0x40,
  fs: 0x80,
  gs: 0x81,
} as const;

/** An i32 for each opcode of four maps: address of its first row, {@link GROUP_MODRM}; 0 is invalid. */
export const GROUPS = PREFIXES + 256;
export const GROUP_MODRM = 1 << 31;

/** What rows are chosen by: the ModRM byte and these bits. */
export const Key = {
  rexW: 1 << 8,
  rexB: 1 << 9,
  opsize: Prefix.opsize << 8,
  register: 1 << 11,
  repne: Prefix.repne << 8,
  rep: Prefix.rep << 8,
} as const;
/** From bits of {@link Prefix} to those. */
export const KEY_PREFIXES = Prefix.opsize | Prefix.repne | Prefix.rep;

/** Offsets in a row. */
export const Row = {
  /** u16: bits of {@link Key} that matter. */
  mask: 0,
  /** u16: what they are. */
  value: 2,
  /** i32: {@link RowFlag}. */
  flags: 4,
  /** u16: slots of the handlers for a register, for memory, and with LOCK; those of sizes follow. */
  slotRegister: 8,
  slotMemory: 10,
  slotLocked: 12,
  /** u16: bytes of the immediate, 4 bits each for sizes 2, 4, 8, then of a second one. */
  immediates: 14,
  /** u16: state offset of operands 0. */
  a: 16,
  b: 18,
} as const;
/** Bytes of a row. */
export const ROW = 20;

/** Where the number of `a` comes from, two bits. */
export const From = { none: 0, reg: 1, regLow: 2, opcode: 3 } as const;

/** What is to be known of a row. */
export const RowFlag = {
  /** {@link From}. */
  aFromMask: 3,
  /** log2 of the distance of operands, three bits. */
  aShiftAt: 2,
  /** AH, CH, DH, BH are 4 to 7 without REX. */
  aByte: 1 << 5,
  bByte: 1 << 6,
  /** `b` is the register of ModRM rm, with REX.B or without. */
  bReg: 1 << 7,
  bRegLow: 1 << 8,
  /** The distance of registers for `b` is 16, not 8. */
  bWide: 1 << 9,
  /** The last one of its opcode. */
  last: 1 << 10,
  /** ModRM may say memory. */
  memory: 1 << 11,
  sized: 1 << 12,
  f64: 1 << 13,
  d64: 1 << 14,
  /** 66 is a part of the opcode, not the operand size. */
  mandatory66: 1 << 15,
  lock: 1 << 16,
  /** Locked with memory anyway. */
  xchg: 1 << 17,
  az: 1 << 18,
  /** REPNE is not REP. */
  comparing: 1 << 19,
  di: 1 << 20,
  /** What follows is not decoded. */
  end: 1 << 21,
  absolute: 1 << 22,
  branch: 1 << 23,
  stack: 1 << 24,
  lea: 1 << 25,
  pop: 1 << 26,
  /** `a` is a segment register; not CS. */
  segment: 1 << 27,
  notCs: 1 << 28,
} as const;

/** Slots of a row's handlers. */
export interface RowSlots {
  readonly register: number;
  readonly memory: number;
  readonly locked: number;
}

const sizes: readonly number[] = [2, 4, 8];

/** The bytes to be at DECODE_TABLES. */
export function decodeTables(
  rows: readonly Insn[],
  options: { slots: (row: Insn) => RowSlots; special: SpecialHandlers },
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(FIXED_END - DECODE_TABLES);
  const view = new DataView(bytes.buffer);
  for (const [name, at] of Object.entries(Special)) {
    const slot = options.special[name as keyof typeof Special];
    view.setInt32(at - DECODE_TABLES, slot, true);
  }
  for (const [byte, prefix] of prefixes()) bytes[PREFIXES - DECODE_TABLES + byte] = prefix;
  let end = GROUPS - DECODE_TABLES + 4 * 4 * 256;
  // Opcodes with a register in them share their rows.
  const known = new Map<string, number>();
  for (const [key, { rows: all, modrm }] of groupRows(rows)) {
    const long = all.filter((row) => (row.traits & Trait.i64) === 0);
    const name = long.map((row) => rows.indexOf(row)).join();
    let at = known.get(name);
    if (at === undefined) {
      at = end;
      known.set(name, at);
      end += ROW * Math.max(long.length, 1);
      if (end > bytes.length) throw new RangeError("the opcode table has more rows than fit");
      // Without rows nothing matches.
      if (long.length === 0) writeNone(view, at);
      for (const [i, row] of long.entries()) writeRow(view, at + ROW * i, { row, ...options });
      const last = end - ROW + Row.flags;
      view.setInt32(last, view.getInt32(last, true) | RowFlag.last, true);
    }
    const word = (DECODE_TABLES + at) | (modrm ? GROUP_MODRM : 0);
    view.setInt32(GROUPS - DECODE_TABLES + 4 * key, word, true);
  }
  return bytes.slice(0, end);
}

function* prefixes(): Generator<[number, number]> {
  for (let byte = 0x40; byte < 0x50; byte++) yield [byte, Prefix.rex];
  for (const byte of [0x26, 0x2e, 0x36, 0x3e]) yield [byte, Prefix.ignored];
  yield [0x64, Prefix.fs];
  yield [0x65, Prefix.gs];
  yield [0x66, Prefix.opsize];
  yield [0x67, Prefix.addressSize];
  yield [0xf0, Prefix.lock];
  yield [0xf2, Prefix.repne];
  yield [0xf3, Prefix.rep];
}

function writeNone(view: DataView, at: number): void {
  view.setUint16(at + Row.value, 1, true);
}

function writeRow(
  view: DataView,
  at: number,
  options: { row: Insn; slots: (row: Insn) => RowSlots },
): void {
  const { row } = options;
  const { mask, value } = keyOf(row);
  const slots = options.slots(row);
  const a = operandA(row);
  const b = operandB(row);
  view.setUint16(at + Row.mask, mask, true);
  view.setUint16(at + Row.value, value, true);
  view.setInt32(at + Row.flags, flagsOf(row) | a.flags | b.flags, true);
  view.setUint16(at + Row.slotRegister, slots.register, true);
  view.setUint16(at + Row.slotMemory, slots.memory, true);
  view.setUint16(at + Row.slotLocked, slots.locked, true);
  view.setUint16(at + Row.immediates, immediatesOf(row), true);
  view.setUint16(at + Row.a, a.base, true);
  view.setUint16(at + Row.b, b.base, true);
}

/** Which bits of the key a row asks for. */
function keyOf(row: Insn): { mask: number; value: number } {
  let mask = 0;
  let value = 0;
  const ask = (bits: number, is: number) => {
    mask |= bits;
    value |= is;
  };
  const reps = Key.rep | Key.repne;
  if (row.prefix === "np") ask(reps | Key.opsize, 0);
  else if (row.prefix === "66") ask(reps | Key.opsize, Key.opsize);
  else if (row.prefix === "f3") ask(Key.rep, Key.rep);
  else if (row.prefix === "f2") ask(Key.repne, Key.repne);
  if (row.digit !== undefined) ask(7 << 3, row.digit << 3);
  if (row.form === "mem") ask(Key.register, 0);
  if (row.form === "reg") ask(Key.register, Key.register);
  if (row.rm !== undefined) ask(7, row.rm);
  if (row.rexW !== undefined) ask(Key.rexW, row.rexW === 1 ? Key.rexW : 0);
  if ((row.traits & Trait.nob) !== 0) ask(Key.rexB, 0);
  return { mask, value };
}

function flagsOf(row: Insn): number {
  const { traits, mnemonic } = row;
  const traitFlags: readonly [number, number][] = [
    [Trait.lock, RowFlag.lock],
    [Trait.az, RowFlag.az],
    [Trait.di, RowFlag.di],
    [Trait.absolute, RowFlag.absolute],
    [Trait.branch, RowFlag.branch],
    [Trait.stack, RowFlag.stack],
    [Trait.lea, RowFlag.lea],
  ];
  let flags = 0;
  for (const [trait, flag] of traitFlags) if ((traits & trait) !== 0) flags |= flag;
  // Behind a call, code comes back.
  if ((traits & Trait.end) !== 0 && mnemonic !== "call") flags |= RowFlag.end;
  if (row.modrm && (traits & Trait.regonly) === 0) flags |= RowFlag.memory;
  if (row.sized) flags |= RowFlag.sized;
  if (row.prefix === "66") flags |= RowFlag.mandatory66;
  else if ((traits & Trait.f64) !== 0) flags |= RowFlag.f64;
  else if ((traits & Trait.d64) !== 0) flags |= RowFlag.d64;
  if (mnemonic === "xchg") flags |= RowFlag.xchg;
  if (mnemonic === "pop") flags |= RowFlag.pop;
  if (comparing(row.opcode)) flags |= RowFlag.comparing;
  return flags;
}

interface OperandBits {
  readonly flags: number;
  readonly base: number;
}

const NO_OPERAND: OperandBits = { flags: 0, base: S.zero };

/** What a word of the row names. */
function segmentOf(row: Insn): number | undefined {
  if ((row.traits & Trait.segment) === 0) return undefined;
  // The last one, as the decoder has it.
  return segOffset(segWords.findLastIndex((word) => row.words.has(word)));
}

function operandA(row: Insn): OperandBits {
  const from = (source: number, shift: number, base: number, more = 0): OperandBits => ({
    flags: source | (shift << RowFlag.aShiftAt) | more,
    base,
  });
  // Control and debug registers go by their number.
  if ((row.traits & Trait.regonly) !== 0) return from(From.reg, 0, 0);
  const segment = segmentOf(row);
  if (segment !== undefined && row.operands.length === 0) return from(From.none, 0, segment);
  const operand = row.operands.findLast(({ kind }) => ["G", "V", "P", "S", "Z"].includes(kind));
  const byte = operand?.size === "b" ? RowFlag.aByte : 0;
  switch (operand?.kind) {
    case "G":
      return from(From.reg, 3, S.regs, byte);
    case "V":
      return from(From.reg, 4, S.xmm);
    case "P":
      return from(From.regLow, 4, S.fpu);
    case "S": {
      const notCs = row.opcode === 0x8e ? RowFlag.notCs : 0;
      return from(From.regLow, Math.log2(SEG_SIZE), S.segs, RowFlag.segment | notCs);
    }
    case "Z":
      return from(From.opcode, 3, S.regs, byte);
    default:
      return NO_OPERAND;
  }
}

function operandB(row: Insn): OperandBits {
  if ((row.traits & Trait.regonly) !== 0) return { flags: RowFlag.bReg, base: S.regs };
  const segment = segmentOf(row);
  if (segment !== undefined && row.operands.length > 0) return { flags: 0, base: segment };
  // In 64-bit mode ES has no base.
  if ((row.traits & Trait.az) !== 0) return NO_OPERAND;
  const operand = row.operands.findLast(({ kind }) => "ERWUQN".includes(kind));
  switch (operand?.kind) {
    case "E":
    case "R":
      return {
        flags: RowFlag.bReg | (operand.size === "b" ? RowFlag.bByte : 0),
        base: S.regs,
      };
    case "W":
    case "U":
      return { flags: RowFlag.bReg | RowFlag.bWide, base: S.xmm };
    case "Q":
    case "N":
      return { flags: RowFlag.bRegLow | RowFlag.bWide, base: S.fpu };
    default:
      return NO_OPERAND;
  }
}

/** Bytes of the immediates, see {@link Row.immediates}. */
function immediatesOf(row: Insn): number {
  const operands = row.operands.filter(({ kind }) => ["I", "Is", "J"].includes(kind));
  const absolute = row.operands.some(({ kind }) => kind === "O");
  const [first, second, third] = operands;
  const lengths = sizes.map((size) => operands.map((o) => immediateBytes(o, size)));
  const seconds = new Set(lengths.map(([, n]) => n ?? 0));
  if (
    third !== undefined || (absolute && first !== undefined) || first?.size === "p" ||
    seconds.size > 1
  ) throw new TypeError(`row ${row.mnemonic} ${row.encoding}: immediates that are not known`);
  let bits = second === undefined ? 0 : [...seconds][0] as number << 12;
  lengths.forEach(([n], i) => bits |= (n ?? 0) << 4 * i);
  return bits;
}

/** Bytes of an immediate or branch displacement at operand size `size`. */
function immediateBytes(operand: { kind: string; size: string }, size: number): number {
  if (operand.size === "z") return size === 2 ? 2 : 4;
  return operand.kind === "I" && operand.size === "v" ? size : sizeOf(operand.size, size);
}
