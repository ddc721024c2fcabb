/**
 * Instruction decoding from the opcode table (Intel SDM vol. 2, chapter 2).
 *
 * @module
 */

import { Extra, type Insn, type OperandSpec, segWords, sizeOf, Trait } from "./opcode.ts";
import { CodeMode, Reg, regOffset, S, Seg, segOffset } from "./state.ts";

/** What decoding one instruction came to. */
export enum DecodeStatus {
  Ok,
  /** More bytes than were given are needed. */
  Truncated,
  /** #UD. */
  Invalid,
  /** Longer than 15 bytes: #GP(0). */
  TooLong,
}

/** How the address of the memory operand is made. */
export enum AddressKind {
  /** No memory operand, or base + index + displacement straight in the record. */
  Plain,
  /** 64-bit with a segment base (FS, GS) or a 64-bit absolute address. */
  Wide,
  /** 16- or 32-bit address size, or a legacy mode: masks apply. */
  Masked,
}

/** Longest instruction. */
export const MAX_INSTRUCTION = 15;

/** Instructions decoded ahead at a time. */
export const RUN = 64;
/** As many bytes as they may have, and those of one more. */
export const RUN_BYTES: number = (RUN + 1) * MAX_INSTRUCTION;

/** The rows of an opcode. */
export interface Group {
  /** Those that ask for more come first. */
  readonly rows: readonly Insn[];
  /** True where a ModRM byte follows. */
  readonly modrm: boolean;
}

/** The rows of each opcode, by map * 256 + opcode. */
export function groupRows(rows: readonly Insn[]): ReadonlyMap<number, Group> {
  const lists = new Map<number, Insn[]>();
  for (const row of rows) {
    for (let i = 0; i < (row.plusReg ? 8 : 1); i++) {
      const key = row.map * 256 + row.opcode + i;
      let list = lists.get(key);
      if (list === undefined) lists.set(key, list = []);
      list.push(row);
    }
  }
  const groups = new Map<number, Group>();
  for (const [key, list] of lists) {
    const weight = (r: Insn) =>
      (r.prefix === "any" ? 0 : 8) + (r.rm === undefined ? 0 : 4) +
      (r.digit === undefined ? 0 : 2) + (r.plusReg ? 0 : 1);
    const sorted = [...list].sort((x, y) => weight(y) - weight(x));
    groups.set(key, { rows: sorted, modrm: sorted.some((r) => r.modrm) });
  }
  return groups;
}

/** Decodes; the result stays in its fields until the next call. */
export class Decoder {
  readonly #groups: (Group | undefined)[] = new Array<Group | undefined>(4 * 256);

  /** The row, after {@link decode} said Ok. */
  insn!: Insn;
  /** Operand size in bytes: 2, 4 or 8 where the row is sized, else 0. */
  size = 0;
  /** True where the rm operand is memory. */
  mem = false;
  /** True where the memory operand is changed atomically: LOCK, or XCHG. */
  locked = false;
  length = 0;
  a = 0;
  b = 0;
  base = 0;
  index = 0;
  scale = 0;
  disp = 0;
  extra = 0;
  immLow = 0;
  immHigh = 0;
  addressKind = AddressKind.Plain;
  /** Address size in bytes. */
  addressSize = 8;
  /** Number of the segment of the memory operand (defaults applied). */
  segment = Seg.DS as number;

  constructor(rows: readonly Insn[]) {
    for (const [key, group] of groupRows(rows)) this.#groups[key] = group;
  }

  #code: Uint8Array = new Uint8Array();
  #end = 0;
  #sizeMode = 0;

  /**
   * Says where {@link decode} finds instructions. It runs for every instruction once, mostly before it is
   * compiled well, so that what calls would allocate is said ahead.
   * @param code Bytes; those behind `end` are not looked at.
   * @param options `mode`: CodeMode size bits.
   */
  open(code: Uint8Array, options: { end: number; mode: number }): void {
    this.#code = code;
    this.#end = options.end;
    this.#sizeMode = options.mode & CodeMode.sizeMask;
  }

