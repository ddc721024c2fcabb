/**
 * Guest memory of a front end, mapped from the files that it sends. The front end may be hostile: what
 * it says is compared with the files, so that no mapping has pages that are not there.
 *
 * A front end that shortens a file afterwards ends the back end (SIGBUS); that hurts its own device alone.
 *
 * @module
 */

import { type Fd, fstat, HostError, type Mapping, mmap } from "../../host/mod.ts";
import { hex } from "../../base/mod.ts";
import { PAGE_SIZE } from "../../memory/mod.ts";
import { DeviceMemory, MemoryArea } from "../device_memory.ts";
import { VhostUserError, VirtioError } from "../errors.ts";
import type { RegionMessage } from "./message.ts";
import { MAX_MEMORY_SLOTS } from "./protocol.ts";

interface MappedRegion {
  readonly region: RegionMessage;
  /** Which file. */
  readonly file: string;
  readonly mapping: Mapping;
  readonly area: MemoryArea;
}

/** Told of each change, while old and new mappings both exist. */
export type MemoryChange = (memory: DeviceMemory) => void;

/** The mappings. */
export class MemoryTable implements Disposable {
  readonly #onChange: MemoryChange;
  #mapped: readonly MappedRegion[] = [];
  #memory = new DeviceMemory([]);

  constructor(onChange: MemoryChange) {
    this.#onChange = onChange;
  }

  /** What is mapped now. */
  get memory(): DeviceMemory {
    return this.#memory;
  }

  /**
   * Maps `regions` of `files`, and nothing else any more. What is there as before stays mapped.
   *
   * @throws {VhostUserError} "refused" where they cannot be mapped; all is as before then.
   */
  replace(regions: readonly RegionMessage[], files: readonly Fd[]): void {
    const made: MappedRegion[] = [];
    try {
      const next = regions.map((region, index) => {
        const file = checkedFile(region, files[index]!);
        const known = this.#mapped.find((mapped) =>
          mapped.file === file && sameRegion(mapped.region, region)
        );
        if (known !== undefined) return known;
        const fresh = map(region, files[index]!, file);
        made.push(fresh);
        return fresh;
      });
      this.#switchTo(next);
    } catch (error) {
      for (const { mapping } of made) mapping[Symbol.dispose]();
      throw refusal(error);
    }
  }

  /** Maps one more. */
  add(region: RegionMessage, fd: Fd): void {
    if (this.#mapped.length >= MAX_MEMORY_SLOTS) {
      throw new VhostUserError("refused", `AddMemReg: expected up to ${MAX_MEMORY_SLOTS} regions`);
    }
    let fresh: MappedRegion | undefined;
    try {
      fresh = map(region, fd, checkedFile(region, fd));
      this.#switchTo([...this.#mapped, fresh]);
    } catch (error) {
      fresh?.mapping[Symbol.dispose]();
      throw refusal(error);
    }
  }

  /** Unmaps one, which is known by its addresses and size. */
  remove(region: RegionMessage): void {
    const fileOffset = (mapped: MappedRegion) => mapped.region.fileOffset;
    const found = this.#mapped.find((mapped) =>
      sameRegion(mapped.region, { ...region, fileOffset: fileOffset(mapped) })
    );
    if (found === undefined) {
      throw new VhostUserError("refused", `RemMemReg: there is no region ${describe(region)}`);
    }
    this.#switchTo(this.#mapped.filter((mapped) => mapped !== found));
  }

  /** Unmaps all. Nobody may use any of it any more. */
  [Symbol.dispose](): void {
    this.#memory = new DeviceMemory([]);
    for (const { mapping } of this.#mapped) mapping[Symbol.dispose]();
    this.#mapped = [];
  }

  #switchTo(next: readonly MappedRegion[]): void {
    const memory = new DeviceMemory(next.map(({ area }) => area));
    const before = this.#mapped;
    this.#onChange(memory);
    this.#memory = memory;
    this.#mapped = next;
    for (const mapped of before) if (!next.includes(mapped)) mapped.mapping[Symbol.dispose]();
  }
}

/** What tells the file, after it was found to hold all of `region`. */
function checkedFile(region: RegionMessage, fd: Fd): string {
  const { fileOffset, sizeBytes } = region;
  const status = fstat(fd);
  const end = fileOffset + sizeBytes;
  const valid = status.kind === "file" && sizeBytes > 0 && Number.isSafeInteger(end) &&
    end <= status.sizeBytes && fileOffset % PAGE_SIZE === 0 && sizeBytes % PAGE_SIZE === 0;
  if (!valid) {
    throw new VhostUserError(
      "refused",
      `memory region ${describe(region)}: expected whole pages of a file, which is a ` +
        `${status.kind} of ${status.sizeBytes} bytes`,
    );
  }
  return `${status.dev}:${status.ino}`;
}

function map(region: RegionMessage, fd: Fd, file: string): MappedRegion {
  const mapping = mmap(region.sizeBytes, { fd, offset: region.fileOffset });
  try {
    return { region, file, mapping, area: new MemoryArea(mapping.bytes, region) };
  } catch (error) {
    mapping[Symbol.dispose]();
    throw error;
  }
}

function refusal(error: unknown): unknown {
  if (error instanceof VhostUserError) return error;
  // A RangeError is an area that is larger than a buffer can be.
  const expected = error instanceof HostError || error instanceof VirtioError ||
    error instanceof RangeError;
  if (!expected) return error;
  return new VhostUserError("refused", `guest memory: ${error.message}`, { cause: error });
}

function sameRegion(a: RegionMessage, b: RegionMessage): boolean {
  return a.guestAddress === b.guestAddress && a.sizeBytes === b.sizeBytes &&
    a.userAddress === b.userAddress && a.fileOffset === b.fileOffset;
}

function describe(region: RegionMessage): string {
  return `${hex(region.guestAddress)}+${hex(region.sizeBytes)} (user ${hex(region.userAddress)}, ` +
    `offset ${hex(region.fileOffset)})`;
}
