/**
 * Shifts, rotates and single bits (Intel SDM vol. 1, 7.3.6 and 7.3.7). Flags that the manual leaves
 * undefined are set as processors commonly do.
 *
 * @module
 */

import {
  and,
  constantOf,
  type Expr,
  extU,
  i64,
  type Local,
  ne,
  or,
  rotl,
  rotr,
  shl,
  shrS,
  shrU,
  signExtend,
  sub,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import { call, remU, zeroExtend } from "../../wasm/mod.ts";
import { type Cx, Locked } from "../cx.ts";
import { type Insn, insn, type Semantics } from "../opcode.ts";

const rows: Insn[] = [];

/** Count operand (index 1), masked to 5 or 6 bits. */
function count(c: Cx): Expr {
  return c.hold(and(c.get(1), c.operandSize(0) === 8 ? 63 : 31));
}

/** Body with a count that is not zero; a zero count changes nothing but still writes memory's access. */
function whenCount(c: Cx, body: (a: Local, n: Expr) => void): void {
  const n = count(c);
  const a = c.f.let(c.modify(0));
  const known = constantOf(n);
  if (known !== undefined && known !== 0n) {
    body(a, n);
    return;
  }
  c.f.if(ne(n, i64(0)), () => body(a, n), () => {
    if (c.operandSize(0) === 4 && !c.isMemory(0)) c.set(0, a);
  });
}

function top(value: Expr, size: number): Expr {
  return and(shrU(value, 8 * size - 1), 1);
}

const shlSemantics: Semantics = (c) =>
  whenCount(c, (a, n) => {
    const size = c.operandSize(0);
    const r = c.f.let(shl(a, n));
    const cf = c.f.let(
      size === 8 ? and(shrU(a, sub(i64(64), n)), 1) : and(shrU(r, 8 * size), 1),
    );
    c.set(0, r);
    c.flagsWith(r, { cf, of: xor(cf, top(r, size)), size });
  });

const shrSemantics: Semantics = (c) =>
  whenCount(c, (a, n) => {
    const size = c.operandSize(0);
    const r = c.f.let(shrU(a, n));
    c.set(0, r);
    c.flagsWith(r, { cf: and(shrU(a, sub(n, 1)), 1), of: top(a, size), size });
  });

const sarSemantics: Semantics = (c) =>
  whenCount(c, (a, n) => {
    const size = c.operandSize(0);
    const sa = c.f.let(signExtend(a, size));
    const r = c.f.let(shrS(sa, n));
    c.set(0, r);
    c.flagsWith(r, { cf: and(shrS(sa, sub(n, 1)), 1), of: i64(0), size });
  });

/** Rotates: CF and OF change, the others stay. */
const rolSemantics: Semantics = (c) =>
  whenCount(c, (a, n) => {
    const size = c.operandSize(0);
    const r = c.f.let(rotate(a, { n, size, left: true }));
    c.set(0, r);
    const cf = c.f.let(and(r, 1));
    c.setCarryOverflow(cf, xor(cf, top(r, size)));
  });

const rorSemantics: Semantics = (c) =>
  whenCount(c, (a, n) => {
    const size = c.operandSize(0);
    const r = c.f.let(rotate(a, { n, size, left: false }));
    c.set(0, r);
    const cf = c.f.let(top(r, size));
    c.setCarryOverflow(cf, xor(cf, and(shrU(r, 8 * size - 2), 1)));
  });

function rotate(a: Expr, by: { n: Expr; size: number; left: boolean }): Expr {
  const { n, size, left } = by;
  if (size === 8) return left ? rotl(a, n) : rotr(a, n);
  if (size === 4) {
    const [low, by32] = [wrap(a), wrap(n)];
    return extU(left ? rotl(low, by32) : rotr(low, by32));
  }
  const bits = 8 * size;
  const m = and(n, bits - 1);
  const other = and(sub(i64(bits), m), bits - 1);
  const r = left ? or(shl(a, m), shrU(a, other)) : or(shrU(a, m), shl(a, other));
  return zeroExtend(r, size);
}

/** Rotates through CF: `bits + 1` positions. */
function rotateCarry(left: boolean): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const bits = 8 * size;
    const f = c.f;
    const n0 = count(c);
    const a = f.let(c.modify(0));
    const n = size >= 4 ? n0 : f.let(remU(n0, i64(bits + 1)));
    f.if(ne(n, i64(0)), () => {
      const cf = f.let(c.cf());
      let r: Local;
      let out: Local;
      if (left) {
        // (a << n) | (cf << (n-1)) | (a >> (bits + 1 - n)); a shift by `bits` needs two steps.
        const high = shrU(shrU(a, sub(i64(bits), n)), 1);
        r = f.let(zeroExtend(or(or(shl(a, n), shl(cf, sub(n, 1))), high), size));
        out = f.let(and(shrU(a, sub(i64(bits), n)), 1));
      } else {
        const low = shl(shl(a, sub(i64(bits), n)), 1);
        r = f.let(zeroExtend(or(or(shrU(a, n), shl(cf, sub(i64(bits), n))), low), size));
        out = f.let(and(shrU(a, sub(n, 1)), 1));
      }
      c.set(0, r);
      const of = left ? xor(out, top(r, size)) : xor(top(r, size), and(shrU(r, bits - 2), 1));
      c.setCarryOverflow(out, of);
    }, () => {
      if (size === 4 && !c.isMemory(0)) c.set(0, a);
    });
  };
}

