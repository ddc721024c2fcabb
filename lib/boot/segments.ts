import { hex } from "../base/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import type { ElfKernel } from "./elf.ts";
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

/** A piece of a kernel's file, in memory. */
export interface FilePiece {
  /** Where it begins in the file. */
  readonly offset: number;
  readonly address: bigint;
  readonly length: number;
}

/**
 * Writes what `piece` has of the segments of `kernel` to their places, while this thread does other things.
 * Guest memory is not touched by way of a mapping: that takes longer than to write it, page by page, and
 * the vCPUs have a mapping of their own.
 */
export async function writeSegmentsAside(
  memory: GuestMemory,
  kernel: ElfKernel,
  piece: FilePiece,
): Promise<void> {
  for (const { address, offset, fileBytes } of kernel.segments) {
    const start = Math.max(offset, piece.offset);
    const end = Math.min(offset + fileBytes, piece.offset + piece.length);
    if (start >= end) continue;
    await memory.writeAside(address + start - offset, {
      address: piece.address + BigInt(start - piece.offset),
      length: end - start,
    });
  }
}

/** Zeroes what the file of `kernel` does not give of its segments. */
export function zeroRests(memory: GuestMemory, kernel: ElfKernel): void {
  for (const { address, fileBytes, memoryBytes } of kernel.segments) {
    memory.fill(address + fileBytes, memoryBytes - fileBytes);
  }
}
