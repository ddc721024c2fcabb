/**
 * Guest memory, and state shared between workers.
 *
 * @module
 */

export { GuestMemoryError } from "./errors.ts";
export { GuestMemory, type GuestMemoryHandle, type GuestMemoryOptions } from "./guest_memory.ts";
export {
  HIGH_RAM_START,
  lowMemoryBytes,
  MAX_MEMORY_BYTES,
  MAX_WASM_MEMORY_BYTES,
  type MemoryBacking,
  type MemoryRegion,
  MIN_MEMORY_BYTES,
  PAGE_SIZE,
  PCI_HOLE_START,
  validateMemorySize,
  WASM_PAGE_SIZE,
} from "./layout.ts";
export { createGuardedMemory } from "./guarded_memory.ts";
export { SharedLock } from "./shared_lock.ts";
export { memoryFence, SharedCarver } from "./shared_state.ts";
