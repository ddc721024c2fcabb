/**
 * SYSCALL and SYSRET of 64-bit code (AMD APM vol. 3; Intel SDM vol. 2), generated. What is not plain 64-bit code
 * to 64-bit code goes to TypeScript.
 *
 * @module
 */

import {
  add,
  and,
  call,
  eq,
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  ne,
  or,
  select,
  shl,
  shrS,
  shrU,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { Host } from "../host_calls.ts";
import { type Insn, insn } from "../opcode.ts";
import {
  CodeMode,
  CPU,
  Flag,
  Reg,
  S,
  Seg,
  SegAttr,
  SegField,
  segOffset,
  TLB_SUPER,
  TLB_SUPER_AC,
  TLB_USER,
} from "../state.ts";

/** Attributes of a flat 64-bit code segment, without DPL. */
const CODE64 = SegAttr.present | SegAttr.s | SegAttr.code | SegAttr.writable | SegAttr.accessed |
  SegAttr.long | SegAttr.granularity;
/** Attributes of a flat data segment, without DPL. */
const DATA = SegAttr.present | SegAttr.s | SegAttr.writable | SegAttr.accessed | SegAttr.db |
  SegAttr.granularity;

function setFlat(c: Cx, seg: Seg, to: { selector: Expr; attrs: number }): void {
  const at = segOffset(seg);
  c.setS64(at + SegField.base, i64(0));
  c.setS32(at + SegField.limit, i32(-1));
  c.setS32(at + SegField.attrs, i32(to.attrs));
  c.setS32(at + SegField.selector, to.selector);
}

/** True (i32) in 64-bit mode with EFER.SCE, while accesses need no checks. */
function fast(c: Cx): Expr {
  return and(
    and(
      eq(and(c.s32(S.codeTag), CodeMode.sizeMask), i32(CodeMode.bits64)),
      wrap(and(c.s64(S.efer), 1)),
    ),
    eqz(c.s32(S.checks)),
  );
}

/** What a host call does, on one path of the handler. */
function slowly(c: Cx, id: Host): void {
  const f = c.f;
  c.setS64(S.rip, c.nextRip());
  c.setS32(S.record, c.rec);
  const result = f.let(call(c.runtime.host, i32(id), c.rec));
  f.if(eqz(result), () => c.next());
  f.if(eq(result, i32(1)), () => c.jump(c.s64(S.rip)));
  f.return(c.s32(S.exit));
}

const syscall = (c: Cx) => {
  const f = c.f;
  f.if(eqz(fast(c)), () => slowly(c, Host.syscall));
  const other = f.let(and(c.s32(S.flagOther), ~Flag.RF));
  const flags = f.let(or(extU(other), c.arithFlags()));
  c.setReg(Reg.rcx, c.nextRip(), 8);
  c.setReg(11, flags, 8);
  const kept = f.let(or(and(flags, xorOnes(c.s64(S.sfmask))), 2));
  c.setArithFlags(kept);
  const rest = f.let(and(wrap(kept), ~ARITH));
  c.setS32(S.flagOther, rest);
  const selector = f.let(and(wrap(shrU(c.s64(S.star), 32)), 0xfffc));
  setFlat(c, Seg.CS, { selector, attrs: CODE64 });
  setFlat(c, Seg.SS, { selector: add(selector, 8), attrs: DATA });
  c.setS32(S.cpl, i32(0));
  c.setS32(S.codeTag, i32(CodeMode.bits64));
  c.setS32(
    S.tlbBase,
    select(and(rest, Flag.AC), i32(TLB_SUPER_AC), i32(TLB_SUPER)),
  );
  c.jump(c.s64(S.lstar));
  c.end();
};

const sysret = (c: Cx) => {
  const f = c.f;
  const target = f.let(c.reg(Reg.rcx, 8));
  const canonical = eq(shrS(shl(target, 16), 16), target);
  const user = and(
    and(fast(c), eqz(c.s32(S.cpl))),
    and(and(i32(c.size === 8 ? 1 : 0), canonical), eqz(and(c.reg(11, 8), Flag.AC))),
  );
  f.if(eqz(user), () => slowly(c, Host.sysret));
  const flags = f.let(or(and(c.reg(11, 8), 0x3c7fd7), 2));
  c.setArithFlags(flags);
  c.setS32(S.flagOther, and(wrap(flags), ~ARITH));
  const base = f.let(wrap(shrU(c.s64(S.star), 48)));
  setFlat(c, Seg.CS, {
    selector: or(and(add(base, 16), 0xffff), 3),
    attrs: CODE64 | (3 << SegAttr.dplShift),
  });
  setFlat(c, Seg.SS, {
    selector: or(and(add(base, 8), 0xffff), 3),
    attrs: DATA | (3 << SegAttr.dplShift),
  });
  c.setS32(S.cpl, i32(3));
  c.setS32(S.codeTag, i32(CodeMode.bits64 | CodeMode.user));
  c.setS32(S.tlbBase, i32(TLB_USER));
  // Interrupts that waited for IF are looked at right away.
  f.if(ne(c.s32(S.mailbox), i32(0)), () => f.store32(CPU, i32(0), i32(0), S.fuel));
  c.jump(target);
  c.end();
};

const ARITH = Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.OF;

function xorOnes(a: Expr): Expr {
  return xor(a, i64(-1n));
}

/** Rows of the fast system calls. */
export const fastCallRows: readonly Insn[] = [
  insn("syscall", "0f 05 end", "", syscall),
  insn("sysret", "0f 07 sz end", "", sysret),
];
