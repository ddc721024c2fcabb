import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes, MIB } from "../base/mod.ts";
import { GuestMemory } from "../memory/mod.ts";
import { BootError } from "./errors.ts";
import { type BootOptions, loadKernel } from "./load.ts";
import {
  ACPI_TABLES_ADDRESS,
  BOOT_CMDLINE_ADDRESS,
  BOOT_PARAMS_ADDRESS,
} from "./platform_layout.ts";
import { makeBzImage, makeElf, packLz4Legacy, packPayload, pattern } from "./test_images.ts";

const KERNEL = 0x100_0000;

function makeMemory(sizeBytes = 64 * MIB): GuestMemory {
  return GuestMemory.create({ sizeBytes, backing: "mmap" });
}

function image(data: Uint8Array, name = "test-kernel") {
  return { name, data };
}

function load(memory: GuestMemory, kernel: Uint8Array, options: Partial<BootOptions> = {}) {
  return loadKernel(memory, {
    kernel: image(kernel),
    cmdline: "console=ttyS0",
    cpuCount: 1,
    ...options,
  });
}

/** A kernel of several segments, with gaps in the file and zeroed memory behind them. */
const SEGMENTS = [
  { address: KERNEL, data: pattern(40_000, 1) },
  { address: KERNEL + 0x1_0000, data: pattern(20_000, 2), memoryBytes: 30_000 },
  { address: KERNEL + 0x2_0000, data: pattern(3_000, 3), memoryBytes: 100_000 },
];

function checkSegmentsIn(memory: GuestMemory): void {
  for (const { address, data, memoryBytes } of SEGMENTS) {
    assert.deepEqual(memory.read(address, data.length), data);
    const rest = memory.read(address + data.length, (memoryBytes ?? data.length) - data.length);
    assert.ok(rest.every((byte) => byte === 0), "expected zeros behind the data");
  }
}

Deno.test("an ELF vmlinux is loaded by its program headers and entered with 64 bits", async () => {
  using memory = makeMemory();
  const loaded = await load(memory, makeElf({ segments: SEGMENTS, entry: KERNEL + 0x40 }));
  assert.deepEqual(loaded.entry, { kind: "long64", rip: KERNEL + 0x40 });
  assert.equal(loaded.format, "vmlinux");
  checkSegmentsIn(memory);
});

for (const format of ["gzip", "lz4", "zstd"] as const) {
  Deno.test(`a bzImage with a ${format} payload is unpacked into its place`, async () => {
    using memory = makeMemory();
    // Memory of a machine that has been reset is not zero.
    memory.fill(KERNEL - 0x1_0000, 0x10_0000, 0xa5);
    const vmlinux = makeElf({ segments: SEGMENTS });
    const loaded = await load(memory, makeBzImage(packPayload(vmlinux, format)));
    assert.deepEqual(loaded.entry, { kind: "long64", rip: KERNEL });
    assert.equal(loaded.payload, format);
    checkSegmentsIn(memory);
  });
}

