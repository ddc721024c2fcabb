/**
 * Machine code of our own in memory of our own, and calls of it.
 *
 * @module
 */

import { check, HostError } from "./errno.ts";
import { bindLibc } from "./libc.ts";
import { type Mapping, mmap } from "./mapping.ts";

// Safe: protections are changed only of whole mappings that the caller made.
const libc = bindLibc({
  mprotect: { parameters: ["pointer", "usize", "i32"], result: "i32" },
});

/** Protections of {@link protect} (mprotect(2)), to be combined. */
export const Protection = { None: 0, Read: 1, Write: 2, Execute: 4 } as const;

/** Changes what may be done with `length` bytes from `address`, both multiples of the page size. */
export function protect(address: bigint, length: number, protection: number): void {
  check(
    libc().mprotect(Deno.UnsafePointer.create(address), BigInt(length), protection),
    "mprotect",
  );
}

/** A mapping whose bytes can be written and executed. */
export class NativeCode implements Disposable {
  readonly #mapping: Mapping;
  /** Address of the first byte. */
  readonly address: bigint;
  /** All bytes. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** All bytes. */
  readonly view: DataView<ArrayBuffer>;

  /** @param length Bytes, a multiple of the page size. */
  constructor(length: number) {
    this.#mapping = mmap(length);
    this.address = this.#mapping.address;
    this.bytes = this.#mapping.bytes;
    this.view = this.#mapping.view;
    protect(this.address, length, Protection.Read | Protection.Write | Protection.Execute);
  }

  /**
   * Makes a function of the code at `offset`, which takes two 64-bit numbers in RDI and RSI and keeps to
   * the System V calling convention. What the code does is the caller's responsibility.
   */
  entry(offset: number): (first: bigint, second: bigint) => void {
    const definition = { parameters: ["u64", "u64"], result: "void" } as const;
    const pointer = Deno.UnsafePointer.create<typeof definition>(this.address + BigInt(offset));
    if (pointer === null) throw new HostError("call of address 0", 14);
    const code = new Deno.UnsafeFnPointer(pointer, definition);
    return (first, second) => code.call(first, second);
  }

  [Symbol.dispose](): void {
    this.#mapping[Symbol.dispose]();
  }
}
