import assert from "node:assert/strict";
import fc from "fast-check";
import { concatBytes } from "../base/mod.ts";
import { BootError } from "./errors.ts";
import { decodeLz4Legacy, lz4Pieces } from "./lz4.ts";
import { packLz4Legacy, pattern } from "./test_images.ts";
import { UnpackRoom } from "./unpack_room.ts";

/** Bytes with repetitions of all kinds. */
const repetitive = fc.array(
  fc.tuple(fc.uint8Array({ minLength: 1, maxLength: 40 }), fc.integer({ min: 1, max: 60 })),
  { maxLength: 30 },
).map((parts) =>
  concatBytes(parts.flatMap(([bytes, count]) => Array.from({ length: count }, () => bytes)))
);

Deno.test("decodes what was packed, in one block and in several", () => {
  fc.assert(fc.property(repetitive, fc.integer({ min: 1, max: 3000 }), (bytes, blockBytes) => {
    const target = new Uint8Array(bytes.length);
    assert.equal(decodeLz4Legacy(packLz4Legacy(bytes, { blockBytes }), target), bytes.length);
    assert.deepEqual(target, bytes);
  }));
});

Deno.test("decodes a prefix, and touches nothing behind it", () => {
  fc.assert(fc.property(repetitive, fc.nat({ max: 3000 }), (bytes, wanted) => {
    const buffer = new Uint8Array(wanted + 64).fill(0xa5);
    const length = decodeLz4Legacy(packLz4Legacy(bytes), buffer.subarray(0, wanted));
    assert.equal(length, Math.min(wanted, bytes.length));
    assert.deepEqual(buffer.subarray(0, length), bytes.subarray(0, length));
    assert.ok(buffer.subarray(wanted).every((byte) => byte === 0xa5));
  }));
});

Deno.test("damaged data ends in a BootError or other bytes, never outside of the target", () => {
  const packed = packLz4Legacy(pattern(5000));
  const change = fc.tuple(fc.nat({ max: packed.length - 1 }), fc.nat({ max: 255 }));
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 8 }), (changes) => {
      const damaged = packed.slice();
      for (const [index, byte] of changes) damaged[index] = byte;
      const buffer = new Uint8Array(5000 + 64).fill(0xa5);
      try {
        decodeLz4Legacy(damaged, buffer.subarray(0, 5000));
      } catch (error) {
        assert.ok(error instanceof BootError, String(error));
      }
      assert.ok(buffer.subarray(5000).every((byte) => byte === 0xa5));
    }),
    { numRuns: 500 },
  );
});

Deno.test("a truncated frame is refused", () => {
  const packed = packLz4Legacy(pattern(5000));
  const target = new Uint8Array(5000);
  assert.throws(() => decodeLz4Legacy(packed.subarray(0, 1000), target), {
    name: "BootError",
    message: /expected \d+ bytes, found only 992/,
  });
  assert.throws(() => decodeLz4Legacy(new Uint8Array(3), target), BootError);
});

/** Decodes `packed` by WebAssembly, a piece after the other. */
function decodeInRoom(packed: Uint8Array, target: Uint8Array): number {
  using room = new UnpackRoom(packed.length);
  room.packed.set(packed);
  const memory = new Uint8Array(room.memory.buffer);
  let done = 0;
  for (const { offset, at, length } of lz4Pieces(room.packed, { room, wanted: target.length })) {
    assert.equal(offset, done);
    target.set(memory.subarray(at, at + length), offset);
    done += length;
    assert.deepEqual(memory.subarray(0, packed.length), packed, "what is packed stays");
  }
  return done;
}

/** What both decoders do with `packed`: how many bytes and which, or an error. */
function both(packed: Uint8Array, wanted: number): unknown[] {
  return [decodeLz4Legacy, decodeInRoom].map((decode) => {
    const target = new Uint8Array(wanted);
    try {
      const length = decode(packed, target);
      return [length, target.slice(0, length)];
    } catch (error) {
      assert.ok(error instanceof BootError, String(error));
      return error.message;
    }
  });
}

/** Much of everything: what repeats at all distances, and what does not. */
const long = pattern(400_000).map((byte, i) =>
  i % 5000 < 900 ? i & 3 : i % 7000 < 2000 ? 7 : i % 9000 < 3000 ? byte ^ (i >>> 9) : byte
);

Deno.test("by WebAssembly it decodes the same, as much as is wanted", () => {
  const blocks = fc.integer({ min: 20_000, max: 500_000 });
  const lengths = fc.integer({ min: 256 * 1024, max: 420_000 });
  fc.assert(
    fc.property(blocks, lengths, (blockBytes, wanted) => {
      const [plain, fast] = both(packLz4Legacy(long, { blockBytes }), wanted);
      assert.deepEqual(fast, plain);
      const length = Math.min(wanted, long.length);
      assert.deepEqual(fast, [length, long.subarray(0, length)]);
    }),
    { numRuns: 10 },
  );
});

Deno.test("damaged data ends the same there, or with other bytes", () => {
  const noise = Uint8Array.from({ length: 20_000 }, (_, i) => Math.imul(i * i, 2654435761) >>> 24);
  const packed = packLz4Legacy(concatBytes([long, noise]));
  const change = fc.tuple(fc.nat({ max: packed.length - 1 }), fc.nat({ max: 255 }));
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 8 }), (changes) => {
      const damaged = packed.slice();
      for (const [index, byte] of changes) damaged[index] = byte;
      const [plain, fast] = both(damaged, 600_000);
      assert.deepEqual(fast, plain);
    }),
    { numRuns: 60 },
  );
});
