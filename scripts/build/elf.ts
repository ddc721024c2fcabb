/**
 * Adds a segment to an ELF program and lets it begin there. The program itself stays as it is, byte
 * for byte; only its header and one program header change.
 *
 * @module
 */

/** A program image that cannot be extended. The message says what was expected. */
export class ElfError extends Error {
  override name = "ElfError";
}

/** A segment to add: its bytes and where in them execution begins. */
export interface AddedSegment {
  readonly bytes: Uint8Array;
  /** Offset of the new entry point in {@link bytes}. */
  readonly entryOffset: number;
}

/** Addresses that a new segment needs to know; all are relative to the program's base. */
export interface SegmentPlacement {
  /** Address at which the segment will be mapped. */
  readonly address: number;
  /** Address at which the program began so far. */
  readonly originalEntry: number;
  /** Where the dynamic linker leaves the address of the C library's variable `environ`. */
  readonly environSlot: number;
}

/** What has to be written where to get the extended program. */
export interface ElfPatch {
  /** New first bytes of the file: header and program headers. */
  readonly head: Uint8Array;
  /** Where the added segment begins in the file; the gap before it is zero. */
  readonly segmentOffset: number;
  readonly segment: Uint8Array;
}

const PAGE = 0x1000;
const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_NOTE = 4;
const PF_X = 1;
const PF_R = 4;
const DYNAMIC_ENTRY_BYTES = 16;
const SYMBOL_BYTES = 24;
const RELOCATION_BYTES = 24;
const DT_STRTAB = 5;
const DT_SYMTAB = 6;
const DT_RELA = 7;
const DT_RELASZ = 8;
const R_X86_64_GLOB_DAT = 6;

interface ProgramHeader {
  readonly type: number;
  readonly bytes: Uint8Array;
  readonly offset: number;
  readonly address: number;
  readonly fileBytes: number;
  /** First address behind it. */
  readonly end: number;
}

function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function u64(data: DataView, offset: number): number {
  return Number(data.getBigUint64(offset, true));
}

function programHeader(bytes: Uint8Array): ProgramHeader {
  const data = view(bytes);
  const address = u64(data, 16);
  return {
    type: data.getUint32(0, true),
    bytes,
    offset: u64(data, 8),
    address,
    fileBytes: u64(data, 32),
    end: address + u64(data, 40),
  };
}

function programHeaders(image: Uint8Array): ProgramHeader[] {
  const data = view(image);
  const offset = u64(data, 32);
  const size = data.getUint16(54, true);
  const count = data.getUint16(56, true);
  if (size !== PROGRAM_HEADER_BYTES || offset + size * count > image.length) {
    throw new ElfError(
      `expected program headers of ${PROGRAM_HEADER_BYTES} bytes within ${image.length} bytes, ` +
        `got ${count} of ${size} at ${offset}`,
    );
  }
  return Array.from(
    { length: count },
    (_, index) => programHeader(image.slice(offset + index * size, offset + (index + 1) * size)),
  );
}

function loadHeader(fileOffset: number, address: number, length: number): ProgramHeader {
  const bytes = new Uint8Array(PROGRAM_HEADER_BYTES);
  const data = view(bytes);
  data.setUint32(0, PT_LOAD, true);
  data.setUint32(4, PF_R | PF_X, true);
  data.setBigUint64(8, BigInt(fileOffset), true);
  data.setBigUint64(16, BigInt(address), true);
  data.setBigUint64(24, BigInt(address), true);
  data.setBigUint64(32, BigInt(length), true);
  data.setBigUint64(40, BigInt(length), true);
  data.setBigUint64(48, BigInt(PAGE), true);
  return programHeader(bytes);
}

/** The bytes at `address` up to the end of what the file has there. */
function loaded(image: Uint8Array, headers: ProgramHeader[], address: number): Uint8Array {
  const load = headers.find(({ type, address: begin, fileBytes }) =>
    type === PT_LOAD && address >= begin && address < begin + fileBytes
  );
  if (load === undefined) throw new ElfError(`expected something loaded at ${address}`);
  return image.subarray(load.offset + address - load.address, load.offset + load.fileBytes);
}

