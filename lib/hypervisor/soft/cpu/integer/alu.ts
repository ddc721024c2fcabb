/**
 * Integer arithmetic and logic (Intel SDM vol. 1, 7.3.2 and 7.3.3).
 *
 * @module
 */

import {
  add,
  and,
  call,
  clz,
  ctz,
  divS,
  divU,
  eq,
  eqz,
  type Expr,
  extU,
  gtS,
  i32,
  i64,
  ltS,
  mul,
  ne,
  or,
  popcnt,
  remS,
  remU,
  select,
  shl,
  shrS,
  shrU,
  signExtend,
  sub,
  ValType,
  wrap,
  xor,
  zeroExtend,
} from "../../wasm/mod.ts";
import { type Cx, Locked } from "../cx.ts";
import { type Insn, insn, type Semantics } from "../opcode.ts";
import { Reg, S, Vector } from "../state.ts";

type Binary = (c: Cx, a: Expr, b: Expr) => Expr;

/** What the classic operations are where they are atomic; carry is part of the operand. */
const lockedKinds: Readonly<Record<string, Exclude<Locked, Locked.cmpxchg>>> = {
  add: Locked.add,
  or: Locked.or,
  adc: Locked.add,
  sbb: Locked.sub,
  and: Locked.and,
  sub: Locked.sub,
  xor: Locked.xor,
};

/** Flags and result of the eight classic operations, by their number in opcodes. */
const classic: readonly (readonly [string, Binary])[] = [
  ["add", (c, a, b) => {
    const r = c.hold(add(a, b));
    c.flagsAdd(a, b, { result: r, size: c.operandSize(0) });
    return r;
  }],
  ["or", (c, a, b) => {
    const r = c.hold(or(a, b));
    c.flagsLogic(r, c.operandSize(0));
    return r;
  }],
  ["adc", (c, a, b) => {
    const carry = c.f.let(c.cf());
    const r = c.hold(add(add(a, b), carry));
    c.flagsAdd(a, b, { result: r, size: c.operandSize(0), carry });
    return r;
  }],
  ["sbb", (c, a, b) => {
    const carry = c.f.let(c.cf());
    const r = c.hold(sub(sub(a, b), carry));
    c.flagsSub(a, b, { result: r, size: c.operandSize(0), carry });
    return r;
  }],
  ["and", (c, a, b) => {
    const r = c.hold(and(a, b));
    c.flagsLogic(r, c.operandSize(0));
    return r;
  }],
  ["sub", (c, a, b) => {
    const r = c.hold(sub(a, b));
    c.flagsSub(a, b, { result: r, size: c.operandSize(0) });
    return r;
  }],
  ["xor", (c, a, b) => {
    const r = c.hold(xor(a, b));
    c.flagsLogic(r, c.operandSize(0));
    return r;
  }],
  ["cmp", (c, a, b) => {
    const r = c.hold(sub(a, b));
    c.flagsSub(a, b, { result: r, size: c.operandSize(0) });
    return r;
  }],
];

/**
 * `dst = dst op src`. The result is computed and stored before the flags change only where the store
 * can fault; {@link Cx.modify} has checked for writing, so flags may come first.
 */
function classicSemantics(operation: Binary, writes: boolean): Semantics {
  return (c) => {
    const { mnemonic } = c.insn;
    if (c.ofOneRegister && (mnemonic === "xor" || mnemonic === "sub")) {
      c.set(0, operation(c, i64(0), i64(0)));
      return;
    }
    const b = c.hold(c.get(1, "any"));
    const kind = lockedKinds[mnemonic];
    if (c.locked && kind !== undefined) {
      const carries = mnemonic === "adc" || mnemonic === "sbb";
      operation(c, c.rmw(kind, carries ? add(b, c.cf()) : b), b);
      return;
    }
    const a = c.hold(writes ? c.modify(0, "any") : c.get(0, "any"));
    const r = operation(c, a, b);
    if (writes) c.set(0, r);
  };
}

const rows: Insn[] = [];

