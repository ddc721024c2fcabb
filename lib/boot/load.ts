/**
 * Puts a kernel with everything it needs into guest memory.
 *
 * @module
 */

import { alignDown, alignUp, formatSize, hex } from "../base/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import { buildAcpi } from "./acpi/mod.ts";
import { type BzImage, isBzImage, parseBzImage } from "./bzimage.ts";
import { encodeCmdline } from "./cmdline.ts";
import {
  ELF_HEADERS_BYTES,
  type ElfKernel,
  findPvhEntry,
  isElf,
  isLoaded,
  parseElf,
} from "./elf.ts";
import { type BootEntry, writeEntryState } from "./entry.ts";
import { BootError } from "./errors.ts";
import { type BootImage, ImageReader } from "./image.ts";
import { writeBootParams } from "./linux.ts";
import { buildMemoryMap } from "./memory_map.ts";
import {
  canUnpack,
  detectPayload,
  lz4PayloadPieces,
  type PayloadFormat,
  unpackedSize,
  unpackLz4,
  unpackPayload,
} from "./payload.ts";
import {
  BOOT_CMDLINE_ADDRESS,
  BOOT_CMDLINE_MAX_SIZE_BYTES,
  HIGH_MEMORY_START,
} from "./platform_layout.ts";
import { writePvhStartInfo } from "./pvh.ts";
import {
  checkSegments,
  copySegments,
  type Range,
  writeSegmentsAside,
  zeroRests,
} from "./segments.ts";
import { type UnpackRoom, WINDOWS } from "./unpack_room.ts";

/** What to boot. */
export interface BootOptions {
  /** bzImage or ELF vmlinux. */
  readonly kernel: BootImage;
  /** Initial RAM disk, passed on as it is. */
  readonly initrd?: BootImage | undefined;
  /** Whole command line of the kernel; see {@link buildCmdline}. */
  readonly cmdline: string;
  /** Number of vCPUs that the firmware tables announce. */
  readonly cpuCount: number;
  /**
   * Entry of an ELF kernel that has both: `auto` takes the 64-bit one of Linux where there is one.
   */
  readonly protocol?: "auto" | "linux" | "pvh" | undefined;
  /** Leave a bzImage packed, so that it unpacks itself in the guest. */
  readonly keepPacked?: boolean | undefined;
  /** Whether memory-mapped PCI configuration is there. */
  readonly ecam?: boolean | undefined;
}

/** What has been loaded, and where. */
export interface LoadedKernel {
  /** How the boot processor begins; for {@link configureBootVcpu}. */
  readonly entry: BootEntry;
  /** Where the kernel is, with the memory that it needs at its start. */
  readonly kernel: Range;
  /** Where the initrd is. */
  readonly initrd: Range | undefined;
  /** What kind of file it was. */
  readonly format: "vmlinux" | "bzImage";
  /** How the payload of a bzImage is packed. */
  readonly payload: PayloadFormat | undefined;
}

/** From so many unpacked bytes on it is worth to make a module for them. */
const MANY_BYTES = 256 * 1024;
/** Largest kernel file that is read. */
const MAX_KERNEL_BYTES = 1024 * 1024 * 1024;
/** x86's COMMAND_LINE_SIZE less the NUL, for images that do not tell. */
const DEFAULT_CMDLINE_BYTES = 2047;
const DEFAULT_INITRD_MAX_ADDRESS = 0x7fff_ffff;
const PAGE_BYTES = 0x1000;
/** Offset of the 64-bit entry in the protected-mode part of a bzImage. */
const ENTRY_64_OFFSET = 0x200;

/** A kernel in its place, before anything else is. */
interface PlacedKernel {
  readonly entry: BootEntry;
  readonly range: Range;
  readonly format: "vmlinux" | "bzImage";
  readonly payload?: PayloadFormat;
  readonly header?: BzImage;
}

/**
 * Loads kernel, initrd, command line, boot parameters, firmware tables and the boot processor's
 * tables into `memory`.
 *
 * `memory` must not be disposed before this is done, one way or the other.
 *
 * @throws {BootError} when something is not fit to be booted; a vCPU must not run then.
 */
