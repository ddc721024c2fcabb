/**
 * Expressions: small trees that write themselves as WebAssembly. An expression is evaluated where it
 * is emitted, so one that reads a local or memory sees what holds then.
 *
 * @module
 */

import type { ByteWriter } from "./bytes.ts";
import { Op, OpFd, ValType } from "./types.ts";

/** A value of known type that can write the code which computes it. */
export abstract class Expr {
  /** @param type Type of the value. */
  constructor(readonly type: ValType) {}
  /** Appends the code that leaves the value on the stack. */
  abstract emit(out: ByteWriter): void;
}

/** An `i32` or `i64` operand: an expression or a constant. */
export type Operand = Expr | number | bigint;

class I32Const extends Expr {
  constructor(readonly value: number) {
    super(ValType.I32);
  }
  emit(out: ByteWriter): void {
    out.u8(Op.i32_const);
    out.s32(this.value);
  }
}

class I64Const extends Expr {
  constructor(readonly value: bigint) {
    super(ValType.I64);
  }
  emit(out: ByteWriter): void {
    out.u8(Op.i64_const);
    out.s64(this.value);
  }
}

/** `i32` constant. */
export function i32(value: number): Expr {
  return new I32Const(value);
}

/** `i64` constant. */
export function i64(value: number | bigint): Expr {
  return new I64Const(BigInt(value));
}

/** `f64` constant. */
export function f64(value: number): Expr {
  return new FloatConst(
    ValType.F64,
    Op.f64_const,
    new Uint8Array(new Float64Array([value]).buffer),
  );
}

/** `f32` constant. */
export function f32(value: number): Expr {
  return new FloatConst(
    ValType.F32,
    Op.f32_const,
    new Uint8Array(new Float32Array([value]).buffer),
  );
}

class FloatConst extends Expr {
  constructor(type: ValType, readonly op: number, readonly bytes: Uint8Array) {
    super(type);
  }
  emit(out: ByteWriter): void {
    out.u8(this.op);
    out.raw(this.bytes);
  }
}

class V128Const extends Expr {
  constructor(readonly bytes: ArrayLike<number>) {
    super(ValType.V128);
  }
  emit(out: ByteWriter): void {
    out.u8(0xfd);
    out.u32(OpFd.v128_const);
    out.raw(this.bytes);
  }
}

/** `v128` constant of 16 bytes. */
export function v128(bytes: ArrayLike<number>): Expr {
  return new V128Const(bytes);
}

/** The value of constant `e`, or undefined where it is not an integer constant. */
export function constantOf(e: Expr): bigint | undefined {
  if (e instanceof I64Const) return BigInt.asUintN(64, e.value);
  if (e instanceof I32Const) return BigInt(e.value >>> 0);
  return undefined;
}

/** A local variable or parameter. */
export class Local extends Expr {
  constructor(type: ValType, readonly index: number) {
    super(type);
  }
  emit(out: ByteWriter): void {
    out.localGet(this.index);
  }
}

class Simple extends Expr {
  constructor(type: ValType, readonly op: number, readonly args: readonly Expr[]) {
    super(type);
  }
  emit(out: ByteWriter): void {
    for (const arg of this.args) arg.emit(out);
    out.u8(this.op);
  }
}

class Prefixed extends Expr {
  constructor(
    type: ValType,
    readonly prefix: number,
    readonly op: number,
    readonly args: readonly Expr[],
    readonly immediate: ArrayLike<number>,
  ) {
    super(type);
  }
  emit(out: ByteWriter): void {
    for (const arg of this.args) arg.emit(out);
    out.u8(this.prefix);
    out.u32(this.op);
    out.raw(this.immediate);
  }
}

/** An operation of a one-byte opcode. */
export function op(type: ValType, code: number, ...args: Expr[]): Expr {
  return new Simple(type, code, args);
}

const noBytes: readonly number[] = [];

/** A SIMD operation; `immediate` is the lane or the shuffle bytes. */
export function simd(
  type: ValType,
  code: number,
  args: readonly Expr[],
  immediate: ArrayLike<number> = noBytes,
): Expr {
  return new Prefixed(type, 0xfd, code, args, immediate);
}

/** A v128 operation without immediate. */
export function v(code: number, ...args: Expr[]): Expr {
  return new Prefixed(ValType.V128, 0xfd, code, args, noBytes);
}

/** Saturating truncations and the like. */
export function opFc(type: ValType, code: number, ...args: Expr[]): Expr {
  return new Prefixed(type, 0xfc, code, args, noBytes);
}

function of(type: ValType, x: Operand): Expr {
  if (typeof x !== "object") return type === ValType.I32 ? i32(Number(x)) : i64(x);
  return x;
}

/** Widens a plain constant to the type of the other operand. */
function pair(a: Operand, b: Operand): [Expr, Expr] {
  const type = typeof a === "object" ? a.type : typeof b === "object" ? b.type : ValType.I64;
  return [of(type, a), of(type, b)];
}

