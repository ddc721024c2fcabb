/**
 * Bytes, labels, prefixes and ModRM of the test assembler; {@link Assembler} puts the instructions
 * on top (Intel SDM vol. 2, chapter 2).
 *
 * @module
 */

import {
  type Imm,
  isMem,
  isRef,
  isReg,
  type Mem,
  type Ref,
  regInfo,
  type RegOrMem,
  segmentPrefix,
  type Size,
} from "./operands.ts";

/** Code size that instructions are encoded for. */
export type Bits = 16 | 32 | 64;

interface Fixup {
  readonly at: number;
  readonly size: Size;
  readonly ref: Ref;
  /** For a relative reference: the address that it counts from, known at the instruction's end. */
  from: number | "absolute" | "pending";
}

/** What a ModRM byte's `rm` part needs besides itself. */
interface Encoded {
  readonly modrm: number;
  readonly sib?: number;
  readonly disp?: {
    readonly size: 1 | 2 | 4;
    readonly value: number | Ref;
    readonly rip?: boolean;
  };
  readonly rexX: boolean;
  readonly rexB: boolean;
}

/** One instruction, as far as its encoding is general. */
export interface Instruction {
  /** Opcode bytes, without prefixes. */
  readonly opcode: readonly number[];
  /** Operand size; decides 0x66 and REX.W. 1 needs neither. */
  readonly size?: Size;
  /** Opcode whose 64-bit form needs no REX.W (push, call …). */
  readonly default64?: boolean;
  /** Mandatory prefix (SSE). */
  readonly mandatory?: number;
  /** The `reg` field: a register number, or the opcode's extension. */
  readonly reg?: number;
  /** Byte registers whose REX needs are to be met. */
  readonly byteRegs?: readonly RegOrMem[];
  /** The `rm` operand: a register number or memory. */
  readonly rm?: number | Mem;
  /** Register number in the opcode's low three bits. */
  readonly inOpcode?: number;
  /** Immediate. */
  readonly imm?: { readonly value: Imm; readonly size: Size; readonly relative?: boolean };
}

const BASES_16: readonly string[] = ["bx+si", "bx+di", "bp+si", "bp+di", "si", "di", "bp", "bx"];

/** Writes bytes at growing addresses and resolves labels. */
export class Encoder {
  /** Address of the first byte. */
  readonly origin: number;
  #bytes: number[] = [];
  #bits: Bits;
  #labels = new Map<string, number>();
  #fixups: Fixup[] = [];
  #prefixes: number[] = [];

  constructor(origin: number, bits: Bits) {
    this.origin = origin;
    this.#bits = bits;
  }

  /** Code size in force. */
  get mode(): Bits {
    return this.#bits;
  }

  /** Address of the next byte. */
  get here(): number {
    return this.origin + this.#bytes.length;
  }

  /** Encodes what follows for `bits`-bit code. */
  bits(bits: Bits): this {
    this.#bits = bits;
    return this;
  }

