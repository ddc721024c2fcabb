/**
 * ioctl(2), also the fast form that a vCPU's loop uses.
 *
 * @module
 */

import { HostError } from "./errno.ts";
import { type FdLike, rawFd } from "./fd.ts";
import { bindLibc, lastErrno } from "./libc.ts";

// ioctl is variadic; integer and pointer arguments are passed as in a fixed-arity call (x86-64 ABI).
// The kernel takes descriptor and request as 32-bit values. Safety of the argument is the caller's:
// a buffer has at least the size that is encoded in the request (checked below where it is encoded).
const libc = bindLibc({
  ioctlNumber: { name: "ioctl", parameters: ["i32", "u32", "u32"], result: "i32" },
  ioctlBuffer: { name: "ioctl", parameters: ["i32", "u32", "buffer"], result: "i32" },
  ioctlPointer: { name: "ioctl", parameters: ["i32", "u32", "pointer"], result: "i32" },
});

/** What {@link ioctl} passes: a number, the address of memory, or memory. */
export type IoctlArgument =
  | number
  | bigint
  | ArrayBuffer
  | ArrayBufferView
  | Deno.PointerValue;

/**
 * Calls ioctl; returns its result.
 *
 * @throws {HostError} when it fails, with `name` (such as `KVM_CREATE_VM`) in the message.
 */
export function ioctl(
  fd: FdLike,
  request: number,
  argument: IoctlArgument = 0,
  name?: string,
): number {
  const result = tryIoctl(rawFd(fd), request, argument);
  if (result < 0) {
    const subject = name ?? `0x${(request >>> 0).toString(16)}`;
    throw new HostError("ioctl", -result, { subject });
  }
  return result;
}

/** Like {@link ioctl} over a bare number, and a failure is returned as the negative error number. */
export function tryIoctl(rawFd: number, request: number, argument: IoctlArgument = 0): number {
  const { ioctlNumber, ioctlBuffer, ioctlPointer } = libc();
  let result: number;
  if (typeof argument === "number" && argument >= 0 && argument <= 0xffff_ffff) {
    result = ioctlNumber(rawFd, request >>> 0, argument);
  } else if (typeof argument === "bigint" || typeof argument === "number") {
    const value = BigInt.asUintN(64, BigInt(argument));
    result = ioctlPointer(rawFd, request >>> 0, Deno.UnsafePointer.create(value));
  } else if (argument instanceof ArrayBuffer || ArrayBuffer.isView(argument)) {
    if (((request >>> 16) & 0x3fff) > argument.byteLength) {
      throw new RangeError(
        `ioctl 0x${(request >>> 0).toString(16)} needs ${(request >>> 16) & 0x3fff} bytes, got ` +
          argument.byteLength,
      );
    }
    result = ioctlBuffer(rawFd, request >>> 0, argument as ArrayBufferView<ArrayBuffer>);
  } else {
    result = ioctlPointer(rawFd, request >>> 0, argument);
  }
  return result < 0 ? -lastErrno() : result;
}

/**
 * ioctl with a small number as argument and nothing else: for the loop around KVM_RUN. A failure is
 * returned as the negative error number.
 */
export function ioctlFast(rawFd: number, request: number, argument: number): number {
  const result = libc().ioctlNumber(rawFd, request, argument);
  return result < 0 ? -lastErrno() : result;
}
