/**
 * Moves, stack, address and flag-register instructions (Intel SDM vol. 1, 7.3.1 and 7.3.14).
 *
 * @module
 */

import {
  add,
  and,
  type Expr,
  extU,
  i64,
  or,
  select,
  shl,
  shrU,
  signExtend,
  xor,
} from "../../wasm/mod.ts";
import { load } from "../../wasm/mod.ts";
import { type Cx, Locked } from "../cx.ts";
import { type Insn, insn, type Semantics } from "../opcode.ts";
import { CPU, Flag, Rec, Reg, S, SegField } from "../state.ts";
import { condition, conditions } from "./conditions.ts";
import { Host } from "../host_calls.ts";

const rows: Insn[] = [];

const mov: Semantics = (c) => c.set(0, c.get(1));
rows.push(
  insn("mov", "88 /r", "Eb Gb", mov),
  insn("mov", "89 /r", "Ev Gv", mov),
  insn("mov", "8a /r", "Gb Eb", mov),
  insn("mov", "8b /r", "Gv Ev", mov),
  insn("mov", "a0", "Ab Ob", mov),
  insn("mov", "a1", "Av Ov", mov),
  insn("mov", "a2", "Ob Ab", mov),
  insn("mov", "a3", "Ov Av", mov),
  insn("mov", "b0+r", "Zb Ib", mov),
  insn("mov", "b8+r", "Zv Iv", mov),
  insn("mov", "c6 /0", "Eb Ib", mov),
  insn("mov", "c7 /0", "Ev Iz", mov),
  insn("movnti", "np 0f c3 /r mem", "My Gy", mov),
  insn("movzx", "0f b6 /r", "Gv Eb", mov),
  insn("movzx", "0f b7 /r", "Gv Ew", mov),
);

const movsx: Semantics = (c) => c.set(0, signExtend(c.get(1, "any"), c.operandSize(1)));
rows.push(
  insn("movsx", "0f be /r", "Gv Eb", movsx),
  insn("movsx", "0f bf /r", "Gv Ew", movsx),
  // With an operand size of 16 bits it moves and reads only those.
  insn("movsxd", "63 /r o64", "Gv Ed", (c) => {
    if (c.size !== 2) movsx(c);
    else c.set(0, c.isMemory(1) ? c.load(c.ea(), 2) : c.get(1));
  }),
);

// MOV from a segment register: a register destination takes the operand size, memory 16 bits.
const selectorOf = (c: Cx): Expr => load.i64_16u(CPU, c.rec16(Rec.a), SegField.selector);
rows.push(
  insn("mov", "8c /r mem", "Mw Sw", (c) => c.set(0, selectorOf(c))),
  insn("mov", "8c /r reg", "Rv Sw", (c) => c.set(0, selectorOf(c))),
  insn("mov", "8e /r", "Sw Ew", (c) => {
    c.setS64(S.scratch, c.get(1));
    c.host(Host.loadSegment);
  }),
);

rows.push(insn("lea", "8d /r", "Gv M", (c) => {
  c.set(0, c.offset());
}));

const xchg: Semantics = (c) => {
  const b = c.f.let(c.get(1));
  const a = c.locked ? c.rmw(Locked.xchg, b) : c.f.let(c.modify(0));
  if (!c.locked) c.set(0, b);
  c.set(1, a);
};
rows.push(
  insn("xchg", "86 /r lock", "Eb Gb", xchg),
  insn("xchg", "87 /r lock", "Ev Gv", xchg),
  insn("pause", "f3 90", "", (c) => {
    if (c.runtime.smp) c.setS32(S.pauses, add(c.s32(S.pauses), 1));
  }),
  insn("nop", "90 nob", "", () => {}),
  insn("xchg", "90+r", "Zv Av", xchg),
);

for (const [n, name] of conditions.entries()) {
  const hex = n.toString(16);
  rows.push(
    insn(`cmov${name}`, `0f 4${hex} /r`, "Gv Ev", (c) => {
      const b = c.f.let(c.get(1));
      c.set(0, select(condition(c, n), b, c.get(0)));
    }),
    insn(`set${name}`, `0f 9${hex} /r`, "Eb", (c) => c.set(0, extU(condition(c, n)))),
  );
}

const nop: Semantics = () => {};
for (const opcode of ["0d", "18", "19", "1a", "1b", "1c", "1d", "1e", "1f"]) {
  rows.push(insn("nop", `0f ${opcode} /r`, "Ev", nop));
}

