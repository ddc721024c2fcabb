/**
 * Errors of this layer.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";
import { type ErrnoName, HostError } from "../host/mod.ts";

/** Settings of {@link DiskError}. */
export interface DiskErrorOptions {
  /** What kind of failure it is. */
  readonly code?: ErrnoName;
  readonly cause?: unknown;
}

/**
 * A disk image cannot be opened, read or written. `code` tells a device what to answer: `ENOSPC` the
 * host has no room for it now, `EINVAL` a request outside of the disk or an image that is none, `EROFS` a write to
 * a read-only disk, `EBUSY` another holds the lock, `EIO` everything else, damage of the image and any failure
 * to make writes durable included.
 */
export class DiskError extends VmctlError {
  override readonly name = "DiskError";
  readonly code: string;

  constructor(message: string, options: DiskErrorOptions = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.code = options.code ?? "EIO";
  }

  /** What `error`, thrown while doing `what`, is for the user; a programming error is passed on. */
  static from(error: unknown, what: string): DiskError {
    if (error instanceof DiskError) return error;
    if (!(error instanceof HostError)) throw error;
    return new DiskError(`${what}: ${error.message}`, {
      code: error.code as ErrnoName,
      cause: error,
    });
  }
}
