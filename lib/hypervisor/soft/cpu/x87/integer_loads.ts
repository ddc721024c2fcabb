/**
 * FILD: integers onto the x87 stack (Intel SDM vol. 2). Always exact.
 *
 * @module
 */

import {
  add,
  and,
  clz,
  eqz,
  extU,
  i32,
  i64,
  ltS,
  ne,
  or,
  select,
  shl,
  shrU,
  signExtend,
  sub,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, S } from "../state.ts";
import { Sw, x87 } from "./access.ts";

const fild = (c: Cx): void => {
  const f = c.f;
  const value = f.let(signExtend(c.get(0), c.operandSize(0)));
  const top = f.let(
    and(sub(shrU(c.s32(S.fpuSw), Sw.topShift), 1), 7),
  );
  const occupied = f.let(
    eqz(and(shrU(c.s32(S.fpuEmpty), top), 1)),
  );
  const magnitude = f.let(select(ltS(value, i64(0)), sub(i64(0), value), value));
  const zeros = f.let(clz(magnitude));
  // Exponent bias 16383; bit 63 of the significand is the integer bit. Overflow gives the indefinite.
  const significand = select(
    occupied,
    i64(0xc000000000000000n),
    select(eqz(magnitude), i64(0), shl(magnitude, zeros)),
  );
  const exponent = select(
    occupied,
    i32(0xffff),
    or(
      select(eqz(magnitude), i32(0), sub(i32(16383 + 63), wrap(zeros))),
      shl(ltS(value, i64(0)), 15),
    ),
  );
  const slot = f.let(shl(top, 4));
  f.store64(CPU, slot, significand, S.fpu);
  f.store64(CPU, slot, extU(exponent), S.fpu + 8);
  const sw = or(
    and(c.s32(S.fpuSw), ~(Sw.top | Sw.c1)),
    shl(top, Sw.topShift),
  );
  // Invalid operation, stack fault, C1: overflow.
  c.setS32(S.fpuSw, or(sw, select(occupied, i32(Sw.stackFault | Sw.c1 | 1), i32(0))));
  c.setS32(S.fpuEmpty, and(c.s32(S.fpuEmpty), notBit(top)));
  f.if(ne(occupied, i32(0)), () => f.call(c.helper("x87Summary")));
};

function notBit(n: Parameters<typeof add>[0]) {
  return sub(i32(-1), shl(i32(1), n));
}

/** Rows of FILD. */
export const integerLoadRows: readonly Insn[] = [
  x87("fild", "df /0 mem", "Mw", fild),
  x87("fild", "db /0 mem", "Md", fild),
  x87("fild", "df /5 mem", "Mq", fild),
];
