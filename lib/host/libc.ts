/**
 * The door to the C library. Other libraries, which a host may lack, are loaded by shared_library.ts; nothing
 * else of the project calls `Deno.dlopen`.
 *
 * A symbol costs about 70 us to bind, so each file binds its own group at its first use, and a command
 * that never touches a terminal binds no terminal functions. Two things make the calls fast: lengths
 * and results are 32 bits wide (64-bit ones go through BigInt; Linux moves at most 2^31 - 4096 bytes a
 * call anyway), and `errno` is read through a view of the thread's own variable instead of by a call.
 *
 * @module
 */

const LIBC = "libc.so.6";

/** What to bind: the value of `Deno.dlopen`'s second argument. */
export type Symbols = Deno.ForeignLibraryInterface;

// A worker's code runs on one thread from start to end, so that thread's errno has one address.
let errnoView: Int32Array | undefined;

/** Binds `symbols` of the C library at the first call and gives the bound functions. */
export function bindLibc<const S extends Symbols>(
  symbols: S,
): () => Deno.StaticForeignLibraryInterface<S> {
  let bound: Deno.StaticForeignLibraryInterface<S> | undefined;
  return () => bound ??= bind(symbols);
}

/** `errno` of this thread. It must be read right after the failed call. */
export function lastErrno(): number {
  return errnoView?.[0] ?? 0;
}

function bind<const S extends Symbols>(symbols: S): Deno.StaticForeignLibraryInterface<S> {
  // Before any call that may fail: looking errno up could itself change it.
  errnoView ??= locateErrno();
  return Deno.dlopen(LIBC, symbols).symbols;
}

function locateErrno(): Int32Array {
  // Safe: takes nothing, returns the address of this thread's errno, valid as long as the thread.
  const libc = Deno.dlopen(LIBC, { __errno_location: { parameters: [], result: "pointer" } });
  const address = libc.symbols.__errno_location();
  if (address === null) throw new Error("__errno_location returned null");
  return new Int32Array(Deno.UnsafePointerView.getArrayBuffer(address, 4));
}

const encoder = new TextEncoder();

/** `text` as a NUL-terminated string; one with a NUL inside is refused by the caller's error. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  const bytes = encoder.encode(text);
  const result = new Uint8Array(new ArrayBuffer(bytes.length + 1));
  result.set(bytes);
  return result;
}

/** The text before the first NUL. */
export function fromCString(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/**
 * Address of the first byte of `bytes`, for structures that hold pointers. The caller keeps `bytes`
 * alive during the call that uses it.
 */
export function addressOf(bytes: ArrayBufferLike | ArrayBufferView): bigint {
  // Small typed arrays live in the movable heap until their buffer is asked for.
  const buffer = ArrayBuffer.isView(bytes) ? bytes.buffer : bytes;
  const offset = ArrayBuffer.isView(bytes) ? bytes.byteOffset : 0;
  const pointer = Deno.UnsafePointer.of(new Uint8Array(buffer as ArrayBuffer));
  return Deno.UnsafePointer.value(pointer) + BigInt(offset);
}
