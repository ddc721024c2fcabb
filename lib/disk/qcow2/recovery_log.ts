/**
 * Changes of the map that the file does not have yet, in memory that outlives the process.
 *
 * Tables reach the file at a flush. Should only the process that serves a disk die, its guest goes on and
 * has been told that its writes are done: a new process applies what the log holds, and nothing is lost.
 * The bytes themselves are in the file, or at least with the kernel, before an entry is made.
 *
 * @module
 */

import { DiskError } from "../errors.ts";

const MAGIC = 0x766d_6c67;
const HEADER_BYTES = 16;
const ENTRY_BYTES = 16;
const SYNC_ERRNO_OFFSET = 8;
/** Least length of a log's memory in bytes. */
export const MIN_LOG_BYTES = HEADER_BYTES + 1024 * ENTRY_BYTES;

/** An entry: the L2 entry of a cluster of the disk. */
export interface LogEntry {
  readonly guest: number;
  readonly high: number;
  readonly low: number;
}

/** The word of the memory of a log, with a log or without, that is `ImageFileOptions.syncErrno`. */
export function syncErrnoOf(memory: Uint8Array): Int32Array {
  checkMemory(memory);
  return new Int32Array(memory.buffer, memory.byteOffset + SYNC_ERRNO_OFFSET, 1);
}

function checkMemory(memory: Uint8Array): void {
  if (memory.byteLength >= MIN_LOG_BYTES && memory.byteOffset % 8 === 0) return;
  throw new DiskError(
    `recovery log: expected at least ${MIN_LOG_BYTES} aligned bytes, got ${memory.byteLength}`,
    { code: "EINVAL" },
  );
}

/** The log of one image, over memory such as a memfd's mapping that is zeros at first. */
export class RecoveryLog {
  readonly #words: Int32Array;
  readonly #entries: DataView;
  readonly #capacity: number;

  /** @throws {DiskError} EINVAL when the memory is too short, not aligned, or holds something else. */
  constructor(memory: Uint8Array) {
    checkMemory(memory);
    this.#words = new Int32Array(memory.buffer, memory.byteOffset, 2);
    this.#entries = new DataView(memory.buffer, memory.byteOffset + HEADER_BYTES);
    this.#capacity = Math.floor((memory.byteLength - HEADER_BYTES) / ENTRY_BYTES);
    const [magic = 0, count = 0] = this.#words;
    if (magic === 0 && count === 0) this.#words[0] = MAGIC;
    else if (magic !== MAGIC || count < 0 || count > this.#capacity) {
      throw new DiskError("recovery log: expected zeros or a log, got something else", {
        code: "EINVAL",
      });
    }
  }

  /** Entries that it has room for. */
  get room(): number {
    return this.#capacity - Atomics.load(this.#words, 1);
  }

  /** The entries, the oldest first. */
  get entries(): LogEntry[] {
    return Array.from({ length: Atomics.load(this.#words, 1) }, (_, index) => {
      const at = index * ENTRY_BYTES;
      return {
        guest: this.#entries.getFloat64(at),
        high: this.#entries.getUint32(at + 8),
        low: this.#entries.getUint32(at + 12),
      };
    });
  }

  /** Adds an entry; there must be room. */
  append(guest: number, high: number, low: number): void {
    const count = Atomics.load(this.#words, 1);
    const at = count * ENTRY_BYTES;
    this.#entries.setFloat64(at, guest);
    this.#entries.setUint32(at + 8, high);
    this.#entries.setUint32(at + 12, low);
    // Only a whole entry counts, wherever the process ends.
    Atomics.store(this.#words, 1, count + 1);
  }

  /** Forgets all entries: the file has what they say. */
  clear(): void {
    Atomics.store(this.#words, 1, 0);
  }
}
