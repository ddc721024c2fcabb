/**
 * Descriptors that close themselves.
 *
 * @module
 */

import { check, Errno, HostError } from "./errno.ts";
import { bindLibc } from "./libc.ts";

const libc = bindLibc({
  // Safe: plain numbers.
  close: { parameters: ["i32"], result: "i32" },
  // Safe: variadic, but integer arguments are passed the same way; only commands with integers here.
  fcntl: { parameters: ["i32", "i32", "u32"], result: "i32" },
});

const F_DUPFD_CLOEXEC = 1030;
const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const FD_CLOEXEC = 1;
const O_NONBLOCK = 0o4000;

// Those that validateInheritedFd made close-on-exec; two options may name the same one.
const inherited = new Set<number>();

/** memfd seals (fcntl(2), F_ADD_SEALS). */
export const Seal = { Seal: 1, Shrink: 2, Grow: 4, Write: 8, FutureWrite: 16 } as const;

/** An {@link Fd} or a bare descriptor number. */
export type FdLike = Fd | number;

/** An owned descriptor; closed when disposed. */
export class Fd implements Disposable {
  #raw: number;

  private constructor(raw: number) {
    this.#raw = raw;
  }

  /** Takes over `raw`: from now on nobody else closes it. */
  static adopt(raw: number): Fd {
    if (!Number.isInteger(raw) || raw < 0) throw new HostError("adopt", Errno.EBADF);
    return new Fd(raw);
  }

  /** The number. @throws {HostError} EBADF when it was closed or taken. */
  get raw(): number {
    if (this.#raw < 0) throw new HostError("use of a closed descriptor", Errno.EBADF);
    return this.#raw;
  }

  /** Whether it was closed or taken. */
  get closed(): boolean {
    return this.#raw < 0;
  }

  /** Another descriptor of the same open file, close-on-exec. */
  dup(): Fd {
    return dupFd(this.raw);
  }

  /** Gives the number away: the receiver closes it. */
  take(): number {
    const raw = this.raw;
    this.#raw = -1;
    return raw;
  }

  /** Closes it; the second time does nothing. */
  close(): void {
    if (this.#raw < 0) return;
    const raw = this.#raw;
    this.#raw = -1;
    closeFd(raw);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The number of `fd`. */
export function rawFd(fd: FdLike): number {
  return typeof fd === "number" ? fd : fd.raw;
}

/** Closes a bare descriptor number. */
export function closeFd(raw: number): void {
  // The number may be another file's next.
  inherited.delete(raw);
  // Linux releases the number whatever close() returns, so there is nothing to retry.
  libc().close(raw);
}

/** A close-on-exec duplicate, numbered `atLeast` or higher. */
export function dupFd(fd: FdLike, atLeast = 0): Fd {
  const raw = check(libc().fcntl(rawFd(fd), F_DUPFD_CLOEXEC, atLeast), "fcntl(F_DUPFD_CLOEXEC)");
  return Fd.adopt(raw);
}

/** Whether the descriptor closes at exec. @throws {HostError} EBADF where it is not open. */
export function getCloseOnExec(fd: FdLike): boolean {
  return (check(libc().fcntl(rawFd(fd), F_GETFD, 0), "fcntl(F_GETFD)") & FD_CLOEXEC) !== 0;
}

/** Sets whether the descriptor closes at exec. */
export function setCloseOnExec(fd: FdLike, on: boolean): void {
  check(libc().fcntl(rawFd(fd), F_SETFD, on ? FD_CLOEXEC : 0), "fcntl(F_SETFD)");
}

/** The file status flags (`O_…`). */
export function getStatusFlags(fd: FdLike): number {
  return check(libc().fcntl(rawFd(fd), F_GETFL, 0), "fcntl(F_GETFL)");
}

/** Sets the file status flags. They belong to the open file, so every process that shares it sees it. */
export function setStatusFlags(fd: FdLike, flags: number): void {
  check(libc().fcntl(rawFd(fd), F_SETFL, flags), "fcntl(F_SETFL)");
}

/** Sets or clears `O_NONBLOCK`. */
export function setNonblocking(fd: FdLike, on: boolean): void {
  const flags = getStatusFlags(fd);
  setStatusFlags(fd, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

/** Adds seals (of {@link Seal}) to a memfd. */
export function addSeals(fd: FdLike, seals: number): void {
  check(libc().fcntl(rawFd(fd), F_ADD_SEALS, seals), "fcntl(F_ADD_SEALS)");
}

/** The seals of a memfd. */
export function getSeals(fd: FdLike): number {
  return check(libc().fcntl(rawFd(fd), F_GET_SEALS, 0), "fcntl(F_GET_SEALS)");
}

/**
 * Takes a descriptor that this process was started with (`/proc/self/fd/N`, `--…-fd N`). One that is
 * close-on-exec cannot have come through an exec: it is one that this process opened itself. The
 * original is made close-on-exec, so that it does not reach children, and a duplicate is returned.
 *
 * @throws {HostError} EBADF when `raw` is not open or was opened by this process.
 */
export function validateInheritedFd(raw: number): Fd {
  if (!Number.isInteger(raw) || raw < 0 || raw > 0x7fff_ffff) {
    throw new HostError("inherited descriptor", Errno.EBADF, { subject: String(raw) });
  }
  const flags = libc().fcntl(raw, F_GETFD, 0);
  if (flags < 0) {
    inherited.delete(raw);
    throw new HostError("inherited descriptor", Errno.EBADF, { subject: String(raw) });
  }
  if ((flags & FD_CLOEXEC) !== 0 && raw > 2 && !inherited.has(raw)) {
    throw new HostError("inherited descriptor", Errno.EBADF, {
      subject: `${raw} was not passed to this process (it is close-on-exec)`,
    });
  }
  const duplicate = dupFd(raw, 3);
  if (raw > 2) {
    setCloseOnExec(raw, true);
    inherited.add(raw);
  }
  return duplicate;
}

/** The descriptor number that a path such as `/proc/self/fd/7` or `/dev/fd/7` names. */
export function inheritedFdOfPath(path: string): number | undefined {
  const match = /^\/(?:proc\/self|dev)\/fd\/([0-9]{1,10})$/.exec(path);
  return match === null ? undefined : Number(match[1]);
}

/** The open descriptors of this process, for tests that look for leaks. */
export function listOpenFds(): number[] {
  return [...Deno.readDirSync("/proc/self/fd")].map((entry) => Number(entry.name)).sort((a, b) =>
    a - b
  );
}
