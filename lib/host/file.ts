/**
 * Files, pipes, memfds, ioctl: system calls over descriptors.
 *
 * @module
 */

import { check, Errno, HostError, isToRepeat } from "./errno.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { bindLibc, cString, lastErrno } from "./libc.ts";
import { viewMemory } from "./mapping.ts";
import { PollEvent, pollFd } from "./poll.ts";

// Safe, all of them: buffers are given with their own byteLength as length, so the kernel stays inside;
// strings are NUL-terminated by cString.
const libc = bindLibc({
  read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
});
const libcAt = bindLibc({
  pread64: { parameters: ["i32", "buffer", "u32", "i64"], result: "i32" },
  pwrite64: { parameters: ["i32", "buffer", "u32", "i64"], result: "i32" },
});
// Safe: the caller keeps the memory until the call is done.
const libcAside = bindLibc({
  pread64: { parameters: ["i32", "pointer", "u32", "i64"], result: "i32", nonblocking: true },
  pwrite64: { parameters: ["i32", "pointer", "u32", "i64"], result: "i32", nonblocking: true },
});
const libcOpen = bindLibc({
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
});
const libcFile = bindLibc({
  ftruncate64: { parameters: ["i32", "i64"], result: "i32" },
  fallocate64: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  fsync: { parameters: ["i32"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  flock: { parameters: ["i32", "i32"], result: "i32" },
  lseek64: { parameters: ["i32", "i64", "i32"], result: "i64" },
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
});
const libcStat = bindLibc({
  // Safe: the buffer is the 256 bytes of struct statx.
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
});
const libcMemfd = bindLibc({
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
});

/** Flags of {@link openFile} (open(2)); `O_CLOEXEC` is always set. */
export const OpenFlag = {
  ReadOnly: 0,
  WriteOnly: 1,
  ReadWrite: 2,
  Create: 0o100,
  Exclusive: 0o200,
  NoTty: 0o400,
  Truncate: 0o1000,
  Append: 0o2000,
  NonBlock: 0o4000,
  Dsync: 0o10000,
  Direct: 0o40000,
  Directory: 0o200000,
  NoFollow: 0o400000,
  CloseOnExec: 0o2000000,
  Path: 0o10000000,
} as const;

/** Opens `path`. `flags` are of {@link OpenFlag}, `mode` is for a new file. */
export function openFile(path: string, flags: number = OpenFlag.ReadOnly, mode = 0o600): Fd {
  if (path.includes("\0")) throw new HostError("open", Errno.EINVAL, { subject: path });
  const name = cString(path);
  for (;;) {
    const raw = libcOpen().open(name, flags | OpenFlag.CloseOnExec, mode);
    if (raw >= 0) return Fd.adopt(raw);
    const errno = lastErrno();
    if (errno !== Errno.EINTR) throw new HostError("open", errno, { subject: path });
  }
}

/** Reads once; 0 is the end of the file. EINTR is retried. */
export function read(fd: FdLike, into: Uint8Array): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libc().read(raw, into as Uint8Array<ArrayBuffer>, into.byteLength);
    if (count >= 0) return count;
    if (lastErrno() !== Errno.EINTR) return check(count, "read");
  }
}

/** Like {@link read}, but -1 when there is nothing now (EAGAIN). */
export function tryRead(fd: FdLike, into: Uint8Array): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libc().read(raw, into as Uint8Array<ArrayBuffer>, into.byteLength);
    if (count >= 0) return count;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return -1;
    if (!isToRepeat(errno)) return check(count, "read");
  }
}

/** Writes once; returns how much was taken. EINTR is retried. */
export function write(fd: FdLike, bytes: Uint8Array): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libc().write(raw, bytes as Uint8Array<ArrayBuffer>, bytes.byteLength);
    if (count >= 0) return count;
    if (lastErrno() !== Errno.EINTR) return check(count, "write");
  }
}

/** Like {@link write}, but -1 when nothing is taken now (EAGAIN). */
export function tryWrite(fd: FdLike, bytes: Uint8Array): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libc().write(raw, bytes as Uint8Array<ArrayBuffer>, bytes.byteLength);
    if (count >= 0) return count;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return -1;
    if (!isToRepeat(errno)) return check(count, "write");
  }
}

/** Settings of {@link writeAll}. */
export interface WriteAllOptions {
  /** Longest wait in ms for a reader each time that a non-blocking descriptor is full; -1 is forever. */
  readonly timeoutMs?: number;
}

