/**
 * The processor's 16-byte compare-and-exchange, which neither JavaScript nor WebAssembly has.
 *
 * @module
 */

import { NativeCode, protect, Protection } from "./native_code.ts";

const CODE_BYTES = 4096;

/** RDI: address; RSI: where RAX, RDX, RBX and RCX come from and RAX and RDX go to. */
const CODE = [
  [0x53], // push rbx
  [0x48, 0x8b, 0x06], // mov rax, [rsi]
  [0x48, 0x8b, 0x56, 0x08], // mov rdx, [rsi + 8]
  [0x48, 0x8b, 0x5e, 0x10], // mov rbx, [rsi + 16]
  [0x48, 0x8b, 0x4e, 0x18], // mov rcx, [rsi + 24]
  [0xf0, 0x48, 0x0f, 0xc7, 0x0f], // lock cmpxchg16b [rdi]
  [0x48, 0x89, 0x06], // mov [rsi], rax
  [0x48, 0x89, 0x56, 0x08], // mov [rsi + 8], rdx
  [0x5b], // pop rbx
  [0xc3], // ret
].flat();

let entry: ((address: bigint, operands: bigint) => void) | undefined;

/**
 * Compares 16 bytes at `address` (a multiple of 16) with the first two of four 64-bit words at `operands`
 * and replaces them by the other two where they are equal, all at once; the first two become what was
 * there. Both must be mapped and writable.
 *
 * @throws {HostError} where the host gives no executable memory.
 */
export function compareExchange16(address: bigint, operands: bigint): void {
  entry ??= make();
  entry(address, operands);
}

function make(): (address: bigint, operands: bigint) => void {
  // Never released: it serves as long as the thread runs.
  const code = new NativeCode(CODE_BYTES);
  code.bytes.set(CODE);
  protect(code.address, CODE_BYTES, Protection.Read | Protection.Execute);
  // Safe: the code touches nothing but the two operands and keeps to the calling convention.
  return code.entry(0);
}
