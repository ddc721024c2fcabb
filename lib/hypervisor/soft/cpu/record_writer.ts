/**
 * Writes what the decoder found as records, for the interpreter and the translator.
 *
 * @module
 */

import { AddressKind, type Decoder } from "./decoder.ts";
import type { Interpreter } from "./interpreter.ts";
import { type Insn, Trait } from "./opcode.ts";
import { CodeMode, Rec, RECORD, S, Seg, segOffset, STACK_ADDRESS } from "./state.ts";

/** Writes records into the memory of one vCPU. */
export class RecordWriter {
  readonly #i32: Int32Array;
  readonly #u16: Uint16Array;
  readonly #u8: Uint8Array;
  readonly #interpreter: Interpreter;
  readonly #decoder: Decoder;
  #mode = 0;
  #map = 0;

  constructor(
    cpu: { readonly buffer: ArrayBufferLike },
    how: { readonly interpreter: Interpreter; readonly decoder: Decoder },
  ) {
    this.#i32 = new Int32Array(cpu.buffer);
    this.#u16 = new Uint16Array(cpu.buffer);
    this.#u8 = new Uint8Array(cpu.buffer);
    this.#interpreter = how.interpreter;
    this.#decoder = how.decoder;
  }

  /**
   * Says, ahead as {@link write} runs for every instruction, what it writes for: code of mode `mode` in a
   * page whose map is at `map`, which branches within it are linked by; 0 where they are not.
   */
  open(mode: number, map: number): void {
    this.#mode = mode;
    this.#map = map;
  }

  /** Writes a record of the runtime's own at `at`; returns the address behind it. */
  special(at: number, how: { handler: number; offset: number; link?: number }): number {
    const w = at >>> 2;
    this.#i32[w] = how.handler;
    this.#i32[w + 1] = how.offset | (how.offset << 16);
    this.#i32[w + 2] = S.zero | (S.zero << 16);
    this.#i32[w + 3] = S.zero | (S.zero << 16);
    this.#i32[w + 4] = S.zero;
    this.#i32[w + 5] = 0;
    this.#i32[w + 6] = 0;
    this.#i32[w + 7] = how.link ?? 0;
    return at + RECORD;
  }