export async function loadKernel(
  memory: GuestMemory,
  options: BootOptions,
): Promise<LoadedKernel> {
  using reader = new ImageReader(options.kernel);
  const reading = reader.readAllAside(MAX_KERNEL_BYTES);
  // The tables tell nothing of the kernel, and this thread has time while another one reads.
  const tables = Promise.try(() =>
    buildAcpi(memory, { cpuCount: options.cpuCount, ecam: options.ecam })
  );
  // Nothing is read any more when the reader is disposed.
  await Promise.allSettled([reading, tables]);
  await tables;
  const bytes = await reading;
  const image = { name: reader.name, bytes, room: reader.room };
  const placed = await placeKernel(memory, image, options);
  const { entry, header } = placed;

  const cmdlineLimit = header?.cmdlineMaxBytes || DEFAULT_CMDLINE_BYTES;
  const cmdline = encodeCmdline(
    options.cmdline,
    Math.min(cmdlineLimit, BOOT_CMDLINE_MAX_SIZE_BYTES - 1),
  );
  memory.writeFrom(BOOT_CMDLINE_ADDRESS, cmdline);

  const initrd = options.initrd === undefined ? undefined : placeInitrd(memory, options.initrd, {
    above: placed.range.end,
    maxAddress: header?.initrdMaxAddress || DEFAULT_INITRD_MAX_ADDRESS,
  });

  const memoryMap = buildMemoryMap(memory, { ecam: options.ecam });
  if (entry.kind === "long64") {
    writeBootParams(memory, {
      setupHeader: header?.setupHeader,
      memoryMap,
      cmdlineBytes: cmdline.length - 1,
      initrd,
    });
  } else {
    writePvhStartInfo(memory, { memoryMap, initrd });
  }
  writeEntryState(memory, entry);
  return { entry, kernel: placed.range, initrd, format: placed.format, payload: placed.payload };
}

interface KernelFile {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** What {@link bytes} lie in, where they are many. */
  readonly room: UnpackRoom | undefined;
}

async function placeKernel(
  memory: GuestMemory,
  { name, bytes, room }: KernelFile,
  options: BootOptions,
): Promise<PlacedKernel> {
  if (bytes.length === 0) {
    throw new BootError(`${name}: expected a kernel (bzImage or ELF vmlinux), found an empty file`);
  }
  if (isElf(bytes)) {
    const kernel = parseElf(bytes, { name, fileBytes: bytes.length });
    const range = checkSegments(memory, kernel, name);
    const entry = chooseEntry(kernel, { name, image: bytes, protocol: options.protocol });
    copySegments(memory, kernel, bytes);
    return { entry, range, format: "vmlinux" };
  }
  if (!isBzImage(bytes)) {
    throw new BootError(
      `${name}: expected a kernel (bzImage or ELF vmlinux), found ${describeStart(bytes)}`,
    );
  }
  const header = parseBzImage(bytes, name);
  const payload = detectPayload(header.payload);
  const common = { format: "bzImage", payload, header } as const;
  if (options.keepPacked || !canUnpack(payload)) {
    return { ...placePacked(memory, header, name), ...common };
  }
  const how = { name, protocol: options.protocol };
  const placed =
    (payload === "lz4" ? await placeLz4(memory, header, { ...how, room }) : undefined) ??
      placeUnpacked(memory, unpackPayload(header.payload, { format: payload, name }), how);
  // The kernel clears and allocates beyond its segments before it reads the memory map.
  const end = Math.max(placed.range.end, placed.range.start + header.initBytes);
  if (!memory.contains(placed.range.start, end - placed.range.start)) {
    throw new BootError(
      `${name}: expected ${formatSize(end)} of memory for this kernel to start in, ` +
        `found ${formatSize(lowMemoryEnd(memory))}; give the guest more memory`,
    );
  }
  return { entry: placed.entry, range: { start: placed.range.start, end }, ...common };
}

interface PlaceOptions {
  readonly name: string;
  readonly protocol: BootOptions["protocol"];
}

/** A bzImage that unpacks itself, at the place that it prefers. */
function placePacked(
  memory: GuestMemory,
  header: BzImage,
  name: string,
): Pick<PlacedKernel, "entry" | "range"> {
  const start = header.preferredAddress;
  const end = start + header.initBytes;
  if (start < HIGH_MEMORY_START || !memory.contains(start, header.initBytes)) {
    throw new BootError(
      `${name}: expected memory from ${hex(start)} to ${hex(end)} for this kernel, ` +
        `found it up to ${hex(lowMemoryEnd(memory))}; give the guest more memory`,
    );
  }
  memory.writeFrom(start, header.protectedMode);
  return { entry: { kind: "long64", rip: start + ENTRY_64_OFFSET }, range: { start, end } };
}

/** A vmlinux that is unpacked already, in memory of its own. */
function placeUnpacked(
  memory: GuestMemory,
  image: Uint8Array,
  { name, protocol }: PlaceOptions,
): Pick<PlacedKernel, "entry" | "range"> {
  const kernel = parseElf(image, { name, fileBytes: image.length });
  const range = checkSegments(memory, kernel, name);
  const entry = chooseEntry(kernel, { name, image, protocol });
  copySegments(memory, kernel, image);
  return { entry, range };
}

/**
 * LZ4 is fast enough for the rest to matter: what is unpacked is written to its place by another thread.
 * Undefined where that is not worth it, or the notes in the file have to be read for the entry.
 */
