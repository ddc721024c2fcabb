import { hex } from "../base/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import type { ElfKernel, ElfSegment } from "./elf.ts";
import { BootError } from "./errors.ts";
import { HIGH_MEMORY_START } from "./platform_layout.ts";

/** A range of guest memory that is taken. */
export interface Range {
  /** First address. */
  readonly start: number;
  /** Address after the last. */
  readonly end: number;
}

/**
 * Checks that the segments of `kernel` lie in RAM, above what boot needs for itself, and apart from
 * each other.
 * @returns the range that they span.
 * @throws {BootError} when they do not.
 */
export function checkSegments(memory: GuestMemory, kernel: ElfKernel, name: string): Range {
  const sorted = [...kernel.segments].sort((a, b) => a.address - b.address);
  let previousEnd = HIGH_MEMORY_START;
  for (const { address, memoryBytes } of sorted) {
    const range = `${hex(address)} to ${hex(address + memoryBytes)}`;
    if (address < HIGH_MEMORY_START) {
      throw new BootError(
        `${name}: expected segments from ${hex(HIGH_MEMORY_START)} upwards, found ${range}`,
      );
    }
    if (address < previousEnd) {
      throw new BootError(`${name}: segment ${range} overlaps the one before it`);
    }
    if (!memory.contains(address, memoryBytes)) {
      throw new BootError(
        `${name}: segment ${range} lies outside of the guest's memory; give it more memory`,
      );
    }
    previousEnd = address + memoryBytes;
  }
  return { start: sorted[0]!.address, end: previousEnd };
}

/** Copies the segments of `kernel` from `image`, which is apart from guest memory. */
export function copySegments(memory: GuestMemory, kernel: ElfKernel, image: Uint8Array): void {
  for (const { address, offset, fileBytes, memoryBytes } of kernel.segments) {
    const target = memory.slice(address, memoryBytes);
    target.set(image.subarray(offset, offset + fileBytes));
    target.fill(0, fileBytes);
  }
}

/**
 * Unpacks a file straight into guest memory, such that its first segment is then in place, and moves
 * the others to theirs. A kernel of 50 MiB is so written once, not twice.
 * @param options.fileBytes size of the unpacked file.
 * @param options.unpack fills its argument with the file, gives the number of bytes.
 * @returns the file's place in guest memory as it was before the move, for a look at its notes; or
 * undefined when this file cannot be unpacked so, with memory untouched.
 */
export function unpackInPlace(
  memory: GuestMemory,
  kernel: ElfKernel,
  { fileBytes, unpack }: {
    readonly fileBytes: number;
    readonly unpack: (target: Uint8Array) => number;
  },
): { readonly image: Uint8Array; readonly settle: () => void } | undefined {
  const first = kernel.segments[0]!;
  const base = first.address - first.offset;
  if (base < HIGH_MEMORY_START || !memory.contains(base, fileBytes)) return undefined;
  if (!movesDownwards(kernel.segments, base)) return undefined;
  const image = memory.slice(base, fileBytes);
  if (unpack(image) !== fileBytes) return undefined;
  const settle = () => {
    for (const { address, offset, fileBytes, memoryBytes } of kernel.segments) {
      const target = memory.slice(address, memoryBytes);
      if (address !== base + offset) target.set(image.subarray(offset, offset + fileBytes));
    }
    // Only now: what is zeroed may have held a later segment's bytes.
    for (const { address, fileBytes, memoryBytes } of kernel.segments) {
      memory.slice(address, memoryBytes).fill(0, fileBytes);
    }
  };
  return { image, settle };
}

/** Whether copying in order never overwrites a segment that is still to be copied. */
function movesDownwards(segments: readonly ElfSegment[], base: number): boolean {
  let previousOffset = 0;
  for (const { address, offset, fileBytes } of segments) {
    if (offset < previousOffset || address > base + offset) return false;
    previousOffset = offset + fileBytes;
  }
  return true;
}