  /** Gives the address of the next byte a name. */
  label(name: string): this {
    if (this.#labels.has(name)) throw new TypeError(`label ${name} is there already`);
    this.#labels.set(name, this.here);
    return this;
  }

  /** Fills with `fill` up to `address`. */
  org(address: number, fill = 0): this {
    if (address < this.here) throw new RangeError(`org ${address} lies before ${this.here}`);
    while (this.here < address) this.#bytes.push(fill);
    return this;
  }

  /** Fills with `fill` up to a multiple of `alignment`. */
  align(alignment: number, fill = 0): this {
    return this.org(Math.ceil(this.here / alignment) * alignment, fill);
  }

  /** Bytes as they are. */
  db(...values: readonly (number | string)[]): this {
    for (const value of values) {
      if (typeof value === "number") this.#bytes.push(value & 0xff);
      else for (const char of value) this.#bytes.push(char.charCodeAt(0) & 0xff);
    }
    return this;
  }

  /** 16-bit words. */
  dw(...values: readonly Imm[]): this {
    for (const value of values) this.#immediate(value, 2, "absolute");
    return this;
  }

  /** 32-bit words. */
  dd(...values: readonly Imm[]): this {
    for (const value of values) this.#immediate(value, 4, "absolute");
    return this;
  }

  /** 64-bit words. */
  dq(...values: readonly Imm[]): this {
    for (const value of values) this.#immediate(value, 8, "absolute");
    return this;
  }

  /** A prefix byte (lock, rep …) of the next instruction. */
  prefix(byte: number): this {
    this.#prefixes.push(byte);
    return this;
  }

  /** The address of `name`, once all is assembled or as far as it has been. */
  addressOf(name: string): number {
    const address = this.#labels.get(name);
    if (address === undefined) throw new TypeError(`no label ${name}`);
    return address;
  }

  /** The bytes, with every label resolved. */
  assemble(): Uint8Array<ArrayBuffer> {
    const bytes = Uint8Array.from(this.#bytes);
    const view = new DataView(bytes.buffer);
    for (const { at, size, ref, from } of this.#fixups) {
      const target = this.addressOf(ref.label) + ref.addend;
      const value = from === "absolute" ? target : target - Number(from);
      const limit = 2 ** (size * 8 - (from === "absolute" ? 0 : 1));
      if (size < 8 && (value >= limit || value < -limit)) {
        throw new RangeError(`${ref.label} is out of reach for ${size} bytes`);
      }
      put(view, at, size, BigInt(value));
    }
    return bytes;
  }

  /** Encodes one instruction. */
  emit(instruction: Instruction): this {
    const { opcode, size = 4, reg = 0, imm, inOpcode = 0 } = instruction;
    const operand = instruction.rm;
    const rm = operand === undefined
      ? undefined
      : typeof operand === "number"
      ? registerForm(operand)
      : this.#memoryForm(operand);

    this.#bytes.push(...this.#prefixes);
    this.#prefixes = [];
    if (isMem(operand)) {
      if (operand.segment !== undefined) this.#bytes.push(segmentPrefix(operand.segment));
      if (this.#addressBits(operand) !== this.#bits) this.#bytes.push(0x67);
    }
    const wide = this.#bits === 16 ? 4 : 2;
    if (size === wide && size > 1) this.#bytes.push(0x66);
    if (instruction.mandatory !== undefined) this.#bytes.push(instruction.mandatory);

    let rex = 0;
    if (size === 8 && instruction.default64 !== true) rex |= 8;
    if (reg >= 8) rex |= 4;
    if (rm?.rexX === true) rex |= 2;
    if (rm?.rexB === true || inOpcode >= 8) rex |= 1;
    const registers = (instruction.byteRegs ?? []).filter(isReg).map(regInfo);
    if (rex !== 0 || registers.some((info) => info.needsRex)) {
      if (this.#bits !== 64) throw new TypeError("needs 64-bit code");
      if (registers.some((info) => info.forbidsRex)) throw new TypeError("ah to bh exclude REX");
      this.#bytes.push(0x40 | rex);
    }

    this.#bytes.push(...opcode.slice(0, -1), (opcode.at(-1) ?? 0) + (inOpcode & 7));
    if (rm !== undefined) {
      this.#bytes.push(rm.modrm | (reg & 7) << 3);
      if (rm.sib !== undefined) this.#bytes.push(rm.sib);
      if (rm.disp !== undefined) {
        const { value, size: width, rip } = rm.disp;
        this.#displacement(value, width, rip === true);
      }
    }
    if (imm !== undefined) {
      this.#immediate(imm.value, imm.size, imm.relative === true ? "pending" : "absolute");
    }
    for (const fixup of this.#fixups) if (fixup.from === "pending") fixup.from = this.here;
    return this;
  }

  #displacement(value: number | Ref, size: Size, rip: boolean): void {
    const signed = this.#bits === 64 && typeof value === "number";
    if (signed && (value >= 0x8000_0000 || value < -0x8000_0000)) {
      throw new RangeError(`address ${value} does not fit into a signed displacement`);
    }
    this.#immediate(value, size, rip ? "pending" : "absolute");
  }

  #immediate(value: Imm, size: Size, from: Fixup["from"]): void {
    if (isRef(value)) {
      this.#fixups.push({ at: this.#bytes.length, size, ref: value, from });
      for (let index = 0; index < size; index++) this.#bytes.push(0);
      return;
    }
    let rest = BigInt.asUintN(size * 8, BigInt(value));
    for (let index = 0; index < size; index++) {
      this.#bytes.push(Number(rest & 0xffn));
      rest >>= 8n;
    }
  }

  #addressBits(mem: Mem): Bits {
    const register = mem.base === "rip" ? undefined : mem.base ?? mem.index;
    if (register === undefined) return this.#bits;
    const { size } = regInfo(register);
    return size === 8 ? 64 : size === 4 ? 32 : 16;
  }

  #memoryForm(mem: Mem): Encoded {
    if (this.#addressBits(mem) === 16) return memoryForm16(mem);
    const disp = mem.disp ?? 0;
    if (mem.base === "rip") {
      return { modrm: 5, disp: { size: 4, value: disp, rip: true }, rexX: false, rexB: false };
    }
    const base = mem.base === undefined ? undefined : regInfo(mem.base).code;
    const index = mem.index === undefined ? undefined : regInfo(mem.index).code;
    if (index === 4) throw new TypeError("rsp cannot be an index");
    const rexX = index !== undefined && index >= 8;
    const rexB = base !== undefined && base >= 8;
    if (base === undefined && index === undefined && this.#bits !== 64) {
      return { modrm: 5, disp: { size: 4, value: disp }, rexX, rexB };
    }
    const small = typeof disp === "number" && disp >= -128 && disp < 128;
    const none = disp === 0 && base !== undefined && (base & 7) !== 5;
    const mod = base === undefined || none ? 0 : small ? 1 : 2;
    const width = base === undefined || mod === 2 ? 4 : 1;
    const part = mod === 0 && base !== undefined
      ? {}
      : { disp: { size: width as 1 | 4, value: disp } };
    if (index === undefined && base !== undefined && (base & 7) !== 4) {
      return { modrm: mod << 6 | (base & 7), ...part, rexX, rexB };
    }
    const scale = Math.log2(mem.scale ?? 1);
    const sib = scale << 6 | ((index ?? 4) & 7) << 3 | ((base ?? 5) & 7);
    return { modrm: mod << 6 | 4, sib, ...part, rexX, rexB };
  }
}

function registerForm(code: number): Encoded {
  return { modrm: 0xc0 | (code & 7), rexX: false, rexB: code >= 8 };
}

function memoryForm16(mem: Mem): Encoded {
  const disp = mem.disp ?? 0;
  const none = { rexX: false, rexB: false };
  if (mem.base === undefined && mem.index === undefined) {
    return { modrm: 6, disp: { size: 2, value: disp }, ...none };
  }
  const name = [mem.base, mem.index].filter((part) => part !== undefined).join("+");
  const rm = BASES_16.indexOf(name);
  if (rm < 0) throw new TypeError(`no 16-bit address [${name}]`);
  if (disp === 0 && name !== "bp") return { modrm: rm, ...none };
  return { modrm: 0x80 | rm, disp: { size: 2, value: disp }, ...none };
}

function put(view: DataView, at: number, size: Size, value: bigint): void {
  const bits = BigInt.asUintN(size * 8, value);
  if (size === 8) view.setBigUint64(at, bits, true);
  else if (size === 4) view.setUint32(at, Number(bits), true);
  else if (size === 2) view.setUint16(at, Number(bits), true);
  else view.setUint8(at, Number(bits));
}
