/**
 * Conditions of Jcc, SETcc and CMOVcc (Intel SDM vol. 1, appendix B).
 *
 * @module
 */

import { eqz, type Expr, wrap } from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";

/** Suffixes by condition number. */
export const conditions: readonly string[] = [
  "o",
  "no",
  "b",
  "ae",
  "z",
  "nz",
  "be",
  "a",
  "s",
  "ns",
  "p",
  "np",
  "l",
  "ge",
  "le",
  "g",
];

/** Whether condition `n` holds, as i32. */
export function condition(c: Cx, n: number): Expr {
  const positive = even(c, n & ~1);
  return (n & 1) === 0 ? positive : eqz(positive);
}

function even(c: Cx, n: number): Expr {
  switch (n) {
    case 0:
      return wrap(c.of());
    case 2:
      return wrap(c.cf());
    case 4:
      return c.zf();
    case 6:
      return c.belowOrEqual();
    case 8:
      return wrap(c.sf());
    case 10:
      return wrap(c.pf());
    case 12:
      return c.less();
    default:
      return c.lessOrEqual();
  }
}
