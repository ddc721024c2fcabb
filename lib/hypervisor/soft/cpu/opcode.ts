/**
 * The form of the opcode table: one row an encoding, from which decoder, interpreter, translator and
 * tests are made.
 *
 * An encoding is written as in the manuals: `"66 0f 38 17 /r"`, `"80 /0"`, `"0f c8+r"`. Words:
 *
 * - `np`, `66`, `f3`, `f2` in front: mandatory prefix (`np`: none of the three); without one of
 *   them the row fits any prefix, and 66 is the operand size.
 * - hex bytes: `0f`, `0f 38`, `0f 3a` choose the map, the last is the opcode; `+r` takes 8 opcodes.
 * - `/r`: a ModRM byte; `/0` to `/7`: with this in its reg field; `mem`, `reg`: only with a memory or
 *   only with a register operand; `rm3`: only with rm field 3 (and `reg`).
 * - `w0`, `w1`: only with that REX.W.
 * - `i64`: invalid in 64-bit mode, `o64`: only there; `d64`: operand size is 64 there by default;
 *   `f64`: always; `lock`: LOCK is allowed with a memory operand.
 * - `sz`: handlers differ by operand size although no operand shows it; `az`: by address size and REP
 *   (in the record's `extra`, see {@link Extra}).
 * - `nob`: only without REX.B.
 * - `di`: memory at DS:rDI (overridable) is accessed, as `ea()` gives it.
 * - `end`: execution does not go on with the next instruction.
 *
 * Operands, separated by blanks, are a kind and a size: kinds E (ModRM rm, register or memory), G
 * (ModRM reg), M (memory only), R (rm as register), Z (register in the opcode), I (immediate), Is
 * (sign-extended immediate byte), J (branch displacement), A (accumulator), O (absolute address), S (segment register in
 * reg), C, D (control, debug register in reg), V, W, U (XMM: reg, rm, rm as register), P, Q, N (MMX the same way),
 * 1 (the constant), CL. Sizes b w d q (1 2 4 8), t (10), x (16), v (operand size 2, 4, 8), z (2, 4, 4 sign-extended),
 * y (4 or 8), p (far pointer).
 *
 * @module
 */

import type { Cx } from "./cx.ts";

/** Writes what an instruction does. */
export type Semantics = (c: Cx) => void;

/** An operand of a row. */
export interface OperandSpec {
  readonly kind: string;
  readonly size: string;
}

/** What the decoder asks of every instruction, as bits of {@link Insn.traits}. */
export const Trait = {
  f64: 1 << 0,
  d64: 1 << 1,
  i64: 1 << 2,
  o64: 1 << 3,
  nob: 1 << 4,
  lock: 1 << 5,
  az: 1 << 6,
  di: 1 << 7,
  end: 1 << 8,
  regonly: 1 << 9,
  /** An operand is an absolute address. */
  absolute: 1 << 10,
  /** A direct branch. */
  branch: 1 << 11,
  /** Its non-canonical addresses are #SS, as it uses the stack. */
  stack: 1 << 12,
  lea: 1 << 13,
  /** A word names a segment register. */
  segment: 1 << 14,
} as const;

/** Words of rows for one segment register. */
export const segWords: readonly string[] = ["seg0", "seg1", "seg2", "seg3", "seg4", "seg5"];

const STACK = /^(push|pop|call|ret|leave|pushf|popf|enter)$/;

function traitsOf(
  row: { mnemonic: string; words: ReadonlySet<string>; operands: readonly OperandSpec[] },
): number {
  let traits = 0;
  for (const [name, bit] of Object.entries(Trait)) if (row.words.has(name)) traits |= bit;
  if (row.operands.some((o) => o.kind === "O")) traits |= Trait.absolute;
  if (row.operands[0]?.kind === "J") traits |= Trait.branch;
  if (STACK.test(row.mnemonic)) traits |= Trait.stack;
  if (row.mnemonic === "lea") traits |= Trait.lea;
  if (segWords.some((word) => row.words.has(word))) traits |= Trait.segment;
  return traits;
}

