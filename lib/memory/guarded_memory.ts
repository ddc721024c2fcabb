/**
 * WebAssembly memories that code cannot leave even where it is compiled without bounds checks, as the
 * executable has it: Deno has no trap handler for WebAssembly, so V8 would check each access in code, and
 * generated code is mostly accesses.
 *
 * An access of a 32-bit memory is at base + index + offset, each of the two less than 2^32, and is 16
 * bytes wide at most; V8 clears the upper half of an index, as the trap handlers of other embedders rely
 * on, too. So whatever a module does, it stays within {@link REACH} bytes from the base. Here all of these
 * belong to the memory or cannot be accessed: V8 reserves 4 GiB for a memory that may become so large, and
 * a reservation of ours stands directly behind. What leaves the memory ends the process, instead of
 * reaching anything of the host. Instructions that move or fill many bytes are checked by V8 itself.
 *
 * @module
 */

import { bufferAddress, munmap, reserveAddresses, reserveAt } from "../host/mod.ts";
import { GIB, KIB } from "../base/mod.ts";
import { GuestMemoryError } from "./errors.ts";
import { WASM_PAGE_SIZE } from "./layout.ts";

/** 64 KiB pages that a 32-bit memory can have; V8 reserves addresses for all of them. */
const MAX_PAGES = 65536;
const RESERVED = MAX_PAGES * WASM_PAGE_SIZE;
/** How far from a memory's base an instruction can reach, rounded up to pages. */
export const REACH: number = 8 * GIB + 64 * KIB;
/** V8 aligns a memory to its pages within what it maps. */
const SLACK = WASM_PAGE_SIZE;
/** Other mappings may come between ours: another thread's, or one in a gap that only fits them. */
const ATTEMPTS = 64;

/**
 * Makes a shared memory of `pages` (of 64 KiB), which must not be grown. What stands behind it stays
 * reserved as long as the process lives: another worker may hold the memory, and only addresses are taken.
 *
 * @throws {GuestMemoryError} when there are no addresses for it.
 */
export function createGuardedMemory(pages: number): WebAssembly.Memory {
  // Those that did not come to lie below their guard fill gaps until one does.
  const others: WebAssembly.Memory[] = [];
  try {
    while (others.length < ATTEMPTS) {
      // A hole that the memory just fits in, with the guard above it: the kernel takes the highest.
      const hole = reserveAddresses(REACH + 2 * SLACK);
      const guard = hole + BigInt(RESERVED + SLACK);
      const guarded = REACH + 2 * SLACK - (RESERVED + SLACK);
      munmap(hole, RESERVED + SLACK);
      const memory = new WebAssembly.Memory({ initial: pages, maximum: MAX_PAGES, shared: true });
      const end = bufferAddress(memory.buffer) + BigInt(RESERVED);
      const gap = Number(guard - end);
      if (gap === 0 || (gap > 0 && gap <= SLACK && reserveAt(end, gap))) return memory;
      munmap(guard, guarded);
      others.push(memory);
    }
  } catch (cause) {
    throw noAddresses(pages, cause);
  }
  throw noAddresses(pages);
}

function noAddresses(pages: number, cause?: unknown): GuestMemoryError {
  return new GuestMemoryError(
    `no address space for ${pages * WASM_PAGE_SIZE} bytes of memory and what must stay free behind`,
    cause === undefined ? {} : { cause },
  );
}
