/**
 * Error numbers of Linux (asm-generic/errno-base.h and errno.h) and the error of this layer.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";
import { lastErrno } from "./libc.ts";

/** Name to number. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  ECHILD: 10,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  ENOTBLK: 15,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  EDOM: 33,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  ETIME: 62,
  EPROTO: 71,
  EBADMSG: 74,
  EOVERFLOW: 75,
  EUSERS: 87,
  ENOTSOCK: 88,
  EDESTADDRREQ: 89,
  EMSGSIZE: 90,
  EPROTOTYPE: 91,
  ENOPROTOOPT: 92,
  EPROTONOSUPPORT: 93,
  ESOCKTNOSUPPORT: 94,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENETDOWN: 100,
  ENETUNREACH: 101,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOBUFS: 105,
  EISCONN: 106,
  ENOTCONN: 107,
  ETOOMANYREFS: 109,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  EALREADY: 114,
  EINPROGRESS: 115,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
  EOWNERDEAD: 130,
  ENOTRECOVERABLE: 131,
} as const;

/** Name of an error number such as `EAGAIN`. */
export type ErrnoName = keyof typeof Errno;

const MEANING: Partial<Record<ErrnoName, string>> = {
  EPERM: "operation not permitted",
  ENOENT: "no such file or directory",
  ESRCH: "no such process",
  EINTR: "interrupted",
  EIO: "input/output error",
  ENXIO: "no such device or address",
  EBADF: "bad file descriptor",
  EAGAIN: "not now",
  ENOMEM: "not enough memory",
  EACCES: "permission denied",
  EFAULT: "bad address",
  EBUSY: "busy",
  EEXIST: "exists already",
  ENODEV: "no such device",
  ENOTDIR: "not a directory",
  EISDIR: "is a directory",
  EINVAL: "invalid argument",
  ENFILE: "too many open files in the system",
  EMFILE: "too many open files",
  ENOTTY: "not a terminal, or not a request of this device",
  ETXTBSY: "file is being executed",
  EFBIG: "file too large",
  ENOSPC: "no space left",
  ESPIPE: "cannot seek",
  EROFS: "read-only file system",
  EPIPE: "nobody reads the other end",
  ENAMETOOLONG: "name too long",
  ENOSYS: "not known to this kernel",
  ELOOP: "too many symbolic links",
  ENOTSOCK: "not a socket",
  EMSGSIZE: "message too long",
  EPROTOTYPE: "wrong type of socket",
  EOPNOTSUPP: "not supported",
  EADDRINUSE: "address in use",
  ECONNRESET: "the other side closed",
  ENOBUFS: "no buffer space",
  ENOTCONN: "not connected",
  ETIMEDOUT: "timed out",
  ECONNREFUSED: "nobody listens there",
};

/** The name of error number `errno`, or `E` and the number where it is not known. */
export function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(Errno)) if (value === errno) return name;
  return `E${errno}`;
}

/** Details of a {@link HostError}. */
export interface HostErrorOptions extends ErrorOptions {
  /** What the call was about, such as a path. */
  readonly subject?: string;
}

/** A system call failed. */
export class HostError extends VmctlError {
  override readonly name = "HostError";
  /** The call, such as `openat`. */
  readonly syscall: string;
  /** Its error number. */
  readonly errno: number;
  /** Its error's name, such as `EAGAIN`. */
  readonly code: string;
  /** What the error means, for messages that name call and subject themselves. */
  readonly reason: string;

  constructor(syscall: string, errno: number, options: HostErrorOptions = {}) {
    const code = errnoName(errno);
    const meaning = MEANING[code as ErrnoName];
    const subject = options.subject === undefined ? "" : ` ${options.subject}`;
    const reason = meaning === undefined ? code : `${meaning} (${code})`;
    super(`${syscall}${subject}: ${reason}`, options);
    this.syscall = syscall;
    this.errno = errno;
    this.code = code;
    this.reason = reason;
  }
}

/** Whether `error` is a {@link HostError} with one of `codes`. */
export function isHostError(error: unknown, ...codes: readonly ErrnoName[]): error is HostError {
  return error instanceof HostError &&
    (codes.length === 0 || (codes as readonly string[]).includes(error.code));
}

/**
 * Whether a call on a socket, a pipe or an event is to be made again. It was interrupted (EINTR); or `errno`
 * is not its own: between a call and the look at `errno` the runtime may open /dev/urandom, which jails do
 * not have (ENOENT, which none of these calls gives).
 */
export function isToRepeat(errno: number): boolean {
  return errno === Errno.EINTR || errno === Errno.ENOENT;
}

/** Passes the result of a call on, or throws what `errno` says where it is negative. */
export function check(result: number, syscall: string, subject?: string): number {
  if (result < 0) {
    throw new HostError(syscall, lastErrno(), subject === undefined ? {} : { subject });
  }
  return result;
}
