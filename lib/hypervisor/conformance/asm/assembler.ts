/**
 * The instructions of the test assembler: enough for small guests in real, protected, compatibility
 * and long mode, named and ordered as in Intel's manual (destination first).
 *
 * @module
 */

import { type Bits, Encoder, type Instruction } from "./encoder.ts";
import {
  type Imm,
  isMem,
  isRef,
  isReg,
  isSegment,
  isSystemReg,
  type Mem,
  ref,
  type Reg,
  regInfo,
  type RegOrMem,
  segmentCode,
  type SegmentReg,
  type Size,
  type SystemReg,
  type XmmReg,
} from "./operands.ts";

const ALU = { add: 0, or: 1, adc: 2, sbb: 3, and: 4, sub: 5, xor: 6, cmp: 7 } as const;
const SHIFT = { rol: 0, ror: 1, rcl: 2, rcr: 3, shl: 4, shr: 5, sar: 7 } as const;
const UNARY = { not: 2, neg: 3, mul: 4, imul: 5, div: 6, idiv: 7 } as const;
const STRING = { movs: 0xa4, cmps: 0xa6, stos: 0xaa, lods: 0xac, scas: 0xae } as const;
const CONDITIONS = ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge"]
  .concat(["le", "g"]);
const PLAIN = {
  nop: [0x90],
  hlt: [0xf4],
  cli: [0xfa],
  sti: [0xfb],
  cld: [0xfc],
  std: [0xfd],
  clc: [0xf8],
  stc: [0xf9],
  cmc: [0xf5],
  pause: [0xf3, 0x90],
  cpuid: [0x0f, 0xa2],
  rdtsc: [0x0f, 0x31],
  rdmsr: [0x0f, 0x32],
  wrmsr: [0x0f, 0x30],
  rdpmc: [0x0f, 0x33],
  invd: [0x0f, 0x08],
  wbinvd: [0x0f, 0x09],
  clts: [0x0f, 0x06],
  ud2: [0x0f, 0x0b],
  int3: [0xcc],
  int1: [0xf1],
  into: [0xce],
  leave: [0xc9],
  swapgs: [0x0f, 0x01, 0xf8],
  stac: [0x0f, 0x01, 0xcb],
  clac: [0x0f, 0x01, 0xca],
  rdtscp: [0x0f, 0x01, 0xf9],
  xgetbv: [0x0f, 0x01, 0xd0],
  xsetbv: [0x0f, 0x01, 0xd1],
  syscall: [0x0f, 0x05],
  mfence: [0x0f, 0xae, 0xf0],
  fwait: [0x9b],
  fninit: [0xdb, 0xe3],
  xlat: [0xd7],
} as const;
const TABLES = { sgdt: 0, sidt: 1, lgdt: 2, lidt: 3 } as const;
const SELECTORS = { sldt: 0, str: 1, lldt: 2, ltr: 3, verr: 4, verw: 5 } as const;

/** Condition of a jump. */
export type Condition =
  | ("o" | "no" | "b" | "ae" | "e" | "ne" | "be" | "a" | "s" | "ns" | "p" | "np")
  | ("l" | "ge" | "le" | "g");

/** Where a jump goes: a label, or through a register or memory. */
export type Target = string | RegOrMem;

/** Assembles a guest: each method appends one instruction and returns the assembler. */
export class Assembler extends Encoder {
  constructor(origin: number, bits: Bits) {
    super(origin, bits);
  }

