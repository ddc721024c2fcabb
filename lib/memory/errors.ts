import { hex, VmctlError } from "../base/mod.ts";

/** An access outside guest memory, or guest memory that cannot be made. */
export class GuestMemoryError extends VmctlError {
  override readonly name = "GuestMemoryError";
}

/** The error of an access of `length` bytes at `gpa`. */
export function outside(gpa: number, length: number): GuestMemoryError {
  const at = Number.isSafeInteger(gpa) ? hex(gpa) : String(gpa);
  return new GuestMemoryError(
    `guest address ${at}: ${length} bytes there are not (all) in one region of guest memory`,
  );
}