function arith(code32: number, code64: number): (a: Operand, b: Operand) => Expr {
  return (a, b) => {
    const [x, y] = pair(a, b);
    if (x.type !== y.type) throw new TypeError(`operand types ${x.type} and ${y.type} differ`);
    return folded(code64, x, y) ??
      new Simple(x.type, x.type === ValType.I32 ? code32 : code64, [x, y]);
  };
}

/** What operation `code` of two i64 comes to where both are constants; undefined where it is not known. */
function folded(code: number, x: Expr, y: Expr): Expr | undefined {
  // A local is not what it holds now.
  if (code === Op.i64_add && x instanceof Simple && y instanceof I64Const && y.value === 0n) {
    return x;
  }
  if (!(x instanceof I64Const && y instanceof I64Const)) return undefined;
  const count = BigInt.asUintN(6, y.value);
  switch (code) {
    case Op.i64_add:
      return new I64Const(BigInt.asIntN(64, x.value + y.value));
    case Op.i64_sub:
      return new I64Const(BigInt.asIntN(64, x.value - y.value));
    case Op.i64_and:
      return new I64Const(BigInt.asIntN(64, x.value & y.value));
    case Op.i64_or:
      return new I64Const(BigInt.asIntN(64, x.value | y.value));
    case Op.i64_xor:
      return new I64Const(BigInt.asIntN(64, x.value ^ y.value));
    case Op.i64_shl:
      return new I64Const(BigInt.asIntN(64, x.value << count));
    case Op.i64_shr_u:
      return new I64Const(BigInt.asIntN(64, BigInt.asUintN(64, x.value) >> count));
    case Op.i64_shr_s:
      return new I64Const(BigInt.asIntN(64, x.value) >> count);
    default:
      return undefined;
  }
}

function compare(code32: number, code64: number): (a: Operand, b: Operand) => Expr {
  return (a, b) => {
    const [x, y] = pair(a, b);
    if (x.type !== y.type) throw new TypeError(`operand types ${x.type} and ${y.type} differ`);
    return new Simple(ValType.I32, x.type === ValType.I32 ? code32 : code64, [x, y]);
  };
}

/** Integer addition, for i32 or i64 by the operands' type (so are the following). */
export const add = arith(Op.i32_add, Op.i64_add);
/** Subtraction. */
export const sub = arith(Op.i32_sub, Op.i64_sub);
/** Multiplication. */
export const mul = arith(Op.i32_mul, Op.i64_mul);
/** Signed division (traps on 0 and overflow). */
export const divS = arith(Op.i32_div_s, Op.i64_div_s);
/** Unsigned division (traps on 0). */
export const divU = arith(Op.i32_div_u, Op.i64_div_u);
/** Signed remainder. */
export const remS = arith(Op.i32_rem_s, Op.i64_rem_s);
/** Unsigned remainder. */
export const remU = arith(Op.i32_rem_u, Op.i64_rem_u);
/** Bitwise and. */
export const and = arith(Op.i32_and, Op.i64_and);
/** Bitwise or. */
export const or = arith(Op.i32_or, Op.i64_or);
/** Bitwise exclusive or. */
export const xor = arith(Op.i32_xor, Op.i64_xor);
/** Shift left (count modulo width). */
export const shl = arith(Op.i32_shl, Op.i64_shl);
/** Logical shift right. */
export const shrU = arith(Op.i32_shr_u, Op.i64_shr_u);
/** Arithmetic shift right. */
export const shrS = arith(Op.i32_shr_s, Op.i64_shr_s);
/** Rotate left. */
export const rotl = arith(Op.i32_rotl, Op.i64_rotl);
/** Rotate right. */
export const rotr = arith(Op.i32_rotr, Op.i64_rotr);
/** Equal. */
export const eq = compare(Op.i32_eq, Op.i64_eq);
/** Not equal. */
export const ne = compare(Op.i32_ne, Op.i64_ne);
/** Signed less. */
export const ltS = compare(Op.i32_lt_s, Op.i64_lt_s);
/** Unsigned less. */
export const ltU = compare(Op.i32_lt_u, Op.i64_lt_u);
/** Signed greater. */
export const gtS = compare(Op.i32_gt_s, Op.i64_gt_s);
/** Unsigned greater. */
export const gtU = compare(Op.i32_gt_u, Op.i64_gt_u);
/** Signed less or equal. */
export const leS = compare(Op.i32_le_s, Op.i64_le_s);
/** Unsigned less or equal. */
export const leU = compare(Op.i32_le_u, Op.i64_le_u);
/** Signed greater or equal. */
export const geS = compare(Op.i32_ge_s, Op.i64_ge_s);
/** Unsigned greater or equal. */
export const geU = compare(Op.i32_ge_u, Op.i64_ge_u);

/** Comparisons of integers and what holds where they do not. */
const OPPOSITES: ReadonlyMap<number, number> = new Map(
  ([
    [Op.i32_eq, Op.i32_ne],
    [Op.i32_lt_s, Op.i32_ge_s],
    [Op.i32_lt_u, Op.i32_ge_u],
    [Op.i32_gt_s, Op.i32_le_s],
    [Op.i32_gt_u, Op.i32_le_u],
    [Op.i64_eq, Op.i64_ne],
    [Op.i64_lt_s, Op.i64_ge_s],
    [Op.i64_lt_u, Op.i64_ge_u],
    [Op.i64_gt_s, Op.i64_le_s],
    [Op.i64_gt_u, Op.i64_le_u],
  ] as const).flatMap(([a, b]): [number, number][] => [[a, b], [b, a]]),
);