Deno.test("a large LZ4 payload is unpacked block by block, each part to its place", async () => {
  const dir = mkdtempSync(join(tmpdir(), "vmctl-boot-"));
  try {
    using memory = makeMemory();
    memory.fill(KERNEL - 0x1_0000, 20 * MIB, 0xa5);
    const noise = (length: number, seed: number) =>
      pattern(length, seed).map((byte, i) => byte ^ (Math.imul(i + seed, 2654435761) >>> 24));
    // Segments that begin and end within blocks, and one that spans several.
    const segments = [
      { address: KERNEL, data: noise(700_000, 1) },
      { address: KERNEL + 4 * MIB, data: noise(900_000, 2), memoryBytes: 1_000_000 },
      { address: KERNEL + 2 * MIB, data: noise(300_001, 3), memoryBytes: 400_000 },
    ];
    const vmlinux = makeElf({ segments });
    const size = new Uint8Array(new Uint32Array([vmlinux.length]).buffer);
    const payload = concatBytes([packLz4Legacy(vmlinux, { blockBytes: 200_000 }), size]);
    const kernel = join(dir, "kernel");
    writeFileSync(kernel, makeBzImage(payload));
    assert.ok(payload.length > MIB, "large files are read to where they are unpacked");
    const options = { kernel, cmdline: "", cpuCount: 1 };
    const loaded = await loadKernel(memory, options);
    assert.deepEqual(loaded.entry, { kind: "long64", rip: KERNEL });
    for (const { address, data, memoryBytes } of segments) {
      assert.deepEqual(memory.read(address, data.length), data);
      const rest = memory.read(address + data.length, (memoryBytes ?? data.length) - data.length);
      assert.ok(rest.every((byte) => byte === 0), "expected zeros behind the data");
      assert.equal(memory.readU8(address + (memoryBytes ?? data.length)), 0xa5);
    }

    writeFileSync(kernel, makeBzImage(payload.with(payload.length - 2, size[2]! + 1)));
    await assert.rejects(loadKernel(memory, options), {
      name: "BootError",
      message: /kernel: expected \d+ bytes in its payload, found \d+/,
    });
    writeFileSync(kernel, makeBzImage(payload.fill(0, payload.length - 5000, payload.length - 4)));
    await assert.rejects(loadKernel(memory, options), {
      name: "BootError",
      message: /kernel: damaged payload: LZ4 /,
    });
  } finally {
    rmSync(dir, { recursive: true });
  }
});

Deno.test("segments that lie apart more than in the file are loaded from an LZ4 payload too", async () => {
  using memory = makeMemory();
  const segments = [
    { address: KERNEL, data: pattern(5_000, 1) },
    { address: KERNEL + 16 * MIB, data: pattern(5_000, 2) },
  ];
  await load(memory, makeBzImage(packPayload(makeElf({ segments }), "lz4")));
  for (const { address, data } of segments) {
    assert.deepEqual(memory.read(address, data.length), data);
  }
});

Deno.test("a bzImage packed otherwise unpacks itself, entered at its 64-bit entry", async () => {
  using memory = makeMemory();
  const xz = Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 1, 2, 3, 4);
  const kernel = makeBzImage(xz);
  const loaded = await load(memory, kernel);
  assert.deepEqual(loaded.entry, { kind: "long64", rip: KERNEL + 0x200 });
  assert.equal(loaded.payload, "xz");
  const protectedMode = kernel.subarray(5 * 512);
  assert.deepEqual(memory.read(KERNEL, protectedMode.length), new Uint8Array(protectedMode));
});

Deno.test("boot parameters tell of command line, initrd, firmware tables and memory", async () => {
  using memory = makeMemory();
  const initrd = pattern(123_456);
  const { initrd: range } = await load(memory, makeBzImage(packPayload(makeElf(), "lz4")), {
    cmdline: "console=ttyS0 quiet",
    initrd: image(initrd, "initrd"),
  });
  const at = (offset: number) => BOOT_PARAMS_ADDRESS + offset;
  assert.equal(memory.readU16(at(0x1fe)), 0xaa55);
  assert.equal(memory.readU32(at(0x202)), 0x53726448);
  assert.equal(memory.readU8(at(0x210)), 0xff);
  assert.equal(memory.readU32(at(0x228)), BOOT_CMDLINE_ADDRESS);
  const cmdline = new TextDecoder().decode(memory.read(BOOT_CMDLINE_ADDRESS, 20));
  assert.equal(cmdline, "console=ttyS0 quiet\0");
  assert.equal(memory.readU64(at(0x70)), BigInt(ACPI_TABLES_ADDRESS));

  assert.ok(range);
  assert.equal(range.start % 4096, 0);
  assert.ok(range.end <= 64 * MIB && range.end > 64 * MIB - 8192, "expected it high in memory");
  assert.deepEqual(memory.read(range.start, initrd.length), initrd);
  assert.equal(memory.readU32(at(0x218)), range.start);
  assert.equal(memory.readU32(at(0x21c)), initrd.length);

  const entries = memory.readU8(at(0x1e8));
  const map = Array.from({ length: entries }, (_, index) => {
    const entry = at(0x2d0 + index * 20);
    return [memory.readU64(entry), memory.readU64(entry + 8), memory.readU32(entry + 16)];
  });
  assert.deepEqual(map[0], [0n, 0x9fc00n, 1]);
  assert.deepEqual(map[1], [0x9fc00n, 0x400n, 2]);
  assert.deepEqual(map[2], [0xe0000n, 0x20000n, 2]);
  assert.deepEqual(map[3], [0x100000n, BigInt(63 * MIB), 1]);
});

