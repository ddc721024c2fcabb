/**
 * Data of the cases of loops: dwords of which each turn adds one up, that tell which they were.
 *
 * @module
 */

/** The quadword at 256 times `i`. */
export function valueOf(i: number): bigint {
  return BigInt(i) | 0x77_0000_0000n;
}

/** Sum of the dwords that are `more` bytes on, of `from` to `to`. */
export function sum(from: number, to: number, more = 0): number {
  let all = 0n;
  for (let i = from; i <= to; i++) all += (valueOf(i) >> BigInt(8 * more)) & 0xffff_ffffn;
  return Number(BigInt.asUintN(32, all));
}
