/**
 * The string comparisons of SSE4.2 and CRC32 (Intel SDM vol. 2, 4.1 and CRC32).
 *
 * @module
 */

import {
  add,
  and,
  call,
  clz,
  cond,
  ctz,
  eq,
  eqz,
  type Expr,
  extU,
  type FuncBuilder,
  geS,
  i32,
  i64,
  load,
  type Local,
  ltS,
  ltU,
  type ModuleBuilder,
  ne,
  OpFd,
  or,
  select,
  shl,
  shrS,
  shrU,
  simd,
  sub,
  v,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { type Insn, insn } from "../opcode.ts";
import { CPU, CRC_TABLE, Flag, Reg, S } from "../state.ts";
import { const16, const8, getUnaligned, imm8, iota, sse } from "./access.ts";

const { I32, I64, V128 } = ValType;

/** Counts bits that differ only by lane width. */
interface Lanes {
  readonly count: number;
  readonly splat: number;
  readonly eq: number;
  readonly bitmask: number;
  readonly minS: number;
  readonly minU: number;
  readonly maxS: number;
  readonly maxU: number;
}

const bytes: Lanes = {
  count: 16,
  splat: OpFd.i8x16_splat,
  eq: OpFd.i8x16_eq,
  bitmask: OpFd.i8x16_bitmask,
  minS: OpFd.i8x16_min_s,
  minU: OpFd.i8x16_min_u,
  maxS: OpFd.i8x16_max_s,
  maxU: OpFd.i8x16_max_u,
};

const words: Lanes = {
  count: 8,
  splat: OpFd.i16x8_splat,
  eq: OpFd.i16x8_eq,
  bitmask: OpFd.i16x8_bitmask,
  minS: OpFd.i16x8_min_s,
  minU: OpFd.i16x8_min_u,
  maxS: OpFd.i16x8_max_s,
  maxU: OpFd.i16x8_max_u,
};

/** The bits below bit `n` (0 to 16). */
function below(n: Expr): Expr {
  return sub(shl(i32(1), n), 1);
}

/**
 * Adds the function that compares: `(a v128, b v128, lengthA, lengthB, imm) -> result bits`, IntRes2 of
 * the manual with the negation of the polarity done.
 */
function compareFunction(module: ModuleBuilder, lanes: Lanes): FuncBuilder {
  const f = module.func([V128, V128, I32, I32, I32], [I32]);
  const [a, b, lengthA, lengthB, imm] = [
    f.param(0),
    f.param(1),
    f.param(2),
    f.param(3),
    f.param(4),
  ];
  const all = (1 << lanes.count) - 1;
  const validA = f.let(below(lengthA));
  const validB = f.let(below(lengthB));
  const result = f.local(I32);
  const i = f.local(I32);
  const bitmask = (x: Expr) => simd(I32, lanes.bitmask, [x]);
  // Elements of `a` are picked from memory by number.
  f.storeV128(CPU, i32(0), a, S.scratch);
  const element = (index: Expr): Expr =>
    v(
      lanes.splat,
      lanes.count === 16
        ? load.i32_8u(CPU, index, S.scratch)
        : load.i32_16u(CPU, shl(index, 1), S.scratch),
    );
  const each = (step: number, limit: Expr, body: () => void) => {
    f.set(i, i32(0));
    f.block((done) => {
      f.loop((again) => {
        f.brIf(done, geS(i, limit));
        body();
        f.set(i, add(i, step));
        f.br(again);
      });
    });
  };
  const kind = f.let(and(shrU(imm, 2), 3));
  f.if(eq(kind, 0), () => {
    each(1, lengthA, () => {
      f.set(result, or(result, bitmask(v(lanes.eq, element(i), b))));
    });
    f.set(result, and(result, validB));
  });
  f.if(eq(kind, 1), () => {
    const low = f.local(V128);
    const high = f.local(V128);
    const inside = (min: number, max: number) =>
      bitmask(v(OpFd.v128_and, v(lanes.eq, v(max, b, low), b), v(lanes.eq, v(min, b, high), b)));
    // A range whose upper end is missing matches nothing.
    each(2, sub(lengthA, 1), () => {
      f.set(low, element(i));
      f.set(high, element(add(i, 1)));
      f.if(
        and(imm, 2),
        () => f.set(result, or(result, inside(lanes.minS, lanes.maxS))),
        () => f.set(result, or(result, inside(lanes.minU, lanes.maxU))),
      );
    });
    f.set(result, and(result, validB));
  });
  f.if(eq(kind, 2), () => {
    const equal = and(bitmask(v(lanes.eq, a, b)), and(validA, validB));
    f.set(result, or(equal, and(xor(or(validA, validB), all), all)));
  });
  f.if(eq(kind, 3), () => {
    f.set(result, i32(all));
    each(1, lengthA, () => {
      // Places behind the register's end are not compared.
      const found = or(and(bitmask(v(lanes.eq, element(i), b)), validB), ~all);
      f.set(result, and(result, shrS(found, i)));
    });
  });
  f.if(and(imm, 0x10), () => {
    f.set(result, xor(result, select(and(imm, 0x20), validB, i32(all))));
  });
  f.return(result);
  return f;
}

/** Adds the helper functions of this file. */
export function stringHelpers(module: ModuleBuilder, helpers: Map<string, FuncBuilder>): void {
  helpers.set("compareBytes", compareFunction(module, bytes));
  helpers.set("compareWords", compareFunction(module, words));

  const makeTable = module.func([]);
  {
    const f = makeTable;
    const byte = f.local(I32, i32(255));
    f.loop((again) => {
      const value = f.let(byte);
      for (let bit = 0; bit < 8; bit++) {
        const polynomial = and(sub(i32(0), and(value, 1)), 0x82f63b78);
        f.set(value, xor(shrU(value, 1), polynomial));
      }
      f.store32(CPU, shl(byte, 2), value, CRC_TABLE);
      f.set(byte, sub(byte, 1));
      f.brIf(again, byte);
    });
  }

  // (crc i32, data i64, bytes i32) -> crc
  const crc = module.func([I32, I64, I32], [I32]);
  // The table's last entry is never zero.
  crc.if(eqz(load.i32(CPU, i32(0), CRC_TABLE + 1020)), () => crc.call(makeTable));
  const value = crc.let(crc.param(0));
  const data = crc.let(crc.param(1));
  const left = crc.let(crc.param(2));
  crc.loop((again) => {
    const byte = and(xor(value, wrap(data)), 0xff);
    crc.set(value, xor(shrU(value, 8), load.i32(CPU, shl(byte, 2), CRC_TABLE)));
    crc.set(data, shrU(data, 8));
    crc.set(left, sub(left, 1));
    crc.brIf(again, left);
  });
  crc.return(value);
  helpers.set("crc32", crc);
}

/** Length that EAX or EDX (RAX, RDX) gives: its magnitude, up to `count`. */
function explicitLength(c: Cx, reg: number, count: number): Local {
  const f = c.f;
  const wide = c.size === 8;
  const value = f.let(wide ? c.reg(reg, 8) : signExtend32(c.reg(reg, 4)));
  const magnitude = f.let(select(ltS(value, i64(0)), sub(i64(0), value), value));
  return f.let(wrap(select(ltU(magnitude, i64(count)), magnitude, i64(count))));
}

function signExtend32(value: Expr): Expr {
  return shrS(shl(value, 32), 32);
}

/** Number of lanes before the first zero. */
function implicitLength(c: Cx, value: Expr, lanes: Lanes): Local {
  const zeros = simd(I32, lanes.bitmask, [v(lanes.eq, value, zeros16())]);
  return c.f.let(ctz(or(zeros, 1 << lanes.count)));
}

function zeros16(): Expr {
  return const8(iota.map(() => 0));
}

/** PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM. */
function compareStrings(explicit: boolean, index: boolean): (c: Cx) => void {
  return (c) => {
    const f = c.f;
    const b = getUnaligned(c, 1);
    const a = f.let(load.v128(CPU, c.slot(0)));
    const imm = f.let(imm8(c, 2));
    const run = (lanes: Lanes) => {
      const n = lanes.count;
      const lengthA = explicit ? explicitLength(c, Reg.rax, n) : implicitLength(c, a, lanes);
      const lengthB = explicit ? explicitLength(c, Reg.rdx, n) : implicitLength(c, b, lanes);
      const compare = c.helper(n === 16 ? "compareBytes" : "compareWords");
      const result = f.let(call(compare, a, b, lengthA, lengthB, imm));
      const flag = (condition: Expr, flagBit: number) => shl(extU(condition), Math.log2(flagBit));
      c.setArithFlags(
        or(
          or(flag(ne(result, i32(0)), Flag.CF), flag(ltS(lengthB, i32(n)), Flag.ZF)),
          or(flag(ltS(lengthA, i32(n)), Flag.SF), flag(and(result, 1), Flag.OF)),
        ),
      );
      if (index) {
        const found = cond(and(imm, 0x40), sub(i32(31), clz(result)), ctz(result));
        c.setReg(Reg.rcx, extU(cond(eqz(result), i32(n), found)), 4);
        return;
      }
      // Each bit spread over its lane.
      const bits = n === 16
        ? const8([1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128])
        : const16([1, 2, 4, 8, 16, 32, 64, 128]);
      const spread = n === 16
        ? v(
          OpFd.i8x16_swizzle,
          v(OpFd.i32x4_splat, result),
          const8([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]),
        )
        : v(OpFd.i16x8_splat, result);
      const masks = v(lanes.eq, v(OpFd.v128_and, spread, bits), bits);
      const store = (value: Expr) => f.storeV128(CPU, i32(0), value, S.xmm);
      f.if(
        and(imm, 0x40),
        () => store(masks),
        () => {
          store(zeros16());
          f.store32(CPU, i32(0), result, S.xmm);
        },
      );
    };
    f.if(and(imm, 1), () => run(words), () => run(bytes));
  };
}

/** CRC32 of operand 1 into operand 0. */
function crc32(c: Cx): void {
  const size = c.operandSize(1);
  const data = c.f.let(c.get(1));
  c.set(0, extU(call(c.helper("crc32"), wrap(c.get(0)), data, i32(size))));
}

/** Rows of the string comparisons and CRC32. */
export const stringRows: readonly Insn[] = [
  sse("pcmpestrm", "66 0f 3a 60 /r sz", "Vx Wx Ib", compareStrings(true, false)),
  sse("pcmpestri", "66 0f 3a 61 /r sz", "Vx Wx Ib", compareStrings(true, true)),
  sse("pcmpistrm", "66 0f 3a 62 /r", "Vx Wx Ib", compareStrings(false, false)),
  sse("pcmpistri", "66 0f 3a 63 /r", "Vx Wx Ib", compareStrings(false, true)),
  insn("crc32", "f2 0f 38 f0 /r", "Gy Eb", crc32),
  insn("crc32", "f2 0f 38 f1 /r", "Gy Ev", crc32),
];
