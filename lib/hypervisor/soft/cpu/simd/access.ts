/**
 * Operands of SIMD instructions: whether the guest may use them now, XMM and MMX registers, aligned
 * memory (Intel SDM vol. 3, 13.1 and vol. 1, 9.6).
 *
 * @module
 */

import {
  add,
  and,
  type Expr,
  type FuncBuilder,
  i32,
  i64,
  load,
  type Local,
  ne,
  OpFd,
  or,
  shl,
  simd,
  v,
  v128,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { type Insn, insn, type Semantics } from "../opcode.ts";
import { CPU, S, Vector } from "../state.ts";

/** Bits of `S.fpuTrap`. */
export const FpuTrap = { x87: 1, sse: 2 } as const;

/** Raises #UD or #NM where SSE cannot be used now. */
export function enterSse(c: Cx): void {
  c.f.if(and(c.s32(S.fpuTrap), FpuTrap.sse), () => c.trap("sseTrap"));
}

/** Raises #UD, #NM or #MF where MMX cannot be used now. */
export function enterMmx(c: Cx): void {
  c.f.if(
    or(and(c.s32(S.fpuTrap), FpuTrap.x87), and(c.s32(S.fpuSw), 0x80)),
    () => c.trap("mmxTrap"),
  );
}

/** The part of {@link commitMmx} that stores do even where they fault: TOP is 0. */
export function clearTop(c: Cx): void {
  c.setS32(S.fpuSw, and(c.s32(S.fpuSw), ~0x3800));
}

/** What every MMX instruction but EMMS does to the x87 state: TOP is 0, all registers are in use. */
export function commitMmx(c: Cx): void {
  clearTop(c);
  c.setS32(S.fpuEmpty, i32(0));
}

/** A row of an instruction on XMM registers. */
export function sse(
  mnemonic: string,
  encoding: string,
  operands: string,
  semantics: Semantics,
): Insn {
  return insn(mnemonic, encoding, operands, (c) => {
    enterSse(c);
    semantics(c);
  });
}

/** A row of an instruction on MMX registers. */
export function mmx(
  mnemonic: string,
  encoding: string,
  operands: string,
  semantics: Semantics,
): Insn {
  return insn(mnemonic, encoding, operands, (c) => {
    enterMmx(c);
    semantics(c);
  });
}

/** Raises #GP where `address` is not a multiple of 16. */
export function checkAligned(c: Cx, address: Local): void {
  c.f.if(and(wrap(address), 15), () => c.raise(Vector.GP, i32(0)));
}

/** Operand `i` of 16 bytes; memory must be aligned. */
export function getX(c: Cx, i: number): Local {
  if (!c.isMemory(i)) return c.f.let(load.v128(CPU, c.slot(i)));
  const address = c.ea();
  checkAligned(c, address);
  return c.load128(address);
}

/** Operand `i` of 16 bytes; memory need not be aligned. */
export function getUnaligned(c: Cx, i: number): Local {
  return c.isMemory(i) ? c.load128(c.ea()) : c.f.let(load.v128(CPU, c.slot(i)));
}

/** Writes all 16 bytes of operand `i`; memory must be aligned. */
export function setX(c: Cx, i: number, value: Expr): void {
  if (!c.isMemory(i)) {
    c.f.storeV128(CPU, c.slot(i), value);
    return;
  }
  const address = c.ea();
  checkAligned(c, address);
  c.store128(address, value);
}

/** Writes all 16 bytes of operand `i`; memory need not be aligned. */
export function setUnaligned(c: Cx, i: number, value: Expr): void {
  if (c.isMemory(i)) c.store128(c.ea(), value);
  else c.f.storeV128(CPU, c.slot(i), value);
}

/** Writes the low `size` bytes of XMM operand `i` and keeps the others. */
export function setLow(c: Cx, i: number, at: { value: Expr; size: number }): void {
  c.f.storeSized(at.size, CPU, c.slot(i), at.value);
}

/** Writes XMM operand `i`: `low`, and zeros above its 64 bits. */
export function setZeroing(c: Cx, i: number, low: Expr): void {
  c.f.storeV128(CPU, c.slot(i), fromLow(low));
}

/** Writes MMX operand `i` (the exponent of the x87 register above it becomes all ones). */
export function setM(c: Cx, i: number, value: Expr): void {
  commitMmx(c);
  c.f.store64(CPU, c.slot(i), value);
  c.f.store16(CPU, c.slot(i), i32(0xffff), 8);
}

/** i64 `low` with zeros above. */
export function fromLow(low: Expr): Expr {
  return simd(ValType.V128, OpFd.i64x2_replace_lane, [v128(new Uint8Array(16)), low], [0]);
}

/** i64 in both halves. */
export function splat64(value: Expr): Expr {
  return v(OpFd.i64x2_splat, value);
}

/** `low` and `high` i64 as one vector. */
export function join64(low: Expr, high: Expr): Expr {
  return simd(ValType.V128, OpFd.i64x2_replace_lane, [splat64(low), high], [1]);
}

/** i64 lane `lane`. */
export function lane64(value: Expr, lane: number): Expr {
  return simd(ValType.I64, OpFd.i64x2_extract_lane, [value], [lane]);
}

/** i32 lane `lane`. */
export function lane32(value: Expr, lane: number): Expr {
  return simd(ValType.I32, OpFd.i32x4_extract_lane, [value], [lane]);
}

/** Bytes of `a` (0 to 15) and `b` (16 to 31) by constant places. */
export function shuffle(a: Expr, b: Expr, places: readonly number[]): Expr {
  if (places.length !== 16) throw new TypeError("a shuffle names 16 bytes");
  return simd(ValType.V128, OpFd.i8x16_shuffle, [a, b], places);
}

/** Like {@link shuffle} by lanes of `width` bytes. */
export function shuffleLanes(width: number, a: Expr, b: Expr, lanes: readonly number[]): Expr {
  const places = lanes.flatMap((lane) => Array.from({ length: width }, (_, i) => lane * width + i));
  return shuffle(a, b, places);
}

/** Constant of 16 bytes. */
export function const8(values: readonly number[]): Expr {
  return v128(Uint8Array.from(values));
}

/** Constant of 8 words. */
export function const16(values: readonly number[]): Expr {
  return v128(new Uint8Array(Uint16Array.from(values).buffer));
}

/** Constant of 4 dwords. */
export function const32(values: readonly number[]): Expr {
  return v128(new Uint8Array(Uint32Array.from(values).buffer));
}

/** Constant of 2 qwords. */
export function const64(values: readonly bigint[]): Expr {
  return v128(new Uint8Array(BigUint64Array.from(values).buffer));
}

/** 0 to 15. */
export const iota: readonly number[] = Array.from({ length: 16 }, (_, i) => i);

/** Zero vector. */
export function zeroV(): Expr {
  return v128(new Uint8Array(16));
}

/** i32 of immediate operand `i`, a byte. */
export function imm8(c: Cx, i: number): Expr {
  return and(wrap(c.get(i)), 0xff);
}

/** Address in CPU state of lane `index` (i32) of `width` bytes of register operand `i`. */
export function laneSlot(c: Cx, i: number, lane: { index: Expr; width: number }): Expr {
  return add(c.slot(i), shl(lane.index, Math.log2(lane.width)));
}

/** An i64 with all bits set where `condition` (i32, 0 or 1) holds. */
export function maskOf(f: FuncBuilder, condition: Expr): Local {
  const bit = f.let(ne(condition, i32(0)));
  const mask = f.local(ValType.I64);
  f.if(bit, () => f.set(mask, i64(-1)), () => f.set(mask, i64(0)));
  return mask;
}
