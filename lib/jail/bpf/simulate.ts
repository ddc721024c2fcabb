/**
 * Runs a filter as the kernel would, on a call that is only described.
 *
 * @module
 */

import { JailError } from "../errors.ts";
import { ARGUMENT_COUNT } from "../policy/ast.ts";
import { AUDIT_ARCH_X86_64, type SyscallData } from "../policy/evaluate.ts";
import {
  DATA_BYTES,
  DataOffset,
  type Instruction,
  MAX_INSTRUCTIONS,
  Op,
  SCRATCH_WORDS,
} from "./instruction.ts";

const KNOWN_CODES: ReadonlySet<number> = new Set(Object.values(Op));
const CONDITIONAL: ReadonlySet<number> = new Set([
  Op.JumpEqual,
  Op.JumpEqualIndex,
  Op.JumpGreater,
  Op.JumpGreaterIndex,
  Op.JumpGreaterOrEqual,
  Op.JumpGreaterOrEqualIndex,
  Op.JumpAnyBit,
  Op.JumpAnyBitIndex,
]);

/**
 * Checks what the kernel checks before it takes a filter (bpf_check_classic and seccomp_check_filter).
 * @throws {JailError} which names the instruction.
 */
export function verifyProgram(program: readonly Instruction[]): void {
  if (program.length === 0 || program.length > MAX_INSTRUCTIONS) {
    throw new JailError(
      `a filter has 1 to ${MAX_INSTRUCTIONS} instructions, this one has ${program.length}`,
    );
  }
  program.forEach((instruction, index) => {
    const problem = problemOf(instruction, program.length - index - 1);
    if (problem !== undefined) throw new JailError(`instruction ${index}: ${problem}`);
  });
  const last = program.at(-1)!;
  if (last.code !== Op.Return && last.code !== Op.ReturnAccumulator) {
    throw new JailError("the last instruction of a filter returns, this one does not");
  }
}

function problemOf({ code, jt, jf, k }: Instruction, behind: number): string | undefined {
  if (!KNOWN_CODES.has(code)) return `code 0x${code.toString(16)} is not one that seccomp takes`;
  if (CONDITIONAL.has(code) && (jt >= behind || jf >= behind)) return "jumps out of the filter";
  if (code === Op.Jump && k >= behind) return "jumps out of the filter";
  if (code === Op.LoadWord && (k >= DATA_BYTES || k % 4 !== 0)) {
    return `loads from offset ${k}, expected a multiple of 4 below ${DATA_BYTES}`;
  }
  const usesScratch = code === Op.LoadScratch || code === Op.LoadIndexScratch ||
    code === Op.Store || code === Op.StoreIndex;
  if (usesScratch && k >= SCRATCH_WORDS) return `uses word ${k} of ${SCRATCH_WORDS}`;
  if (code === Op.DivideConstant && k === 0) return "divides by zero";
  if ((code === Op.ShiftLeftConstant || code === Op.ShiftRightConstant) && k >= 32) {
    return `shifts by ${k} bits`;
  }
  return undefined;
}

/** struct seccomp_data of a call. */
export function encodeCall(call: SyscallData): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(DATA_BYTES));
  view.setUint32(DataOffset.Number, call.number, true);
  view.setUint32(DataOffset.Arch, call.arch ?? AUDIT_ARCH_X86_64, true);
  view.setBigUint64(DataOffset.InstructionPointer, call.instructionPointer ?? 0n, true);
  for (let index = 0; index < ARGUMENT_COUNT; index++) {
    view.setBigUint64(DataOffset.Arguments + index * 8, call.args?.[index] ?? 0n, true);
  }
  return view;
}

/** How a filter ended. */
export interface Run {
  /** What it returned; 32 bits without a sign. */
  readonly value: number;
  /** Instructions that it took. */
  readonly steps: number;
}

/**
 * Runs `program` on `call`.
 * @throws {JailError} for a program that {@link verifyProgram} refuses.
 */
export function simulate(program: readonly Instruction[], call: SyscallData): Run {
  verifyProgram(program);
  const data = encodeCall(call);
  const scratch = new Uint32Array(SCRATCH_WORDS);
  let accumulator = 0;
  let index = 0;
  let at = 0;
  // Jumps go forward only, so this ends.
  for (let steps = 1;; steps++) {
    const { code, jt, jf, k } = program[at]!;
    const operand = (code & 0x08) === 0 ? k : index;
    at++;
    switch (code) {
      case Op.Return:
        return { value: k, steps };
      case Op.ReturnAccumulator:
        return { value: accumulator, steps };
      case Op.LoadWord:
        accumulator = data.getUint32(k, true);
        break;
      case Op.LoadLength:
        accumulator = DATA_BYTES;
        break;
      case Op.LoadImmediate:
        accumulator = k;
        break;
      case Op.LoadScratch:
        accumulator = scratch[k]!;
        break;
      case Op.LoadIndexLength:
        index = DATA_BYTES;
        break;
      case Op.LoadIndexImmediate:
        index = k;
        break;
      case Op.LoadIndexScratch:
        index = scratch[k]!;
        break;
      case Op.Store:
        scratch[k] = accumulator;
        break;
      case Op.StoreIndex:
        scratch[k] = index;
        break;
      case Op.MoveToIndex:
        index = accumulator;
        break;
      case Op.MoveFromIndex:
        accumulator = index;
        break;
      case Op.Jump:
        at += k;
        break;
      case Op.JumpEqual:
      case Op.JumpEqualIndex:
        at += accumulator === operand ? jt : jf;
        break;
      case Op.JumpGreater:
      case Op.JumpGreaterIndex:
        at += accumulator > operand ? jt : jf;
        break;
      case Op.JumpGreaterOrEqual:
      case Op.JumpGreaterOrEqualIndex:
        at += accumulator >= operand ? jt : jf;
        break;
      case Op.JumpAnyBit:
      case Op.JumpAnyBitIndex:
        at += (accumulator & operand) !== 0 ? jt : jf;
        break;
      default: {
        const result = calculate(code, accumulator, operand);
        // As in the kernel, where a division by zero ends a filter with 0.
        if (result === undefined) return { value: 0, steps };
        accumulator = result;
      }
    }
  }
}

/** Result of an arithmetic instruction; undefined for a division by zero. */
function calculate(code: number, left: number, right: number): number | undefined {
  switch (code & ~0x08) {
    case Op.AddConstant:
      return (left + right) >>> 0;
    case Op.SubtractConstant:
      return (left - right) >>> 0;
    case Op.MultiplyConstant:
      return Math.imul(left, right) >>> 0;
    case Op.DivideConstant:
      return right === 0 ? undefined : Math.floor(left / right);
    case Op.OrConstant:
      return (left | right) >>> 0;
    case Op.AndConstant:
      return (left & right) >>> 0;
    case Op.ShiftLeftConstant:
      return (left << (right & 31)) >>> 0;
    case Op.ShiftRightConstant:
      return left >>> (right & 31);
    case Op.XorConstant:
      return (left ^ right) >>> 0;
    case Op.Negate:
      return -left >>> 0;
    default:
      throw new JailError(`code 0x${code.toString(16)} is not one that seccomp takes`);
  }
}
