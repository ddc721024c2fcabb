/**
 * A small x86 assembler for test guests.
 *
 * @module
 */

export { Assembler, type Condition, type Target } from "./assembler.ts";
export type { Bits } from "./encoder.ts";
export {
  at,
  type Imm,
  type Mem,
  type Ref,
  ref,
  type Reg,
  type RegOrMem,
  type SegmentReg,
  type Size,
  type SystemReg,
  type XmmReg,
} from "./operands.ts";