Deno.test("memory above 4 GiB is in the map, the hole below it is not", async () => {
  using memory = makeMemory(5 * 1024 * MIB);
  await load(memory, makeElf());
  const at = (offset: number) => BOOT_PARAMS_ADDRESS + offset;
  const ram: [number, number][] = [];
  for (let index = 0; index < memory.readU8(at(0x1e8)); index++) {
    const entry = at(0x2d0 + index * 20);
    if (memory.readU32(entry + 16) !== 1) continue;
    ram.push([Number(memory.readU64(entry)), Number(memory.readU64(entry + 8))]);
  }
  assert.deepEqual(ram, [
    [0, 0x9fc00],
    [0x100000, 0xc000_0000 - 0x100000],
    [0x1_0000_0000, 2 * 1024 * MIB],
  ]);
});

Deno.test("a kernel with a PVH note and no physical 64-bit entry is entered by PVH", async () => {
  using memory = makeMemory();
  const kernel = makeElf({ entry: 0xffff_ffff_8000_0000n, pvhEntry: KERNEL + 0x80 });
  const loaded = await load(memory, kernel, { initrd: image(pattern(100), "initrd") });
  assert.deepEqual(loaded.entry, { kind: "pvh32", rip: KERNEL + 0x80 });
  assert.equal(memory.readU32(0x6000), 0x336ec578);
  assert.equal(memory.readU32(0x600c), 1);
  const modules = Number(memory.readU64(0x6010));
  assert.equal(Number(memory.readU64(modules)), loaded.initrd!.start);
  assert.equal(memory.readU64(modules + 8), 100n);
  assert.equal(memory.readU64(0x6018), BigInt(BOOT_CMDLINE_ADDRESS));
});

Deno.test("the protocol can be asked for", async () => {
  using memory = makeMemory();
  const kernel = makeElf({ pvhEntry: KERNEL + 0x80 });
  assert.equal((await load(memory, kernel)).entry.kind, "long64");
  assert.equal((await load(memory, kernel, { protocol: "pvh" })).entry.kind, "pvh32");
  await assert.rejects(load(memory, makeElf(), { protocol: "pvh" }), {
    name: "BootError",
    message: /expected a PVH entry point .* found 0x1000000/,
  });
});

Deno.test("files are read from disk, an initrd in pieces", async () => {
  const dir = mkdtempSync(join(tmpdir(), "vmctl-boot-"));
  try {
    using memory = makeMemory();
    const initrd = pattern(3 * MIB + 17);
    writeFileSync(join(dir, "kernel"), makeElf());
    writeFileSync(join(dir, "initrd"), initrd);
    const loaded = await loadKernel(memory, {
      kernel: join(dir, "kernel"),
      initrd: join(dir, "initrd"),
      cmdline: "",
      cpuCount: 1,
    });
    assert.deepEqual(memory.read(loaded.initrd!.start, initrd.length), initrd);

    const options = { cmdline: "", cpuCount: 1 };
    for (
      const [kernel, message] of [
        [join(dir, "nothing"), /nothing: cannot open: .*ENOENT|nothing: cannot open: .*no such/i],
        [dir, /expected a regular file, found a folder/],
        ["/dev/zero", /expected a regular file, found a device/],
      ] as const
    ) {
      await assert.rejects(loadKernel(memory, { kernel, ...options }), {
        name: "BootError",
        message,
      });
    }
  } finally {
    rmSync(dir, { recursive: true });
  }
});

