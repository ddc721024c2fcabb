/**
 * Classic BPF as seccomp takes it (linux/filter.h, linux/seccomp.h).
 *
 * @module
 */

/** One instruction (struct sock_filter). */
export interface Instruction {
  /** 16 bits. */
  readonly code: number;
  /** Instructions to skip where a comparison holds, 8 bits. */
  readonly jt: number;
  /** Instructions to skip where it does not, 8 bits. */
  readonly jf: number;
  /** Operand; 32 bits without a sign. */
  readonly k: number;
}

/** Most instructions of a filter (BPF_MAXINSNS). */
export const MAX_INSTRUCTIONS = 4096;

/** Words of scratch memory (BPF_MEMWORDS). */
export const SCRATCH_WORDS = 16;

/** Bytes of an instruction. */
export const INSTRUCTION_BYTES = 8;

/** Codes of instructions: those that seccomp permits. */
export const Op = {
  LoadWord: 0x20,
  LoadLength: 0x80,
  LoadImmediate: 0x00,
  LoadScratch: 0x60,
  LoadIndexLength: 0x81,
  LoadIndexImmediate: 0x01,
  LoadIndexScratch: 0x61,
  Store: 0x02,
  StoreIndex: 0x03,
  AddConstant: 0x04,
  AddIndex: 0x0c,
  SubtractConstant: 0x14,
  SubtractIndex: 0x1c,
  MultiplyConstant: 0x24,
  MultiplyIndex: 0x2c,
  DivideConstant: 0x34,
  DivideIndex: 0x3c,
  OrConstant: 0x44,
  OrIndex: 0x4c,
  AndConstant: 0x54,
  AndIndex: 0x5c,
  ShiftLeftConstant: 0x64,
  ShiftLeftIndex: 0x6c,
  ShiftRightConstant: 0x74,
  ShiftRightIndex: 0x7c,
  Negate: 0x84,
  XorConstant: 0xa4,
  XorIndex: 0xac,
  Jump: 0x05,
  JumpEqual: 0x15,
  JumpEqualIndex: 0x1d,
  JumpGreater: 0x25,
  JumpGreaterIndex: 0x2d,
  JumpGreaterOrEqual: 0x35,
  JumpGreaterOrEqualIndex: 0x3d,
  JumpAnyBit: 0x45,
  JumpAnyBitIndex: 0x4d,
  Return: 0x06,
  ReturnAccumulator: 0x16,
  MoveToIndex: 0x07,
  MoveFromIndex: 0x87,
} as const;

/** Bytes of struct seccomp_data, which a filter reads. */
export const DATA_BYTES = 64;

/** Offsets in struct seccomp_data. */
export const DataOffset = { Number: 0, Arch: 4, InstructionPointer: 8, Arguments: 16 } as const;

/** What a filter returns: an action in the upper 16 bits, its data in the lower ones. */
export const SeccompReturn = {
  KillProcess: 0x8000_0000,
  KillThread: 0x0000_0000,
  Trap: 0x0003_0000,
  Errno: 0x0005_0000,
  UserNotify: 0x7fc0_0000,
  Trace: 0x7ff0_0000,
  Log: 0x7ffc_0000,
  Allow: 0x7fff_0000,
} as const;

/** The program as the kernel takes it: an array of struct sock_filter. */
export function encodeProgram(program: readonly Instruction[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(program.length * INSTRUCTION_BYTES);
  const view = new DataView(bytes.buffer);
  program.forEach(({ code, jt, jf, k }, index) => {
    const at = index * INSTRUCTION_BYTES;
    view.setUint16(at, code, true);
    view.setUint8(at + 2, jt);
    view.setUint8(at + 3, jf);
    view.setUint32(at + 4, k, true);
  });
  return bytes;
}

/** Undoes {@link encodeProgram}; a rest that is no whole instruction is left out. */
export function decodeProgram(bytes: Uint8Array): Instruction[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const program: Instruction[] = [];
  for (let at = 0; at + INSTRUCTION_BYTES <= bytes.length; at += INSTRUCTION_BYTES) {
    program.push({
      code: view.getUint16(at, true),
      jt: view.getUint8(at + 2),
      jf: view.getUint8(at + 3),
      k: view.getUint32(at + 4, true),
    });
  }
  return program;
}

/**
 * An encoded program that returns `to` where `program` returns `from`; undefined where that is nowhere.
 */
export function withReturn(
  program: Uint8Array,
  from: number,
  to: number,
): Uint8Array<ArrayBuffer> | undefined {
  const other = new Uint8Array(program);
  const view = new DataView(other.buffer);
  let found = false;
  for (let at = 0; at + INSTRUCTION_BYTES <= other.length; at += INSTRUCTION_BYTES) {
    if (view.getUint16(at, true) !== Op.Return || view.getUint32(at + 4, true) !== from) continue;
    view.setUint32(at + 4, to, true);
    found = true;
  }
  return found ? other : undefined;
}
