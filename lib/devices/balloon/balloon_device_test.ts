import assert from "node:assert/strict";
import fc from "fast-check";
import { MIB } from "../../base/mod.ts";
import { GuestMemory, type MemoryBacking } from "../../memory/mod.ts";
import { DeviceRig } from "../../virtio/testing/device_rig.ts";
import type { BalloonReport, DeviceEvent, DeviceReply, RequestOf } from "../control/mod.ts";
import { BalloonDevice, BalloonFeature } from "./balloon_device.ts";

const PAGE = 4096;
const SIZE = 16 * MIB;
const RINGS = 15 * MIB;
const ARRAY = 14 * MIB;

interface Asked {
  readonly reply: DeviceReply;
  answer: unknown;
  refusal: string | undefined;
}

function asked(): Asked {
  const result: Asked = {
    reply: {
      answer: (answer) => result.answer = answer,
      refuse: (message) => result.refusal = message,
    },
    answer: undefined,
    refusal: undefined,
  };
  return result;
}

class Balloon implements Disposable {
  readonly memory: GuestMemory;
  readonly device: BalloonDevice;
  readonly rig: DeviceRig;
  readonly events: DeviceEvent[] = [];

  constructor(options: { backing?: MemoryBacking; features?: bigint } = {}) {
    this.memory = GuestMemory.create({ sizeBytes: SIZE, backing: options.backing ?? "mmap" });
    this.device = new BalloonDevice({ deflateOnOom: true, pageReporting: true });
    this.device.tell = (event) => this.events.push(event);
    this.rig = new DeviceRig(this.device, {
      memory: this.memory,
      ringsAt: RINGS,
      features: options.features ?? this.device.features,
    });
  }

  /** Sends page numbers as a driver does. */
  send(queue: number, pages: readonly number[]): void {
    this.memory.writeFrom(ARRAY, new Uint8Array(Uint32Array.from(pages).buffer));
    this.rig.send(queue, [{ address: ARRAY, length: pages.length * 4 }]);
    assert.equal(this.rig.used(queue), 0);
  }

  adjust(request: RequestOf<"balloonAdjust">): Asked {
    const result = asked();
    this.device.control({ name: "balloonAdjust", data: request }, result.reply);
    return result;
  }

  stats(fresh: boolean): Asked & { readonly answer: BalloonReport | undefined } {
    const result = asked();
    this.device.control({ name: "balloonStats", data: { fresh } }, result.reply);
    return result as Asked & { readonly answer: BalloonReport | undefined };
  }

  setActual(pages: number): void {
    this.device.writeConfig(4, new Uint8Array(Uint32Array.of(pages).buffer));
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.memory[Symbol.dispose]();
  }
}

for (const backing of ["mmap", "wasm"] as const) {
  Deno.test(`balloon: inflated pages leave the memory's file and read as zeros (${backing})`, () => {
    using balloon = new Balloon({ backing });
    const { memory } = balloon;
    memory.fill(0, 8 * MIB, 0xaa);
    memory.fill(ARRAY, PAGE);
    const before = memory.residentBytes();
    // Backwards, as Linux sends them.
    balloon.send(0, Array.from({ length: 256 }, (_, index) => 1024 + 255 - index));
    assert.equal(before - memory.residentBytes(), 256 * PAGE);
    assert.equal(memory.readU8(1024 * PAGE - 1), 0xaa);
    assert.equal(memory.readU8(1024 * PAGE), 0);
    assert.equal(memory.readU8(1280 * PAGE - 1), 0);
    assert.equal(memory.readU8(1280 * PAGE), 0xaa);
    // Deflated, they are used as before.
    balloon.send(1, Array.from({ length: 256 }, (_, index) => 1024 + index));
    memory.fill(1024 * PAGE, 256 * PAGE, 0xbb);
    assert.equal(memory.residentBytes(), before);
    assert.equal(balloon.stats(false).answer?.returnedBytes, 256 * PAGE);
  });
}

Deno.test("balloon: pages beyond guest RAM, repeated and broken lists do no harm", () => {
  using balloon = new Balloon();
  const { memory } = balloon;
  memory.fill(0, SIZE - 2 * MIB, 0xaa);
  balloon.send(0, [SIZE / PAGE, 0xffff_ffff, 0xf_ffff, 3, 3, 3, 4]);
  for (const page of [2, 5]) assert.equal(memory.readU8(page * PAGE), 0xaa);
  for (const page of [3, 4]) assert.equal(memory.readU8(page * PAGE), 0);
  // Three bytes are no number.
  balloon.rig.send(0, [{ address: ARRAY, length: 3 }]);
  assert.equal(balloon.rig.used(0), 0);
  assert.equal(balloon.stats(false).answer?.returnedBytes, 2 * PAGE);
});

Deno.test("balloon: any list of pages frees those pages and no others", () => {
  using balloon = new Balloon();
  const { memory } = balloon;
  const pages = fc.array(fc.oneof(fc.nat(96), fc.nat(0xffff_ffff)), {
    minLength: 1,
    maxLength: 200,
  });
  fc.assert(
    fc.property(pages, (list) => {
      memory.fill(0, 64 * PAGE, 0xcc);
      // Nothing but the first 64 pages is at stake: rings and list lie behind.
      const allowed = list.filter((page) => page < 64 || page >= SIZE / PAGE);
      if (allowed.length === 0) return;
      balloon.send(0, allowed);
      for (let page = 0; page < 64; page++) {
        const expected = allowed.includes(page) ? 0 : 0xcc;
        assert.equal(memory.readU8(page * PAGE), expected);
        assert.equal(memory.readU8(page * PAGE + PAGE - 1), expected);
      }
    }),
    { numRuns: 60 },
  );
});

