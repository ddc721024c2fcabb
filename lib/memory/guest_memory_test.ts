import assert from "node:assert/strict";
import fc from "fast-check";
import { GIB, MIB } from "../base/mod.ts";
import { getSeals, listOpenFds, pread, pwrite, Seal } from "../host/mod.ts";
import { GuestMemoryError } from "./errors.ts";
import { GuestMemory, type GuestMemoryHandle } from "./guest_memory.ts";
import {
  HIGH_RAM_START,
  MAX_MEMORY_BYTES,
  MAX_WASM_MEMORY_BYTES,
  type MemoryBacking,
  PCI_HOLE_START,
} from "./layout.ts";

const BACKINGS: readonly MemoryBacking[] = ["mmap", "wasm"];

for (const backing of BACKINGS) {
  Deno.test(`${backing}: RAM below the hole, RAM above 4 GiB, nothing between`, () => {
    using memory = GuestMemory.create({ sizeBytes: 3.5 * GIB, backing });
    assert.deepEqual(
      memory.regions.map(({ guestAddress, sizeBytes, fileOffset }) => [
        guestAddress,
        sizeBytes,
        fileOffset,
      ]),
      [[0, PCI_HOLE_START, 0], [HIGH_RAM_START, GIB / 2, PCI_HOLE_START]],
    );
    assert.equal(memory.endAddress, HIGH_RAM_START + GIB / 2);
    assert.equal(memory.backing, backing);
    memory.writeU32(PCI_HOLE_START - 4, 0x11223344);
    memory.writeU32(HIGH_RAM_START, 0x55667788);
    const bytes = new Uint8Array(8);
    pread(memory.fd, bytes, PCI_HOLE_START - 4);
    assert.deepEqual([...bytes], [0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55]);
    pwrite(memory.fd, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 4096);
    assert.equal(memory.readU64(4096), 0x0807060504030201n);
    const outside = [
      [PCI_HOLE_START, 1],
      [PCI_HOLE_START - 2, 4],
      [HIGH_RAM_START - 1, 1],
      [HIGH_RAM_START - 1, 2],
      [memory.endAddress, 1],
      [memory.endAddress - 1, 2],
      [0, 3.5 * GIB],
    ];
    for (const [gpa, length] of outside) assert.ok(!memory.contains(gpa ?? 0, length ?? 0));
    assert.throws(() => memory.readU32(PCI_HOLE_START - 2), GuestMemoryError);
    assert.throws(() => memory.readU8(0xfee0_0000), /guest address 0xfee00000: 1 bytes/);
  });

  Deno.test(`${backing}: every kind of access reads what it wrote, little-endian`, () => {
    using memory = GuestMemory.create({ sizeBytes: 2 * MIB, backing });
    memory.writeU8(1, 0xfe);
    memory.writeU16(3, 0xfedc);
    memory.writeU32(7, 0xfedcba98);
    memory.writeU64(13, 0xfedcba9876543210n);
    assert.equal(memory.readU8(1), 0xfe);
    assert.equal(memory.readU16(3), 0xfedc);
    assert.equal(memory.readU32(7), 0xfedcba98);
    assert.equal(memory.readU64(13), 0xfedcba9876543210n);
    assert.equal(memory.readU8(13), 0x10);
    memory.writeU64(21, 0x10_0000_0001n);
    assert.equal(memory.readU64AsNumber(21), 0x10_0000_0001);
    memory.writeFrom(100, Uint8Array.of(1, 2, 3));
    const into = new Uint8Array(3);
    memory.readInto(100, into);
    assert.deepEqual([...into], [1, 2, 3]);
    const copy = memory.read(100, 3);
    const slice = memory.slice(100, 3);
    memory.fill(100, 2, 9);
    assert.deepEqual([...copy], [1, 2, 3]);
    assert.deepEqual([...slice], [9, 9, 3]);
    assert.equal(memory.slice(2 * MIB, 0).length, 0);
    assert.equal(memory.fileOffset(100, 3), 100);
  });

  Deno.test(`${backing}: whatever the address and length, inside works and outside is a GuestMemoryError`, () => {
    using memory = GuestMemory.create({ sizeBytes: 3 * GIB + MIB, backing });
    const edges = [0, PCI_HOLE_START, HIGH_RAM_START, HIGH_RAM_START + MIB, 2 ** 53, 2 ** 64, -1];
    const address = fc.oneof(
      fc.tuple(fc.constantFrom(...edges), fc.integer({ min: -20, max: 20 })).map(([a, b]) => a + b),
      fc.double(),
      fc.constantFrom(NaN, Infinity, -Infinity, -0, 0.5, -0.5, Number.MAX_VALUE, 1e-300),
    );
    const length = fc.oneof(
      fc.integer({ min: -20, max: 5000 }),
      fc.constantFrom(NaN, Infinity, -Infinity, 2 ** 53, 2 ** 32, Number.MAX_VALUE),
    );
    const works = (access: () => unknown): boolean => {
      try {
        access();
        return true;
      } catch (error) {
        if (error instanceof GuestMemoryError) return false;
        throw error;
      }
    };
    fc.assert(
      fc.property(address, length, (gpa, bytes) => {
        const inside = (size: number) =>
          size >= 0 && gpa >= 0 &&
          (gpa + size <= PCI_HOLE_START ||
            gpa >= HIGH_RAM_START && gpa + size <= HIGH_RAM_START + MIB);
        assert.equal(works(() => memory.readU8(gpa)), inside(1));
        assert.equal(works(() => memory.writeU8(gpa, 1)), inside(1));
        assert.equal(works(() => memory.readU16(gpa)), inside(2));
        assert.equal(works(() => memory.writeU16(gpa, 1)), inside(2));
        assert.equal(works(() => memory.readU32(gpa)), inside(4));
        assert.equal(works(() => memory.writeU32(gpa, 1)), inside(4));
        assert.equal(works(() => memory.readU64(gpa)), inside(8));
        assert.equal(works(() => memory.readU64AsNumber(gpa)), inside(8));
        assert.equal(works(() => memory.writeU64(gpa, 1n)), inside(8));
        assert.equal(memory.contains(gpa, bytes), inside(bytes));
        if (!inside(bytes) || bytes <= 5000) {
          assert.equal(works(() => memory.slice(gpa, bytes)), inside(bytes));
          assert.equal(works(() => memory.read(gpa, bytes)), inside(bytes));
          assert.equal(works(() => memory.fill(gpa, bytes)), inside(bytes));
          assert.equal(works(() => memory.fileOffset(gpa, bytes)), inside(bytes));
        }
        if (bytes >= 0 && bytes <= 5000) {
          const buffer = new Uint8Array(bytes);
          assert.equal(works(() => memory.readInto(gpa, buffer)), inside(bytes));
          assert.equal(works(() => memory.writeFrom(gpa, buffer)), inside(bytes));
        }
      }),
      { numRuns: 2000 },
    );
  });

  Deno.test(`${backing}: RAM behaves like an array of bytes`, () => {
    using memory = GuestMemory.create({ sizeBytes: MIB, backing });
    const model = new Uint8Array(256);
    const base = MIB - 256;
    const step = fc.tuple(fc.integer({ min: 0, max: 255 }), fc.uint8Array({ maxLength: 20 }));
    fc.assert(fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      for (const [at, bytes] of steps) {
        const fits = at + bytes.length <= 256;
        if (fits) model.set(bytes, at);
        try {
          memory.writeFrom(base + at, bytes);
          assert.ok(fits);
        } catch (error) {
          assert.ok(error instanceof GuestMemoryError && !fits);
        }
      }
      assert.deepEqual(memory.read(base, 256), model);
    }));
  });

  Deno.test(`${backing}: only used pages cost, and discarded ones no more`, () => {
    using memory = GuestMemory.create({ sizeBytes: 2 * GIB, backing });
    assert.equal(memory.residentBytes(), 0);
    memory.fill(MIB, MIB, 1);
    assert.equal(memory.residentBytes(), MIB);
    memory.discard(MIB + 1, 8192 + 4095);
    assert.equal(memory.residentBytes(), MIB - 8192);
    assert.equal(memory.readU8(MIB), 1);
    assert.equal(memory.readU8(MIB + 4096), 0);
    assert.equal(memory.readU8(MIB + 12288), 1);
    memory.discard(5, 10);
    assert.throws(() => memory.discard(2 * GIB, 4096), GuestMemoryError);
  });

  Deno.test(`${backing}: the descriptor is sealed, and closed at the end`, () => {
    const before = listOpenFds().length;
    const memory = GuestMemory.create({ sizeBytes: MIB, backing });
    assert.equal(getSeals(memory.fd), Seal.Shrink | Seal.Grow | Seal.Seal);
    const slice = memory.slice(0, 16);
    memory[Symbol.dispose]();
    memory[Symbol.dispose]();
    assert.equal(listOpenFds().length, before);
    assert.throws(() => memory.readU8(0), GuestMemoryError);
    assert.throws(() => memory.slice(0, 0), GuestMemoryError);
    assert.throws(() => memory.fd, GuestMemoryError);
    assert.throws(() => memory.handle(), GuestMemoryError);
    assert.ok(slice[0] === undefined || slice[0] === 0);
  });

  Deno.test(`${backing}: workers see the same memory`, async () => {
    using memory = GuestMemory.create({ sizeBytes: 3 * GIB + 2 * MIB, backing });
    memory.writeU32(0x1000, 41);
    const source = `
      import { GuestMemory } from ${JSON.stringify(new URL("./mod.ts", import.meta.url).href)};
      self.onmessage = (event) => {
        const memory = GuestMemory.attach(event.data);
        memory.writeU32(2 ** 32 + 8, memory.readU32(0x1000) + 1);
        const backing = memory.backing;
        memory[Symbol.dispose]();
        self.postMessage(backing);
      };`;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(url, { type: "module" });
    const answer = new Promise<string>((resolve) => {
      worker.onmessage = (event: MessageEvent<string>) => resolve(event.data);
    });
    worker.postMessage(memory.handle());
    assert.equal(await answer, backing);
    worker.terminate();
    URL.revokeObjectURL(url);
    assert.equal(memory.readU32(HIGH_RAM_START + 8), 42);
    using again = GuestMemory.attach(memory.handle() satisfies GuestMemoryHandle);
    assert.equal(again.readU32(HIGH_RAM_START + 8), 42);
  });

  Deno.test(`${backing}: the largest memory works to its last byte`, () => {
    const sizeBytes = backing === "wasm" ? MAX_WASM_MEMORY_BYTES : MAX_MEMORY_BYTES;
    using memory = GuestMemory.create({ sizeBytes, backing });
    memory.writeU64(memory.endAddress - 8, 0x1122334455667788n);
    memory.writeFrom(memory.endAddress - 4, Uint8Array.of(1, 2, 3, 4));
    assert.equal(memory.readU64(memory.endAddress - 8), 0x0403020155667788n);
    assert.equal(memory.slice(memory.endAddress - 4096, 4096)[4095], 4);
    assert.equal(memory.residentBytes(), 4096);
    const bytes = new Uint8Array(4);
    pread(memory.fd, bytes, sizeBytes - 4);
    assert.deepEqual([...bytes], [1, 2, 3, 4]);
  });

  Deno.test(`${backing}: impossible sizes are refused in words`, () => {
    for (
      const sizeBytes of [0, -MIB, 4096, NaN, 1.5 * MIB + 1, 2 ** 60, MAX_MEMORY_BYTES + 65536]
    ) {
      assert.throws(
        () => GuestMemory.create({ sizeBytes, backing }),
        (error) => error instanceof GuestMemoryError && error.message.startsWith("guest memory:"),
        String(sizeBytes),
      );
    }
  });
}

Deno.test("many memories leave no descriptor and no mapping behind", () => {
  const mappings = () =>
    Deno.readTextFileSync("/proc/self/maps").match(/vmctl guest memory/g)?.length ?? 0;
  // Others of this process come and go, such as those of workers that are ending.
  const memories = () =>
    listOpenFds().filter((fd) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${fd}`).includes("vmctl guest memory");
      } catch {
        return false;
      }
    });
  const before = new Set(memories());
  for (let turn = 0; turn < 50; turn++) {
    for (const backing of BACKINGS) {
      using memory = GuestMemory.create({ sizeBytes: 256 * MIB, backing });
      memory.writeU8(turn, turn);
    }
  }
  assert.deepEqual(memories().filter((fd) => !before.has(fd)), []);
  assert.equal(mappings(), 0);
});