  /** MOV, also from and to segment, control and debug registers. */
  mov(to: RegOrMem | SegmentReg | SystemReg, from: RegOrMem | SegmentReg | SystemReg | Imm): this {
    if (isSegment(to)) {
      const rm = this.#rm(from);
      return this.emit({
        opcode: [0x8e],
        size: this.#natural(),
        default64: true,
        reg: segmentCode(to),
        rm,
      });
    }
    if (isSegment(from)) {
      const size = isReg(to) ? regInfo(to).size : this.#natural();
      return this.emit({
        opcode: [0x8c],
        size,
        default64: isMem(to),
        reg: segmentCode(from),
        rm: this.#rm(to),
      });
    }
    if (isSystemReg(to) || isSystemReg(from)) return this.#movSystem(to, from);
    if (isReg(to) && !isReg(from) && !isMem(from)) return this.#movImmediate(to, from);
    if (!isReg(from) && !isMem(from)) {
      const size = this.#size(to);
      return this.emit({
        opcode: [size === 1 ? 0xc6 : 0xc7],
        size,
        rm: this.#rm(to),
        imm: { value: from, size: size === 8 ? 4 : size },
      });
    }
    return this.#twoWay(0x88, to, from);
  }

  /** ADD, OR, ADC, SBB, AND, SUB, XOR, CMP. */
  alu(name: keyof typeof ALU, to: RegOrMem, from: RegOrMem | Imm): this {
    const extension = ALU[name];
    if (isReg(from) || isMem(from)) return this.#twoWay(extension << 3, to, from);
    const size = this.#size(to);
    const short = size > 1 && typeof from === "number" && from >= -128 && from < 128;
    return this.emit({
      opcode: [size === 1 ? 0x80 : short ? 0x83 : 0x81],
      size,
      reg: extension,
      rm: this.#rm(to),
      byteRegs: [to],
      imm: { value: from, size: short ? 1 : size === 8 ? 4 : size },
    });
  }

  /** ADD. */
  add(to: RegOrMem, from: RegOrMem | Imm): this {
    return this.alu("add", to, from);
  }

  /** SUB. */
  sub(to: RegOrMem, from: RegOrMem | Imm): this {
    return this.alu("sub", to, from);
  }

  /** AND. */
  and(to: RegOrMem, from: RegOrMem | Imm): this {
    return this.alu("and", to, from);
  }

  /** OR. */
  or(to: RegOrMem, from: RegOrMem | Imm): this {
    return this.alu("or", to, from);
  }

  /** XOR. */
  xor(to: RegOrMem, from: RegOrMem | Imm): this {
    return this.alu("xor", to, from);
  }

  /** CMP. */
  cmp(to: RegOrMem, from: RegOrMem | Imm): this {
    return this.alu("cmp", to, from);
  }

  /** TEST. */
  test(to: RegOrMem, from: Reg | Imm): this {
    if (isReg(from)) {
      const size = regInfo(from).size;
      const opcode = [size === 1 ? 0x84 : 0x85];
      return this.emit({
        opcode,
        size,
        reg: regInfo(from).code,
        rm: this.#rm(to),
        byteRegs: [to, from],
      });
    }
    const size = this.#size(to);
    return this.emit({
      opcode: [size === 1 ? 0xf6 : 0xf7],
      size,
      rm: this.#rm(to),
      byteRegs: [to],
      imm: { value: from, size: size === 8 ? 4 : size },
    });
  }

  /** NOT, NEG, MUL, IMUL, DIV, IDIV of one operand. */
  unary(name: keyof typeof UNARY, operand: RegOrMem): this {
    return this.#group(0xf6, UNARY[name], operand);
  }

  /** INC. */
  inc(operand: RegOrMem): this {
    return this.#group(0xfe, 0, operand);
  }

  /** DEC. */
  dec(operand: RegOrMem): this {
    return this.#group(0xfe, 1, operand);
  }