  /** Decodes the instruction at byte `at` of what was opened. */
  decode(at: number): DecodeStatus {
    const code = this.#code;
    const end = this.#end;
    const sizeMode = this.#sizeMode;
    const long = sizeMode === CodeMode.bits64;
    let p = at;
    let opsizePrefix = false;
    let addrPrefix = false;
    let rep = 0;
    let lock = false;
    let segPrefix = -1;
    let rex = 0;
    let byte = 0;
    for (;;) {
      if (p - at >= MAX_INSTRUCTION) return DecodeStatus.TooLong;
      if (p >= end) return DecodeStatus.Truncated;
      byte = code[p++] as number;
      if (long && (byte & 0xf0) === 0x40) {
        rex = byte;
        continue;
      }
      let isPrefix = true;
      switch (byte) {
        case 0x66:
          opsizePrefix = true;
          break;
        case 0x67:
          addrPrefix = true;
          break;
        case 0xf0:
          lock = true;
          break;
        case 0xf2:
        case 0xf3:
          rep = byte;
          break;
        case 0x26:
          segPrefix = long ? segPrefix : Seg.ES;
          break;
        case 0x2e:
          segPrefix = long ? segPrefix : Seg.CS;
          break;
        case 0x36:
          segPrefix = long ? segPrefix : Seg.SS;
          break;
        case 0x3e:
          segPrefix = long ? segPrefix : Seg.DS;
          break;
        case 0x64:
          segPrefix = Seg.FS;
          break;
        case 0x65:
          segPrefix = Seg.GS;
          break;
        default:
          isPrefix = false;
      }
      if (!isPrefix) break;
      // A REX that is not right before the opcode has no effect.
      rex = 0;
    }
    let map = 0;
    if (byte === 0x0f) {
      if (p >= end) return this.#short(p, at);
      byte = code[p++] as number;
      map = 1;
      if (byte === 0x38 || byte === 0x3a) {
        map = byte === 0x38 ? 2 : 3;
        if (p >= end) return this.#short(p, at);
        byte = code[p++] as number;
      }
    }
    const group = this.#groups[map * 256 + byte];
    if (group === undefined) return DecodeStatus.Invalid;
    let modrm = 0;
    if (group.modrm) {
      if (p >= end) return this.#short(p, at);
      modrm = code[p++] as number;
    }
    const mod = modrm >>> 6;
    const insn = pick(
      group,
      modrm | (rex << 8) | (rep << 16) | (opsizePrefix ? Asked.opsize : 0) |
        (long ? Asked.long : 0),
    );
    if (insn === undefined) return DecodeStatus.Invalid;
    const { traits } = insn;

    // Operand size.
    let size: number;
    if (insn.prefix === "66") size = rex & 8 ? 8 : 4;
    else if (long) {
      if ((traits & Trait.f64) !== 0) size = 8;
      else if (rex & 8) size = 8;
      else if (opsizePrefix) size = 2;
      else size = (traits & Trait.d64) !== 0 ? 8 : 4;
    } else size = (sizeMode === CodeMode.bits32) !== opsizePrefix ? 4 : 2;

    // Address size.
    const asize = long
      ? (addrPrefix ? 4 : 8)
      : (sizeMode === CodeMode.bits32) !== addrPrefix
      ? 4
      : 2;
    this.addressSize = asize;
    this.addressKind = AddressKind.Plain;
    this.insn = insn;
    this.size = insn.sized ? size : 0;
    this.a = S.zero;
    this.b = S.zero;
    this.base = S.zero;
    this.index = S.zero;
    this.scale = 0;
    this.disp = 0;
    this.immLow = 0;
    this.immHigh = 0;
    this.extra = modrm;
    this.mem = false;
    let ripRelative = false;
    let defaultSegment = Seg.DS as number;
    this.stackOperand = false;

    // Memory operand.
    if (insn.modrm && mod !== 3 && (traits & Trait.regonly) === 0) {
      this.mem = true;
      if (asize === 2) {
        const rm = modrm & 7;
        const bases = [Reg.rbx, Reg.rbx, Reg.rbp, Reg.rbp, Reg.rsi, Reg.rdi, Reg.rbp, Reg.rbx];
        const indexes = [Reg.rsi, Reg.rdi, Reg.rsi, Reg.rdi, -1, -1, -1, -1];
        let dispSize = mod;
        if (mod === 0 && rm === 6) dispSize = 2;
        else {
          const base = bases[rm] as number;
          this.base = regOffset(base);
          if (base === Reg.rbp) defaultSegment = Seg.SS;
          const index = indexes[rm] as number;
          if (index >= 0) this.index = regOffset(index);
        }
        if (p + dispSize > end) return this.#short(p + dispSize, at);
        if (dispSize === 1) this.disp = ((code[p] as number) << 24) >> 24;
        else if (dispSize === 2) {
          this.disp = (((code[p] as number) | ((code[p + 1] as number) << 8)) << 16) >> 16;
        }
        p += dispSize;
      } else {
        let base = modrm & 7;
        let hasBase = true;
        if (base === 4) {
          if (p >= end) return this.#short(p, at);
          const sib = code[p++] as number;
          base = sib & 7;
          const index = ((sib >>> 3) & 7) | ((rex & 2) << 2);
          if (index !== 4) {
            this.index = regOffset(index);
            this.scale = sib >>> 6;
          }
          if (base === 5 && mod === 0) hasBase = false;
        } else if (base === 5 && mod === 0) {
          hasBase = false;
          ripRelative = long;
        }
        const dispSize = mod === 1 ? 1 : mod === 2 || !hasBase ? 4 : 0;
        if (hasBase) {
          base |= (rex & 1) << 3;
          this.base = regOffset(base);
          if (base === Reg.rsp || base === Reg.rbp) defaultSegment = Seg.SS;
        }
        if (p + dispSize > end) return this.#short(p + dispSize, at);
        if (dispSize === 1) this.disp = ((code[p] as number) << 24) >> 24;
        else if (dispSize === 4) this.disp = read32(code, p);
        p += dispSize;
      }
    }

    // Other operands.
    let immediates = 0;
    const { operands } = insn;
    for (let i = 0; i < operands.length; i++) {
      const operand = operands[i] as OperandSpec;
      const bytes = sizeOf(operand.size, size);
      // Without REX, byte registers 4 to 7 are AH, CH, DH, BH.
      const old = bytes === 1 && rex === 0;
      switch (operand.kind) {
        case "G":
          this.a = generalSlot(((modrm >>> 3) & 7) | ((rex & 4) << 1), old);
          break;
        case "V":
          this.a = S.xmm + 16 * (((modrm >>> 3) & 7) | ((rex & 4) << 1));
          break;
        case "P":
          this.a = S.fpu + 16 * ((modrm >>> 3) & 7);
          break;
        case "S": {
          const n = (modrm >>> 3) & 7;
          if (n > 5 || (n === Seg.CS && insn.opcode === 0x8e)) return DecodeStatus.Invalid;
          this.a = segOffset(n);
          break;
        }
        case "Z":
          this.a = generalSlot((byte & 7) | ((rex & 1) << 3), old);
          break;
        case "E":
        case "R":
          if (!this.mem) this.b = generalSlot((modrm & 7) | ((rex & 1) << 3), old);
          break;
        case "W":
        case "U":
          if (!this.mem) this.b = S.xmm + 16 * ((modrm & 7) | ((rex & 1) << 3));
          break;
        case "Q":
        case "N":
          if (!this.mem) this.b = S.fpu + 16 * (modrm & 7);
          break;
        case "O": {
          if (p + asize > end) return this.#short(p + asize, at);
          this.mem = true;
          this.immLow = asize === 2
            ? (code[p] as number) | ((code[p + 1] as number) << 8)
            : read32(code, p);
          this.immHigh = asize === 8 ? read32(code, p + 4) : 0;
          p += asize;
          break;
        }
        case "I":
        case "Is":
        case "J": {
          const n = operand.size === "p"
            ? (size === 2 ? 4 : 6)
            : operand.size === "z"
            ? (size === 2 ? 2 : 4)
            : operand.kind === "I" && operand.size === "v"
            ? size
            : bytes;
          if (p + n > end) return this.#short(p + n, at);
          if (immediates > 0) this.#secondImmediate(p);
          else if (operand.size === "p") this.#farPointer(p, n);
          else this.#immediate(p, n);
          immediates++;
          p += n;
          break;
        }
      }
    }
    if (p - at > MAX_INSTRUCTION) return DecodeStatus.TooLong;
    this.length = p - at;
    if (lock && !((traits & Trait.lock) !== 0 && this.mem)) return DecodeStatus.Invalid;
    this.locked = lock || (insn.mnemonic === "xchg" && this.mem);

    if ((traits & Trait.regonly) !== 0) {
      this.a = ((modrm >>> 3) & 7) | ((rex & 4) << 1);
      this.b = regOffset((modrm & 7) | ((rex & 1) << 3));
    }
    if ((traits & Trait.segment) !== 0) {
      for (let n = 0; n < 6; n++) {
        if (insn.words.has(segWords[n] as string)) this.a = this.#segWord(insn, n);
      }
    }

    if ((traits & Trait.az) !== 0) {
      this.extra = (asize === 8 ? 0 : asize === 4 ? 1 : 2) |
        ((rep === 0xf3 ? Extra.rep : rep === 0xf2 ? Extra.repne : 0) << Extra.repShift);
      // REPNE means REP where nothing is compared.
      if (rep === 0xf2 && !comparing(insn.opcode)) {
        this.extra = (this.extra & Extra.addressMask) | (Extra.rep << Extra.repShift);
      }
      this.segment = segPrefix >= 0 ? segPrefix : Seg.DS;
      // In 64-bit mode only FS and GS have a base.
      this.b = long ? S.zero : segOffset(Seg.ES);
    } else {
      this.segment = segPrefix >= 0 ? segPrefix : defaultSegment;
    }
    // Masked moves store at DS:rDI, which no ModRM byte names.
    const implicit = (traits & Trait.di) !== 0;
    if (implicit) this.base = regOffset(Reg.rdi);
    if (this.mem || implicit) {
      if ((traits & Trait.lea) !== 0) {
        if (asize !== 8) this.addressKind = AddressKind.Masked;
      } else if (!long || asize !== 8) this.addressKind = AddressKind.Masked;
      else if (segPrefix === Seg.FS || segPrefix === Seg.GS) this.addressKind = AddressKind.Wide;
      else if ((traits & Trait.absolute) !== 0) this.addressKind = AddressKind.Wide;
      if (ripRelative) {
        this.base = S.ripBase;
        this.ripRelative = true;
      } else this.ripRelative = false;
      // In 64-bit mode the other prefixes choose no segment.
      this.stackOperand = long && defaultSegment === Seg.SS && segPrefix !== Seg.FS &&
        segPrefix !== Seg.GS;
      if (insn.mnemonic === "pop" && this.base === regOffset(Reg.rsp)) this.disp += size;
    } else this.ripRelative = false;
    return DecodeStatus.Ok;
  }

