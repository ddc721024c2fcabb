/**
 * String instructions (Intel SDM vol. 1, 7.3.9). RSI, RDI and RCX are exact after every element, so a
 * fault or an interrupt in the middle resumes there. MOVS and STOS forwards go by whole pages where
 * both ends are in the TLB.
 *
 * @module
 */

import {
  add,
  and,
  cond,
  divU,
  eq,
  eqz,
  type Expr,
  geU,
  i32,
  i64,
  load,
  type Local,
  ltS,
  ltU,
  mul,
  ne,
  or,
  select,
  shrU,
  sub,
  ValType,
  wrap,
  zeroExtend,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { Extra, type Insn, insn, type Semantics } from "../opcode.ts";
import { CPU, Exit, Flag, Rec, Reg, S } from "../state.ts";
import { Host } from "../host_calls.ts";

/** Registers and masks of a string instruction. */
interface StringFrame {
  /** Mask of the address size. */
  readonly mask: Local;
  /** i32: REP bits of `extra`. */
  readonly rep: Local;
  /** i64: element size, negative with DF. */
  readonly delta: Local;
}

function frame(c: Cx, size: number): StringFrame {
  const f = c.f;
  const extra = f.let(c.extra());
  const asize = and(extra, Extra.addressMask);
  const mask = f.let(
    select(
      eqz(asize),
      i64(-1n),
      select(eq(asize, i32(1)), i64(0xffffffffn), i64(0xffffn)),
    ),
  );
  return {
    mask,
    rep: f.let(shrU(extra, Extra.repShift)),
    delta: f.let(
      select(eqz(and(c.s32(S.flagOther), Flag.DF)), i64(size), i64(-size)),
    ),
  };
}

/** Linear address of `reg` in the segment whose base slot is in record field `baseField`. */
function address(c: Cx, fr: StringFrame, at: { reg: number; baseField: number }): Local {
  const base = load.i64(CPU, c.rec16(at.baseField));
  return c.f.let(
    and(add(base, and(c.reg(at.reg, 8), fr.mask)), c.s64(S.linearMask)),
  );
}

/** Adds `delta` to `reg` in the address size. */
function advance(c: Cx, fr: StringFrame, at: { reg: number; delta: Expr }): void {
  const old = c.f.let(c.reg(at.reg, 8));
  const moved = and(add(old, at.delta), fr.mask);
  // Only 16-bit addressing keeps upper bits; 32-bit clears them.
  const kept = select(eq(fr.mask, i64(0xffff)), and(old, ~0xffffn), i64(0));
  c.setReg(at.reg, or(kept, moved), 8);
}

const source = { reg: Reg.rsi, baseField: Rec.seg };
const destination = { reg: Reg.rdi, baseField: Rec.b };

/**
 * Repeats `element` as the prefix says. `element` does one element (or, for bulk moves, returns how
 * many it did) and `again`, for CMPS and SCAS, says whether the REPE/REPNE condition holds.
 */
function repeat(
  c: Cx,
  fr: StringFrame,
  options: { element: () => Expr | undefined; again?: () => Expr },
): void {
  const f = c.f;
  f.if(eqz(fr.rep), () => {
    options.element();
    c.next();
  });
  // A single step is one element.
  const trap = ne(and(c.s32(S.flagOther), Flag.TF), i32(0));
  const budget = f.local(ValType.I32, select(trap, i32(1), i32(512)));
  f.loop((top) => {
    const count = f.let(and(c.reg(Reg.rcx, 8), fr.mask));
    f.if(eqz(count), () => c.next());
    const done = options.element() ?? i64(1);
    advance(c, fr, { reg: Reg.rcx, delta: sub(i64(0), done) });
    if (options.again !== undefined) {
      f.if(eqz(options.again()), () => c.next());
    }
    f.set(budget, sub(budget, 1));
    f.brIf(top, ne(budget, i32(0)));
  });
  f.if(eqz(and(c.reg(Reg.rcx, 8), fr.mask)), () => c.next());
  // Long strings let interrupts in: RIP stays at this instruction.
  c.setS32(S.fuel, sub(c.s32(S.fuel), 64));
  f.if(ltS(c.s32(S.fuel), i32(0)), () => {
    c.setS64(S.rip, c.rip());
    c.leave(Exit.Fuel);
  });
  c.dispatch(c.rec);
  c.end();
}

/** Bytes left in the page of `a`. */
function leftInPage(a: Expr): Expr {
  return sub(i64(4096), and(a, 4095));
}

function minU(c: Cx, a: Expr, b: Expr): Local {
  const x = c.f.let(a);
  const y = c.f.let(b);
  return c.f.let(select(ltU(x, y), x, y));
}

function movs(size: number): Semantics {
  return (c) => {
    const f = c.f;
    const fr = frame(c, size);
    const one = () => {
      const src = address(c, fr, source);
      const value = c.load(src, size);
      const dst = address(c, fr, destination);
      c.store(dst, value, size);
      advance(c, fr, { reg: Reg.rsi, delta: fr.delta });
      advance(c, fr, { reg: Reg.rdi, delta: fr.delta });
    };
    repeat(c, fr, {
      element: () => {
        const done = f.local(ValType.I64, i64(1));
        const count = f.let(and(c.reg(Reg.rcx, 8), fr.mask));
        const src = address(c, fr, source);
        const dst = address(c, fr, destination);
        const room = minU(c, leftInPage(src), leftInPage(dst));
        const elements = minU(c, count, divU(room, i64(size)));
        const bytes = f.let(mul(elements, i64(size)));
        const many = and(ne(fr.rep, i32(0)), eqz(and(c.s32(S.flagOther), Flag.TF)));
        const s = f.let(c.ramOf(src, "read"));
        const d = f.let(c.ramOf(dst, "write"));
        const bulk = and(
          and(many, ne(elements, i64(0))),
          and(
            eq(fr.delta, i64(size)),
            and(
              and(ne(s, i32(-1)), ne(d, i32(-1))),
              // Overlap where the destination follows closely repeats a pattern: element by element.
              geU(sub(d, s), wrap(bytes)),
            ),
          ),
        );
        f.if(bulk, () => {
          f.memoryCopy(c.runtime.ram, c.runtime.ram, d, s, wrap(bytes));
          advance(c, fr, { reg: Reg.rsi, delta: bytes });
          advance(c, fr, { reg: Reg.rdi, delta: bytes });
          f.set(done, elements);
        }, one);
        return done;
      },
    });
  };
}

function stos(size: number): Semantics {
  return (c) => {
    const f = c.f;
    const fr = frame(c, size);
    const value = f.let(c.reg(Reg.rax, size));
    // Can the value be written by filling with its low byte?
    const uniform = f.let(
      eq(zeroExtend(mul(and(value, 0xff), i64(0x0101010101010101n)), size), value),
    );
    repeat(c, fr, {
      element: () => {
        const done = f.local(ValType.I64, i64(1));
        const count = f.let(and(c.reg(Reg.rcx, 8), fr.mask));
        const dst = address(c, fr, destination);
        const elements = minU(c, count, divU(leftInPage(dst), i64(size)));
        const bytes = f.let(mul(elements, i64(size)));
        const d = f.let(c.ramOf(dst, "write"));
        const many = and(ne(fr.rep, i32(0)), eqz(and(c.s32(S.flagOther), Flag.TF)));
        const bulk = and(
          and(and(uniform, many), ne(elements, i64(0))),
          and(eq(fr.delta, i64(size)), ne(d, i32(-1))),
        );
        f.if(bulk, () => {
          f.memoryFill(c.runtime.ram, d, wrap(value), wrap(bytes));
          advance(c, fr, { reg: Reg.rdi, delta: bytes });
          f.set(done, elements);
        }, () => {
          c.store(dst, value, size);
          advance(c, fr, { reg: Reg.rdi, delta: fr.delta });
        });
        return done;
      },
    });
  };
}

function lods(size: number): Semantics {
  return (c) => {
    const fr = frame(c, size);
    repeat(c, fr, {
      element: () => {
        c.setReg(Reg.rax, c.load(address(c, fr, source), size), size);
        advance(c, fr, { reg: Reg.rsi, delta: fr.delta });
        return undefined;
      },
    });
  };
}

/** REPE goes on while equal, REPNE while different. */
function comparing(c: Cx, fr: StringFrame): () => Expr {
  return () => cond(eq(fr.rep, i32(Extra.rep)), c.zf(), eqz(c.zf()));
}

function scas(size: number): Semantics {
  return (c) => {
    const fr = frame(c, size);
    const a = c.f.let(c.reg(Reg.rax, size));
    repeat(c, fr, {
      element: () => {
        const b = c.load(address(c, fr, destination), size);
        const r = c.f.let(sub(a, b));
        c.flagsSub(a, b, { result: r, size });
        advance(c, fr, { reg: Reg.rdi, delta: fr.delta });
        return undefined;
      },
      again: comparing(c, fr),
    });
  };
}

function cmps(size: number): Semantics {
  return (c) => {
    const fr = frame(c, size);
    repeat(c, fr, {
      element: () => {
        const a = c.load(address(c, fr, source), size);
        const b = c.load(address(c, fr, destination), size);
        const r = c.f.let(sub(a, b));
        c.flagsSub(a, b, { result: r, size });
        advance(c, fr, { reg: Reg.rsi, delta: fr.delta });
        advance(c, fr, { reg: Reg.rdi, delta: fr.delta });
        return undefined;
      },
      again: comparing(c, fr),
    });
  };
}

const rows: Insn[] = [];
for (
  const [name, opcode, make] of [
    ["movs", 0xa4, movs],
    ["cmps", 0xa6, cmps],
    ["stos", 0xaa, stos],
    ["lods", 0xac, lods],
    ["scas", 0xae, scas],
  ] as const
) {
  rows.push(
    insn(name, `${opcode.toString(16)} az`, "", (c) => make(1)(c)),
    insn(name, `${(opcode + 1).toString(16)} az sz`, "", (c) => make(c.size)(c)),
  );
}
rows.push(
  insn("ins", "6c az", "", (c) => c.host(Host.portInString)),
  insn("ins", "6d az sz", "", (c) => c.host(Host.portInString)),
  insn("outs", "6e az", "", (c) => c.host(Host.portOutString)),
  insn("outs", "6f az sz", "", (c) => c.host(Host.portOutString)),
);

/** Rows of string instructions. */
export const stringRows: readonly Insn[] = rows;
