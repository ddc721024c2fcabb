/**
 * IRETQ of 64-bit kernels as generated code: what it comes to nearly always, with flat segments and
 * without single-stepping. Anything else goes to the host call.
 *
 * @module
 */

import {
  add,
  and,
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  type Label,
  load,
  type Local,
  ltU,
  ne,
  or,
  select,
  shl,
  shrS,
  shrU,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { Host } from "../host_calls.ts";
import {
  CodeMode,
  CPU,
  Flag,
  Mailbox,
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

import { FLAT_CODE64, FLAT_CODE64_ATTRS } from "./fast_delivery.ts";

/** Descriptor of flat writable data of privilege 0, accessed. */
const DATA = 0x00cf_9300_0000_ffffn;
/** Its attributes in a segment register. */
const DATA_ATTRS = 0x00c0_9300;

/** Flags besides the arithmetic ones that a program may have. */
const OTHER_FLAGS = Flag.TF | Flag.IF | Flag.DF | Flag.IOPL | Flag.NT | Flag.AC |
  Flag.VIF | Flag.VIP | Flag.ID;

function field(seg: Seg, name: keyof typeof SegField): number {
  return segOffset(seg) + SegField[name];
}

/** Loads a flat segment. */
function setFlat(
  c: Cx,
  seg: Seg,
  what: { selector: Expr; attrs: Expr },
): void {
  c.setS64(field(seg, "base"), i64(0));
  c.setS32(field(seg, "limit"), i32(-1));
  c.setS32(field(seg, "attrs"), what.attrs);
  c.setS32(field(seg, "selector"), what.selector);
}

function isNot64(c: Cx): Expr {
  return ne(and(c.s32(S.codeTag), CodeMode.sizeMask), i32(CodeMode.bits64));
}

function notCanonical(address: Expr): Expr {
  return ne(shrS(shl(address, 16), 16), address);
}

/** The supervisor TLB that EFLAGS.AC chooses. */
function supervisorTlb(flags: Expr): Expr {
  return select(ne(and(flags, Flag.AC), i32(0)), i32(TLB_SUPER_AC), i32(TLB_SUPER));
}

/** Flags besides the arithmetic ones; where IF comes on and work waits, the runtime looks at it. */
function setFlags(c: Cx, flags: Expr, mask: number): void {
  const f = c.f;
  const before = f.let(c.s32(S.flagOther));
  const after = f.let(or(and(flags, mask), 2));
  c.setS32(S.flagOther, after);
  f.if(
    and(
      and(ne(and(after, Flag.IF), i32(0)), eqz(and(before, Flag.IF))),
      ne(c.s32(S.mailbox), i32(0)),
    ),
    () => c.setS32(S.fuel, i32(-1)),
  );
}

/** Privilege 3 in 64-bit code. */
function enterUser(c: Cx): void {
  c.setS32(S.cpl, i32(3));
  c.setS32(S.codeTag, i32(CodeMode.bits64 | CodeMode.user));
  c.setS32(S.tlbBase, i32(TLB_USER));
}

/** IRETQ from privilege 0 to 64-bit code of privilege 0 or 3; else the host call. */
export function interruptReturn(c: Cx): void {
  if (c.size === 8) c.f.block((slow) => returnQuickly(c, slow));
  c.host(Host.interruptReturn);
}

function returnQuickly(c: Cx, slow: Label): void {
  const f = c.f;
  f.brIf(slow, ne(c.s32(S.cpl), i32(0)));
  f.brIf(slow, isNot64(c));
  f.brIf(slow, ne(and(c.s32(S.flagOther), Flag.NT), i32(0)));
  // It ends the handling of an NMI.
  f.brIf(slow, ne(c.s32(S.nmiBlocked), i32(0)));
  // Data breakpoints; and those of instructions, for which RF counts.
  f.brIf(slow, ne(c.s32(S.checks), i32(0)));
  f.brIf(slow, ne(and(c.s32(S.dr + 8 * 7), 0xff), i32(0)));
  const sp = f.let(c.reg(Reg.rsp, 8));
  const at = (n: number) => c.load(f.let(add(sp, 8 * n)), 8);
  const rip = c.load(sp, 8);
  const cs = f.let(and(wrap(at(1)), 0xffff));
  const flags = at(2);
  const rsp = at(3);
  const ss = f.let(and(wrap(at(4)), 0xffff));
  f.brIf(slow, notCanonical(rip));
  f.brIf(slow, ne(and(flags, BigInt(Flag.TF)), i64(0)));
  const rpl = f.let(and(cs, 3));
  // Levels 1 and 2 are rare: RPL is 0, or 3.
  f.brIf(slow, ne(shrU(rpl, 1), and(rpl, 1)));
  f.brIf(slow, ne(descriptor(c, cs, slow), or(i64(FLAT_CODE64), shl(extU(rpl), 45))));
  f.if(eqz(rpl), () => {
    f.if(ne(ss, c.s32(field(Seg.SS, "selector"))), () => {
      f.brIf(slow, ne(ss, i32(0)));
      c.setS64(field(Seg.SS, "base"), i64(0));
      c.setS32(field(Seg.SS, "limit"), i32(0));
      c.setS32(field(Seg.SS, "attrs"), i32(SegAttr.unusable));
      c.setS32(field(Seg.SS, "selector"), i32(0));
    });
    setFlat(c, Seg.CS, { selector: cs, attrs: i32(FLAT_CODE64_ATTRS) });
    c.setS32(S.tlbBase, supervisorTlb(wrap(flags)));
  }, () => {
    f.brIf(slow, ne(and(ss, 3), i32(3)));
    // There, AC is for alignment checks.
    f.brIf(slow, ne(and(flags, BigInt(Flag.AC)), i64(0)));
    f.brIf(slow, ne(descriptor(c, ss, slow), i64(DATA | (3n << 45n))));
    // Data segments of ring 0 would have to be emptied.
    for (const seg of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
      const attrs = f.let(c.s32(field(seg, "attrs")));
      f.brIf(slow, and(eqz(and(attrs, SegAttr.unusable)), ne(and(attrs, 0x6000), i32(0x6000))));
    }
    setFlat(c, Seg.CS, { selector: cs, attrs: i32(FLAT_CODE64_ATTRS | 0x6000) });
    setFlat(c, Seg.SS, { selector: ss, attrs: i32(DATA_ATTRS | 0x6000) });
    enterUser(c);
  });
  setFlags(c, wrap(flags), OTHER_FLAGS);
  c.setArithFlags(flags);
  c.setReg(Reg.rsp, rsp, 8);
  if (c.runtime.smp) {
    // It serializes: code that other vCPUs wrote before is seen from here on.
    f.if(and(c.s32(S.mailbox), Mailbox.code), () => c.setS32(S.fuel, i32(-1)));
  }
  c.jump(rip);
}

/** The descriptor of `selector` in the GDT; slow for the LDT and beyond the limit. */
function descriptor(c: Cx, selector: Local, slow: Label): Local {
  const f = c.f;
  f.brIf(slow, ne(and(selector, 4), i32(0)));
  f.brIf(slow, ltU(and(c.s32(S.gdtLimit), 0xffff), or(selector, 7)));
  const address = f.let(add(load.i64(CPU, i32(0), S.gdtBase), extU(and(selector, 0xfff8))));
  return c.load(address, 8);
}
