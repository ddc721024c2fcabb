import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { constants, deflateRawSync, inflateRawSync } from "node:zlib";
import fc from "fast-check";
import { Inflater } from "./inflater.ts";

const CLUSTER = 65_536;

/** Bytes of which some repeat, near and far. */
function content(lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let at = 0; at < lengthBytes; at++) {
    bytes[at] = at % 7000 < 900 ? Math.imul(at, 2_654_435_761) >>> 24 : (at >>> 5) % 96 + 32;
  }
  return bytes;
}

function outcome(work: () => Uint8Array): Uint8Array | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

/** Not by deepEqual, which takes long to say how so many bytes differ. */
function assertSame(got: Uint8Array, expected: Uint8Array, hint = "bytes"): void {
  assert.equal(got.length, expected.length, hint);
  assert.equal(Buffer.compare(got, expected), 0, hint);
}

/** Compares with the runtime's own decompressor. */
function assertAsNative(inflater: Inflater, packed: Uint8Array): void {
  // In one piece, as matches may reach farther back than the window.
  const options = { windowBits: 12, maxOutputLength: CLUSTER, chunkSize: CLUSTER };
  const expected = outcome(() => inflateRawSync(packed, options));
  const got = outcome(() => inflater.inflate(packed));
  assert.equal(got?.length, expected?.length);
  if (got !== undefined) assertSame(got, expected!);
}

const { Z_FIXED, Z_DEFAULT_STRATEGY } = constants;
const STREAMS = ([
  ["of QEMU", { windowBits: 12 }],
  ["with a large window", { windowBits: 15 }],
  ["stored", { level: 0 }],
  ["with fixed codes", { strategy: Z_FIXED }],
] as const).map(([name, options]) => ({
  name,
  pack: (bytes: Uint8Array) =>
    new Uint8Array(deflateRawSync(bytes, { strategy: Z_DEFAULT_STRATEGY, ...options })),
}));

Deno.test("streams of all kinds expand, whatever follows them", () => {
  const inflater = new Inflater(CLUSTER);
  const bytes = content(CLUSTER);
  for (const { name, pack } of STREAMS) {
    const packed = pack(bytes);
    assertSame(inflater.inflate(packed), bytes, name);
    const followed = new Uint8Array(packed.length + 700).fill(0xa5);
    followed.set(packed);
    assertSame(inflater.inflate(followed), bytes, name);
  }
  assert.equal(inflater.inflate(deflateRawSync(new Uint8Array(0))).length, 0);
});

Deno.test("what expands to too much, is cut off or damaged is refused, and the next stream is not", () => {
  const inflater = new Inflater(CLUSTER);
  for (const { name, pack } of STREAMS) {
    const good = pack(content(CLUSTER));
    const bad: readonly (readonly [Uint8Array, RegExp])[] = [
      [pack(content(CLUSTER + 1)), /too much/],
      [pack(new Uint8Array(64 * CLUSTER)), /too much/],
      [good.subarray(0, good.length - 1), /ends early|too much/],
      [good.subarray(0, 0), /ends early/],
      [new Uint8Array(1000).fill(0xff), /invalid block type/],
      // A match before the first byte.
      [new Uint8Array([0x4b, 0x04, 0x42, 0x00, 0x00, 0x00]), /too far back/],
    ];
    for (const [packed, message] of bad) {
      assert.throws(() => inflater.inflate(packed), message, name);
      assertSame(inflater.inflate(good), content(CLUSTER), name);
    }
  }
});

Deno.test("damaged streams end as they do in the runtime's decompressor", () => {
  const inflater = new Inflater(CLUSTER);
  const streams = STREAMS.map(({ pack }) => pack(content(CLUSTER)));
  const changes = fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(255)), {
    minLength: 1,
    maxLength: 4,
  });
  fc.assert(
    fc.property(fc.constantFrom(...streams), changes, (stream, list) => {
      const packed = stream.slice();
      // Most of what can go wrong is near the begin.
      for (const [where, value] of list) {
        packed[Math.floor(where ** 3 * (packed.length - 1))] = value;
      }
      assertAsNative(inflater, packed);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (packed) => assertAsNative(inflater, packed)),
    { numRuns: 2000 },
  );
});