  /**
   * Writes the records of the decoded instruction, which is at page offset `offset`, at `at`; returns the
   * address behind them.
   */
  write(at: number, offset: number): number {
    const d = this.#decoder;
    const insn = d.insn;
    const mode = this.#mode;
    const special = this.#interpreter.special;
    const next = offset + d.length;
    const long = (mode & CodeMode.sizeMask) === CodeMode.bits64;
    let base = d.base;
    let index = d.index;
    let scale = d.scale;
    let disp = d.disp;
    let extraDisp = 0;
    let kind = d.addressKind;
    if (d.ripRelative) {
      // ripBase + disp + offset of the next instruction, which may leave 32 bits.
      if (kind === AddressKind.Plain && (disp + next | 0) === disp + next) disp += next;
      else {
        extraDisp = next;
        if (kind === AddressKind.Plain) kind = AddressKind.Wide;
      }
    }
    const absolute = d.mem && (insn.traits & Trait.absolute) !== 0;
    if ((d.mem || storesAtDi(insn)) && kind !== AddressKind.Plain) {
      const lea = (insn.traits & Trait.lea) !== 0;
      // FS and GS are never part of what the mode calls flat.
      const checked = !lea && !long &&
        ((mode & CodeMode.segmented) !== 0 || d.segment >= Seg.FS || d.segment === Seg.CS);
      this.special(at, {
        handler: kind === AddressKind.Wide
          ? special.addressWide
          : checked
          ? special.addressChecked
          : special.addressMasked,
        offset,
      });
      const h = at >>> 1;
      this.#u16[h + (Rec.next >>> 1)] = next;
      this.#u16[h + (Rec.base >>> 1)] = base;
      this.#u16[h + (Rec.index >>> 1)] = index;
      const segBased = !lea && (!long || d.segment === Seg.FS || d.segment === Seg.GS);
      this.#u16[h + (Rec.seg >>> 1)] = segBased ? segOffset(d.segment) : S.zero;
      this.#u8[at + Rec.scale] = scale;
      this.#u8[at + Rec.extra] = d.addressSize === 8 ? 0 : d.addressSize === 4 ? 1 : 2;
      this.#i32[(at + Rec.disp) >>> 2] = disp;
      if (absolute) {
        this.#i32[(at + Rec.imm) >>> 2] = d.immLow;
        this.#i32[(at + Rec.imm + 4) >>> 2] = d.immHigh;
      } else {
        this.#i32[(at + Rec.imm) >>> 2] = extraDisp;
        this.#i32[(at + Rec.imm + 4) >>> 2] = 0;
      }
      if (checked) {
        this.#u16[h + (Rec.a >>> 1)] = memoryBytes(d);
        this.#u16[h + (Rec.b >>> 1)] = writesMemory(d) ? 1 : 0;
      }
      base = S.tempEa;
      index = S.zero;
      scale = 0;
      disp = 0;
      at += RECORD;
    }
    const onStack = d.mem ? d.stackOperand : (insn.traits & Trait.stack) !== 0;
    const stringSeg = (insn.traits & Trait.az) !== 0 &&
      (!long || d.segment === Seg.FS || d.segment === Seg.GS);
    const seg = stringSeg
      ? segOffset(d.segment)
      : (insn.traits & Trait.stack) !== 0
      ? segOffset(Seg.SS)
      : S.zero;
    const slot = this.#interpreter.slot(insn, d.size, d);
    let high = d.immHigh;
    if ((insn.traits & Trait.branch) !== 0) {
      high = 0;
      const target = next + d.immLow;
      if (this.#map !== 0 && (long || d.size === 4) && target >= 0 && target < 4096) {
        high = this.#i32[(this.#map >>> 2) + target] as number;
      }
    }
    // The fields of Rec, four bytes at a time.
    const w = at >>> 2;
    const words = this.#i32;
    words[w] = slot >= 0 ? slot : special.invalid;
    words[w + 1] = offset | (next << 16);
    words[w + 2] = d.a | (d.b << 16);
    words[w + 3] = base | (index << 16);
    words[w + 4] = seg | ((scale | (onStack ? STACK_ADDRESS : 0)) << 16) | (d.extra << 24);
    words[w + 5] = disp;
    words[w + 6] = d.immLow;
    words[w + 7] = high;
    return at + RECORD;
  }
}

/** True of masked moves, which store at DS:rDI: memory that no operand names. */
const storesAtDi = (insn: Insn) => (insn.traits & Trait.di) !== 0;

/** Bytes that the memory operand of the decoded instruction spans, for limit checks. */
function memoryBytes(d: Decoder): number {
  for (const o of d.insn.operands) {
    if (["E", "M", "W", "Q", "O"].includes(o.kind) || storesAtDi(d.insn)) {
      switch (o.size) {
        case "b":
          return 1;
        case "w":
          return 2;
        case "d":
          return 4;
        case "q":
          return 8;
        case "x":
          return 16;
        case "y":
          return 4;
        default:
          return d.size === 0 ? 4 : d.size;
      }
    }
  }
  return 1;
}

const readers = new Set(["cmp", "test", "push", "jmp", "call", "bt", "bound"]);

/** True where the memory operand of the decoded instruction is written. */
function writesMemory(d: Decoder): boolean {
  const first = d.insn.operands[0];
  if (first === undefined || readers.has(d.insn.mnemonic)) return false;
  if (["mul", "imul", "div", "idiv", "nop"].includes(d.insn.mnemonic)) return false;
  return ["E", "M", "W", "Q", "O"].includes(first.kind) || storesAtDi(d.insn);
}