  /** A shift or rotation by a constant or by `cl`. */
  shift(name: keyof typeof SHIFT, operand: RegOrMem, by: number | "cl"): this {
    const size = this.#size(operand);
    const low = size === 1 ? 0 : 1;
    const instruction = { size, reg: SHIFT[name], rm: this.#rm(operand), byteRegs: [operand] };
    return by === "cl"
      ? this.emit({ ...instruction, opcode: [0xd2 | low] })
      : this.emit({ ...instruction, opcode: [0xc0 | low], imm: { value: by, size: 1 } });
  }

  /** SHL by a constant. */
  shl(operand: RegOrMem, by: number | "cl"): this {
    return this.shift("shl", operand, by);
  }

  /** SHR by a constant. */
  shr(operand: RegOrMem, by: number | "cl"): this {
    return this.shift("shr", operand, by);
  }

  /** LEA. */
  lea(to: Reg, from: Mem): this {
    const { code, size } = regInfo(to);
    return this.emit({ opcode: [0x8d], size, reg: code, rm: from });
  }

  /** MOVZX (and for 32 to 64 bits a plain MOV will do). */
  movzx(to: Reg, from: RegOrMem): this {
    return this.#extend(0xb6, to, from);
  }

  /** MOVSX. */
  movsx(to: Reg, from: RegOrMem): this {
    return this.#extend(0xbe, to, from);
  }

  /** XCHG. */
  xchg(to: RegOrMem, from: Reg): this {
    const { size, code } = regInfo(from);
    const opcode = [size === 1 ? 0x86 : 0x87];
    return this.emit({ opcode, size, reg: code, rm: this.#rm(to), byteRegs: [to, from] });
  }

  /** XADD. */
  xadd(to: RegOrMem, from: Reg): this {
    const { size, code } = regInfo(from);
    const opcode = [0x0f, size === 1 ? 0xc0 : 0xc1];
    return this.emit({ opcode, size, reg: code, rm: this.#rm(to), byteRegs: [to, from] });
  }

  /** CMPXCHG. */
  cmpxchg(to: RegOrMem, from: Reg): this {
    const { size, code } = regInfo(from);
    const opcode = [0x0f, size === 1 ? 0xb0 : 0xb1];
    return this.emit({ opcode, size, reg: code, rm: this.#rm(to), byteRegs: [to, from] });
  }

  /** CMPXCHG8B, or with `half` 8 CMPXCHG16B. */
  cmpxchg8b(to: Mem, half: 4 | 8 = 4): this {
    return this.emit({ opcode: [0x0f, 0xc7], size: half, reg: 1, rm: to });
  }

  /** LOCK prefix. */
  lock(): this {
    return this.prefix(0xf0);
  }

  /** REP (REPE) prefix. */
  rep(): this {
    return this.prefix(0xf3);
  }

  /** REPNE prefix. */
  repne(): this {
    return this.prefix(0xf2);
  }

  /** PUSH of a register, memory, segment register or constant. */
  push(operand: RegOrMem | SegmentReg | Imm): this {
    if (isSegment(operand)) {
      const code = segmentCode(operand);
      return this.emit({
        opcode: code < 4 ? [0x06 | code << 3] : [0x0f, 0xa0 | (code - 4) << 3],
        ...this.#plainSize(),
      });
    }
    if (isReg(operand)) {
      const { code, size } = regInfo(operand);
      return this.emit({ opcode: [0x50], inOpcode: code, size, default64: true });
    }
    if (isMem(operand)) {
      const size = operand.size ?? this.#natural();
      return this.emit({ opcode: [0xff], reg: 6, rm: operand, size, default64: true });
    }
    const size = this.mode === 16 ? 2 : 4;
    return this.emit({ opcode: [0x68], imm: { value: operand, size }, ...this.#plainSize() });
  }

  /** POP to a register, memory or segment register. */
  pop(operand: RegOrMem | SegmentReg): this {
    if (isSegment(operand)) {
      const code = segmentCode(operand);
      return this.emit({
        opcode: code < 4 ? [0x07 | code << 3] : [0x0f, 0xa1 | (code - 4) << 3],
        ...this.#plainSize(),
      });
    }
    if (isReg(operand)) {
      const { code, size } = regInfo(operand);
      return this.emit({ opcode: [0x58], inOpcode: code, size, default64: true });
    }
    const size = operand.size ?? this.#natural();
    return this.emit({ opcode: [0x8f], rm: operand, size, default64: true });
  }

  /** PUSHF of the mode's width. */
  pushf(): this {
    return this.emit({ opcode: [0x9c], ...this.#plainSize() });
  }

  /** POPF of the mode's width. */
  popf(): this {
    return this.emit({ opcode: [0x9d], ...this.#plainSize() });
  }

  /** JMP near. */
  jmp(target: Target): this {
    return this.#branch(target, 0xe9, 4);
  }

  /** CALL near. */
  call(target: Target): this {
    return this.#branch(target, 0xe8, 2);
  }

  /** JMP with an 8-bit displacement. */
  jmpShort(label: string): this {
    return this.#short(0xeb, label);
  }

  /** Conditional jump, near. */
  jcc(condition: Condition, label: string): this {
    const opcode = [0x0f, 0x80 | CONDITIONS.indexOf(condition)];
    const imm = { value: ref(label), size: this.#nearSize(), relative: true };
    return this.emit({ opcode, imm, ...this.#plainSize() });
  }

  /** Conditional jump with an 8-bit displacement. */
  jccShort(condition: Condition, label: string): this {
    return this.#short(0x70 | CONDITIONS.indexOf(condition), label);
  }

  /** SETcc. */
  setcc(condition: Condition, to: RegOrMem): this {
    const opcode = [0x0f, 0x90 | CONDITIONS.indexOf(condition)];
    return this.emit({ opcode, size: 1, rm: this.#rm(to), byteRegs: [to] });
  }

  /** LOOP. */
  loop(label: string): this {
    return this.#short(0xe2, label);
  }

  /** RET near, releasing `bytes` of arguments. */
  ret(bytes?: number): this {
    return bytes === undefined
      ? this.emit({ opcode: [0xc3], ...this.#plainSize() })
      : this.emit({ opcode: [0xc2], imm: { value: bytes, size: 2 }, ...this.#plainSize() });
  }

  /** RET far with operands of `size` bytes (the mode's width, or 8 for a 64-bit frame). */
  retf(size: Size = this.#operand()): this {
    return this.emit({ opcode: [0xcb], size });
  }

  /** IRET with operands of `size` bytes (the mode's width; 8 in 64-bit code). */
  iret(size: Size = this.#natural()): this {
    return this.emit({ opcode: [0xcf], size });
  }

  /** JMP far to `selector:target` (not in 64-bit code); `size` is the offset's width. */
  jmpFar(selector: number, target: Imm, size: 2 | 4 = this.mode === 16 ? 2 : 4): this {
    this.emit({ opcode: [0xea], size, imm: { value: target, size } });
    return this.dw(selector);
  }

  /** CALL far to `selector:target` (not in 64-bit code). */
  callFar(selector: number, target: Imm, size: 2 | 4 = this.mode === 16 ? 2 : 4): this {
    this.emit({ opcode: [0x9a], size, imm: { value: target, size } });
    return this.dw(selector);
  }

  /** JMP far through memory; `size` is the offset's width. */
  jmpFarIndirect(target: Mem, size: Size = this.#operand()): this {
    return this.emit({ opcode: [0xff], reg: 5, rm: target, size });
  }

  /** CALL far through memory; `size` is the offset's width. */
  callFarIndirect(target: Mem, size: Size = this.#operand()): this {
    return this.emit({ opcode: [0xff], reg: 3, rm: target, size });
  }

  /** INT n. */
  int(vector: number): this {
    return this.emit({ opcode: [0xcd], imm: { value: vector, size: 1 }, ...this.#plainSize() });
  }

  /** SYSRET to 32-bit code, or with `size` 8 to 64-bit code. */
  sysret(size: 4 | 8 = 8): this {
    return this.emit({ opcode: [0x0f, 0x07], size });
  }

  /** IN to `al`, `ax` or `eax` from a constant port below 256 or `dx`. */
  in(to: "al" | "ax" | "eax", port: number | "dx"): this {
    return this.#portIo(0xe4, to, port);
  }

  /** OUT from `al`, `ax` or `eax`. */
  out(port: number | "dx", from: "al" | "ax" | "eax"): this {
    return this.#portIo(0xe6, from, port);
  }

  /** INS of 1, 2 or 4 bytes. */
  ins(size: 1 | 2 | 4): this {
    return this.emit({ opcode: [size === 1 ? 0x6c : 0x6d], size });
  }

  /** OUTS of 1, 2 or 4 bytes. */
  outs(size: 1 | 2 | 4): this {
    return this.emit({ opcode: [size === 1 ? 0x6e : 0x6f], size });
  }

  /** MOVS, CMPS, STOS, LODS, SCAS. */
  string(name: keyof typeof STRING, size: Size): this {
    return this.emit({ opcode: [STRING[name] | (size === 1 ? 0 : 1)], size });
  }

  /** An instruction without operands. */
  op(name: keyof typeof PLAIN): this {
    return this.emit({ opcode: PLAIN[name], ...this.#plainSize() });
  }

  /** LGDT, LIDT, SGDT, SIDT. */
  table(name: keyof typeof TABLES, operand: Mem): this {
    return this.emit({
      opcode: [0x0f, 0x01],
      reg: TABLES[name],
      rm: operand,
      ...this.#plainSize(),
    });
  }

  /** LLDT, LTR, SLDT, STR, VERR, VERW. */
  selector(name: keyof typeof SELECTORS, operand: RegOrMem): this {
    return this.emit({
      opcode: [0x0f, 0x00],
      reg: SELECTORS[name],
      rm: this.#rm(operand),
      ...this.#plainSize(),
    });
  }

  /** LAR. */
  lar(to: Reg, from: RegOrMem): this {
    const { code, size } = regInfo(to);
    return this.emit({ opcode: [0x0f, 0x02], size, reg: code, rm: this.#rm(from) });
  }

  /** LSL. */
  lsl(to: Reg, from: RegOrMem): this {
    const { code, size } = regInfo(to);
    return this.emit({ opcode: [0x0f, 0x03], size, reg: code, rm: this.#rm(from) });
  }

  /** RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE. */
  segmentBase(name: "rdfs" | "rdgs" | "wrfs" | "wrgs", operand: Reg): this {
    const { code, size } = regInfo(operand);
    const reg = ["rdfs", "rdgs", "wrfs", "wrgs"].indexOf(name);
    return this.emit({ mandatory: 0xf3, opcode: [0x0f, 0xae], reg, rm: code, size });
  }

  /** LMSW. */
  lmsw(operand: RegOrMem): this {
    return this.emit({ opcode: [0x0f, 0x01], reg: 6, rm: this.#rm(operand), ...this.#plainSize() });
  }

  /** SMSW. */
  smsw(to: Reg): this {
    const { size } = regInfo(to);
    return this.emit({ opcode: [0x0f, 0x01], reg: 4, rm: this.#rm(to), size });
  }

  /** INVLPG. */
  invlpg(operand: Mem): this {
    return this.emit({ opcode: [0x0f, 0x01], reg: 7, rm: operand, ...this.#plainSize() });
  }

  /** BOUND, ARPL and others are not here; MOVUPS load or store. */
  movups(to: XmmReg | Mem, from: XmmReg | Mem): this {
    if (isMem(to)) {
      return this.emit({ opcode: [0x0f, 0x11], reg: xmm(from), rm: to, ...this.#plainSize() });
    }
    const rm = isMem(from) ? from : xmm(from);
    return this.emit({ opcode: [0x0f, 0x10], reg: xmm(to), rm, ...this.#plainSize() });
  }

  #movImmediate(to: Reg, value: Imm): this {
    const { code, size } = regInfo(to);
    if (size === 1) {
      return this.emit({
        opcode: [0xb0],
        inOpcode: code,
        size,
        byteRegs: [to],
        imm: { value, size },
      });
    }
    if (size === 8 && !isRef(value) && value >= -0x8000_0000 && value < 0x8000_0000) {
      return this.emit({ opcode: [0xc7], size, rm: code, imm: { value, size: 4 } });
    }
    return this.emit({ opcode: [0xb8], inOpcode: code, size, imm: { value, size } });
  }

  #movSystem(to: unknown, from: unknown): this {
    const store = isSystemReg(from);
    const system = String(store ? from : to);
    const general = store ? to : from;
    if (!isReg(general)) throw new TypeError("control and debug registers move to registers only");
    const opcode = (system.startsWith("c") ? 0x20 : 0x21) | (store ? 0 : 2);
    return this.emit({
      opcode: [0x0f, opcode],
      reg: Number(system.slice(2)),
      rm: regInfo(general).code,
      ...this.#plainSize(),
    });
  }

  #twoWay(opcode: number, to: RegOrMem, from: RegOrMem): this {
    if (isReg(from)) {
      const { code, size } = regInfo(from);
      const low = size === 1 ? 0 : 1;
      return this.emit({
        opcode: [opcode | low],
        size,
        reg: code,
        rm: this.#rm(to),
        byteRegs: [to, from],
      });
    }
    if (!isReg(to)) throw new TypeError("one operand must be a register");
    const { code, size } = regInfo(to);
    return this.emit({
      opcode: [opcode | 2 | (size === 1 ? 0 : 1)],
      size,
      reg: code,
      rm: from,
      byteRegs: [to],
    });
  }

  #extend(opcode: number, to: Reg, from: RegOrMem): this {
    const { code, size } = regInfo(to);
    const wide = this.#size(from) === 2 ? 1 : 0;
    return this.emit({
      opcode: [0x0f, opcode | wide],
      size,
      reg: code,
      rm: this.#rm(from),
      byteRegs: [from],
    });
  }

  #group(opcode: number, extension: number, operand: RegOrMem): this {
    const size = this.#size(operand);
    const low = size === 1 ? 0 : 1;
    return this.emit({
      opcode: [opcode | low],
      size,
      reg: extension,
      rm: this.#rm(operand),
      byteRegs: [operand],
    });
  }

  #branch(target: Target, opcode: number, extension: number): this {
    if (isReg(target) || isMem(target)) {
      const size = isReg(target) ? regInfo(target).size : this.#natural();
      return this.emit({
        opcode: [0xff],
        reg: extension,
        rm: this.#rm(target),
        size,
        default64: true,
      });
    }
    const imm = { value: ref(target), size: this.#nearSize(), relative: true };
    return this.emit({ opcode: [opcode], imm, ...this.#plainSize() });
  }

  #short(opcode: number, label: string): this {
    const imm = { value: ref(label), size: 1 as const, relative: true };
    return this.emit({ opcode: [opcode], imm, ...this.#plainSize() });
  }

  #portIo(opcode: number, register: Reg, port: number | "dx"): this {
    const { size } = regInfo(register);
    const low = size === 1 ? 0 : 1;
    return port === "dx"
      ? this.emit({ opcode: [opcode | 8 | low], size })
      : this.emit({ opcode: [opcode | low], size, imm: { value: port, size: 1 } });
  }

  #rm(operand: unknown): number | Mem {
    if (isReg(operand)) return regInfo(operand).code;
    if (isMem(operand)) return operand;
    throw new TypeError(`not a register or memory: ${String(operand)}`);
  }

  #size(operand: unknown): Size {
    if (isReg(operand)) return regInfo(operand).size;
    if (isMem(operand) && operand.size !== undefined) return operand.size;
    throw new TypeError("the operand's size is not known");
  }

  /** Width of the stack and of pointers. */
  #natural(): Size {
    return this.mode === 64 ? 8 : this.mode === 32 ? 4 : 2;
  }

  /** Operand size without prefixes. */
  #operand(): Size {
    return this.mode === 16 ? 2 : 4;
  }

  #nearSize(): 2 | 4 {
    return this.mode === 16 ? 2 : 4;
  }

  /** No operand-size prefix and no REX.W. */
  #plainSize(): Pick<Instruction, "size" | "default64"> {
    return { size: this.#natural(), default64: true };
  }
}

function xmm(name: XmmReg | Mem): number {
  if (isMem(name)) throw new TypeError("one operand must be a register");
  return Number(name.slice(3));
}
