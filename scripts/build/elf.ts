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

/** Addresses that a new segment needs to know of itself and of the program. */
export interface SegmentPlacement {
  /** Address at which the segment will be mapped, relative to the program's base. */
  readonly address: number;
  /** Address at which the program began so far. */
  readonly originalEntry: number;
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
const PT_NOTE = 4;
const PF_X = 1;
const PF_R = 4;

interface ProgramHeader {
  readonly type: number;
  readonly bytes: Uint8Array;
  readonly end: number;
}

function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function u64(data: DataView, offset: number): number {
  const value = data.getBigUint64(offset, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new ElfError(`field at offset ${offset} is ${value}, which no program of ours has`);
  }
  return Number(value);
}

function programHeaders(head: Uint8Array): ProgramHeader[] {
  const data = view(head);
  const offset = u64(data, 32);
  const size = data.getUint16(54, true);
  const count = data.getUint16(56, true);
  if (size !== PROGRAM_HEADER_BYTES || offset + size * count > head.length) {
    throw new ElfError(
      `expected program headers of ${PROGRAM_HEADER_BYTES} bytes within the first ${head.length} ` +
        `bytes, got ${count} of ${size} at ${offset}`,
    );
  }
  return Array.from({ length: count }, (_, index) => {
    const bytes = head.slice(offset + index * size, offset + (index + 1) * size);
    const header = view(bytes);
    return { type: header.getUint32(0, true), bytes, end: u64(header, 16) + u64(header, 40) };
  });
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
  return { type: PT_LOAD, bytes, end: address + length };
}

/**
 * Plans the extension of an x86-64 ELF program. The new segment lies above all others in memory and
 * behind everything in the file. Its header takes the place of a PT_NOTE, which a running program
 * does not need, and comes after the last PT_LOAD: older kernels size the mapping by the first and
 * last one of the table. The table stays where it is, for the same kernels compute AT_PHDR from its
 * file offset.
 *
 * @param head The first bytes of the program, at least up to the end of its program headers.
 * @param options `fileBytes`: length of the program's file. `makeSegment`: makes the new segment for
 * the place that was chosen.
 * @throws {ElfError} when this is no such program or it has no header to spare.
 */
export function addSegment(
  head: Uint8Array,
  options: { fileBytes: number; makeSegment: (placement: SegmentPlacement) => AddedSegment },
): ElfPatch {
  if (head.length < HEADER_BYTES) throw new ElfError(`${head.length} bytes are no ELF program`);
  const data = view(head);
  const type = data.getUint16(16, true);
  const machine = data.getUint16(18, true);
  if (data.getUint32(0, false) !== 0x7f454c46 || head[4] !== 2 || head[5] !== 1) {
    throw new ElfError("expected a little-endian 64-bit ELF program");
  }
  if (machine !== EM_X86_64 || (type !== ET_EXEC && type !== ET_DYN)) {
    throw new ElfError(`expected an x86-64 program, got machine ${machine}, type ${type}`);
  }
  const headers = programHeaders(head);
  const note = headers.findLastIndex((header) => header.type === PT_NOTE);
  if (note < 0) throw new ElfError("expected a PT_NOTE program header to take the place of");
  const kept = headers.filter((_, index) => index !== note);
  const lastLoad = kept.findLastIndex((header) => header.type === PT_LOAD);
  if (lastLoad < 0) throw new ElfError("expected a PT_LOAD program header");

  const top = Math.max(...kept.map((header) => (header.type === PT_LOAD ? header.end : 0)));
  const address = alignUp(top, PAGE);
  const segmentOffset = alignUp(options.fileBytes, PAGE);
  const added = options.makeSegment({ address, originalEntry: u64(data, 24) });
  kept.splice(lastLoad + 1, 0, loadHeader(segmentOffset, address, added.bytes.length));

  const newHead = head.slice();
  const newData = view(newHead);
  newData.setBigUint64(24, BigInt(address + added.entryOffset), true);
  const table = u64(data, 32);
  kept.forEach((header, index) => newHead.set(header.bytes, table + index * PROGRAM_HEADER_BYTES));
  return { head: newHead, segmentOffset, segment: added.bytes };
}