classic.forEach(([name, operation], n) => {
  const hex = (low: number) => (8 * n + low).toString(16).padStart(2, "0");
  const writes = name !== "cmp";
  const lock = writes ? " lock" : "";
  const s = classicSemantics(operation, writes);
  rows.push(
    insn(name, `${hex(0)} /r${lock}`, "Eb Gb", s),
    insn(name, `${hex(1)} /r${lock}`, "Ev Gv", s),
    insn(name, `${hex(2)} /r`, "Gb Eb", s),
    insn(name, `${hex(3)} /r`, "Gv Ev", s),
    insn(name, `${hex(4)}`, "Ab Ib", s),
    insn(name, `${hex(5)}`, "Av Iz", s),
    insn(name, `80 /${n}${lock}`, "Eb Ib", s),
    insn(name, `81 /${n}${lock}`, "Ev Iz", s),
    insn(name, `82 /${n}${lock} i64`, "Eb Ib", s),
    insn(name, `83 /${n}${lock}`, "Ev Isb", s),
  );
});

const test: Semantics = (c) => {
  const a = c.f.let(c.get(0, "any"));
  const r = c.ofOneRegister ? a : c.f.let(and(a, c.get(1, "any")));
  c.flagsLogic(r, c.operandSize(0));
};
rows.push(
  insn("test", "84 /r", "Eb Gb", test),
  insn("test", "85 /r", "Ev Gv", test),
  insn("test", "a8", "Ab Ib", test),
  insn("test", "a9", "Av Iz", test),
  insn("test", "f6 /0", "Eb Ib", test),
  insn("test", "f6 /1", "Eb Ib", test),
  insn("test", "f7 /0", "Ev Iz", test),
  insn("test", "f7 /1", "Ev Iz", test),
);

/** INC and DEC: as ADD and SUB of 1, but CF stays. */
function incDec(step: 1 | -1): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const a = c.locked ? c.rmw(Locked.add, i64(step)) : c.f.let(c.modify(0, "any"));
    const r = c.f.let(add(a, step));
    if (!c.locked) c.set(0, r);
    c.flagsStep(a, { result: r, size, step });
  };
}
rows.push(
  insn("inc", "fe /0 lock", "Eb", incDec(1)),
  insn("inc", "ff /0 lock", "Ev", incDec(1)),
  insn("inc", "40+r i64", "Zv", incDec(1)),
  insn("dec", "fe /1 lock", "Eb", incDec(-1)),
  insn("dec", "ff /1 lock", "Ev", incDec(-1)),
  insn("dec", "48+r i64", "Zv", incDec(-1)),
);

const not: Semantics = (c) => {
  if (c.locked) c.rmw(Locked.xor, i64(-1));
  else c.set(0, xor(c.modify(0, "any"), -1));
};
const neg: Semantics = (c) => {
  const a = c.f.let(c.locked ? negateAtomically(c) : c.modify(0, "any"));
  const r = c.f.let(sub(i64(0), a));
  if (!c.locked) c.set(0, r);
  c.flagsSub(i64(0), a, { result: r, size: c.operandSize(0) });
};
/** There is no such operation: tries until nobody was faster. */
function negateAtomically(c: Cx): Expr {
  const f = c.f;
  const size = c.operandSize(0);
  const address = c.ea();
  const a = f.local(ValType.I64, c.load(address, size));
  f.loop((again) => {
    const operand = sub(i64(0), a);
    const seen = c.atomic(address, size, { kind: Locked.cmpxchg, operand, expected: a });
    const lost = f.let(ne(seen, a));
    f.set(a, seen);
    f.brIf(again, lost);
  });
  return a;
}
rows.push(
  insn("not", "f6 /2 lock", "Eb", not),
  insn("not", "f7 /2 lock", "Ev", not),
  insn("neg", "f6 /3 lock", "Eb", neg),
  insn("neg", "f7 /3 lock", "Ev", neg),
);

/** CF and OF of a multiplication; SF by the low half, the others as processors leave them. */
function mulFlags(c: Cx, low: Expr, over: Expr): void {
  c.flagsWith(low, { cf: over, of: over, size: c.operandSize(0) });
}

const mulU: Semantics = (c) => {
  const size = c.operandSize(0);
  const b = c.f.let(c.get(0));
  const a = c.f.let(c.reg(Reg.rax, size));
  if (size === 8) {
    const { low, high } = c.mulWide(false, a, b);
    c.setReg(Reg.rax, low, 8);
    c.setReg(Reg.rdx, high, 8);
    mulFlags(c, low, extU(ne(high, i64(0))));
    return;
  }
  const low = c.f.let(mul(a, b));
  const high = c.f.let(shrU(low, 8 * size));
  if (size === 1) c.setReg(Reg.rax, low, 2);
  else {
    c.setReg(Reg.rax, low, size);
    c.setReg(Reg.rdx, high, size);
  }
  mulFlags(c, low, extU(ne(high, i64(0))));
};