// --- stack -----------------------------------------------------------------------------------------

const push: Semantics = (c) => c.push(c.get(0), c.size);
rows.push(
  insn("push", "50+r d64", "Zv", push),
  insn("push", "ff /6 d64", "Ev", push),
  insn("push", "68 d64", "Iz", push),
  insn("push", "6a d64 sz", "Isb", push),
);
const pushSeg: Semantics = (c) => c.push(selectorOf(c), c.size);
const popSeg: Semantics = (c) => {
  c.setS64(S.scratch, c.peek(c.size));
  c.host(Host.popSegment);
};
// The segment's number is in the opcode; the decoder puts its slot where `S` operands have it.
for (
  const [opcode, number, words] of [
    ["06", 0, "i64"],
    ["0e", 1, "i64"],
    ["16", 2, "i64"],
    ["1e", 3, "i64"],
    ["0f a0", 4, "d64"],
    ["0f a8", 5, "d64"],
  ] as const
) {
  rows.push(insn("push", `${opcode} ${words} sz seg${number}`, "", pushSeg));
}
for (
  const [opcode, number, words] of [
    ["07", 0, "i64"],
    ["17", 2, "i64"],
    ["1f", 3, "i64"],
    ["0f a1", 4, "d64"],
    ["0f a9", 5, "d64"],
  ] as const
) {
  rows.push(insn("pop", `${opcode} ${words} sz seg${number}`, "", popSeg));
}

const pop: Semantics = (c) => {
  const value = c.f.let(c.peek(c.size));
  if (c.isMemory(0)) {
    // The decoder has added the operand size to the displacement of an RSP-based address.
    c.set(0, value);
    c.dropStack(c.size);
  } else {
    // POP RSP: the popped value wins over the increment.
    c.dropStack(c.size);
    c.set(0, value);
  }
};
rows.push(
  insn("pop", "58+r d64", "Zv", pop),
  insn("pop", "8f /0 d64", "Ev", pop),
);

rows.push(
  insn("pusha", "60 i64 sz", "", (c) => c.host(Host.pusha)),
  insn("popa", "61 i64 sz", "", (c) => c.host(Host.popa)),
  insn("leave", "c9 d64 sz", "", (c) => {
    if (c.size !== 8) {
      c.host(Host.leave);
      return;
    }
    const rbp = c.f.let(c.reg(Reg.rbp, 8));
    const value = c.load(rbp, 8);
    c.setReg(Reg.rsp, add(rbp, 8), 8);
    c.setReg(Reg.rbp, value, 8);
  }),
  insn("enter", "c8 d64 sz", "Iw Ib", (c) => c.host(Host.enter)),
  insn("xlat", "d7 az", "", (c) => c.host(Host.xlat)),
);

// --- flags -----------------------------------------------------------------------------------------

rows.push(
  insn("pushf", "9c d64 sz", "", (c) => {
    // RF and VM read as zero.
    const rest = and(c.s32(S.flagOther), ~(Flag.RF | Flag.VM));
    c.push(or(extU(rest), c.arithFlags()), c.size);
  }),
  insn("popf", "9d d64 sz", "", (c) => {
    c.setS64(S.scratch, c.peek(c.size));
    c.host(Host.popf);
  }),
  insn("lahf", "9f", "", (c) => {
    const value = or(and(c.arithFlags(), 0xd5), 2);
    c.setReg(Reg.rax, or(and(c.reg(Reg.rax, 2), 0xff), shl(value, 8)), 2);
  }),
  insn("sahf", "9e", "", (c) => {
    const of = and(c.arithFlags(), Flag.OF);
    c.setArithFlags(or(c.f.let(of), and(shrU(c.reg(Reg.rax, 2), 8), 0xd5)));
  }),
  insn("cmc", "f5", "", (c) => c.setCarry(xor(c.cf(), 1))),
  insn("clc", "f8", "", (c) => c.setCarry(i64(0))),
  insn("stc", "f9", "", (c) => c.setCarry(i64(1))),
  insn("cld", "fc", "", (c) => c.setS32(S.flagOther, and(c.s32(S.flagOther), ~Flag.DF))),
  insn("std", "fd", "", (c) => c.setS32(S.flagOther, or(c.s32(S.flagOther), Flag.DF))),
);

/** Rows of moves, stack and flag instructions. */
export const moveRows: readonly Insn[] = rows;
