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

const STACK: ReadonlySet<string> = new Set(
  ["push", "pop", "call", "ret", "leave", "pushf", "popf", "enter"],
);

const traitOfWord: ReadonlyMap<string, number> = new Map([
  ...Object.entries(Trait),
  ...segWords.map((word) => [word, Trait.segment] as const),
]);

function traitsOf(
  row: { mnemonic: string; words: ReadonlySet<string>; operands: readonly OperandSpec[] },
): number {
  let traits = 0;
  for (const word of row.words) traits |= traitOfWord.get(word) ?? 0;
  for (const { kind } of row.operands) if (kind === "O") traits |= Trait.absolute;
  if (row.operands[0]?.kind === "J") traits |= Trait.branch;
  if (STACK.has(row.mnemonic)) traits |= Trait.stack;
  if (row.mnemonic === "lea") traits |= Trait.lea;
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

const PREFIXES: ReadonlySet<string> = new Set(["np", "66", "f3", "f2"]);

/** Value of a digit in ASCII code `code`, in lower case; 16 and more for what is none. */
function hexDigit(code: number): number {
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  return code >= 0x61 && code <= 0x66 ? code - 0x61 + 10 : 16;
}

/** The byte that `word` begins with in two hex digits; -1 where it does not. */
function hexByte(word: string): number {
  const [high, low] = [hexDigit(word.charCodeAt(0)), hexDigit(word.charCodeAt(1))];
  return high < 16 && low < 16 ? high * 16 + low : -1;
}

/** The last digit of a `word` of `length` characters, as far as it is one from 0 to 7; else undefined. */
function lastDigit(word: string, length: number): number | undefined {
  const digit = hexDigit(word.charCodeAt(word.length - 1));
  return word.length === length && digit < 8 ? digit : undefined;
}

/** Makes a row. Each thread of the engine makes all of them when it starts, so no word is looked at twice. */
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
  let first = 0;
  const [head = "", next] = words;
  if (
    PREFIXES.has(head) && (next === "0f" || (next === "90" && (head === "np" || head === "f3")))
  ) {
    prefix = head as Insn["prefix"];
    first = 1;
  }
  for (let i = first; i < words.length; i++) {
    const word = words[i] as string;
    const byte = word.length === 2 || (word.length === 4 && word.endsWith("+r"))
      ? hexByte(word)
      : -1;
    const slash = word.startsWith("/") ? lastDigit(word, 2) : undefined;
    const number = word.startsWith("rm") ? lastDigit(word, 3) : undefined;
    if (byte >= 0) {
      bytes.push(byte);
      if (word.length === 4) plusReg = true;
    } else if (word === "/r") modrm = true;
    else if (slash !== undefined) {
      modrm = true;
      digit = slash;
    } else if (word === "mem" || word === "reg") form = word;
    else if (number !== undefined) rm = number;
    else if (word === "w0" || word === "w1") rexW = word === "w1" ? 1 : 0;
    else rest.add(word);
  }
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
  let sized = rest.has("sz");
  for (const { kind, size } of specs) {
    if ((kind === "M" || kind === "O") && modrm) form = "mem";
    if (kind === "R" || kind === "U" || kind === "N") form = "reg";
    if (size === "v" || size === "z" || size === "y") sized = true;
  }
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
    sized,
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
