import assert from "node:assert/strict";
import * as fc from "fast-check";
import { KIB, MIB, setLogSink } from "../../base/mod.ts";
import type { BlockOptions } from "../../config/mod.ts";
import { checkDisk, createQcow2, openDisk } from "../../disk/mod.ts";
import { IoVector } from "../../host/mod.ts";
import { BlockFeature, ConfigField, RequestStatus, RequestType } from "./protocol.ts";
import { DiskRig, openDevice, rangeBytes } from "../../../tests/support/disk_rig.ts";

const DISK_BYTES = 4 * MIB;
const SECTORS = DISK_BYTES / 512;
const { Ok, IoError, Unsupported } = RequestStatus;
const { In, Out, Flush, GetId, Discard, WriteZeroes } = RequestType;

/** A disk of zeros in a folder that goes away with it. */
class TestDisk implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vmctl-block-" });
  readonly path = `${this.folder}/disk`;

  constructor(format: "raw" | "qcow2") {
    if (format === "qcow2") createQcow2(this.path, { sizeBytes: DISK_BYTES });
    else {
      Deno.writeFileSync(this.path, new Uint8Array(0));
      Deno.truncateSync(this.path, DISK_BYTES);
    }
  }

  /** What is in the image. */
  content(): Uint8Array {
    using image = openDisk(this.path, { readOnly: true, lock: false });
    const bytes = new Uint8Array(image.sizeBytes);
    image.readAt(0, IoVector.of(bytes));
    return bytes;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

/** The ways in which disks are served. */
const WAYS: readonly (Omit<BlockOptions, "path"> & { readonly format: "raw" | "qcow2" })[] = [
  { format: "raw" },
  { format: "raw", "async-executor": "epoll" },
  { format: "raw", direct: true },
  { format: "raw", direct: true, "async-executor": "epoll" },
  { format: "qcow2" },
  { format: "qcow2", direct: true },
];

function nameOf(way: typeof WAYS[number]): string {
  return [way.format, way.direct === true ? "direct" : "", way["async-executor"] ?? ""]
    .filter((word) => word !== "").join(" ");
}

function pattern(length: number, seed: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(length).map((_, index) => index * 7 + (index >> 8) + seed);
}

for (const way of WAYS) {
  Deno.test(`block: every request does what it should, and no more (${nameOf(way)})`, () => {
    using disk = new TestDisk(way.format);
    using rig = new DiskRig({ ...way, path: disk.path, id: "serial 7" });
    const data = pattern(6 * KIB, 1);
    assert.deepEqual(rig.request({ type: Out, sector: 3, data, cuts: [512, 1000, 5] }), {
      status: Ok,
      data: new Uint8Array(0),
      written: 1,
    });
    const read = rig.request({ type: In, sector: 3, length: 6 * KIB, cuts: [1, 2, 3] });
    assert.deepEqual(read, { status: Ok, data, written: 6 * KIB + 1 });
    assert.deepEqual(rig.read(2, 1), new Uint8Array(512));
    assert.deepEqual(rig.read(15, 1), new Uint8Array(512));
    assert.equal(rig.flush(), Ok);

    const id = rig.request({ type: GetId, length: 20 });
    assert.equal(new TextDecoder().decode(id.data), "serial 7".padEnd(20, "\0"));
    assert.equal(rig.request({ type: GetId, length: 4 }).data.length, 4);

    // The ends of the disk.
    assert.equal(rig.write(SECTORS - 2, pattern(1024, 2)), Ok);
    assert.deepEqual(rig.read(SECTORS - 2, 2), pattern(1024, 2));
    assert.equal(rig.write(SECTORS - 1, pattern(1024, 2)), IoError);
    for (const sector of [SECTORS, 2 ** 32, 2 ** 53]) {
      assert.equal(rig.write(sector, pattern(512, 2)), IoError);
      assert.equal(rig.request({ type: In, sector, length: 512 }).status, IoError);
    }
    assert.equal(rig.write(0, pattern(100, 2)), IoError);
    assert.equal(rig.request({ type: In, length: 513 }).status, IoError);
    for (const sector of [0, SECTORS]) {
      assert.equal(rig.request({ type: In, sector, length: 0 }).status, Ok);
      assert.equal(rig.request({ type: Out, sector }).status, Ok);
    }
    for (const type of [2, 3, 5, 7, 9, 12, 14, 0xffff_ffff]) {
      assert.equal(rig.request({ type, length: 512 }).status, Unsupported, `type ${type}`);
    }

    // Zeros, and storage given back.
    assert.equal(rig.write(256, pattern(192 * KIB, 3)), Ok);
    const zero = (...ranges: Parameters<typeof rangeBytes>[0]) =>
      rig.request({ type: WriteZeroes, data: rangeBytes(ranges) }).status;
    assert.equal(zero({ sector: 300, sectors: 10 }, { sector: 384, sectors: 128, flags: 1 }), Ok);
    assert.deepEqual(rig.read(300, 10), new Uint8Array(5120));
    assert.deepEqual(rig.read(384, 128), new Uint8Array(64 * KIB));
    const written = pattern(192 * KIB, 3);
    assert.deepEqual(rig.read(299, 1), written.subarray(43 * 512, 44 * 512));
    assert.deepEqual(rig.read(310, 74), written.subarray(54 * 512, 128 * 512));
    assert.deepEqual(rig.read(512, 128), written.subarray(256 * 512));
    assert.equal(zero({ sector: 0, sectors: 1, flags: 2 }), Unsupported);
    assert.equal(zero({ sector: SECTORS, sectors: 1 }), IoError);
    assert.equal(zero({ sector: 0, sectors: 0xffff_ffff }), IoError);
    assert.equal(zero({ sector: 2n ** 64n - 1n, sectors: 2 }), IoError);
    assert.equal(zero(), IoError);
    assert.equal(zero(...Array.from({ length: 33 }, () => ({ sector: 0, sectors: 1 }))), IoError);
    // A bad range keeps the good one in front of it from being zeroed.
    assert.equal(zero({ sector: 3, sectors: 1 }, { sector: SECTORS, sectors: 1 }), IoError);
    assert.deepEqual(rig.read(3, 12), data);
    const discard = (sector: number, flags = 0) =>
      rig.request({ type: Discard, data: rangeBytes([{ sector, sectors: 8, flags }]) }).status;
    assert.equal(discard(512), Ok);
    assert.equal(discard(512, 1), Unsupported);
    assert.equal(discard(SECTORS - 4), IoError);
    assert.equal(rig.request({ type: Discard, data: new Uint8Array(15) }).status, IoError);

    assert.equal(rig.flush(), Ok);
    rig[Symbol.dispose]();
    assert.deepEqual(disk.content().subarray(3 * 512, 3 * 512 + data.length), data);
    if (way.format === "qcow2") assert.equal(checkDisk(disk.path).corruptions, 0);
  });
}

for (const way of WAYS) {
  Deno.test(`block: many requests at once are answered each with its own (${nameOf(way)})`, () => {
    using disk = new TestDisk(way.format);
    using rig = new DiskRig({ ...way, path: disk.path });
    const model = new Uint8Array(DISK_BYTES);
    // Requests under way at once touch different parts, as a driver's do.
    const request = fc.record({
      type: fc.constantFrom(In, In, Out, Out, Flush, WriteZeroes),
      start: fc.nat(15),
      sectors: fc.integer({ min: 1, max: 16 }),
      seed: fc.nat(255),
      cuts: fc.array(fc.integer({ min: 1, max: 4096 }), { maxLength: 3 }),
    });
    const round = fc.array(request, { minLength: 1, maxLength: 14 });
    fc.assert(
      fc.property(fc.array(fc.tuple(round, round), { maxLength: 3 }), (rounds) => {
        for (const queues of rounds) {
          const expected = queues.map((requests, queue) =>
            requests.map(({ type, start, sectors, seed, cuts }, index) => {
              const sector = (queue * 14 + index) * 64 + start;
              const bytes = model.subarray(sector * 512, (sector + sectors) * 512);
              const data = type === Out
                ? pattern(bytes.length, seed)
                : type === WriteZeroes
                ? rangeBytes([{ sector, sectors, flags: seed & 1 }])
                : new Uint8Array(0);
              const length = type === In ? bytes.length : 0;
              rig.offer({ type, sector, data, length, cuts }, queue);
              if (type === Out) bytes.set(data);
              if (type === WriteZeroes) bytes.fill(0);
              return type === In ? bytes.slice() : new Uint8Array(0);
            })
          );
          for (const queue of [0, 1]) {
            for (const [index, { status, data }] of rig.answers(queue).entries()) {
              assert.equal(status, Ok);
              assert.deepEqual(data, expected[queue]![index]);
            }
          }
        }
      }),
      { numRuns: 30 },
    );
    rig[Symbol.dispose]();
    assert.deepEqual(disk.content(), model);
  });
}

Deno.test("block: a queue that stops while requests are under way gives all of them back", () => {
  using disk = new TestDisk("raw");
  using rig = new DiskRig({ path: disk.path, format: "raw", direct: true });
  for (let round = 0; round < 20; round++) {
    for (let index = 0; index < 14; index++) {
      rig.offer({ type: Out, sector: index * 8, data: pattern(4096, index + round) });
    }
    rig.rig.restart(0);
    assert.equal(rig.answers().every(({ status }) => status === Ok), true);
    assert.deepEqual(rig.read(13 * 8, 8), pattern(4096, 13 + round));
  }
});

Deno.test("block: a device that takes over from one that died has all that was written", () => {
  for (const format of ["raw", "qcow2"] as const) {
    using disk = new TestDisk(format);
    using opened = openDevice({ path: disk.path, format, lock: false });
    for (let round = 0; round < 4; round++) {
      const rig = new DiskRig(opened);
      for (let before = 0; before < round; before++) {
        assert.deepEqual(rig.read(before * 500, 200), pattern(200 * 512, before));
      }
      assert.equal(rig.write(round * 500, pattern(200 * 512, round)), Ok);
      // The tables of some are in the file, those of others are only in the memory that outlives it.
      if (round % 2 === 1) assert.equal(rig.flush(), Ok);
      if (round < 3) rig.abandon();
      else rig[Symbol.dispose]();
    }
    opened[Symbol.dispose]();
    if (format === "qcow2") assert.deepEqual(checkDisk(disk.path).messages, []);
    assert.deepEqual(disk.content().subarray(0, 200 * 512), pattern(200 * 512, 0));
  }
});

Deno.test("block: without a cache that the driver knows of, what is written is durable", () => {
  const { Flush, ConfigWce } = BlockFeature;
  const ways = [
    // A driver that cannot flush, and one that has turned the cache off.
    { features: 0n, written: [], durable: true },
    { features: Flush | ConfigWce, written: [0], durable: true },
    { features: Flush | ConfigWce, written: [1], durable: false },
    { features: Flush, written: [0], durable: false },
    // As parts of longer writes, and none of them.
    { features: Flush | ConfigWce, written: [0, 9, 9, 9], durable: true },
    { features: Flush | ConfigWce, from: -2, written: [9, 9, 0, 9], durable: true },
    { features: Flush | ConfigWce, from: -4, written: [0, 0, 0, 0], durable: false },
    { features: Flush | ConfigWce, from: 1, written: [0, 0, 0, 0], durable: false },
  ];
  for (const { features, from = 0, written, durable } of ways) {
    using disk = new TestDisk("qcow2");
    const rig = new DiskRig({ path: disk.path, lock: false }, features);
    const before = rig.device.config.slice();
    if (written.length > 0) {
      rig.device.writeConfig?.(ConfigField.Writeback + from, new Uint8Array(written));
    }
    before[ConfigField.Writeback] = rig.device.config[ConfigField.Writeback]!;
    assert.deepEqual(rig.device.config, before, "all else is the device's");
    assert.equal(rig.write(0, pattern(4096, 1)), Ok);
    rig.abandon();
    // The tables that name it are in the file, or not.
    const expected = durable ? pattern(4096, 1) : new Uint8Array(4096);
    assert.deepEqual(disk.content().subarray(0, 4096), expected);
  }
});

Deno.test("block: a read-only disk takes reads alone", () => {
  using disk = new TestDisk("raw");
  Deno.writeFileSync(disk.path, pattern(DISK_BYTES, 9));
  using rig = new DiskRig({ path: disk.path, ro: true });
  const { features, config } = rig.device;
  const { ReadOnly, Flush, Discard, WriteZeroes, ConfigWce } = BlockFeature;
  assert.equal(features & (ReadOnly | Flush | Discard | WriteZeroes | ConfigWce), ReadOnly | Flush);
  assert.deepEqual(rig.read(8, 1), pattern(DISK_BYTES, 9).subarray(4096, 4608));
  assert.equal(rig.write(8, new Uint8Array(512)), IoError);
  assert.equal(rig.flush(), Ok);
  const data = rangeBytes([{ sector: 0, sectors: 8 }]);
  for (const type of [RequestType.Discard, RequestType.WriteZeroes]) {
    assert.equal(rig.request({ type, data }).status, Unsupported);
  }
  rig.device.writeConfig?.(ConfigField.Writeback, new Uint8Array([1]));
  assert.equal(config[ConfigField.Writeback], 0);
  rig[Symbol.dispose]();
  assert.deepEqual(disk.content(), pattern(DISK_BYTES, 9));
});

Deno.test("block: the configuration tells the disk's geometry and limits", () => {
  using disk = new TestDisk("qcow2");
  using rig = new DiskRig({ path: disk.path, "block-size": 4096, sparse: false, queues: 5 });
  const view = new DataView(rig.device.config.buffer);
  assert.equal(rig.device.queueCount, 5);
  assert.equal(view.getBigUint64(ConfigField.Capacity, true), BigInt(SECTORS));
  assert.equal(view.getUint32(ConfigField.BlkSize, true), 4096);
  assert.equal(view.getUint16(ConfigField.NumQueues, true), 5);
  assert.equal(view.getUint32(ConfigField.OptIoSize, true), 16);
  assert.equal(view.getUint32(ConfigField.MaxDiscardSectors, true), 0);
  assert.equal(view.getUint8(ConfigField.WriteZeroesMayUnmap), 0);
  assert.equal(rig.device.features & BlockFeature.Discard, 0n);
});

Deno.test("block: what does not fill a block is not on the disk", () => {
  using disk = new TestDisk("raw");
  Deno.truncateSync(disk.path, DISK_BYTES + 1000);
  using rig = new DiskRig({ path: disk.path, "block-size": 4096 });
  const view = new DataView(rig.device.config.buffer);
  assert.equal(view.getBigUint64(ConfigField.Capacity, true), BigInt(SECTORS));
  assert.equal(rig.write(SECTORS, new Uint8Array(512)), IoError);
});

Deno.test("block: a disk changes its size while it is used, and tells the driver", () => {
  for (const format of ["raw", "qcow2"] as const) {
    using disk = new TestDisk(format);
    using rig = new DiskRig({ path: disk.path, format });
    const resize = (sizeBytes: number, shrink = false) => {
      const answers: (string | null)[] = [];
      rig.device.control?.({ name: "resize", data: { sizeBytes, shrink } }, {
        answer: (answer) => answers.push(answer as null),
        refuse: (message) => answers.push(message),
      });
      assert.equal(answers.length, 1);
      return answers[0];
    };
    const capacity = () => Number(new DataView(rig.device.config.buffer).getBigUint64(0, true));
    assert.equal(rig.write(SECTORS, new Uint8Array(512)), IoError);
    assert.equal(resize(DISK_BYTES * 2), null);
    assert.equal(capacity(), SECTORS * 2);
    assert.equal(rig.rig.configChanges, 1);
    assert.equal(rig.write(SECTORS * 2 - 1, pattern(512, 1)), Ok);
    assert.deepEqual(rig.read(SECTORS, 8), new Uint8Array(4096));
    if (format === "qcow2") {
      assert.throws(() => resize(DISK_BYTES), /is not made smaller/);
      assert.throws(() => resize(DISK_BYTES, true), /is not made smaller/);
      assert.equal(capacity(), SECTORS * 2);
    } else {
      const sizes = new RegExp(
        `at least the .*\\(${DISK_BYTES * 2} bytes\\).*, got .*\\(${DISK_BYTES} bytes\\).*--shrink`,
      );
      assert.throws(() => resize(DISK_BYTES), sizes);
      assert.equal(capacity(), SECTORS * 2);
      assert.equal(Deno.statSync(disk.path).size, DISK_BYTES * 2);
      assert.equal(resize(DISK_BYTES * 2), null);
      const logged: string[] = [];
      setLogSink((line) => logged.push(line));
      try {
        assert.equal(resize(DISK_BYTES + 700, true), null);
      } finally {
        setLogSink(undefined);
      }
      assert.match(logged.join(""), /the guest does not see the last 188/);
      assert.equal(resize(DISK_BYTES, true), null);
      assert.equal(capacity(), SECTORS);
      assert.equal(rig.write(SECTORS, new Uint8Array(512)), IoError);
    }
  }
  using disk = new TestDisk("raw");
  using rig = new DiskRig({ path: disk.path, ro: true });
  const request = { name: "resize", data: { sizeBytes: MIB, shrink: false } } as const;
  assert.throws(
    () => rig.device.control?.(request, { answer: () => assert.fail(), refuse: assert.fail }),
    /read-only/,
  );
});

Deno.test("block: whatever a guest asks, the device answers or ignores it", () => {
  using disk = new TestDisk("raw");
  using rig = new DiskRig({ path: disk.path, format: "raw" });
  const value = fc.oneof(fc.constantFrom(0, 1, 4, 8, 11, 13), fc.nat(), fc.constant(0xffff_ffff));
  fc.assert(
    fc.property(
      fc.record({
        type: value,
        sector: fc.oneof(value, fc.maxSafeNat()),
        data: fc.uint8Array({ maxLength: 600 }),
        length: fc.nat(2000),
        cuts: fc.array(fc.nat(100), { maxLength: 4 }),
      }),
      (request) => {
        const { status, written } = rig.request(request);
        assert.ok([Ok, IoError, Unsupported].includes(status as 0), `status ${status}`);
        assert.ok(written <= request.length + 1);
      },
    ),
    { numRuns: 2000 },
  );
  // Chains without a header, or without room for a status.
  rig.rig.send(0, [{ address: 0, length: 16 }]);
  assert.equal(rig.rig.used(0), 0);
  rig.rig.send(0, [{ address: 0, length: 15 }, { address: 512, length: 1, writable: true }]);
  assert.equal(rig.rig.used(0), 1);
  rig.rig.send(0, [{ address: 512, length: 1, writable: true }]);
  assert.equal(rig.rig.used(0), 1);
});
