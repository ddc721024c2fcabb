/**
 * Functions of the module that x87 handlers share: exceptions, the register stack, operations on it
 * (Intel SDM vol. 1, 8.1.2 and 8.4 to 8.6).
 *
 * Operands are register numbers relative to the top of the stack; {@link MEMORY} is the number that a
 * handler has put at {@link OPERAND}.
 *
 * @module
 */

import {
  add,
  and,
  call,
  clz,
  cond,
  divU,
  eq,
  eqz,
  type Expr,
  extS,
  extU,
  type FuncBuilder,
  type FuncRef,
  i32,
  i64,
  load,
  type Local,
  ltU,
  type ModuleBuilder,
  mul,
  ne,
  or,
  rotl,
  rotr,
  select,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import { CPU, S, Vector } from "../state.ts";
import { Sw } from "./access.ts";
import { BIAS, cell32, Fp, raiseFlags, type SoftFloat } from "./softfloat.ts";
import {
  buildValues,
  loadExtended,
  NAN_EXPONENT,
  NAN_SIGNIFICAND,
  type ValueFunctions,
} from "./values.ts";

const { I32, I64 } = ValType;

/** Address of the operand from memory, a number of 16 bytes. */
export const OPERAND = S.scratch + 32;
/** The register number that names it. */
export const MEMORY = 8;

/** Exceptions that leave the destination as it was. */
const EARLY = Fp.invalid | Fp.denormal | Fp.divide;

function top(): Expr {
  return and(shrU(cell32(S.fpuSw), Sw.topShift), 7);
}

/** Number of the physical register of ST(`i`). */
function physical(i: Expr): Expr {
  return and(add(top(), i), 7);
}

/** Address of ST(`i`). */
export function stAddress(i: Expr): Expr {
  return add(shl(physical(i), 4), S.fpu);
}

/** 1 where ST(`i`) is empty. */
export function isEmpty(i: Expr): Expr {
  return and(shrU(cell32(S.fpuEmpty), physical(i)), 1);
}

/** Address of operand `i`, a register or {@link MEMORY}. */
function operandAddress(i: Local): Expr {
  return cond(eq(i, i32(MEMORY)), i32(OPERAND), stAddress(i));
}

function operandEmpty(i: Local): Expr {
  return and(ne(i, i32(MEMORY)), isEmpty(i));
}

function put(f: FuncBuilder, offset: number, value: Expr): void {
  f.store32(CPU, i32(0), value, offset);
}

/** Writes a number and marks its register as used. */
function write(f: FuncBuilder, i: Expr, number: { se: Expr; sig: Expr }): void {
  const n = f.let(physical(i));
  const address = f.let(shl(n, 4));
  f.store64(CPU, address, number.sig, S.fpu);
  f.store32(CPU, address, number.se, S.fpu + 8);
  put(f, S.fpuEmpty, and(cell32(S.fpuEmpty), xor(shl(i32(1), n), -1)));
}

/** Writes the result of a value function. */
function writeResult(f: FuncBuilder, i: Expr, sig: Expr): void {
  const value = f.let(sig);
  write(f, i, { se: cell32(S.fpExponent), sig: value });
}

function writeDefault(f: FuncBuilder, i: Expr): void {
  write(f, i, { se: i32(NAN_EXPONENT), sig: i64(NAN_SIGNIFICAND) });
}

/** Adds `by` to TOP. */
function moveTop(f: FuncBuilder, by: number): void {
  const sw = cell32(S.fpuSw);
  const moved = and(add(sw, by << Sw.topShift), Sw.top);
  put(f, S.fpuSw, or(and(sw, ~Sw.top), moved));
}

function pop(f: FuncBuilder): void {
  put(f, S.fpuEmpty, or(cell32(S.fpuEmpty), shl(i32(1), top())));
  moveTop(f, 1);
}

/** Pops `count` (0 to 2) registers. */
function popMany(f: FuncBuilder, count: Local): void {
  f.if(count, () => {
    pop(f);
    f.if(eq(count, i32(2)), () => pop(f));
  });
}

function stackFault(f: FuncBuilder, overflow: boolean): void {
  put(f, S.fpFlags, i32(Fp.invalid | Fp.stack | (overflow ? Fp.up : 0)));
}

/** `() -> i32`: records `fpFlags` in the status word; 1 where the destination must stay as it was. */
function buildCommit(module: ModuleBuilder): FuncRef {
  const f = module.func([], [I32]);
  const flags = f.let(and(cell32(S.fpFlags), 0x27f));
  put(f, S.fpFlags, i32(0));
  const unmasked = f.let(and(and(flags, xor(cell32(S.fpuCw), -1)), 0x3f));
  // There is no result then that could be inexact or rounded.
  f.if(and(ne(and(unmasked, EARLY), i32(0)), eqz(and(flags, Fp.stack))), () => {
    f.set(flags, and(flags, EARLY));
  });
  const sw = f.let(or(and(cell32(S.fpuSw), ~Sw.c1), flags));
  f.if(unmasked, () => {
    f.set(sw, or(sw, Sw.summary | Sw.busy));
    const opcode = f.let(cell32(S.fpOpcode));
    put(f, S.fpuOpcode, and(opcode, 0x7ff));
    f.if(
      shrU(opcode, 31),
      () => f.store64(CPU, i32(0), load.i64(CPU, i32(0), S.fpDp), S.fpuDp),
    );
  });
  put(f, S.fpuSw, sw);
  f.return(ne(and(unmasked, EARLY), i32(0)));
  f.unreachable();
  return f;
}

/** `(se i32, sig i64)`: pushes a number; a full stack takes the default NaN. */
function buildPush(module: ModuleBuilder, commit: FuncRef): FuncRef {
  const f = module.func([I32, I64]);
  const [se, sig] = [f.param(0), f.param(1)];
  f.if(eqz(isEmpty(i32(7))), () => {
    stackFault(f, true);
    f.set(se, i32(NAN_EXPONENT));
    f.set(sig, i64(NAN_SIGNIFICAND));
  });
  // A denormal is loaded whether that is masked or not.
  const invalid = and(
    and(cell32(S.fpFlags), xor(cell32(S.fpuCw), -1)),
    Fp.invalid,
  );
  const refused = f.let(invalid);
  f.drop(call(commit));
  f.if(refused, () => f.return());
  moveTop(f, -1);
  write(f, i32(0), { se, sig });
  return f;
}

/** `(dst, src, reverse, pops)`: dst = dst op src, or src op dst with `reverse`. */
function buildArithmetic(
  module: ModuleBuilder,
  commit: FuncRef,
  operation: (a: Expr, b: Expr) => Expr,
): FuncRef {
  const f = module.func([I32, I32, I32, I32]);
  const [dst, src, reverse, pops] = [f.param(0), f.param(1), f.param(2), f.param(3)];
  const sig = f.local(I64);
  f.if(
    or(isEmpty(dst), operandEmpty(src)),
    () => {
      stackFault(f, false);
      f.set(sig, i64(NAN_SIGNIFICAND));
      put(f, S.fpExponent, i32(NAN_EXPONENT));
    },
    () => {
      const a = f.let(stAddress(dst));
      const b = f.let(operandAddress(src));
      f.set(sig, operation(select(reverse, b, a), select(reverse, a, b)));
    },
  );
  f.if(call(commit), () => f.return());
  writeResult(f, dst, sig);
  popMany(f, pops);
  return f;
}

/** `()`: ST(0) = op(ST(0)), or op(ST(0), ST(1)) with `two`. */
function buildUnary(
  module: ModuleBuilder,
  commit: FuncRef,
  how: { two: boolean; clears: number; operation: (a: Expr, b: Expr) => Expr },
): FuncRef {
  const f = module.func([]);
  if (how.clears !== 0) put(f, S.fpuSw, and(cell32(S.fpuSw), ~how.clears));
  const sig = f.local(I64);
  const empty = how.two ? or(isEmpty(i32(0)), isEmpty(i32(1))) : isEmpty(i32(0));
  f.if(
    empty,
    () => {
      stackFault(f, false);
      f.set(sig, i64(NAN_SIGNIFICAND));
      put(f, S.fpExponent, i32(NAN_EXPONENT));
    },
    () => f.set(sig, how.operation(stAddress(i32(0)), stAddress(i32(1)))),
  );
  f.if(call(commit), () => f.return());
  writeResult(f, i32(0), sig);
  return f;
}

/** `(src, quiet, pops) -> codes`: compares ST(0); C3, C2, C0. */
function buildCompare(
  module: ModuleBuilder,
  commit: FuncRef,
  values: ValueFunctions,
): FuncRef {
  const f = module.func([I32, I32, I32], [I32]);
  const [src, quiet, pops] = [f.param(0), f.param(1), f.param(2)];
  const codes = f.local(I32, i32(0x4500));
  f.if(
    or(isEmpty(i32(0)), operandEmpty(src)),
    () => stackFault(f, false),
    () => f.set(codes, call(values.compare, stAddress(i32(0)), operandAddress(src), quiet)),
  );
  f.if(eqz(call(commit)), () => popMany(f, pops));
  f.return(codes);
  f.unreachable();
  return f;
}

/** `(codes)`: C3, C2, C0 into the status word. */
function buildSetCodes(module: ModuleBuilder): FuncRef {
  const f = module.func([I32]);
  put(f, S.fpuSw, or(and(cell32(S.fpuSw), ~0x4500), f.param(0)));
  return f;
}

/** `()`: FXAM. */
function buildExamine(module: ModuleBuilder): FuncRef {
  const f = module.func([]);
  const x = loadExtended(f, stAddress(i32(0)));
  const integer = shrU(x.sig, 63);
  const code = f.local(I32, i32(Sw.c2)); // normal
  f.if(eq(x.exp, i32(0x7fff)), () => {
    f.set(
      code,
      cond(
        eqz(integer),
        i32(0),
        cond(eqz(shl(x.sig, 1)), i32(Sw.c2 | Sw.c0), i32(Sw.c0)),
      ),
    );
  }, () => {
    f.if(
      eqz(x.exp),
      () => f.set(code, select(eqz(x.sig), i32(Sw.c3), i32(Sw.c3 | Sw.c2))),
      () => f.if(eqz(integer), () => f.set(code, i32(0))),
    );
  });
  f.if(isEmpty(i32(0)), () => f.set(code, i32(Sw.c3 | Sw.c0)));
  const sign = shl(shrU(x.se, 15), 9);
  put(f, S.fpuSw, or(and(cell32(S.fpuSw), ~0x4700), or(code, sign)));
  return f;
}

/** `(i)`: FXCH. Empty registers are default NaNs. */
function buildExchange(module: ModuleBuilder, commit: FuncRef): FuncRef {
  const f = module.func([I32]);
  const i = f.param(0);
  f.if(or(isEmpty(i32(0)), isEmpty(i)), () => stackFault(f, false));
  f.if(call(commit), () => f.return());
  f.if(isEmpty(i32(0)), () => writeDefault(f, i32(0)));
  f.if(isEmpty(i), () => writeDefault(f, i));
  const a = loadExtended(f, stAddress(i32(0)));
  const b = loadExtended(f, stAddress(i));
  write(f, i32(0), b);
  write(f, i, a);
  return f;
}

/** `(i)`: FLD ST(i). */
function buildDuplicate(module: ModuleBuilder, commit: FuncRef, push: FuncRef): FuncRef {
  const f = module.func([I32]);
  const x = loadExtended(f, stAddress(f.param(0)));
  // That it is empty is found before a full stack.
  f.if(isEmpty(f.param(0)), () => {
    stackFault(f, false);
    f.if(call(commit), () => f.return());
    moveTop(f, -1);
    writeDefault(f, i32(0));
    f.return();
  });
  f.call(push, x.se, x.sig);
  return f;
}

/** `(i, pops)`: FST ST(i). */
function buildStoreRegister(module: ModuleBuilder, commit: FuncRef): FuncRef {
  const f = module.func([I32, I32]);
  const x = loadExtended(f, stAddress(i32(0)));
  f.if(isEmpty(i32(0)), () => {
    stackFault(f, false);
    f.set(x.se, i32(NAN_EXPONENT));
    f.set(x.sig, i64(NAN_SIGNIFICAND));
  });
  f.if(call(commit), () => f.return());
  write(f, f.param(0), x);
  popMany(f, f.param(1));
  return f;
}

/** `(i, condition)`: FCMOVcc. */
function buildConditional(module: ModuleBuilder, commit: FuncRef): FuncRef {
  const f = module.func([I32, I32]);
  const i = f.param(0);
  f.if(or(isEmpty(i32(0)), isEmpty(i)), () => {
    stackFault(f, false);
    f.if(call(commit), () => f.return());
    writeDefault(f, i32(0));
    f.return();
  });
  f.if(f.param(1), () => {
    const x = loadExtended(f, stAddress(i));
    write(f, i32(0), x);
  });
  return f;
}

/** `(mask, value)`: changes sign and exponent of ST(0): FABS, FCHS. */
function buildSign(module: ModuleBuilder, commit: FuncRef): FuncRef {
  const f = module.func([I32, I32]);
  f.if(isEmpty(i32(0)), () => {
    stackFault(f, false);
    f.if(call(commit), () => f.return());
    writeDefault(f, i32(0));
    f.return();
  });
  f.drop(call(commit));
  const x = loadExtended(f, stAddress(i32(0)));
  write(f, i32(0), { se: xor(and(x.se, f.param(0)), f.param(1)), sig: x.sig });
  return f;
}

/** `()`: FXTRACT. */
function buildExtract(module: ModuleBuilder, commit: FuncRef, fromInteger: FuncRef): FuncRef {
  const f = module.func([]);
  f.if(or(isEmpty(i32(0)), eqz(isEmpty(i32(7)))), () => {
    const under = f.let(isEmpty(i32(0)));
    put(
      f,
      S.fpFlags,
      select(under, i32(Fp.invalid | Fp.stack), i32(Fp.invalid | Fp.stack | Fp.up)),
    );
    f.if(call(commit), () => f.return());
    writeDefault(f, i32(0));
    moveTop(f, -1);
    writeDefault(f, i32(0));
    f.return();
  });
  const x = loadExtended(f, stAddress(i32(0)));
  const exponentSe = f.let(x.se);
  const exponentSig = f.let(x.sig);
  const sign = f.let(and(x.se, 0x8000));
  f.if(eq(x.exp, i32(0x7fff)), () => {
    f.if(eqz(shrU(x.sig, 63)), () => {
      raiseFlags(f, Fp.invalid);
      for (const se of [x.se, exponentSe]) f.set(se, i32(NAN_EXPONENT));
      for (const sig of [x.sig, exponentSig]) f.set(sig, i64(NAN_SIGNIFICAND));
    }, () => {
      f.if(eqz(shl(x.sig, 1)), () => f.set(exponentSe, i32(0x7fff)), () => {
        f.if(
          eqz(and(x.sig, i64(1n << 62n))),
          () => raiseFlags(f, Fp.invalid),
        );
        f.set(x.sig, or(x.sig, i64(1n << 62n)));
        f.set(exponentSig, x.sig);
      });
    });
  }, () => {
    f.if(eqz(or(extU(x.exp), x.sig)), () => {
      raiseFlags(f, Fp.divide);
      f.set(exponentSe, i32(0xffff));
      f.set(exponentSig, i64(1n << 63n));
    }, () => {
      f.if(and(ne(x.exp, i32(0)), eqz(shrU(x.sig, 63))), () => {
        raiseFlags(f, Fp.invalid);
        for (const se of [x.se, exponentSe]) f.set(se, i32(NAN_EXPONENT));
        for (const sig of [x.sig, exponentSig]) f.set(sig, i64(NAN_SIGNIFICAND));
      }, () => {
        f.if(eqz(x.exp), () => {
          raiseFlags(f, Fp.denormal);
          f.set(x.exp, i32(1));
        });
        const shift = f.let(clz(x.sig));
        f.set(x.sig, shl(x.sig, shift));
        const power = f.let(sub(sub(x.exp, wrap(shift)), BIAS));
        f.set(exponentSig, call(fromInteger, extS(power)));
        f.set(exponentSe, cell32(S.fpExponent));
        f.set(x.se, or(sign, BIAS));
      });
    });
  });
  f.if(call(commit), () => f.return());
  write(f, i32(0), { se: exponentSe, sig: exponentSig });
  moveTop(f, -1);
  write(f, i32(0), { se: x.se, sig: x.sig });
  return f;
}

/** `(i, pops)`: marks ST(i) empty: FFREE. */
function buildFree(module: ModuleBuilder): FuncRef {
  const f = module.func([I32, I32]);
  put(f, S.fpuSw, and(cell32(S.fpuSw), ~Sw.c1));
  put(f, S.fpuEmpty, or(cell32(S.fpuEmpty), shl(i32(1), physical(f.param(0)))));
  popMany(f, f.param(1));
  return f;
}

/** `(by)`: FINCSTP (1) and FDECSTP (-1). */
function buildMoveTop(module: ModuleBuilder): FuncRef {
  const f = module.func([I32]);
  const sw = f.let(and(cell32(S.fpuSw), ~Sw.c1));
  const moved = and(add(sw, shl(f.param(0), Sw.topShift)), Sw.top);
  put(f, S.fpuSw, or(and(sw, ~Sw.top), moved));
  return f;
}

/** `(kind)`: pushes a constant, rounded as the control word says. */
function buildConstant(module: ModuleBuilder, push: FuncRef): FuncRef {
  const f = module.func([I32]);
  const kind = f.param(0);
  const mode = f.let(and(shrU(cell32(S.fpuCw), 10), 3));
  const se = f.local(I32, i32(0));
  const sig = f.local(I64, i64(0));
  constants.forEach((constant, i) => {
    f.if(eq(kind, i32(i)), () => {
      f.set(se, i32(constant.exponent));
      f.set(sig, i64(constant.down));
      // The mode that leaves the value below the true one, or takes the next above it.
      if (constant.up === "nearest") {
        f.if(
          or(eq(mode, i32(0)), eq(mode, i32(2))),
          () => f.set(sig, add(sig, 1)),
        );
      } else if (constant.up === "upward") {
        f.if(eq(mode, i32(2)), () => f.set(sig, add(sig, 1)));
      }
    });
  });
  f.call(push, se, sig);
  return f;
}

/** FLD1 to FLDZ in the order of their opcodes: cut off values, and which modes round up. */
const constants: readonly {
  readonly exponent: number;
  readonly down: bigint;
  readonly up: "never" | "nearest" | "upward";
}[] = [
  { exponent: 0x3fff, down: 0x8000_0000_0000_0000n, up: "never" },
  { exponent: 0x4000, down: 0xd49a_784b_cd1b_8afen, up: "upward" }, // log2(10)
  { exponent: 0x3fff, down: 0xb8aa_3b29_5c17_f0bbn, up: "nearest" }, // log2(e)
  { exponent: 0x4000, down: 0xc90f_daa2_2168_c234n, up: "nearest" }, // pi
  { exponent: 0x3ffd, down: 0x9a20_9a84_fbcf_f798n, up: "nearest" }, // log10(2)
  { exponent: 0x3ffe, down: 0xb172_17f7_d1cf_79abn, up: "nearest" }, // ln(2)
  { exponent: 0, down: 0n, up: "never" },
];

/** `(low i64, high i32)`: packed BCD; leaves the number at {@link OPERAND}. */
function buildFromBcd(module: ModuleBuilder, values: ValueFunctions): FuncRef {
  const f = module.func([I64, I32]);
  const [low, high] = [f.param(0), f.param(1)];
  const value = f.local(I64, i64(0));
  const digits = f.let(rotl(low, 4));
  const count = f.local(I32, i32(16));
  const take = (digit: Expr) => f.set(value, add(mul(value, 10), digit));
  take(extU(and(shrU(high, 4), 15)));
  take(extU(and(high, 15)));
  f.loop((again) => {
    take(and(digits, 15));
    f.set(digits, rotl(digits, 4));
    f.set(count, sub(count, 1));
    f.brIf(again, count);
  });
  f.store64(CPU, i32(0), call(values.fromInteger, value), OPERAND);
  const sign = and(high, 0x8000);
  f.store32(CPU, i32(0), or(cell32(S.fpExponent), sign), OPERAND + 8);
  return f;
}

/** `() -> low`: ST(0) as packed BCD; the high 16 bits are left in `fpExponent`. */
function buildToBcd(module: ModuleBuilder, values: ValueFunctions): FuncRef {
  const f = module.func([], [I64]);
  const indefinite = () => {
    put(f, S.fpExponent, i32(0xffff));
    f.return(i64(0xc000_0000_0000_0000n));
  };
  const address = f.let(stAddress(i32(0)));
  const value = f.let(call(values.toInteger, address, i32(64), i32(4)));
  f.if(and(cell32(S.fpFlags), Fp.invalid), indefinite);
  const sign = f.let(and(load.i32_16u(CPU, address, 8), 0x8000));
  const size = f.let(select(sign, sub(i64(0), value), value));
  f.if(eqz(ltU(size, i64(1_000_000_000_000_000_000n))), () => {
    put(f, S.fpFlags, i32(Fp.invalid));
    indefinite();
  });
  const low = f.local(I64, i64(0));
  const count = f.local(I32, i32(16));
  const digit = () => {
    const rest = f.let(divU(size, 10));
    const value = f.let(sub(size, mul(rest, 10)));
    f.set(size, rest);
    return value;
  };
  f.loop((again) => {
    const next = digit();
    f.set(low, rotr(or(low, next), 4));
    f.set(count, sub(count, 1));
    f.brIf(again, count);
  });
  const first = digit();
  const second = digit();
  put(f, S.fpExponent, or(sign, wrap(or(first, shl(second, 4)))));
  f.return(low);
  f.unreachable();
  return f;
}

/** `() -> i32`: 1 where exceptions of a store to memory keep it from being done. */
function buildStoreFlags(module: ModuleBuilder): FuncRef {
  const f = module.func([], [I32]);
  const flags = f.let(cell32(S.fpFlags));
  const refusing = EARLY | Fp.overflow | Fp.underflow;
  const unmasked = and(flags, xor(cell32(S.fpuCw), -1));
  const refused = f.let(ne(and(unmasked, refusing), i32(0)));
  f.if(refused, () => put(f, S.fpFlags, and(flags, refusing | Fp.stack)));
  f.return(refused);
  f.unreachable();
  return f;
}

/** Adds the functions; before any handler is emitted. */
export function registerX87Helpers(
  module: ModuleBuilder,
  runtime: Runtime,
  soft: SoftFloat,
): void {
  const set = (name: string, func: FuncRef): FuncRef => {
    runtime.helpers.set(name, func);
    return func;
  };

  // Sets or clears the summary of unmasked exceptions.
  const summary = module.func([]);
  const pending = and(and(cell32(S.fpuSw), xor(cell32(S.fpuCw), -1)), 0x3f);
  const clear = and(cell32(S.fpuSw), ~(Sw.summary | Sw.busy));
  put(summary, S.fpuSw, or(clear, select(eqz(pending), i32(0), i32(Sw.summary | Sw.busy))));
  set("x87Summary", summary);

  const raisePending = module.func([I32]);
  raisePending.call(runtime.raise, i32(Vector.MF), i32(0), i32(0), raisePending.param(0));
  raisePending.unreachable();
  set("x87Pending", raisePending);

  const values = buildValues(module, soft);
  const commit = set("x87.commit", buildCommit(module));
  const push = set("x87.push", buildPush(module, commit));
  const arithmetic = (name: string, operation: (a: Expr, b: Expr) => Expr) =>
    set(`x87.${name}`, buildArithmetic(module, commit, operation));
  arithmetic("add", (a, b) => call(values.add, a, b, i32(0)));
  arithmetic("sub", (a, b) => call(values.add, a, b, i32(1)));
  arithmetic("mul", (a, b) => call(values.mul, a, b));
  arithmetic("div", (a, b) => call(values.div, a, b));
  const unary = (
    name: string,
    operation: (a: Expr, b: Expr) => Expr,
    two = false,
    clears = 0,
  ) => set(`x87.${name}`, buildUnary(module, commit, { two, clears, operation }));
  unary("sqrt", (a) => call(values.sqrt, a));
  unary("rint", (a) => call(values.rint, a));
  unary("scale", (a, b) => call(values.scale, a, b), true);
  unary("rem", (a, b) => call(values.remainder, a, b, i32(0)), true, Sw.c2);
  unary("rem1", (a, b) => call(values.remainder, a, b, i32(1)), true, Sw.c2);
  set("x87.compare", buildCompare(module, commit, values));
  set("x87.setCodes", buildSetCodes(module));
  set("x87.examine", buildExamine(module));
  set("x87.exchange", buildExchange(module, commit));
  set("x87.duplicate", buildDuplicate(module, commit, push));
  set("x87.storeRegister", buildStoreRegister(module, commit));
  set("x87.conditional", buildConditional(module, commit));
  set("x87.sign", buildSign(module, commit));
  set("x87.extract", buildExtract(module, commit, values.fromInteger));
  set("x87.free", buildFree(module));
  set("x87.moveTop", buildMoveTop(module));
  set("x87.constant", buildConstant(module, push));
  set("x87.fromBcd", buildFromBcd(module, values));
  set("x87.toBcd", buildToBcd(module, values));
  const popOne = module.func([]);
  pop(popOne);
  set("x87.pop", popOne);
  set("x87.storeRefused", buildStoreFlags(module));
  set("x87.fromSingle", values.fromSingle);
  set("x87.fromDouble", values.fromDouble);
  set("x87.fromInteger", values.fromInteger);
  set("x87.toSingle", values.toSingle);
  set("x87.toDouble", values.toDouble);
  set("x87.toInteger", values.toInteger);
}