/**
 * Writes all of `bytes`. A non-blocking descriptor that is full (a terminal or pipe that somebody made
 * so) is waited for.
 *
 * @throws {HostError} EPIPE when nobody reads any more, ETIMEDOUT after `timeoutMs`.
 */
export function writeAll(fd: FdLike, bytes: Uint8Array, options: WriteAllOptions = {}): void {
  const timeoutMs = options.timeoutMs ?? -1;
  let at = 0;
  while (at < bytes.byteLength) {
    const count = tryWrite(fd, at === 0 ? bytes : bytes.subarray(at));
    if (count >= 0) {
      at += count;
      continue;
    }
    if (pollFd(fd, PollEvent.Out, timeoutMs) === 0 && timeoutMs >= 0) {
      throw new HostError("write", Errno.ETIMEDOUT);
    }
  }
}

/** Reads at `offset`; 0 is the end of the file. */
export function pread(fd: FdLike, into: Uint8Array, offset: number): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libcAt().pread64(
      raw,
      into as Uint8Array<ArrayBuffer>,
      into.byteLength,
      BigInt(offset),
    );
    if (count >= 0) return count;
    if (lastErrno() !== Errno.EINTR) return check(count, "pread");
  }
}

/** Writes at `offset`; returns how much was taken. */
export function pwrite(fd: FdLike, bytes: Uint8Array, offset: number): number {
  const raw = rawFd(fd);
  for (;;) {
    const count = libcAt().pwrite64(
      raw,
      bytes as Uint8Array<ArrayBuffer>,
      bytes.byteLength,
      BigInt(offset),
    );
    if (count >= 0) return count;
    if (lastErrno() !== Errno.EINTR) return check(count, "pwrite");
  }
}

/**
 * Reads once, at `offset`, up to `length` bytes (below 2 GiB) to the memory at `address`, while this thread
 * does other things: one of the runtime's does it. Until it is done, the memory stays mapped and `fd` open.
 *
 * @returns how many; 0 is the end of the file, less an error, which {@link pread} would tell.
 */
export async function preadAside(
  fd: FdLike,
  memory: { readonly address: bigint; readonly length: number },
  offset: number,
): Promise<number> {
  const pointer = Deno.UnsafePointer.create(memory.address);
  return await libcAside().pread64(rawFd(fd), pointer, memory.length, BigInt(offset));
}

/**
 * Writes the `length` bytes (below 2 GiB) of memory at `address` to `offset` while this thread does other
 * things: one of the runtime's does it. Until it is done, the memory stays mapped and `fd` open.
 */
export async function pwriteAside(
  fd: FdLike,
  memory: { readonly address: bigint; readonly length: number },
  offset: number,
): Promise<void> {
  const raw = rawFd(fd);
  const { length } = memory;
  for (let done = 0; done < length;) {
    const address = memory.address + BigInt(done);
    const pointer = Deno.UnsafePointer.create(address);
    const at = BigInt(offset + done);
    const count = await libcAside().pwrite64(raw, pointer, length - done, at);
    // The errno of that thread is out of reach: here it is told, or there is none any more.
    done += count > 0
      ? count
      : pwrite(raw, new Uint8Array(viewMemory(address, length - done)), offset + done);
  }
}

/** Sets the length of a file. */
export function ftruncate(fd: FdLike, lengthBytes: number): void {
  check(libcFile().ftruncate64(rawFd(fd), BigInt(lengthBytes)), "ftruncate");
}

/** Modes of {@link fallocate} (fallocate(2)). */
export const FallocateMode = { KeepSize: 1, PunchHole: 2, ZeroRange: 16 } as const;

/** Reserves or frees a range of a file. */
export function fallocate(
  fd: FdLike,
  mode: number,
  range: { readonly offset: number; readonly lengthBytes: number },
): void {
  const { offset, lengthBytes } = range;
  check(
    libcFile().fallocate64(rawFd(fd), mode, BigInt(offset), BigInt(lengthBytes)),
    "fallocate",
  );
}

/** Gives a range of a file back to the file system; it reads as zeros. */
export function punchHole(fd: FdLike, offset: number, lengthBytes: number): void {
  const mode = FallocateMode.KeepSize | FallocateMode.PunchHole;
  fallocate(fd, mode, { offset, lengthBytes });
}

/** Writes data and metadata out. */
export function fsync(fd: FdLike): void {
  check(libcFile().fsync(rawFd(fd)), "fsync");
}

/** Writes data out. */
export function fdatasync(fd: FdLike): void {
  check(libcFile().fdatasync(rawFd(fd)), "fdatasync");
}

