/**
 * Loads, atomic operations, and the immediate that says where a memory is accessed (core specification
 * 3.0, 5.4.7; threads proposal).
 *
 * @module
 */

import type { ByteWriter } from "./bytes.ts";
import { Expr } from "./expr.ts";
import { Op, OpFd, ValType } from "./types.ts";

/** Where a load or store goes: memory index and constant byte offset. */
export interface Place {
  readonly mem: number;
  readonly offset: number;
}

/** Writes a memory immediate (bit 6 of the alignment announces a memory index). */
export function memarg(out: ByteWriter, align: number, place: Place): void {
  if (place.mem === 0) out.u32(align);
  else {
    out.u32(align | 0x40);
    out.u32(place.mem);
  }
  out.u32(place.offset);
}

class Load extends Expr {
  constructor(
    type: ValType,
    readonly code: number,
    readonly align: number,
    readonly place: Place,
    readonly address: Expr,
  ) {
    super(type);
  }
  emit(out: ByteWriter): void {
    this.address.emit(out);
    if (this.code >= 0xfd00) {
      out.u8(this.code >>> 8);
      out.u32(this.code & 0xff);
    } else out.u8(this.code);
    memarg(out, this.align, this.place);
  }
}

function loader(
  type: ValType,
  code: number,
): (mem: number, address: Expr, offset?: number) => Expr {
  // Alignment hints are only hints; 0 is always valid.
  return (mem, address, offset = 0) => new Load(type, code, 0, { mem, offset }, address);
}

/** Loads, by result type and width. */
export const load = {
  i32: loader(ValType.I32, Op.i32_load),
  i32_8u: loader(ValType.I32, Op.i32_load8_u),
  i32_8s: loader(ValType.I32, Op.i32_load8_s),
  i32_16u: loader(ValType.I32, Op.i32_load16_u),
  i32_16s: loader(ValType.I32, Op.i32_load16_s),
  i64: loader(ValType.I64, Op.i64_load),
  i64_8u: loader(ValType.I64, Op.i64_load8_u),
  i64_16u: loader(ValType.I64, Op.i64_load16_u),
  i64_32u: loader(ValType.I64, Op.i64_load32_u),
  i64_32s: loader(ValType.I64, Op.i64_load32_s),
  f32: loader(ValType.F32, Op.f32_load),
  f64: loader(ValType.F64, Op.f64_load),
  v128: loader(ValType.V128, 0xfd00 | OpFd.v128_load),
};

/** Zero-extending i64 load of `size` bytes. */
export function loadSized(size: number, mem: number, address: Expr, offset = 0): Expr {
  switch (size) {
    case 1:
      return load.i64_8u(mem, address, offset);
    case 2:
      return load.i64_16u(mem, address, offset);
    case 4:
      return load.i64_32u(mem, address, offset);
    default:
      return load.i64(mem, address, offset);
  }
}

/**
 * Atomic read-modify-write of `size` (1, 2, 4, 8) bytes at an aligned address; gives the old value as
 * i64, zero-extended.
 *
 * @param code One of `OpFe.rmw_…`.
 * @param args The operand; for `rmw_cmpxchg` the expected value and the replacement.
 */
export function atomicRmw(
  code: number,
  size: number,
  at: { mem: number; address: Expr },
  ...args: Expr[]
): Expr {
  const log = Math.log2(size);
  // After the 32-bit form: 64, 8 and 16 bits as i32, then 8, 16 and 32 bits as i64.
  const form = size === 8 ? 1 : 4 + log;
  const place = { mem: at.mem, offset: 0 };
  return new AtomicExpr(ValType.I64, code + form, log, place, [at.address, ...args]);
}

class AtomicExpr extends Expr {
  constructor(
    type: ValType,
    readonly code: number,
    readonly align: number,
    readonly place: Place,
    readonly args: readonly Expr[],
  ) {
    super(type);
  }
  emit(out: ByteWriter): void {
    for (const arg of this.args) arg.emit(out);
    out.u8(0xfe);
    out.u32(this.code);
    memarg(out, this.align, this.place);
  }
}

/** An atomic operation that yields a value; `align` is log2 of its natural width. */
export function atomic(
  type: ValType,
  code: number,
  align: number,
  place: Place,
  ...args: Expr[]
): Expr {
  return new AtomicExpr(type, code, align, place, args);
}
