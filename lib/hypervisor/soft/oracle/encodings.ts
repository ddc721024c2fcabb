/**
 * Random encodings of rows of the opcode table.
 *
 * @module
 */

import { type Insn, sizeOf } from "../cpu/opcode.ts";
import type { Random } from "./random.ts";

/** An instruction's bytes and what the state must provide for it. */
export interface Encoding {
  readonly row: Insn;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Operand size, where the row has several. */
  readonly size: number;
  /** The memory operand; undefined where there is none. */
  readonly memory: MemoryOperand | undefined;
}

/** A memory operand: base + (index << scale) + disp. */
export interface MemoryOperand {
  readonly base: number;
  /** -1 where there is none. */
  readonly index: number;
  readonly scale: number;
  readonly disp: number;
  readonly bytes: number;
  /** Register with a bit offset, or -1. */
  readonly bits: number;
}

const BASES = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/** True where a register operand is a signed bit offset from the memory operand. */
function addressesBits(row: Insn): boolean {
  return ["bt", "bts", "btr", "btc"].includes(row.mnemonic) && row.operands[1]?.kind === "G";
}

const MEMORY_KINDS = ["E", "M", "W", "Q"];

/** Forms in which a row can be encoded: register or memory operand, operand size. */
export function formsOf(row: Insn): { mem: boolean; size: number }[] {
  if (row.words.has("i64")) return [];
  const mems = !row.modrm || row.form === "reg"
    ? [false]
    : row.form === "mem"
    ? [true]
    : row.operands.some((o) => MEMORY_KINDS.includes(o.kind))
    ? [false, true]
    : [false];
  const sizes = !row.sized
    ? [0]
    : row.words.has("f64")
    ? [8]
    : row.words.has("d64")
    ? [2, 8]
    : row.prefix === "66" || row.prefix === "np"
    ? [4, 8]
    : [2, 4, 8];
  return mems.flatMap((mem) => sizes.map((size) => ({ mem, size })));
}

/** Encodes `row` with random registers, addressing and immediates. */
export function encode(row: Insn, form: { mem: boolean; size: number }, random: Random): Encoding {
  const { mem, size } = form;
  const bytes: number[] = [];
  if (size === 2 && row.prefix !== "66") bytes.push(0x66);
  if (row.prefix === "66") bytes.push(0x66);
  if (row.prefix === "f3") bytes.push(0xf3);
  if (row.prefix === "f2") bytes.push(0xf2);
  if (row.words.has("az")) {
    const rep = random.below(3);
    if (rep > 0) bytes.push(rep === 1 ? 0xf3 : 0xf2);
  }
  let rex = 0x40 | random.below(8);
  const wide = row.rexW === undefined
    ? (size === 8 && !row.words.has("f64") && !row.words.has("d64")) ||
      (!row.sized && row.modrm && row.map > 0 && random.oneIn(8))
    : row.rexW === 1;
  if (wide) rex |= 8;
  if (!wide && random.oneIn(2)) rex = 0x40;
  const reg = random.below(16);
  let rm = random.below(16);
  const plus = random.below(16);
  let modrm = 0;
  let memory: MemoryOperand | undefined;
  const tail: number[] = [];
  const disp32 = (value: number) => {
    for (let i = 0; i < 4; i++) tail.push((value >> (8 * i)) & 0xff);
  };
  const opcode = row.opcode + (row.plusReg ? plus & 7 : 0);
  if (row.plusReg) rex = (rex & ~1) | (plus >> 3);
  if (row.modrm) {
    rex &= ~4;
    const regField = row.digit ?? reg & 7;
    if (row.digit === undefined) rex |= (reg >> 3) << 2;
    modrm = regField << 3;
    rex &= ~1;
    if (mem) {
      // A bit offset in a register reaches far; it must not be the address.
      const bases = BASES.filter((n) => !addressesBits(row) || n !== reg);
      const base = random.pick(bases);
      let index = -1;
      let scale = 0;
      if (random.oneIn(3)) {
        index = random.pick(bases.filter((n) => n !== base));
        scale = random.below(4);
      }
      rex &= ~2;
      const withSib = index >= 0 || (base & 7) === 4;
      if (withSib) {
        rex |= index >= 8 ? 2 : 0;
        tail.push((scale << 6) | ((index < 0 ? 4 : index & 7) << 3) | (base & 7));
      }
      rex |= base >> 3;
      const mod = (base & 7) === 5 ? 1 + random.below(2) : random.below(3);
      let disp = 0;
      if (mod === 1) {
        disp = random.below(256) - 128;
        tail.push(disp & 0xff);
      } else if (mod === 2) {
        disp = random.u32() | 0;
        disp32(disp);
      }
      modrm |= (mod << 6) | (withSib ? 4 : base & 7);
      const operand = row.operands.find((o) => MEMORY_KINDS.includes(o.kind));
      const width = operand === undefined ? 1 : Math.max(1, sizeOf(operand.size, size));
      const bits = addressesBits(row) ? reg : -1;
      memory = { base, index, scale, disp, bytes: width, bits };
    } else {
      if (row.rm !== undefined) rm = row.rm;
      rex |= rm >> 3;
      modrm |= 0xc0 | (rm & 7);
    }
  }
  if (row.words.has("di")) memory = { base: 7, index: -1, scale: 0, disp: 0, bytes: 16, bits: -1 };
  const needsRex = rex !== 0x40 || random.oneIn(4);
  if (needsRex) bytes.push(rex);
  if (row.map > 0) bytes.push(0x0f);
  if (row.map === 2) bytes.push(0x38);
  if (row.map === 3) bytes.push(0x3a);
  bytes.push(opcode);
  if (row.modrm) bytes.push(modrm, ...tail);
  for (const operand of row.operands) {
    if (operand.kind !== "I" && operand.kind !== "Is") continue;
    const width = operand.size === "z"
      ? (size === 2 ? 2 : 4)
      : operand.kind === "I" && operand.size === "v"
      ? size
      : operand.kind === "Is"
      ? 1
      : sizeOf(operand.size, size);
    const small = random.oneIn(3);
    for (let i = 0; i < width; i++) bytes.push(small && i > 0 ? 0 : random.below(256));
    if (small && random.oneIn(2)) bytes[bytes.length - width] = random.below(70);
  }
  return { row, bytes: Uint8Array.from(bytes), size, memory };
}
