/**
 * ELF kernels: header, program headers and the note by which a kernel offers a PVH entry
 * (System V ABI, "Object Files"; Xen public/elfnote.h).
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import { BootError } from "./errors.ts";

const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const MAX_PROGRAM_HEADERS = 64;
const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
const TYPE_EXECUTABLE = 2;
const TYPE_DYNAMIC = 3;
const MACHINE_X86_64 = 62;
const SEGMENT_LOAD = 1;
const SEGMENT_NOTE = 4;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const MAX_NOTE_BYTES = 64 * 1024;

const MACHINES: Readonly<Record<number, string>> = {
  3: "i386",
  8: "MIPS",
  20: "PowerPC",
  21: "64-bit PowerPC",
  22: "S/390",
  40: "ARM",
  183: "AArch64",
  243: "RISC-V",
  258: "LoongArch",
};

/** A part of the file that goes to guest memory. */
export interface ElfSegment {
  /** Offset in the file. */
  readonly offset: number;
  /** Guest physical address. */
  readonly address: number;
  /** Bytes in the file. */
  readonly fileBytes: number;
  /** Bytes in memory; what the file does not give is zero. */
  readonly memoryBytes: number;
}

/** A place in the file that holds notes. */
interface NoteRange {
  readonly offset: number;
  readonly bytes: number;
}

/** What the headers of an ELF kernel say. */
export interface ElfKernel {
  /** Entry point; physical in a Linux vmlinux. */
  readonly entry: number;
  /** Segments to load, in the order of the program headers, none of them empty. */
  readonly segments: readonly ElfSegment[];
  /** Where the notes are. */
  readonly notes: readonly NoteRange[];
}

/** Whether `bytes` begin as an ELF file does. */
export function isElf(bytes: Uint8Array): boolean {
  return bytes.length >= 4 && bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c &&
    bytes[3] === 0x46;
}

/** Bytes that hold the ELF header and as many program headers as a kernel may have. */
export const ELF_HEADERS_BYTES = HEADER_BYTES + MAX_PROGRAM_HEADERS * PROGRAM_HEADER_BYTES;

/**
 * Parses the headers of an x86-64 ELF kernel of which `bytes` is at least the beginning.
 * @param options.fileBytes size of the whole file, which segments may not exceed.
 * @throws {BootError} when it is not such a file or its numbers make no sense.
 */
export function parseElf(
  bytes: Uint8Array,
  { name, fileBytes }: { readonly name: string; readonly fileBytes: number },
): ElfKernel {
  const fail = (text: string) => new BootError(`${name}: ${text}`);
  if (bytes.length < HEADER_BYTES) {
    throw fail(`expected an ELF header of ${HEADER_BYTES} bytes, found ${bytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!isElf(bytes)) throw fail("expected an ELF file, found no ELF magic number");
  const machine = view.getUint16(18, true);
  if (bytes[4] !== CLASS_64 || bytes[5] !== LITTLE_ENDIAN || machine !== MACHINE_X86_64) {
    const bits = bytes[4] === CLASS_64 ? "64-bit" : "32-bit";
    throw fail(
      `expected a 64-bit x86-64 kernel, found a ${bits} ELF file for ` +
        (machine === MACHINE_X86_64 ? "x86-64" : MACHINES[machine] ?? `machine ${machine}`),
    );
  }
  const type = view.getUint16(16, true);
  if (type !== TYPE_EXECUTABLE && type !== TYPE_DYNAMIC) {
    throw fail(`expected an executable ELF file, found type ${type}`);
  }
  const number64 = (offset: number, what: string) => {
    const value = view.getBigUint64(offset, true);
    // Anything near 2^53 is absurd here, and keeping sums exact keeps checks honest.
    if (value > 2n ** 52n) throw fail(`${what}: expected a physical value, found ${hex(value)}`);
    return Number(value);
  };
  const tableOffset = number64(32, "offset of the program headers");
  const entrySize = view.getUint16(54, true);
  const count = view.getUint16(56, true);
  if (entrySize !== PROGRAM_HEADER_BYTES) {
    throw fail(`expected program headers of ${PROGRAM_HEADER_BYTES} bytes, found ${entrySize}`);
  }
  if (count === 0 || count > MAX_PROGRAM_HEADERS) {
    throw fail(`expected 1 to ${MAX_PROGRAM_HEADERS} program headers, found ${count}`);
  }
  if (tableOffset + count * PROGRAM_HEADER_BYTES > bytes.length) {
    throw fail(
      `expected ${count} program headers at byte ${tableOffset}, ` +
        `beyond the end of what there is (${bytes.length} bytes)`,
    );
  }

  const segments: ElfSegment[] = [];
  const notes: NoteRange[] = [];
  for (let index = 0; index < count; index++) {
    const at = tableOffset + index * PROGRAM_HEADER_BYTES;
    const kind = view.getUint32(at, true);
    if (kind !== SEGMENT_LOAD && kind !== SEGMENT_NOTE) continue;
    const what = `program header ${index}`;
    const offset = number64(at + 8, `${what}, offset`);
    const size = number64(at + 32, `${what}, size in the file`);
    if (offset + size > fileBytes) {
      throw fail(
        `${what}: expected bytes ${offset} to ${offset + size}, ` +
          `beyond the end of the file (${fileBytes} bytes)`,
      );
    }
    if (kind === SEGMENT_NOTE) {
      notes.push({ offset, bytes: Math.min(size, MAX_NOTE_BYTES) });
      continue;
    }
    const address = number64(at + 24, `${what}, physical address`);
    const memoryBytes = number64(at + 40, `${what}, size in memory`);
    if (size > memoryBytes) {
      throw fail(`${what}: ${size} bytes in the file do not fit into ${memoryBytes} in memory`);
    }
    if (memoryBytes > 0) segments.push({ offset, address, fileBytes: size, memoryBytes });
  }
  if (segments.length === 0) throw fail("expected a segment to load, found none");

  // FreeBSD's entry point is a virtual address in the upper half, of no use here: keep it out of
  // every segment.
  const entry = view.getBigUint64(24, true);
  return { entry: entry > 2n ** 52n ? -1 : Number(entry), segments, notes };
}

/** Whether `address` lies in what `kernel` loads. */
export function isLoaded(kernel: ElfKernel, address: number): boolean {
  return kernel.segments.some((segment) =>
    address >= segment.address && address < segment.address + segment.memoryBytes
  );
}

/**
 * The 32-bit physical entry that the notes offer for PVH boot, if any.
 * @param image the whole file.
 */
export function findPvhEntry(kernel: ElfKernel, image: Uint8Array): number | undefined {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  for (const range of kernel.notes) {
    let at = range.offset;
    const end = Math.min(at + range.bytes, image.length);
    while (at + 12 <= end) {
      const nameBytes = view.getUint32(at, true);
      const valueBytes = view.getUint32(at + 4, true);
      const type = view.getUint32(at + 8, true);
      const nameAt = at + 12;
      const valueAt = nameAt + align4(nameBytes);
      if (valueAt + valueBytes > end) break;
      const isXen = nameBytes === 4 && view.getUint32(nameAt, true) === 0x006e6558;
      if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY && valueBytes >= 4) {
        return view.getUint32(valueAt, true);
      }
      at = valueAt + align4(valueBytes);
    }
  }
  return undefined;
}

/** Sums may exceed 32 bits, so no bit operations. */
function align4(value: number): number {
  return Math.ceil(value / 4) * 4;
}