/** Changes some bytes of an image. */
function patched(bytes: Uint8Array, change: (view: DataView) => void): Uint8Array {
  const copy = bytes.slice();
  change(new DataView(copy.buffer));
  return copy;
}

const BAD_KERNELS: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ["an empty file", new Uint8Array(0), /test-kernel: expected a kernel .* found an empty file/],
  ["a text file", new TextEncoder().encode("hello\nworld\n".repeat(100)), /found a text file/],
  ["a script", new TextEncoder().encode("#!/bin/sh\n"), /found a script/],
  ["zeros", new Uint8Array(100_000), /found a file without a known header/],
  ["a short file", Uint8Array.of(1, 2, 3), /found a file of 3 bytes without a header/],
  ["a gzip file", Uint8Array.of(0x1f, 0x8b, 8, 0), /found a gzip file/],
  ["an archive", new TextEncoder().encode("070701".padEnd(1000, "0")), /found a cpio archive/],
  ["a qcow2 disk", Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3), /found a qcow2 disk image/],
  [
    "a disk with partitions",
    new Uint8Array(100_000).fill(0x55, 510, 511).fill(0xaa, 511, 512),
    /found a boot sector or a disk with one/,
  ],
  [
    "an i386 bzImage",
    makeBzImage(new Uint8Array(10), { xloadflags: 0 }),
    /expected a 64-bit x86 kernel, found .*i386/,
  ],
  [
    "an old bzImage",
    patched(makeBzImage(new Uint8Array(10)), (view) => view.setUint16(0x206, 0x0204, true)),
    /expected boot protocol 2\.12 or later, found 2\.04/,
  ],
  [
    "a zImage",
    patched(makeBzImage(new Uint8Array(10)), (view) => view.setUint8(0x211, 0)),
    /found one that loads low/,
  ],
  [
    "a truncated bzImage",
    makeBzImage(pattern(50_000)).subarray(0, 20_000),
    /expected \d+ bytes by its header, found 20000: the file is truncated/,
  ],
  [
    "a payload beyond the image",
    patched(makeBzImage(new Uint8Array(10)), (view) => view.setUint32(0x24c, 0xffff_ffff, true)),
    /expected its payload within/,
  ],
  [
    "an absurd initial size",
    makeBzImage(packPayload(makeElf(), "lz4"), { initBytes: 0xffff_ffff }),
    /expected 4\.0 GiB of memory .* found 64 MiB; give the guest more memory/,
  ],
  [
    "an absurd preferred address",
    patched(
      makeBzImage(Uint8Array.of(0x5d, 0, 0, 1)),
      (view) => view.setBigUint64(0x258, 2n ** 40n, true),
    ),
    /expected memory from 0x10000000000/,
  ],
  [
    "a damaged payload",
    makeBzImage(packPayload(makeElf(), "gzip").fill(0x55, 30, 60)),
    /damaged payload/,
  ],
  [
    "a payload of another size",
    makeBzImage(
      patched(
        packPayload(makeElf(), "lz4"),
        (view) => view.setUint32(view.byteLength - 4, 20_000, true),
      ),
    ),
    /expected 20000 bytes in its payload, found \d+/,
  ],
  [
    "a payload that is no ELF file",
    makeBzImage(packPayload(pattern(10_000), "zstd")),
    /expected an ELF file/,
  ],
  [
    "a truncated ELF file",
    makeElf().subarray(0, 5000),
    /program header 0: expected bytes 4096 to 12288, beyond the end of the file \(5000 bytes\)/,
  ],
  ["an ELF header alone", makeElf().subarray(0, 64), /expected 1 program headers at byte 64/],
  ["an ELF magic alone", makeElf().subarray(0, 10), /expected an ELF header of 64 bytes, found 10/],
  [
    "an i386 ELF file",
    patched(makeElf(), (view) => {
      view.setUint8(4, 1);
      view.setUint16(18, 3, true);
    }),
    /expected a 64-bit x86-64 kernel, found a 32-bit ELF file for i386/,
  ],
  [
    "an ARM ELF file",
    patched(makeElf(), (view) => view.setUint16(18, 183, true)),
    /found a 64-bit ELF file for AArch64/,
  ],
  [
    "an object file",
    patched(makeElf(), (view) => view.setUint16(16, 1, true)),
    /expected an executable ELF file, found type 1/,
  ],
  [
    "no segments",
    patched(makeElf(), (view) => view.setUint32(64, 6, true)),
    /expected a segment to load, found none/,
  ],
  [
    "too many program headers",
    patched(makeElf(), (view) => view.setUint16(56, 0xffff, true)),
    /expected 1 to 64 program headers, found 65535/,
  ],
  [
    "a segment beyond memory",
    makeElf({ segments: [{ address: 64 * MIB - 4096, data: pattern(8192) }] }),
    /test-kernel: segment 0x3fff000 to 0x4001000 lies outside of the guest's memory/,
  ],
  [
    "a segment in low memory",
    makeElf({ segments: [{ address: 0x7000, data: pattern(100) }] }),
    /expected segments from 0x100000 upwards, found 0x7000 to 0x7064/,
  ],
  [
    "overlapping segments",
    makeElf({
      segments: [
        { address: KERNEL, data: pattern(100) },
        { address: KERNEL + 50, data: pattern(100) },
      ],
    }),
    /overlaps the one before it/,
  ],
  [
    "an overflowing segment",
    patched(makeElf(), (view) => view.setBigUint64(64 + 24, 0xffff_ffff_ffff_f000n, true)),
    /program header 0, physical address: expected a physical value, found 0xfffffffffffff000/,
  ],
  [
    "a segment larger in the file than in memory",
    patched(makeElf(), (view) => view.setBigUint64(64 + 40, 10n, true)),
    /8192 bytes in the file do not fit into 10 in memory/,
  ],
  [
    "an entry outside of the segments",
    makeElf({ entry: 0x200_0000 }),
    /expected an entry point inside of what it loads, found 0x2000000/,
  ],
];