/** Finds the GLOB_DAT relocation of `environ` (System V x86-64 ABI, 4.4). */
function findEnvironSlot(image: Uint8Array, headers: ProgramHeader[]): number {
  const dynamicHeader = headers.find(({ type }) => type === PT_DYNAMIC);
  if (dynamicHeader === undefined) throw new ElfError("expected a dynamically linked program");
  const tags = new Map<number, number>();
  const dynamic = view(loaded(image, headers, dynamicHeader.address));
  for (let at = 0; at < dynamicHeader.fileBytes; at += DYNAMIC_ENTRY_BYTES) {
    tags.set(u64(dynamic, at), u64(dynamic, at + 8));
  }
  const table = (tag: number) => loaded(image, headers, tags.get(tag) ?? 0);
  const strings = table(DT_STRTAB);
  const symbols = view(table(DT_SYMTAB));
  const relocations = view(table(DT_RELA));
  for (let at = 0; at < (tags.get(DT_RELASZ) ?? 0); at += RELOCATION_BYTES) {
    if (relocations.getUint32(at + 8, true) !== R_X86_64_GLOB_DAT) continue;
    const symbol = relocations.getUint32(at + 12, true);
    const name = symbols.getUint32(symbol * SYMBOL_BYTES, true);
    const text = new TextDecoder().decode(strings.subarray(name, strings.indexOf(0, name)));
    if (text === "environ" || text === "__environ") return u64(relocations, at);
  }
  throw new ElfError("expected a program that refers to the C library's environ");
}

/**
 * Plans the extension of an x86-64 ELF program. The new segment lies above all others in memory and
 * behind everything in the file. Its header takes the place of a PT_NOTE, which a running program
 * does not need, and comes after the last PT_LOAD: older kernels size the mapping by the first and
 * last one of the table. The table stays where it is, for the same kernels compute AT_PHDR from its
 * file offset.
 *
 * @param image The program.
 * @param makeSegment Makes the new segment for the place that was chosen.
 * @throws {ElfError} when this is no such program or it has no header to spare.
 */
export function addSegment(
  image: Uint8Array,
  makeSegment: (placement: SegmentPlacement) => AddedSegment,
): ElfPatch {
  if (image.length < HEADER_BYTES) throw new ElfError(`${image.length} bytes are no ELF program`);
  const data = view(image);
  const type = data.getUint16(16, true);
  const machine = data.getUint16(18, true);
  if (data.getUint32(0, false) !== 0x7f454c46 || image[4] !== 2 || image[5] !== 1) {
    throw new ElfError("expected a little-endian 64-bit ELF program");
  }
  if (machine !== EM_X86_64 || (type !== ET_EXEC && type !== ET_DYN)) {
    throw new ElfError(`expected an x86-64 program, got machine ${machine}, type ${type}`);
  }
  const headers = programHeaders(image);
  const note = headers.findLastIndex((header) => header.type === PT_NOTE);
  if (note < 0) throw new ElfError("expected a PT_NOTE program header to take the place of");
  const kept = headers.filter((_, index) => index !== note);
  const lastLoad = kept.findLastIndex((header) => header.type === PT_LOAD);
  if (lastLoad < 0) throw new ElfError("expected a PT_LOAD program header");

  const top = Math.max(...kept.map((header) => (header.type === PT_LOAD ? header.end : 0)));
  const address = alignUp(top, PAGE);
  const segmentOffset = alignUp(image.length, PAGE);
  const added = makeSegment({
    address,
    originalEntry: u64(data, 24),
    environSlot: findEnvironSlot(image, headers),
  });
  kept.splice(lastLoad + 1, 0, loadHeader(segmentOffset, address, added.bytes.length));

  const table = u64(data, 32);
  const head = image.slice(0, Math.max(HEADER_BYTES, table + kept.length * PROGRAM_HEADER_BYTES));
  view(head).setBigUint64(24, BigInt(address + added.entryOffset), true);
  kept.forEach((header, index) => head.set(header.bytes, table + index * PROGRAM_HEADER_BYTES));
  return { head, segmentOffset, segment: added.bytes };
}
