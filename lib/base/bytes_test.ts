import assert from "node:assert/strict";
import fc from "fast-check";
import {
  alignDown,
  alignUp,
  bytesOf,
  concatBytes,
  equalBytes,
  hex,
  hexDump,
  isAligned,
  isPowerOfTwo,
} from "./bytes.ts";

Deno.test("alignment is exact up to 2^52", () => {
  const value = fc.integer({ min: 0, max: 2 ** 52 });
  const alignment = fc.integer({ min: 1, max: 2 ** 30 });
  fc.assert(fc.property(value, alignment, (v, a) => {
    const up = alignUp(v, a);
    const down = alignDown(v, a);
    return isAligned(up, a) && isAligned(down, a) && down <= v && v <= up && up - down <= a;
  }));
});

Deno.test("powers of two are told from the rest", () => {
  for (let bit = 0; bit < 53; bit++) assert.ok(isPowerOfTwo(2 ** bit), String(bit));
  for (const other of [0, -2, 3, 6, 2.5, NaN, Infinity, 2 ** 40 + 1]) {
    assert.ok(!isPowerOfTwo(other), String(other));
  }
});

Deno.test("hexadecimal text", () => {
  assert.equal(hex(255), "0xff");
  assert.equal(hex(255, 4), "0x00ff");
  assert.equal(hex(-1), "-0x1");
  assert.equal(hex(2n ** 64n - 1n), "0xffffffffffffffff");
  assert.match(
    hexDump(new TextEncoder().encode("vmctl\n")),
    /^00000000 {2}76 6d 63 74 6c 0a +vmctl\.$/,
  );
  assert.match(hexDump(new Uint8Array(1000)), /… 744 more bytes$/);
});

Deno.test("bytes are joined and compared", () => {
  const joined = concatBytes([Uint8Array.of(1, 2), new Uint8Array(0), Uint8Array.of(3)]);
  assert.ok(equalBytes(joined, Uint8Array.of(1, 2, 3)));
  assert.ok(!equalBytes(joined, Uint8Array.of(1, 2)));
  assert.equal(bytesOf(new Uint32Array([1, 2]).subarray(1)).length, 4);
});
