import assert from "node:assert/strict";
import fc from "fast-check";
import { isHostError } from "./errno.ts";
import { memfdCreate, pread, pwrite } from "./file.ts";
import { IoVector, MAX_VECTOR_PIECES, MemorySpan, preadv, pwritev } from "./vector.ts";

Deno.test("a vector writes its pieces in order and reads them back", () => {
  using file = memfdCreate("vector");
  const span = new MemorySpan(Uint8Array.from({ length: 64 }, (_, at) => at));
  const vector = new IoVector(8);
  vector.push(span, 10, 5);
  vector.push(span, 0, 0);
  vector.push(span, 60, 4);
  vector.push(span, 3, 1);
  assert.equal(vector.count, 3);
  assert.equal(vector.lengthBytes, 10);
  assert.equal(pwritev(file, vector, 7), 10);
  const back = new Uint8Array(20);
  assert.equal(pread(file, back, 7), 10);
  assert.deepEqual([...back.subarray(0, 10)], [10, 11, 12, 13, 14, 60, 61, 62, 63, 3]);

  pwrite(file, new Uint8Array(10).fill(9), 7);
  assert.equal(preadv(file, vector, 7), 10);
  assert.deepEqual([...span.bytes.subarray(9, 16)], [9, 9, 9, 9, 9, 9, 15]);
  assert.equal(preadv(file, vector, 17), 0);
});

Deno.test("a piece outside of its span is refused, and so is one too many", () => {
  const span = MemorySpan.allocate(16);
  const vector = new IoVector(2);
  for (const [offset, length] of [[0, 17], [16, 1], [-1, 1], [1, -1], [NaN, 1], [0, Infinity]]) {
    assert.throws(() => vector.push(span, offset!, length!), (e) => isHostError(e, "EFAULT"));
  }
  vector.push(span, 0, 16);
  vector.push(span, 15, 1);
  assert.throws(() => vector.push(span, 0, 1), (e) => isHostError(e, "E2BIG"));
  assert.throws(() => new IoVector(MAX_VECTOR_PIECES + 1), (e) => isHostError(e, "EINVAL"));
  assert.throws(() => new IoVector(2).pushSlice(vector, 10, 8), (e) => isHostError(e, "EFAULT"));
});

Deno.test("alignment is that of addresses and lengths", () => {
  const span = MemorySpan.allocate(16384);
  const start = (4096 - span.address % 4096) % 4096;
  const vector = new IoVector(2);
  vector.push(span, start, 4096);
  assert.equal(vector.isAligned(4096), true);
  vector.push(span, start + 4096 + 512, 1024);
  assert.equal(vector.isAligned(4096), false);
  assert.equal(vector.isAligned(512), true);
});

Deno.test("slices, copies and zeros of a vector equal those of the joined bytes", () => {
  const pieces = fc.array(fc.tuple(fc.nat(40), fc.nat(24)), { minLength: 1, maxLength: 8 });
  fc.assert(fc.property(pieces, fc.nat(200), fc.nat(200), (list, a, b) => {
    const span = new MemorySpan(Uint8Array.from({ length: 64 }, (_, at) => at * 3));
    const vector = new IoVector(16);
    const joined: number[] = [];
    for (const [offset, length] of list) {
      vector.push(span, offset, length);
      joined.push(...span.bytes.subarray(offset, offset + length));
    }
    const skip = Math.min(a, joined.length);
    const length = Math.min(b, joined.length - skip);
    const expected = joined.slice(skip, skip + length);
    const slice = new IoVector(16);
    slice.pushSlice(vector, skip, length);
    const out = new Uint8Array(length);
    assert.equal(slice.copyTo(out), length);
    assert.deepEqual([...out], expected);
    out.fill(0);
    vector.copyTo(out, skip);
    assert.deepEqual([...out], expected);
    assert.equal(vector.copyFrom(new Uint8Array(length).fill(255), skip), length);
    slice.copyTo(out);
    assert.ok(out.every((byte) => byte === 255));
    vector.fillZero(skip, length);
    slice.copyTo(out);
    assert.ok(out.every((byte) => byte === 0));
  }));
});