/** One where zero. */
export function eqz(a: Expr): Expr {
  const opposite = a instanceof Simple ? OPPOSITES.get(a.op) : undefined;
  if (opposite !== undefined) return new Simple(ValType.I32, opposite, (a as Simple).args);
  return new Simple(ValType.I32, a.type === ValType.I32 ? Op.i32_eqz : Op.i64_eqz, [a]);
}

/** Bitwise complement. */
export function not(a: Expr): Expr {
  return xor(a, -1);
}

/** Leading zeros, trailing zeros, ones. */
export function clz(a: Expr): Expr {
  return new Simple(a.type, a.type === ValType.I32 ? Op.i32_clz : Op.i64_clz, [a]);
}
/** Trailing zeros. */
export function ctz(a: Expr): Expr {
  return new Simple(a.type, a.type === ValType.I32 ? Op.i32_ctz : Op.i64_ctz, [a]);
}
/** Number of ones. */
export function popcnt(a: Expr): Expr {
  return new Simple(a.type, a.type === ValType.I32 ? Op.i32_popcnt : Op.i64_popcnt, [a]);
}

/** The i32 that `a` is an extension of. */
function widened(a: Expr): Expr | undefined {
  const extends32 = a instanceof Simple &&
    (a.op === Op.i64_extend_i32_u || a.op === Op.i64_extend_i32_s);
  return extends32 ? a.args[0] : undefined;
}

/** Low 32 bits of an i64 (an i32 passes). */
export function wrap(a: Expr): Expr {
  if (a.type === ValType.I32) return a;
  if (a instanceof I64Const) return i32(Number(BigInt.asIntN(32, a.value)));
  const inner = widened(a);
  return inner ?? new Simple(ValType.I32, Op.i32_wrap_i64, [a]);
}
/** Zero-extends an i32 (an i64 passes). */
export function extU(a: Expr): Expr {
  return a.type === ValType.I64 ? a : new Simple(ValType.I64, Op.i64_extend_i32_u, [a]);
}
/** Sign-extends an i32 (an i64 passes). */
export function extS(a: Expr): Expr {
  return a.type === ValType.I64 ? a : new Simple(ValType.I64, Op.i64_extend_i32_s, [a]);
}

/** Sign-extends the low `size` bytes of an i64. */
export function signExtend(a: Expr, size: number): Expr {
  const code = size === 1
    ? Op.i64_extend8_s
    : size === 2
    ? Op.i64_extend16_s
    : size === 4
    ? Op.i64_extend32_s
    : 0;
  if (a instanceof I64Const) return i64(BigInt.asIntN(8 * size, a.value));
  return code === 0 ? a : new Simple(ValType.I64, code, [a]);
}

/** Clears all but the low `size` bytes of an i64. */
export function zeroExtend(a: Expr, size: number): Expr {
  if (size === 8) return a;
  const known = constantOf(a);
  if (known !== undefined) return i64(known & ((1n << BigInt(8 * size)) - 1n));
  if (size === 4) return extU(wrap(a));
  return and(a, i64((1n << BigInt(8 * size)) - 1n));
}

/** `cond ? a : b`, both evaluated. */
export function select(cond: Expr, a: Expr, b: Expr): Expr {
  return new Simple(a.type, Op.select, [a, b, cond]);
}

class IfExpr extends Expr {
  constructor(type: ValType, readonly cond: Expr, readonly a: Expr, readonly b: Expr) {
    super(type);
  }
  emit(out: ByteWriter): void {
    this.cond.emit(out);
    out.u8(Op.if);
    out.u8(this.type);
    this.a.emit(out);
    out.u8(Op.else);
    this.b.emit(out);
    out.u8(Op.end);
  }
}

/** `cond ? a : b`, only one evaluated. */
export function cond(condition: Expr, a: Expr, b: Expr): Expr {
  return new IfExpr(a.type, condition, a, b);
}

class Call extends Expr {
  constructor(type: ValType, readonly index: number, readonly args: readonly Expr[]) {
    super(type);
  }
  emit(out: ByteWriter): void {
    for (const arg of this.args) arg.emit(out);
    out.u8(Op.call);
    out.u32(this.index);
  }
}

/** Result of calling function `index`. */
export function callIndex(type: ValType, index: number, args: readonly Expr[]): Expr {
  return new Call(type, index, args);
}

class Tee extends Expr {
  constructor(readonly local: Local, readonly value: Expr) {
    super(local.type);
  }
  emit(out: ByteWriter): void {
    this.value.emit(out);
    out.u8(Op.local_tee);
    out.u32(this.local.index);
  }
}

/** Sets `local` and passes the value. */
export function tee(local: Local, value: Expr): Expr {
  return new Tee(local, value);
}