const mulS: Semantics = (c) => {
  const size = c.operandSize(0);
  const b = c.f.let(signExtend(c.get(0), size));
  const a = c.f.let(signExtend(c.reg(Reg.rax, size), size));
  if (size === 8) {
    const { low, high } = c.mulWide(true, a, b);
    c.setReg(Reg.rax, low, 8);
    c.setReg(Reg.rdx, high, 8);
    mulFlags(c, low, extU(ne(high, shrS(low, 63))));
    return;
  }
  const low = c.f.let(mul(a, b));
  if (size === 1) c.setReg(Reg.rax, low, 2);
  else {
    c.setReg(Reg.rax, low, size);
    c.setReg(Reg.rdx, shrU(low, 8 * size), size);
  }
  mulFlags(c, low, extU(ne(low, signExtend(low, size))));
};

/** Two- and three-operand IMUL: `set(0, get(x) * get(y))`. */
function imul(x: number, y: number): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const b = c.f.let(signExtend(c.get(y, "any"), size));
    const a = c.f.let(signExtend(c.get(x, "any"), size));
    if (size === 8) {
      const { low, high } = c.mulWide(true, a, b);
      c.set(0, low);
      mulFlags(c, low, extU(ne(high, shrS(low, 63))));
      return;
    }
    const low = c.f.let(mul(a, b));
    c.set(0, low);
    mulFlags(c, low, extU(ne(low, signExtend(low, size))));
  };
}

/** DIV and IDIV: #DE on zero and on a quotient that does not fit. */
function divide(signed: boolean): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const f = c.f;
    const b = f.let(signed ? signExtend(c.get(0), size) : c.get(0));
    f.if(eqz(b), () => c.raise(Vector.DE));
    if (size === 8) {
      const low = f.let(c.reg(Reg.rax, 8));
      const high = f.let(c.reg(Reg.rdx, 8));
      // The helper stores quotient and remainder in scratch and says whether it fits.
      const fits = call(c.helper(signed ? "div128S" : "div128U"), high, low, b);
      f.if(eqz(fits), () => c.raise(Vector.DE));
      c.setReg(Reg.rax, c.s64(S.scratch), 8);
      c.setReg(Reg.rdx, c.s64(S.scratch + 8), 8);
      return;
    }
    const a = f.let(
      size === 1
        ? (signed ? signExtend(c.reg(Reg.rax, 2), 2) : c.reg(Reg.rax, 2))
        : or(shl(c.reg(Reg.rdx, size), 8 * size), c.reg(Reg.rax, size)),
    );
    const dividend = signed && size === 2 ? f.let(signExtend(a, 4)) : a;
    if (signed && size === 4) {
      // -2^63 / -1 would trap in WebAssembly; the quotient does not fit anyway.
      f.if(
        and(eq(b, i64(-1)), eq(dividend, i64(-(1n << 63n)))),
        () => c.raise(Vector.DE),
      );
    }
    const q = f.let((signed ? divS : divU)(dividend, b));
    const r = f.let((signed ? remS : remU)(dividend, b));
    f.if(
      ne(q, signed ? signExtend(q, size) : zeroExtend(q, size)),
      () => c.raise(Vector.DE),
    );
    if (size === 1) {
      c.setReg(Reg.rax, or(and(q, 0xff), shl(and(r, 0xff), 8)), 2);
    } else {
      c.setReg(Reg.rax, q, size);
      c.setReg(Reg.rdx, r, size);
    }
  };
}

rows.push(
  insn("mul", "f6 /4", "Eb", mulU),
  insn("mul", "f7 /4", "Ev", mulU),
  insn("imul", "f6 /5", "Eb", mulS),
  insn("imul", "f7 /5", "Ev", mulS),
  insn("imul", "0f af /r", "Gv Ev", imul(0, 1)),
  insn("imul", "69 /r", "Gv Ev Iz", imul(1, 2)),
  insn("imul", "6b /r", "Gv Ev Isb", imul(1, 2)),
  insn("div", "f6 /6", "Eb", divide(false)),
  insn("div", "f7 /6", "Ev", divide(false)),
  insn("idiv", "f6 /7", "Eb", divide(true)),
  insn("idiv", "f7 /7", "Ev", divide(true)),
);

