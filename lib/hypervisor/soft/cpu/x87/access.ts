/**
 * What x87 instructions share: whether the guest may use them now, the register stack, the words
 * (Intel SDM vol. 1, 8.1).
 *
 * @module
 */

import { and, type Expr, i32, i64, or } from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { type Insn, insn, type Semantics } from "../opcode.ts";
import { S } from "../state.ts";

/** Bits of the status word. */
export const Sw = {
  stackFault: 0x40,
  summary: 0x80,
  c0: 0x100,
  c1: 0x200,
  c2: 0x400,
  top: 0x3800,
  topShift: 11,
  c3: 0x4000,
  busy: 0x8000,
} as const;

/** Raises #NM or #MF where an x87 instruction that waits cannot run now. */
export function enterX87(c: Cx): void {
  c.f.if(
    or(and(c.s32(S.fpuTrap), 1), and(c.s32(S.fpuSw), Sw.summary)),
    () => c.trap("x87Trap"),
  );
}

/** Raises #NM where an x87 instruction that does not wait cannot run now. */
export function enterNoWait(c: Cx): void {
  c.f.if(and(c.s32(S.fpuTrap), 1), () => c.trap("x87Trap"));
}

/** A row of an instruction that waits for pending exceptions. */
export function x87(
  mnemonic: string,
  encoding: string,
  operands: string,
  semantics: Semantics,
): Insn {
  return insn(mnemonic, encoding, operands, (c) => {
    enterX87(c);
    semantics(c);
  });
}

/** A row of an instruction that does not wait. */
export function noWait(
  mnemonic: string,
  encoding: string,
  operands: string,
  semantics: Semantics,
): Insn {
  return insn(mnemonic, encoding, operands, (c) => {
    enterNoWait(c);
    semantics(c);
  });
}

/** A control word as the processor keeps it: bit 6 is always set, bits 7 and 13 to 15 never. */
export function controlWord(value: Expr): Expr {
  return or(and(value, 0x1f7f), 0x40);
}

/** Control word after FNINIT. */
export const CW_DEFAULT = 0x37f;

/** State after FNINIT. */
export function resetX87(c: Cx): void {
  c.setS32(S.fpuCw, i32(CW_DEFAULT));
  c.setS32(S.fpuSw, i32(0));
  c.setS32(S.fpuEmpty, i32(0xff));
  for (const offset of [S.fpuIp, S.fpuDp]) c.setS64(offset, i64(0));
  c.setS32(S.fpuOpcode, i32(0));
  c.setS32(S.fpuSelectors, i32(0));
}