const group: readonly (readonly [string, Semantics])[] = [
  ["rol", rolSemantics],
  ["ror", rorSemantics],
  ["rcl", rotateCarry(true)],
  ["rcr", rotateCarry(false)],
  ["shl", shlSemantics],
  ["shr", shrSemantics],
  ["sal", shlSemantics],
  ["sar", sarSemantics],
];
group.forEach(([name, s], n) => {
  rows.push(
    insn(name, `c0 /${n}`, "Eb Ib", s),
    insn(name, `c1 /${n}`, "Ev Ib", s),
    insn(name, `d0 /${n}`, "Eb 1", s),
    insn(name, `d1 /${n}`, "Ev 1", s),
    insn(name, `d2 /${n}`, "Eb CL", s),
    insn(name, `d3 /${n}`, "Ev CL", s),
  );
});

/** SHLD and SHRD, `set(0, get(0):get(1) shifted by get(2))`. */
function double(left: boolean): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const bits = 8 * size;
    const f = c.f;
    const n = f.let(and(c.get(2), size === 8 ? 63 : 31));
    const b = f.let(c.get(1));
    const a = f.let(c.modify(0));
    f.if(ne(n, i64(0)), () => {
      let r: Local;
      let cf: Local;
      if (size === 2) {
        // Counts above 16 are undefined; processors rotate the source in again.
        const wide = left
          ? f.let(or(shl(or(shl(a, 16), b), 16), b))
          : f.let(or(or(a, shl(b, 16)), shl(b, 32)));
        if (left) {
          r = f.let(and(shrU(shl(wide, n), 32), 0xffff));
          cf = f.let(and(shrU(wide, sub(i64(48), n)), 1));
        } else {
          r = f.let(and(shrU(wide, n), 0xffff));
          cf = f.let(and(shrU(wide, sub(n, 1)), 1));
        }
      } else if (left) {
        r = f.let(zeroExtend(or(shl(a, n), shrU(b, sub(i64(bits), n))), size));
        cf = f.let(and(shrU(a, sub(i64(bits), n)), 1));
      } else {
        r = f.let(zeroExtend(or(shrU(a, n), shl(b, sub(i64(bits), n))), size));
        cf = f.let(and(shrU(a, sub(n, 1)), 1));
      }
      c.set(0, r);
      c.flagsWith(r, { cf, of: xor(top(a, size), top(r, size)), size });
    }, () => {
      if (size === 4 && !c.isMemory(0)) c.set(0, a);
    });
  };
}
rows.push(
  insn("shld", "0f a4 /r", "Ev Gv Ib", double(true)),
  insn("shld", "0f a5 /r", "Ev Gv CL", double(true)),
  insn("shrd", "0f ac /r", "Ev Gv Ib", double(false)),
  insn("shrd", "0f ad /r", "Ev Gv CL", double(false)),
);

/** BT, BTS, BTR, BTC. A register index into memory reaches beyond the operand. */
function bit(
  change?: (value: Expr, mask: Expr) => Expr,
  kind?: Exclude<Locked, Locked.cmpxchg>,
): Semantics {
  return (c) => {
    const size = c.operandSize(0);
    const bits = 8 * size;
    const f = c.f;
    const index = f.let(c.get(1));
    if (c.isMemory(0) && c.insn.operands[1]?.kind === "G") {
      const words = shrS(signExtend(index, size), Math.log2(bits));
      c.moveEa(shl(words, Math.log2(size)));
    }
    const position = f.let(and(index, bits - 1));
    const mask = shl(i64(1), position);
    if (c.locked && kind !== undefined) {
      const old = c.rmw(kind, kind === Locked.and ? xor(mask, -1) : mask);
      c.setCarry(and(shrU(old, position), 1));
      return;
    }
    const a = f.let(change === undefined ? c.get(0) : c.modify(0));
    if (change !== undefined) c.set(0, change(a, mask));
    c.setCarry(and(shrU(a, position), 1));
  };
}
const bits: readonly (readonly [string, Semantics, string, string])[] = [
  ["bt", bit(), "a3", "/4"],
  ["bts", bit((v, m) => or(v, m), Locked.or), "ab", "/5 lock"],
  ["btr", bit((v, m) => and(v, xor(m, -1)), Locked.and), "b3", "/6 lock"],
  ["btc", bit((v, m) => xor(v, m), Locked.xor), "bb", "/7 lock"],
];
for (const [name, s, opcode, digit] of bits) {
  const lock = name === "bt" ? "" : " lock";
  rows.push(
    insn(name, `0f ${opcode} /r${lock}`, "Ev Gv", s),
    insn(name, `0f ba ${digit}`, "Ev Ib", s),
  );
}

rows.push(insn("bswap", "0f c8+r sz", "Zv", (c) => {
  // A 16-bit BSWAP is undefined; processors clear the low half.
  if (c.size === 2) {
    c.set(0, i64(0));
    return;
  }
  const swapped = call(c.helper("bswap64"), c.f.let(c.get(0)));
  c.set(0, c.size === 8 ? swapped : shrU(swapped, 32));
}));

/** Rows of shifts, rotates and bit operations. */
export const shiftRows: readonly Insn[] = rows;