const xadd: Semantics = (c) => {
  const size = c.operandSize(0);
  const b = c.f.let(c.get(1));
  const a = c.locked ? c.rmw(Locked.add, b) : c.f.let(c.modify(0));
  const r = c.hold(add(a, b));
  // With one register as both operands the sum stays.
  if (c.isMemory(0)) {
    if (!c.locked) c.set(0, r);
    c.set(1, a);
  } else {
    c.set(1, a);
    c.set(0, r);
  }
  c.flagsAdd(a, b, { result: r, size });
};

const cmpxchg: Semantics = (c) => {
  const size = c.operandSize(0);
  const a = c.f.let(c.reg(Reg.rax, size));
  const src = c.f.let(c.get(1));
  const b = c.locked
    ? c.atomic(c.ea(), size, { kind: Locked.cmpxchg, operand: src, expected: a })
    : c.f.let(c.modify(0));
  const equal = c.f.let(eq(a, b));
  const r = c.hold(sub(a, b));
  // Memory is written in any case, a register only by a compare that succeeds.
  if (!c.locked) {
    if (c.isMemory(0)) c.set(0, select(equal, src, b));
    else c.f.if(equal, () => c.set(0, src));
  }
  // A 32-bit compare that fails clears the upper half of RAX; one that succeeds does not touch it.
  c.f.if(eqz(equal), () => c.setReg(Reg.rax, b, size));
  c.flagsSub(a, b, { result: r, size });
};

/** LOCK CMPXCHG8B and LOCK CMPXCHG16B: `half` bytes a half. */
function exchangeAtomically(c: Cx, half: 4 | 8): void {
  const f = c.f;
  const address = c.ea();
  const [low, high] = [f.local(ValType.I64), f.local(ValType.I64)];
  if (half === 4) {
    const both = (l: number, h: number) => or(c.reg(l, 4), shl(c.reg(h, 4), 32));
    const expected = both(Reg.rax, Reg.rdx);
    const operand = both(Reg.rbx, Reg.rcx);
    const old = c.atomic(address, 8, { kind: Locked.cmpxchg, operand, expected });
    f.set(low, zeroExtend(old, 4));
    f.set(high, shrU(old, 32));
  } else {
    [Reg.rax, Reg.rdx, Reg.rbx, Reg.rcx].forEach((n, i) =>
      c.setS64(S.scratch + 8 * i, c.reg(n, 8))
    );
    c.lockedSlowly("locked16", address);
    f.set(low, c.s64(S.scratch));
    f.set(high, c.s64(S.scratch + 8));
  }
  const equal = f.let(and(eq(low, c.reg(Reg.rax, half)), eq(high, c.reg(Reg.rdx, half))));
  f.if(eqz(equal), () => {
    c.setReg(Reg.rax, low, half);
    c.setReg(Reg.rdx, high, half);
  });
  c.setZero(equal);
}

/** CMPXCHG8B and CMPXCHG16B: `half` bytes a half. */
const cmpxchg8b: Semantics = (c) => {
  const half = c.size === 8 ? 8 : 4;
  const f = c.f;
  const address = c.ea();
  if (half === 8) f.if(wrap(and(address, 15)), () => c.raise(Vector.GP, i32(0)));
  if (c.locked) {
    exchangeAtomically(c, half);
    return;
  }
  c.probeWrite(address, 2 * half);
  const highAddress = f.let(add(address, half));
  const low = c.load(address, half);
  const high = c.load(highAddress, half);
  const equal = f.let(
    and(eq(low, c.reg(Reg.rax, half)), eq(high, c.reg(Reg.rdx, half))),
  );
  c.store(address, select(equal, c.reg(Reg.rbx, half), low), half);
  c.store(highAddress, select(equal, c.reg(Reg.rcx, half), high), half);
  f.if(eqz(equal), () => {
    c.setReg(Reg.rax, low, half);
    c.setReg(Reg.rdx, high, half);
  });
  c.setZero(equal);
};

rows.push(
  insn("xadd", "0f c0 /r lock", "Eb Gb", xadd),
  insn("xadd", "0f c1 /r lock", "Ev Gv", xadd),
  insn("cmpxchg", "0f b0 /r lock", "Eb Gb", cmpxchg),
  insn("cmpxchg", "0f b1 /r lock", "Ev Gv", cmpxchg),
  insn("cmpxchg8b", "0f c7 /1 mem lock sz", "", cmpxchg8b),
);

// Sign extensions of the accumulator.
const cbw: Semantics = (c) => c.setReg(Reg.rax, signExtend(c.reg(Reg.rax, 8), c.size / 2), c.size);
const cwd: Semantics = (c) =>
  c.setReg(Reg.rdx, shrS(signExtend(c.reg(Reg.rax, 8), c.size), 63), c.size);