  /** True where 64-bit mode takes the memory operand for one on the stack. */
  stackOperand = false;

  /** True where the base is `ripBase`: the page offset of the next instruction must be added. */
  ripRelative = false;

  #segWord(insn: Insn, n: number): number {
    // Rows with G keep their register; the segment goes to `b`.
    if (insn.operands.length > 0) {
      this.b = segOffset(n);
      return this.a;
    }
    return segOffset(n);
  }

  #short(p: number, at: number): DecodeStatus {
    return p - at > MAX_INSTRUCTION ? DecodeStatus.TooLong : DecodeStatus.Truncated;
  }

  #secondImmediate(p: number): void {
    this.immLow = (this.immLow & 0xffff) | ((this.#code[p] as number) << 16);
    this.immHigh = 0;
  }

  #farPointer(p: number, n: number): void {
    const code = this.#code;
    const offset = n - 2;
    this.immLow = offset === 2
      ? (code[p] as number) | ((code[p + 1] as number) << 8)
      : read32(code, p);
    this.immHigh = (code[p + offset] as number) | ((code[p + offset + 1] as number) << 8);
  }

  #immediate(p: number, n: number): void {
    const code = this.#code;
    switch (n) {
      case 1:
        this.immLow = ((code[p] as number) << 24) >> 24;
        break;
      case 2:
        this.immLow = (((code[p] as number) | ((code[p + 1] as number) << 8)) << 16) >> 16;
        break;
      default:
        this.immLow = read32(code, p);
    }
    this.immHigh = n === 8 ? read32(code, p + 4) : this.immLow >> 31;
  }
}