async function placeLz4(
  memory: GuestMemory,
  { payload }: BzImage,
  { name, protocol, room }: PlaceOptions & { readonly room: UnpackRoom | undefined },
): Promise<Pick<PlacedKernel, "entry" | "range"> | undefined> {
  const fileBytes = unpackedSize(payload, name);
  if (room === undefined || fileBytes < MANY_BYTES) return undefined;
  const beginning = new Uint8Array(ELF_HEADERS_BYTES);
  const length = unpackLz4(payload, beginning, { name });
  const kernel = parseElf(beginning.subarray(0, length), { name, fileBytes });
  if (protocol === "pvh" || !isLoaded(kernel, kernel.entry)) return undefined;
  const range = checkSegments(memory, kernel, name);
  const entry = chooseEntry(kernel, { name, image: beginning, protocol });
  const written: Promise<void>[] = [];
  try {
    for (const { offset, at, length } of lz4PayloadPieces(payload, { name, room })) {
      const piece = { offset, address: room.addressOf(at), length };
      const writing = writeSegmentsAside(memory, kernel, piece);
      // Whether it fails is looked at below.
      writing.catch(() => {});
      written.push(writing);
      // The next piece goes where this one was.
      await written.at(-WINDOWS);
    }
    zeroRests(memory, kernel);
    await Promise.all(written);
  } finally {
    // Nothing is written any more, whatever went wrong.
    await Promise.allSettled(written);
  }
  return { entry, range };
}

function chooseEntry(
  kernel: ElfKernel,
  { name, image, protocol = "auto" }: {
    readonly name: string;
    readonly image: Uint8Array;
    readonly protocol?: BootOptions["protocol"];
  },
): BootEntry {
  if (protocol !== "pvh" && isLoaded(kernel, kernel.entry)) {
    return { kind: "long64", rip: kernel.entry };
  }
  const pvhEntry = protocol === "linux" ? undefined : findPvhEntry(kernel, image);
  if (pvhEntry !== undefined && isLoaded(kernel, pvhEntry)) return { kind: "pvh32", rip: pvhEntry };
  throw new BootError(
    `${name}: expected ${
      protocol === "pvh" ? "a PVH" : "an"
    } entry point inside of what it loads, ` +
      `found ${
        pvhEntry !== undefined ? hex(pvhEntry) : kernel.entry < 0 ? "none" : hex(kernel.entry)
      }`,
  );
}

/** Puts the initrd as high as it may be, out of the way of a kernel that unpacks itself. */
function placeInitrd(
  memory: GuestMemory,
  image: BootImage,
  { above, maxAddress }: { readonly above: number; readonly maxAddress: number },
): Range | undefined {
  using reader = new ImageReader(image);
  const ceiling = Math.min(maxAddress + 1, lowMemoryEnd(memory));
  const floor = alignUp(above, PAGE_BYTES);
  const room = Math.max(0, ceiling - floor);
  // A pipe tells its size only at its end.
  const known = reader.size;
  const bytes = known === undefined ? reader.readAll(room) : undefined;
  const size = known ?? bytes!.length;
  if (size === 0) throw new BootError(`${reader.name}: expected an initrd, found an empty file`);
  const start = alignDown(ceiling - size, PAGE_BYTES);
  if (start < floor) {
    throw new BootError(
      `${reader.name}: expected an initrd of at most ${formatSize(room)} beside the kernel, ` +
        `found ${formatSize(size)}; give the guest more memory`,
    );
  }
  if (bytes) memory.writeFrom(start, bytes);
  else copyImage(memory, reader, { start, size });
  return { start, end: start + size };
}

const CHUNK_BYTES = 1024 * 1024;

/** Copies by way of a small buffer: a large initrd is not held twice. */
function copyImage(
  memory: GuestMemory,
  reader: ImageReader,
  { start, size }: { readonly start: number; readonly size: number },
): void {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, size));
  let done = 0;
  while (done < size) {
    const count = reader.read(chunk.subarray(0, Math.min(chunk.length, size - done)));
    if (count === 0) {
      throw new BootError(
        `${reader.name}: expected ${size} bytes, found ${done}: it was truncated`,
      );
    }
    memory.writeFrom(start + done, chunk.subarray(0, count));
    done += count;
  }
}

function lowMemoryEnd(memory: GuestMemory): number {
  const low = memory.regions.find((region) => region.guestAddress === 0);
  return low ? low.sizeBytes : 0;
}

/** A guess at what a foreign file is, for the message. */
function describeStart(bytes: Uint8Array): string {
  const head = bytes.subarray(0, 64);
  if (bytes.length >= 4 && head[0] === 0x1f && head[1] === 0x8b) return "a gzip file";
  const magic = String.fromCharCode(...head.subarray(0, 6));
  if (/^07070[12]/.test(magic)) return "a cpio archive, as an initial RAM disk is";
  if (magic.startsWith("QFI\xfb")) return "a qcow2 disk image";
  if (head[0] === 0x23 && head[1] === 0x21) return "a script";
  if (head.every((byte) => byte === 9 || byte === 10 || byte === 13 || byte >= 32 && byte < 127)) {
    return "a text file";
  }
  if (bytes.length < 0x268) return `a file of ${bytes.length} bytes without a header`;
  // A bzImage has the mark of a boot sector, too, and was ruled out before.
  if (bytes[510] === 0x55 && bytes[511] === 0xaa) return "a boot sector or a disk with one";
  return "a file without a known header";
}