rows.push(insn("cbw", "98 sz", "", cbw), insn("cwd", "99 sz", "", cwd));

// Bit scans and counts.
function bitScan(reverse: boolean): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const a = c.f.let(c.get(1));
    // A zero source leaves the destination alone, as processors do.
    c.f.if(ne(a, i64(0)), () => c.set(0, reverse ? sub(i64(63), clz(a)) : ctz(a)));
    c.flagsLogic(a, size);
  };
}
const popcntSemantics: Semantics = (c) => {
  const a = c.f.let(c.get(1));
  c.set(0, popcnt(a));
  // ZF by the source; all others are clear. PF with result 1 (odd) is clear already, with 0 the parity
  // byte must be odd.
  c.setFlags(extU(ne(a, i64(0))), shl(extU(eqz(a)), 8));
};
rows.push(
  insn("bsf", "0f bc /r", "Gv Ev", bitScan(false)),
  insn("bsr", "0f bd /r", "Gv Ev", bitScan(true)),
  insn("popcnt", "f3 0f b8 /r", "Gv Ev", popcntSemantics),
);

// Decimal adjustments, 16- and 32-bit code only.
const aaaLike = (step: 1 | -1): Semantics => (c) => {
  const f = c.f;
  const ax = f.let(c.reg(Reg.rax, 2));
  const flags = f.let(c.arithFlags());
  const adjust = f.let(
    or(gtS(wrap(and(ax, 0xf)), i32(9)), wrap(and(shrU(flags, 4), 1))),
  );
  const adjusted = f.let(
    select(adjust, add(ax, step * 0x106), ax),
  );
  c.setReg(Reg.rax, and(adjusted, 0xff0f), 2);
  const bits = f.let(select(adjust, i64(0x11), i64(0)));
  c.setArithFlags(or(and(flags, ~0x11n), bits));
};
const daaLike = (step: 1 | -1): Semantics => (c) => {
  const f = c.f;
  const al = f.let(c.reg(Reg.rax, 1));
  const flags = f.let(c.arithFlags());
  const cf = f.let(and(flags, 1));
  const low = f.let(or(gtS(wrap(and(al, 0xf)), i32(9)), wrap(and(shrU(flags, 4), 1))));
  const high = f.let(or(gtS(wrap(al), i32(0x99)), wrap(cf)));
  const r1 = f.let(select(low, add(al, 6 * step), al));
  // DAS also sets CF where the first step borrows.
  const borrow = step === -1
    ? f.let(and(low, or(ltS(wrap(al), i32(6)), wrap(cf))))
    : f.let(and(low, or(gtS(wrap(al), i32(0xf9)), wrap(cf))));
  const r = f.let(and(select(high, add(r1, 0x60 * step), r1), 0xff));
  c.setReg(Reg.rax, r, 1);
  c.flagsLogic(r, 1);
  const szp = c.arithFlags();
  const carry = extU(or(high, borrow));
  c.setArithFlags(or(or(and(szp, ~0x11n), carry), shl(extU(low), 4)));
};
const aam: Semantics = (c) => {
  const f = c.f;
  const base = f.let(and(c.get(0), 0xff));
  f.if(eqz(base), () => c.raise(Vector.DE));
  const al = f.let(c.reg(Reg.rax, 1));
  const r = f.let(remU(al, base));
  c.setReg(Reg.rax, or(shl(divU(al, base), 8), r), 2);
  c.flagsLogic(r, 1);
};
const aad: Semantics = (c) => {
  const f = c.f;
  const ax = f.let(c.reg(Reg.rax, 2));
  const r = f.let(and(add(mul(shrU(ax, 8), and(c.get(0), 0xff)), ax), 0xff));
  c.setReg(Reg.rax, r, 2);
  c.flagsLogic(r, 1);
};
rows.push(
  insn("daa", "27 i64", "", daaLike(1)),
  insn("das", "2f i64", "", daaLike(-1)),
  insn("aaa", "37 i64", "", aaaLike(1)),
  insn("aas", "3f i64", "", aaaLike(-1)),
  insn("aam", "d4 i64", "Ib", aam),
  insn("aad", "d5 i64", "Ib", aad),
  insn("salc", "d6 i64", "", (c) => c.setReg(Reg.rax, sub(i64(0), c.cf()), 1)),
);

/** Rows of integer arithmetic and logic. */
export const aluRows: readonly Insn[] = rows;