/** True for string instructions that REPNE means something to. */
export function comparing(opcode: number): boolean {
  return opcode === 0xa6 || opcode === 0xa7 || opcode === 0xae || opcode === 0xaf;
}

function read32(code: Uint8Array, p: number): number {
  return (code[p] as number) | ((code[p + 1] as number) << 8) | ((code[p + 2] as number) << 16) |
    ((code[p + 3] as number) << 24);
}

/** Slot of a general register; where `old`, 4 to 7 are the second bytes of 0 to 3. */
function generalSlot(n: number, old: boolean): number {
  if (old && n >= 4 && n < 8) return regOffset(n - 4) + 1;
  return regOffset(n);
}

/** What {@link pick} is asked with: the ModRM byte, REX, F2 or F3, and these bits. */
const Asked = {
  rexB: 1 << 8,
  rexWShift: 11,
  repShift: 16,
  opsize: 1 << 24,
  long: 1 << 25,
} as const;

function pick(group: Group, asked: number): Insn | undefined {
  const mod = (asked >>> 6) & 3;
  const rep = (asked >>> Asked.repShift) & 0xff;
  const { rows } = group;
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] as Insn;
    switch (row.prefix) {
      case "np":
        if (rep !== 0 || (asked & Asked.opsize) !== 0) continue;
        break;
      case "66":
        if (rep !== 0 || (asked & Asked.opsize) === 0) continue;
        break;
      case "f3":
        if (rep !== 0xf3) continue;
        break;
      case "f2":
        if (rep !== 0xf2) continue;
        break;
    }
    if (row.digit !== undefined && row.digit !== ((asked >>> 3) & 7)) continue;
    if (row.form === "mem" && mod === 3) continue;
    if (row.form === "reg" && mod !== 3) continue;
    if (row.rm !== undefined && row.rm !== (asked & 7)) continue;
    if (row.rexW !== undefined && row.rexW !== ((asked >>> Asked.rexWShift) & 1)) continue;
    if ((asked & Asked.rexB) !== 0 && (row.traits & Trait.nob) !== 0) continue;
    if ((row.traits & ((asked & Asked.long) !== 0 ? Trait.i64 : Trait.o64)) !== 0) continue;
    return row;
  }
  return undefined;
}
