/**
 * Branches, calls and returns (Intel SDM vol. 1, 7.3.8).
 *
 * @module
 */

import { add, and, eqz, i64, ne, select, sub } from "../../wasm/mod.ts";
import { eq, i32, or } from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { Extra, type Insn, insn, type Semantics } from "../opcode.ts";
import { CPU, Reg, S } from "../state.ts";
import { Host } from "../host_calls.ts";
import { interruptReturn } from "../system/fast_iret.ts";
import { condition, conditions } from "./conditions.ts";

const rows: Insn[] = [];

for (const [n, name] of conditions.entries()) {
  const hex = n.toString(16);
  const jcc: Semantics = (c) => {
    c.branchIf(condition(c, n));
  };
  rows.push(
    insn(`j${name}`, `7${hex} f64 sz`, "Jb", jcc),
    insn(`j${name}`, `0f 8${hex} f64 sz`, "Jz", jcc),
  );
}

const jmp: Semantics = (c) => {
  c.branch();
  c.end();
};
rows.push(
  insn("jmp", "eb f64 sz end", "Jb", jmp),
  insn("jmp", "e9 f64 sz end", "Jz", jmp),
  insn("jmp", "ff /4 f64 end", "Ev", (c) => {
    const target = c.f.let(c.get(0));
    c.checkTarget(target);
    c.jump(target);
    c.end();
  }),
  insn("call", "e8 f64 sz end", "Jz", (c) => {
    const target = c.f.let(c.branchTarget());
    if (c.size !== 8) c.checkTarget(target);
    c.push(c.nextRip(), c.size);
    c.branchToCallee(target);
    c.end();
  }),
  insn("call", "ff /2 f64 end", "Ev", (c) => {
    const target = c.f.let(c.get(0));
    c.checkTarget(target);
    c.push(c.nextRip(), c.size);
    c.jump(target);
    c.end();
  }),
);

const ret = (extra: boolean): Semantics => (c) => {
  const target = c.f.let(c.peek(c.size));
  c.checkTarget(target);
  const more = extra ? and(c.get(0), 0xffff) : i64(0);
  if (c.size === 8) c.dropStack64(more);
  else c.f.call(c.helper("dropStack"), add(more, c.size));
  c.jump(target);
  c.end();
};
rows.push(
  insn("ret", "c2 f64 sz end", "Iw", ret(true)),
  insn("ret", "c3 f64 sz end", "", ret(false)),
);

/** Counter of LOOP and JCXZ in the address size. */
function counterMask(c: Cx) {
  const asize = c.f.let(and(c.extra(), Extra.addressMask));
  return c.f.let(
    select(eqz(asize), i64(-1n), select(eq(asize, i32(1)), i64(0xffffffffn), i64(0xffffn))),
  );
}

const loop = (kind: "loop" | "loope" | "loopne"): Semantics => (c) => {
  const mask = counterMask(c);
  const old = c.f.let(c.reg(Reg.rcx, 8));
  const count = c.f.let(and(sub(old, 1), mask));
  const kept = select(eq(mask, i64(0xffff)), and(old, ~0xffffn), i64(0));
  c.setReg(Reg.rcx, or(kept, count), 8);
  const more = ne(count, i64(0));
  const taken = kind === "loop" ? more : and(more, kind === "loope" ? c.zf() : eqz(c.zf()));
  c.branchIf(taken);
};
rows.push(
  insn("loopne", "e0 f64 sz az", "Jb", loop("loopne")),
  insn("loope", "e1 f64 sz az", "Jb", loop("loope")),
  insn("loop", "e2 f64 sz az", "Jb", loop("loop")),
  insn("jcxz", "e3 f64 sz az", "Jb", (c) => {
    const mask = counterMask(c);
    c.branchIf(eqz(and(c.reg(Reg.rcx, 8), mask)));
  }),
);

// Far transfers, interrupts and returns from them change segments: TypeScript does them.
rows.push(
  insn("callf", "9a i64 sz end", "Ip", (c) => c.host(Host.farCall)),
  insn("callf", "ff /3 mem sz end", "M", (c) => {
    c.setS64(S.tempEa, c.ea());
    c.host(Host.farCall);
  }),
  insn("jmpf", "ea i64 sz end", "Ip", (c) => c.host(Host.farJump)),
  insn("jmpf", "ff /5 mem sz end", "M", (c) => {
    c.setS64(S.tempEa, c.ea());
    c.host(Host.farJump);
  }),
  insn("retf", "ca sz end", "Iw", (c) => c.host(Host.farReturn)),
  insn("retf", "cb sz end", "", (c) => c.host(Host.farReturn)),
  insn("iret", "cf sz end", "", interruptReturn),
  insn("int3", "cc end", "", (c) => c.host(Host.breakpoint)),
  insn("int", "cd end", "Ib", (c) => c.host(Host.softwareInterrupt)),
  insn("into", "ce i64", "", (c) => {
    c.f.if(ne(c.of(), i64(0)), () => hostInPlace(c, Host.overflow));
  }),
  insn("int1", "f1 end", "", (c) => c.host(Host.icebp)),
  insn("bound", "62 /r i64 mem", "Gv M", (c) => {
    c.setS64(S.tempEa, c.ea());
    c.host(Host.bound);
  }),
);

/** A host call on one path; the other goes on. */
function hostInPlace(c: Cx, id: Host): void {
  c.f.store64(CPU, i32(0), c.nextRip(), S.rip);
  c.f.store32(CPU, i32(0), c.rec, S.record);
  c.f.call(c.runtime.host, i32(id), c.rec);
  c.jump(c.s64(S.rip));
}

/** Rows of control transfers. */
export const controlRows: readonly Insn[] = rows;
