/**
 * What instructions leave undefined (Intel SDM vol. 2), and so is not compared.
 *
 * @module
 */

import { sizeOf } from "../cpu/opcode.ts";
import { Flag } from "../cpu/state.ts";
import type { Encoding } from "./encodings.ts";
import { Case } from "./native.ts";

const STATUS = Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.OF;

/** Bits of the first operand. */
function width(encoding: Encoding): number {
  const size = encoding.row.operands[0]?.size ?? "b";
  return 8 * sizeOf(size, encoding.size);
}

/** Count of a shift or rotation, masked as the processor does. */
function shiftCount(encoding: Encoding, state: DataView): number {
  const last = encoding.row.operands.at(-1);
  const mask = width(encoding) === 64 ? 63 : 31;
  if (last?.kind === "1") return 1;
  const count = last?.kind === "CL"
    ? state.getUint8(Case.regs + 8)
    : encoding.bytes[encoding.bytes.length - 1] ?? 0;
  return count & mask;
}

/** RFLAGS bits that are undefined after `encoding` ran from `state`. */
export function undefinedFlags(encoding: Encoding, state: DataView): number {
  switch (encoding.row.mnemonic) {
    case "and":
    case "or":
    case "xor":
    case "test":
      return Flag.AF;
    case "shl":
    case "sal":
    case "shr":
    case "sar": {
      const count = shiftCount(encoding, state);
      if (count === 0) return 0;
      const lost = count >= width(encoding) && encoding.row.mnemonic !== "sar" ? Flag.CF : 0;
      return Flag.AF | (count > 1 ? Flag.OF : 0) | lost;
    }
    case "rol":
    case "ror":
    case "rcl":
    case "rcr":
      return shiftCount(encoding, state) > 1 ? Flag.OF : 0;
    case "shld":
    case "shrd": {
      const count = shiftCount(encoding, state);
      if (count === 0) return 0;
      if (count > width(encoding)) return STATUS;
      return Flag.AF | (count > 1 ? Flag.OF : 0);
    }
    case "mul":
    case "imul":
      return Flag.SF | Flag.ZF | Flag.AF | Flag.PF;
    case "div":
    case "idiv":
      return STATUS;
    case "bsf":
    case "bsr":
      return STATUS & ~Flag.ZF;
    case "bt":
    case "bts":
    case "btr":
    case "btc":
      return Flag.OF | Flag.SF | Flag.AF | Flag.PF;
    default:
      return 0;
  }
}

/** Whether the result itself is undefined. */
export function undefinedResult(encoding: Encoding, state: DataView): boolean {
  switch (encoding.row.mnemonic) {
    case "shld":
    case "shrd":
      return shiftCount(encoding, state) > width(encoding);
    case "bswap":
      return encoding.size === 2;
    default:
      return false;
  }
}