/** Where {@link seek} counts from (lseek(2)). */
export const SeekFrom = { Start: 0, Current: 1, End: 2, Data: 3, Hole: 4 } as const;

/** Moves the file position; returns it. */
export function seek(fd: FdLike, offset: number, from: number = SeekFrom.Start): number {
  const position = Number(libcFile().lseek64(rawFd(fd), BigInt(offset), from));
  return check(position, "lseek");
}

/** Takes (`shared` or `exclusive`) or releases the advisory lock; false when another holds it. */
export function flock(fd: FdLike, mode: "shared" | "exclusive" | "release"): boolean {
  const LOCK_NB = 4;
  const operation = mode === "shared" ? 1 | LOCK_NB : mode === "exclusive" ? 2 | LOCK_NB : 8;
  for (;;) {
    const result = libcFile().flock(rawFd(fd), operation);
    if (result === 0) return true;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return false;
    if (errno !== Errno.EINTR) throw new HostError("flock", errno);
  }
}

/** What kind of file it is. */
export type FileKind =
  | "file"
  | "directory"
  | "symlink"
  | "block"
  | "character"
  | "pipe"
  | "socket"
  | "other";

/** `kind` as messages say it: a `character device`, a `pipe`. */
export function kindName(kind: FileKind): string {
  switch (kind) {
    case "block":
    case "character":
      return `${kind} device`;
    case "other":
      return "file of another kind";
    default:
      return kind;
  }
}

/** What {@link fstat} tells. */
export interface FileStatus {
  readonly kind: FileKind;
  /** Type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  /** Best unit of transfers in bytes; on hugetlbfs, of its pages. */
  readonly blockBytes: number;
  /** Bytes that storage is held for. */
  readonly allocatedBytes: number;
  readonly links: number;
  /** Device that holds it, as major * 2^20 + minor. */
  readonly dev: number;
  readonly ino: number;
  /** For device nodes. */
  readonly rdevMajor: number;
  readonly rdevMinor: number;
}

const KIND: Readonly<Record<number, FileKind>> = {
  0o010000: "pipe",
  0o020000: "character",
  0o040000: "directory",
  0o060000: "block",
  0o100000: "file",
  0o120000: "symlink",
  0o140000: "socket",
};

/** Facts about an open file (statx(2)). */
export function fstat(fd: FdLike): FileStatus {
  const AT_EMPTY_PATH = 0x1000;
  const STATX_BASIC_STATS = 0x7ff;
  const buffer = new DataView(new ArrayBuffer(256));
  check(
    libcStat().statx(rawFd(fd), cString(""), AT_EMPTY_PATH, STATX_BASIC_STATS, buffer),
    "statx",
  );
  const mode = buffer.getUint16(28, true);
  return {
    kind: KIND[mode & 0o170000] ?? "other",
    mode,
    uid: buffer.getUint32(20, true),
    gid: buffer.getUint32(24, true),
    blockBytes: buffer.getUint32(4, true),
    links: buffer.getUint32(16, true),
    ino: Number(buffer.getBigUint64(32, true)),
    sizeBytes: Number(buffer.getBigUint64(40, true)),
    allocatedBytes: Number(buffer.getBigUint64(48, true)) * 512,
    rdevMajor: buffer.getUint32(128, true),
    rdevMinor: buffer.getUint32(132, true),
    dev: buffer.getUint32(136, true) * 2 ** 20 + buffer.getUint32(140, true),
  };
}

/** A pipe: what is written to `writer` comes out of `reader`. */
export function pipe(options: { readonly nonblock?: boolean } = {}): { reader: Fd; writer: Fd } {
  const numbers = new Int32Array(new ArrayBuffer(8));
  const flags = OpenFlag.CloseOnExec | (options.nonblock ? OpenFlag.NonBlock : 0);
  check(libcFile().pipe2(numbers, flags), "pipe2");
  return { reader: Fd.adopt(numbers[0] ?? -1), writer: Fd.adopt(numbers[1] ?? -1) };
}

/** Flags of {@link memfdCreate}. */
export const MemfdFlag = { CloseOnExec: 1, AllowSealing: 2 } as const;

/** A file without a name, in memory; close-on-exec always. */
export function memfdCreate(name: string, flags: number = MemfdFlag.AllowSealing): Fd {
  return Fd.adopt(
    check(libcMemfd().memfd_create(cString(name), flags | MemfdFlag.CloseOnExec), "memfd_create"),
  );
}
