import assert from "node:assert/strict";
import { compareExchange16 } from "./exchange16.ts";
import { bufferAddress } from "./mapping.ts";

Deno.test("16 bytes are exchanged where they are as expected, and told where not", () => {
  const buffer = new SharedArrayBuffer(64);
  const words = new BigUint64Array(buffer);
  const at = bufferAddress(buffer);
  assert.equal(at % 16n, 0n);
  words.set([1n, 2n, 0n, 0n, 1n, 2n, 0xffff_ffff_ffff_ffffn, 4n]);
  compareExchange16(at, at + 32n);
  assert.deepEqual([...words.subarray(0, 6)], [0xffff_ffff_ffff_ffffn, 4n, 0n, 0n, 1n, 2n]);
  compareExchange16(at, at + 32n);
  assert.deepEqual([...words.subarray(0, 2)], [0xffff_ffff_ffff_ffffn, 4n], "not as expected");
  assert.deepEqual([...words.subarray(4, 6)], [0xffff_ffff_ffff_ffffn, 4n], "what was there");
});
