import assert from "node:assert/strict";
import fc from "fast-check";
import { MIB } from "../base/mod.ts";
import { GuestMemory } from "../memory/mod.ts";
import { BootError } from "./errors.ts";
import { loadKernel } from "./load.ts";
import { makeBzImage, makeElf, packPayload } from "./test_images.ts";

const IMAGES: Readonly<Record<string, Uint8Array>> = {
  "an ELF vmlinux": makeElf({ pvhEntry: 0x100_0080 }),
  "a bzImage with LZ4": makeBzImage(packPayload(makeElf({ pvhEntry: 0x100_0080 }), "lz4")),
  "a bzImage with zstd": makeBzImage(packPayload(makeElf(), "zstd")),
  "a bzImage that unpacks itself": makeBzImage(Uint8Array.of(0x5d, 0, 0, 1)),
};

/** Numbers that sit at borders, of 1 to 8 bytes. */
const nasty = fc.tuple(
  fc.constantFrom(1, 2, 4, 8),
  fc.oneof(
    fc.constantFrom(0n, 1n, 0x7fn, 0xffn, 0xffffn, 0x7fff_ffffn, 0xffff_ffffn, 1n << 52n, ~0n),
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  ),
);

for (const [what, image] of Object.entries(IMAGES)) {
  Deno.test(`changed headers of ${what} give a kernel or a BootError, nothing else`, async () => {
    using memory = GuestMemory.create({ sizeBytes: 32 * MIB, backing: "mmap" });
    // Headers of ELF, bzImage and payload are what is worth hitting.
    const offset = fc.oneof(
      fc.nat({ max: 0x280 }),
      fc.nat({ max: image.length - 8 }),
      fc.integer({ min: 5 * 512 + 0x300, max: 5 * 512 + 0x400 }),
    );
    const changes = fc.array(fc.tuple(offset, nasty), { minLength: 1, maxLength: 4 });
    const cut = fc.option(fc.nat({ max: image.length }), { nil: undefined, freq: 5 });
    await fc.assert(
      fc.asyncProperty(changes, cut, async (changes, cut) => {
        const bytes = image.slice();
        const view = new DataView(bytes.buffer);
        for (const [at, [size, value]] of changes) {
          if (at + size > bytes.length) continue;
          if (size === 1) view.setUint8(at, Number(value & 0xffn));
          else if (size === 2) view.setUint16(at, Number(value & 0xffffn), true);
          else if (size === 4) view.setUint32(at, Number(value & 0xffff_ffffn), true);
          else view.setBigUint64(at, value, true);
        }
        const data = bytes.subarray(0, cut ?? bytes.length);
        try {
          const loaded = await loadKernel(memory, {
            kernel: { name: "fuzz", data },
            initrd: { name: "initrd", data: new Uint8Array(100) },
            cmdline: "quiet",
            cpuCount: 1,
          });
          const { entry, kernel, initrd } = loaded;
          assert.ok(entry.rip >= kernel.start && entry.rip < kernel.end + 0x200);
          assert.ok(initrd!.start >= kernel.end && initrd!.end <= 32 * MIB);
        } catch (error) {
          if (!(error instanceof BootError)) throw error;
          assert.match(error.message, /^(fuzz|initrd|kernel command line): /);
        }
      }),
      { numRuns: 1000 },
    );
  });
}