Deno.test("balloon: reported free pages go back, whichever queue the driver takes for that", () => {
  for (const queue of [3, 4]) {
    using balloon = new Balloon();
    const { memory } = balloon;
    memory.fill(0, 8 * MIB, 0xaa);
    const before = memory.residentBytes();
    balloon.rig.send(queue, [
      { address: 2 * MIB, length: 2 * MIB, writable: true },
      { address: 6 * MIB + 1, length: 2 * PAGE, writable: true },
    ]);
    assert.equal(balloon.rig.used(queue), 0);
    // Of a range that is not made of pages, the whole ones.
    assert.equal(before - memory.residentBytes(), 2 * MIB + PAGE);
    assert.equal(memory.readU8(6 * MIB), 0xaa);
    assert.equal(memory.readU8(6 * MIB + PAGE), 0);
    assert.equal(memory.readU8(6 * MIB + 2 * PAGE), 0xaa);
  }
  // Not where it was not negotiated.
  using balloon = new Balloon({ features: BalloonFeature.StatisticsQueue });
  balloon.memory.fill(0, 8 * MIB, 0xaa);
  balloon.rig.send(3, [{ address: 2 * MIB, length: 2 * MIB, writable: true }]);
  assert.equal(balloon.memory.readU8(2 * MIB), 0xaa);
});

Deno.test("balloon: a size is told to the driver, and waited for", () => {
  using balloon = new Balloon();
  const { device, rig, events } = balloon;
  const at = (offset: number) => new DataView(device.config.buffer).getUint32(offset, true);
  assert.equal(balloon.adjust({ targetBytes: 4 * MIB + 5, wait: false }).answer, null);
  assert.equal(at(0), 1024);
  assert.equal(rig.configChanges, 1);
  const waiting = balloon.adjust({ targetBytes: 4 * MIB, wait: true });
  assert.equal(rig.configChanges, 1);
  balloon.setActual(512);
  assert.equal(waiting.answer, undefined);
  balloon.setActual(1024);
  assert.equal(waiting.answer, null);
  assert.equal(at(4), 1024);
  assert.deepEqual(balloon.adjust({ targetBytes: 4 * MIB, wait: true }).answer, null);
  const given = balloon.adjust({ targetBytes: 8 * MIB, wait: true });
  balloon.adjust({ targetBytes: 0, wait: false });
  assert.match(given.refusal ?? "", /another size/);
  balloon.setActual(0);
  assert.deepEqual(events.map(({ data }) => data.actualBytes), [
    0,
    4 * MIB,
    4 * MIB,
    0,
  ]);
  // What the driver may not write stays.
  device.writeConfig(0, new Uint8Array(4).fill(9));
  device.writeConfig(6, new Uint8Array(4).fill(9));
  assert.equal(at(0), 0);
  assert.equal(at(4), 0);
  assert.throws(() => balloon.adjust({ targetBytes: 2 ** 45, wait: false }), /too many/);
});

Deno.test("balloon: statistics are fetched from the driver when they are wanted", () => {
  using balloon = new Balloon();
  const { memory, rig } = balloon;
  // Without a buffer of the driver there is nothing to fetch them with; it is waited for.
  const early = balloon.stats(true);
  const put = (entries: readonly (readonly [number, bigint])[]) => {
    const view = new DataView(new ArrayBuffer(entries.length * 10));
    entries.forEach(([tag, value], index) => {
      view.setUint16(index * 10, tag, true);
      view.setBigUint64(index * 10 + 2, value, true);
    });
    memory.writeFrom(ARRAY, new Uint8Array(view.buffer));
    rig.send(2, [{ address: ARRAY, length: view.byteLength }]);
  };
  put([[4, 1000n], [5, 2000n], [77, 5n], [9, 2n ** 64n - 1n]]);
  assert.deepEqual(early.answer?.statistics, {
    freeMemory: 1000,
    totalMemory: 2000,
    hugetlbFailures: Number.MAX_SAFE_INTEGER,
  });
  assert.equal(rig.used(2), -1, "the buffer is held until statistics are wanted");

  rig.notified.clear();
  const later = balloon.stats(true);
  assert.equal(later.refusal ?? later.answer, undefined);
  assert.equal(rig.used(2), 0);
  assert(rig.notified.has(2));
  put([[4, 900n]]);
  assert.deepEqual(later.answer?.statistics, { freeMemory: 900 });
  // What is known is there at once, and the buffer stays where it is.
  assert.deepEqual(balloon.stats(false).answer?.statistics, { freeMemory: 900 });
  assert.equal(rig.used(2), -1);

  // Stopped and started, the buffer is taken again.
  rig.restart(2);
  const again = balloon.stats(true);
  assert.equal(rig.used(2), 0);
  put([[4, 800n]]);
  assert.deepEqual(again.answer?.statistics, { freeMemory: 800 });
  // A reset answers who still waits.
  const last = balloon.stats(true);
  rig.stop();
  assert.deepEqual(last.answer?.statistics, {});
});