/** A row of the table. */
export interface Insn {
  readonly mnemonic: string;
  readonly encoding: string;
  /** 0 one byte, 1 after 0F, 2 after 0F 38, 3 after 0F 3A. */
  readonly map: number;
  readonly opcode: number;
  readonly plusReg: boolean;
  readonly prefix: "any" | "np" | "66" | "f3" | "f2";
  readonly modrm: boolean;
  readonly digit: number | undefined;
  readonly form: "any" | "mem" | "reg";
  readonly rm: number | undefined;
  readonly rexW: number | undefined;
  readonly words: ReadonlySet<string>;
  /** {@link Trait} bits. */
  readonly traits: number;
  readonly operands: readonly OperandSpec[];
  readonly semantics: Semantics;
  /** True where handlers differ by operand size. */
  readonly sized: boolean;
}

/** What `extra` of a record holds for rows with `az`. */
export const Extra = {
  /** Address size: 0 is 8 bytes, 1 is 4, 2 is 2. */
  addressMask: 3,
  repShift: 4,
  /** REP/REPE. */
  rep: 1,
  /** REPNE. */
  repne: 2,
} as const;

/** Makes a row. */
export function insn(
  mnemonic: string,
  encoding: string,
  operands: string,
  semantics: Semantics,
): Insn {
  const words = encoding.split(" ");
  const bytes: number[] = [];
  let prefix: Insn["prefix"] = "any";
  let plusReg = false;
  let modrm = false;
  let digit: number | undefined;
  let form: Insn["form"] = "any";
  let rm: number | undefined;
  let rexW: number | undefined;
  const rest = new Set<string>();
  words.forEach((word, i) => {
    if (
      i === 0 && (word === "np" || word === "66" || word === "f3" || word === "f2") &&
      words.length > 1 && /^0f$/.test(words[1] ?? "")
    ) {
      prefix = word;
    } else if (i === 0 && (word === "np" || word === "f3") && words[1] === "90") prefix = word;
    else if (/^[0-9a-f]{2}$/.test(word)) bytes.push(parseInt(word, 16));
    else if (/^[0-9a-f]{2}\+r$/.test(word)) {
      bytes.push(parseInt(word.slice(0, 2), 16));
      plusReg = true;
    } else if (word === "/r") modrm = true;
    else if (/^\/[0-7]$/.test(word)) {
      modrm = true;
      digit = Number(word[1]);
    } else if (word === "mem" || word === "reg") form = word;
    else if (/^rm[0-7]$/.test(word)) rm = Number(word[2]);
    else if (word === "w0" || word === "w1") rexW = Number(word[1]);
    else rest.add(word);
  });
  let map = 0;
  let opcode = bytes[0];
  if (opcode === 0x0f) {
    map = 1;
    opcode = bytes[1];
    if (bytes.length === 3) {
      map = opcode === 0x38 ? 2 : 3;
      opcode = bytes[2];
    }
  }
  if (opcode === undefined) throw new TypeError(`row ${mnemonic}: no opcode in "${encoding}"`);
  const specs = operands === "" ? [] : operands.split(" ").map((o): OperandSpec => {
    if (o === "CL" || o === "1") return { kind: o, size: "b" };
    if (o.startsWith("Is")) return { kind: "Is", size: o.slice(2) };
    return { kind: o[0] ?? "", size: o.slice(1) };
  });
  if (specs.some((o) => o.kind === "M" || o.kind === "O") && modrm) form = "mem";
  if (specs.some((o) => ["R", "U", "N"].includes(o.kind))) form = "reg";
  return {
    mnemonic,
    encoding,
    map,
    opcode,
    plusReg,
    prefix,
    modrm,
    digit,
    form,
    rm,
    rexW,
    words: rest,
    traits: traitsOf({ mnemonic, words: rest, operands: specs }),
    operands: specs,
    semantics,
    sized: rest.has("sz") || specs.some((o) => ["v", "z", "y"].includes(o.size)),
  };
}

/** Operand size in bytes of size letter `letter` at operand size `size`. */
export function sizeOf(letter: string, size: number): number {
  switch (letter) {
    case "b":
      return 1;
    case "w":
      return 2;
    case "d":
      return 4;
    case "q":
      return 8;
    case "t":
      return 10;
    case "x":
      return 16;
    case "v":
      return size;
    case "z":
      return size === 2 ? 2 : size === 4 ? 4 : 8;
    case "y":
      return size === 8 ? 8 : 4;
    default:
      return 0;
  }
}