for (const [what, kernel, message] of BAD_KERNELS) {
  Deno.test(`${what} is refused as a kernel`, async () => {
    using memory = makeMemory();
    await assert.rejects(load(memory, kernel), { name: "BootError", message });
  });
}

Deno.test("an initrd that does not fit is refused, with the room that there is", async () => {
  using memory = makeMemory(32 * MIB);
  const kernel = makeElf();
  await assert.rejects(load(memory, kernel, { initrd: image(new Uint8Array(20 * MIB), "big") }), {
    name: "BootError",
    message: /big: expected an initrd of at most 16\.0 MiB beside the kernel, found 20 MiB/,
  });
  await assert.rejects(load(memory, kernel, { initrd: image(new Uint8Array(0), "none") }), {
    name: "BootError",
    message: /none: expected an initrd, found an empty file/,
  });
});

Deno.test("command lines are checked for length and characters", async () => {
  using memory = makeMemory();
  await load(memory, makeElf(), { cmdline: "x".repeat(2047) });
  await assert.rejects(load(memory, makeElf(), { cmdline: "x".repeat(2048) }), {
    name: "BootError",
    message: /expected at most 2047 characters, found 2048/,
  });
  for (const cmdline of ["a\nb", "a\0b", "gr\u00fcn", "\u{1f600}"]) {
    await assert.rejects(load(memory, makeElf(), { cmdline }), BootError);
  }
});
