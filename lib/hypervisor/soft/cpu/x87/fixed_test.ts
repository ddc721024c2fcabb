import assert from "node:assert/strict";
import fc from "fast-check";
import { atan, bitLength, expm1, ln2, log1p, pi, scale, sinCos } from "./fixed.ts";

const S = 128;
const toFixed = (x: number) => scale(BigInt(Math.round(x * 2 ** 52)), S - 52);
const toNumber = (n: bigint) => Number(scale(n, 60 - S)) / 2 ** 60;

/** Equal as far as a double and its conversions can tell. */
function close(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) < 1e-14, `${actual} instead of ${expected}`);
}

/** Numbers with at most 52 fraction bits from -1 to 1. */
const unit = fc.integer({ min: -(2 ** 40), max: 2 ** 40 }).map((n) => n / 2 ** 40);

Deno.test("constants have all digits that are asked for", () => {
  // The first 64 bits of pi and ln 2, as the x87 loads them.
  assert.equal(scale(pi(200), 62 - 200), 0xc90f_daa2_2168_c234n);
  assert.equal(scale(ln2(200), 64 - 200), 0xb172_17f7_d1cf_79abn);
});

Deno.test("elementary functions agree with the host's", () => {
  fc.assert(fc.property(unit, (x) => {
    const { sin, cos } = sinCos(toFixed(x), S);
    close(toNumber(sin), Math.sin(x));
    close(toNumber(cos), Math.cos(x));
    close(toNumber(expm1(toFixed(x), S)), Math.expm1(x));
    close(toNumber(atan(toFixed(Math.abs(x)), S)), Math.atan(Math.abs(x)));
    if (x >= -0.5) close(toNumber(log1p(toFixed(x), S)), Math.log1p(x));
  }));
});

Deno.test("functions of more precision agree with those of less", () => {
  fc.assert(fc.property(unit, (x) => {
    const coarse = expm1(toFixed(x), S);
    const fine = expm1(scale(toFixed(x), 100), S + 100);
    const difference = coarse - scale(fine, -100);
    assert.ok(difference >= -2n && difference <= 2n, `differ by ${difference} units`);
  }));
});

Deno.test("bit lengths", () => {
  assert.equal(bitLength(0n), 0);
  fc.assert(fc.property(fc.bigInt({ min: 1n, max: 1n << 300n }), (n) => {
    const length = bitLength(n);
    assert.ok(n < 1n << BigInt(length) && n >= 1n << BigInt(length - 1));
    assert.equal(bitLength(-n), length);
  }));
});
