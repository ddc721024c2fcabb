/**
 * Shows filters to people.
 *
 * @module
 */

import { errnoConstantName } from "../policy/constants.ts";
import { syscallName } from "../policy/syscalls.ts";
import { DataOffset, type Instruction, Op, SeccompReturn } from "./instruction.ts";

/** What a filter's return value does, such as `allow` or `errno ENOENT`. */
export function describeReturn(value: number): string {
  const action = (value & 0xffff_0000) >>> 0;
  const data = value & 0xffff;
  switch (action) {
    case SeccompReturn.Allow:
      return "allow";
    case SeccompReturn.Errno:
      return `errno ${errnoConstantName(data)}`;
    case SeccompReturn.Trap:
      return "trap";
    case SeccompReturn.KillProcess:
      return "kill-process";
    case SeccompReturn.KillThread:
      return "kill-thread";
    case SeccompReturn.UserNotify:
      return "user-notify";
    case SeccompReturn.Trace:
      return `trace ${data}`;
    case SeccompReturn.Log:
      return "log";
    default:
      // The kernel takes the unknown as the hardest.
      return `0x${value.toString(16)} (kill-process)`;
  }
}

const COMPARISONS: ReadonlyMap<number, string> = new Map([
  [Op.JumpEqual, "=="],
  [Op.JumpGreater, ">"],
  [Op.JumpGreaterOrEqual, ">="],
  [Op.JumpAnyBit, "&"],
]);
const ARITHMETIC: ReadonlyMap<number, string> = new Map([
  [Op.AddConstant, "+"],
  [Op.SubtractConstant, "-"],
  [Op.MultiplyConstant, "*"],
  [Op.DivideConstant, "/"],
  [Op.OrConstant, "|"],
  [Op.AndConstant, "&"],
  [Op.ShiftLeftConstant, "<<"],
  [Op.ShiftRightConstant, ">>"],
  [Op.XorConstant, "^"],
]);

/** One line for each instruction: its index, what it does, where it leads. */
export function disassemble(program: readonly Instruction[]): string[] {
  const width = String(program.length - 1).length;
  let loaded: number | undefined;
  return program.map((instruction, index) => {
    // What the accumulator holds here on every path is not followed; comparisons with numbers of
    // system calls are only named where the number was the last word loaded above.
    if (instruction.code === Op.LoadWord) loaded = instruction.k;
    const text = describe(instruction, index, loaded === DataOffset.Number);
    return `${String(index).padStart(width)}  ${text}`;
  });
}

function describe({ code, jt, jf, k }: Instruction, index: number, isNumber: boolean): string {
  const isIndexed = (code & 0x08) !== 0;
  const comparison = COMPARISONS.get(code & ~0x08);
  if (comparison !== undefined && (code & 0x07) === 0x05) {
    const operand = isIndexed ? "x" : hex(k);
    const name = isNumber && !isIndexed ? syscallName(k) : undefined;
    const note = name === undefined ? "" : `  ; ${name}`;
    const [yes, no] = [index + 1 + jt, index + 1 + jf];
    return `if a ${comparison} ${operand} goto ${yes} else goto ${no}${note}`;
  }
  const sign = ARITHMETIC.get(code & ~0x08);
  if (sign !== undefined && (code & 0x07) === 0x04) {
    return `a = a ${sign} ${isIndexed ? "x" : hex(k)}`;
  }
  switch (code) {
    case Op.LoadWord:
      return `a = ${describeOffset(k)}`;
    case Op.LoadLength:
      return "a = length";
    case Op.LoadImmediate:
      return `a = ${hex(k)}`;
    case Op.LoadScratch:
      return `a = m[${k}]`;
    case Op.LoadIndexLength:
      return "x = length";
    case Op.LoadIndexImmediate:
      return `x = ${hex(k)}`;
    case Op.LoadIndexScratch:
      return `x = m[${k}]`;
    case Op.Store:
      return `m[${k}] = a`;
    case Op.StoreIndex:
      return `m[${k}] = x`;
    case Op.Negate:
      return "a = -a";
    case Op.MoveToIndex:
      return "x = a";
    case Op.MoveFromIndex:
      return "a = x";
    case Op.Jump:
      return `goto ${index + 1 + k}`;
    case Op.Return:
      return `return ${describeReturn(k)}`;
    case Op.ReturnAccumulator:
      return "return a";
    default:
      return `unknown code ${hex(code)}, jt ${jt}, jf ${jf}, k ${hex(k)}`;
  }
}

function describeOffset(offset: number): string {
  switch (offset) {
    case DataOffset.Number:
      return "number";
    case DataOffset.Arch:
      return "arch";
    case DataOffset.InstructionPointer:
      return "low(ip)";
    case DataOffset.InstructionPointer + 4:
      return "high(ip)";
  }
  const argument = Math.floor((offset - DataOffset.Arguments) / 8);
  return `${offset % 8 === 0 ? "low" : "high"}(arg${argument})`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
