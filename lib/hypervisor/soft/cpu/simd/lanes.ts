/**
 * What the floating-point instructions of SSE share: lanes, exceptions, the quick way by WebAssembly's
 * own arithmetic.
 *
 * @module
 */

import {
  and,
  eq,
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  type Local,
  ltU,
  ne,
  Op,
  op,
  or,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { S } from "../state.ts";
import { join64, lane32, lane64 } from "./access.ts";

const { F32, F64 } = ValType;

/** Formats of lanes. */
export type Name = "single" | "double";

/** Bytes of a lane. */
export const widthOf = (name: Name) => name === "single" ? 4 : 8;

/** Lanes of a vector. */
export const countOf = (name: Name) => name === "single" ? 4 : 2;

/** i64 of lane `i` of `value`. */
export function lane(name: Name, value: Expr, i: number): Expr {
  return name === "single" ? extU(lane32(value, i)) : lane64(value, i);
}

/** A vector of lanes in i64. */
export function fromLanes(name: Name, lanes: readonly Expr[]): Expr {
  const [a, b, c, d] = lanes;
  if (a === undefined || b === undefined) throw new TypeError("a vector has two or four lanes");
  if (name === "double") return join64(a, b);
  if (c === undefined || d === undefined) throw new TypeError("a vector has two or four lanes");
  return join64(or(a, shl(b, 32)), or(c, shl(d, 32)));
}

/** Records exceptions; before the destination is written. */
export function commit(c: Cx): void {
  c.f.if(c.s32(S.fpFlags), () => c.mayFault(() => c.f.call(c.helper("sseCommit"), c.rec)));
}

/** MXCSR as after reset, with the precision flag set; other flags may be set. */
export function quickMode(c: Cx): Expr {
  return eq(and(c.s32(S.mxcsr), 0xffe0), i32(0x1fa0));
}

/** True for zeros, normal numbers, infinities and NaNs: no denormal. */
export function isNormalOrZero(name: Name, bits: Local): Expr {
  return name === "single"
    ? or(ne(and(bits, i64(0x7f80_0000)), i64(0)), eqz(and(bits, i64(0x7fff_ffff))))
    : or(ne(and(bits, i64(0x7ff0_0000_0000_0000n)), i64(0)), eqz(shl(bits, 1)));
}

/** True for zeros of either sign. */
export function isZero(name: Name, bits: Local): Expr {
  return name === "single" ? eqz(and(bits, i64(0x7fff_ffff))) : eqz(shl(bits, 1));
}

/** True where the exponent is that of a normal number, and not the smallest: no underflow. */
export function isSafe(name: Name, bits: Local): Expr {
  return name === "single"
    ? ltU(sub(and(wrap(shrU(bits, 23)), 0xff), 2), i32(0xfd))
    : ltU(sub(and(wrap(shrU(bits, 52)), 0x7ff), 2), i32(0x7fd));
}

/** True for zeros and normal numbers: no denormal, infinity or NaN. */
export function isOrdinary(name: Name, bits: Local): Expr {
  return name === "single"
    ? or(
      ltU(sub(and(wrap(shrU(bits, 23)), 0xff), 1), i32(0xfe)),
      eqz(and(bits, i64(0x7fff_ffff))),
    )
    : or(
      ltU(sub(and(wrap(shrU(bits, 52)), 0x7ff), 1), i32(0x7fe)),
      eqz(shl(bits, 1)),
    );
}

/** `bits` as a float. */
export function asFloat(name: Name, bits: Expr): Expr {
  return name === "single"
    ? op(F32, Op.f32_reinterpret_i32, wrap(bits))
    : op(F64, Op.f64_reinterpret_i64, bits);
}

/** A result by WebAssembly's own means where `condition` holds, else by a lane function. */
export function quickOr(
  c: Cx,
  how: {
    condition: () => Expr;
    value: () => Expr;
    slow: () => Expr;
    put: (value: Expr) => void;
  },
): void {
  c.f.if(
    how.condition(),
    () => how.put(c.f.let(how.value())),
    () => {
      const result = c.f.let(how.slow());
      commit(c);
      how.put(result);
    },
  );
}

/** Applies lane function `helper` to each pair of lanes. */
export function eachLane(c: Cx, name: Name, lanes: (i: number) => Expr): Local[] {
  return Array.from({ length: countOf(name) }, (_, i) => c.f.let(lanes(i)));
}
