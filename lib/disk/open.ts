/**
 * Opening disks: the image and all that it is based on.
 *
 * @module
 */

import { dirname, resolve } from "node:path";
import {
  type ErrnoName,
  Fd,
  flock,
  fstat,
  getStatusFlags,
  inheritedFdOfPath,
  isHostError,
  kindName,
  monotonicNs,
  openFile,
  OpenFlag,
  poll,
  validateInheritedFd,
} from "../host/mod.ts";
import type { ClaimingDisk, FileClaims } from "./claims.ts";
import { DiskError } from "./errors.ts";
import type { DiskFormat, DiskImage } from "./image.ts";
import { ImageFile } from "./image_file.ts";
import { PROBE_BYTES, probeFormat } from "./probe.ts";
import type { Compression } from "./qcow2/decoders.ts";
import type { Qcow2Header } from "./qcow2/header.ts";
import { Qcow2Image } from "./qcow2/qcow2_image.ts";
import { readHeader } from "./qcow2/metadata.ts";
import { syncErrnoOf } from "./qcow2/recovery_log.ts";
import { RawImage } from "./raw_image.ts";

/** Most images that are based on each other. */
export const MAX_CHAIN_LENGTH = 10;

const ACCESS_MODE = 3;
/** A process that was killed keeps its locks until what it had under way in the kernel is done. */
const LOCK_WAIT_MS = 500;
const LOCK_TRY_MS = 5;

/** Settings of {@link openDisk}. */
export interface OpenDiskOptions {
  /** Whether nothing is to be written; false unless stated. */
  readonly readOnly?: boolean;
  /** The format; `probe`, the default, tells by the first bytes. */
  readonly format?: DiskFormat | "probe";
  /** Whether the host's page cache is left out where possible; false unless stated. */
  readonly direct?: boolean;
  /** Whether the file is locked, shared for reading and else exclusive; true unless stated. */
  readonly lock?: boolean;
  /** Where its files are noted, where it is one of several disks; those that are not locked are not. */
  readonly claims?: { readonly files: FileClaims; readonly disk: ClaimingDisk } | undefined;
  /** Whether storage that is not needed is given back to the host; true unless stated. */
  readonly sparse?: boolean;
  /** Most bytes of qcow2 tables in memory, an image; 32 MiB unless stated. */
  readonly cacheBytes?: number;
  /**
   * Memory that outlives this process (a memfd's mapping), at least 16400 bytes, zeros at first, and used
   * for this image only. Where the process dies and another one opens the image with the same memory,
   * nothing that was written is lost, flushed or not, and where a flush had failed, none succeeds.
   */
  readonly recovery?: Uint8Array;
}

/** An open file of a disk: what {@link assembleDisk} needs of it. It can be sent to another process. */
export interface DiskFile {
  readonly path: string;
  readonly format: DiskFormat;
  readonly readOnly: boolean;
  /** Whether the format was guessed. */
  readonly probed: boolean;
  /** How its clusters are compressed, if any are; of qcow2 images. */
  readonly compression?: Compression | undefined;
  /** Number of the descriptor. */
  readonly fd: number;
}

/** The open files of a disk, the image first and what it is based on behind it. */
export class DiskFiles implements Disposable {
  readonly #files: { readonly file: Omit<DiskFile, "fd">; readonly fd: Fd }[] = [];

  /** Takes descriptors over that another process or this one opened. */
  static adopt(files: readonly DiskFile[]): DiskFiles {
    const result = new DiskFiles();
    for (const { fd, ...file } of files) result.add(file, Fd.adopt(fd));
    return result;
  }

  /** The files; their descriptors stay owned. */
  get list(): DiskFile[] {
    return this.#files.map(({ file, fd }) => ({ ...file, fd: fd.raw }));
  }

  /** Adds a file behind the others and takes its descriptor over. */
  add(file: Omit<DiskFile, "fd">, fd: Fd): void {
    this.#files.push({ file, fd });
  }

  /** Gives the descriptors away. */
  take(): { readonly file: Omit<DiskFile, "fd">; readonly fd: Fd }[] {
    return this.#files.splice(0);
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#files.splice(0)) fd.close();
  }
}

/**
 * Opens a disk.
 *
 * @param target a path (`/proc/self/fd/N` names an inherited descriptor), or a descriptor, taken over.
 * @throws {DiskError} when it cannot be opened, is locked, or is not a sound image.
 */
export function openDisk(target: string | Fd, options: OpenDiskOptions = {}): DiskImage {
  using files = openDiskFiles(target, options);
  return assembleDisk(files, options);
}

/**
 * Opens, locks and examines all files of a disk, without making a disk of them: what a process does that
 * may open files for one that may not.
 */
export function openDiskFiles(target: string | Fd, options: OpenDiskOptions = {}): DiskFiles {
  const files = new DiskFiles();
  const seen: string[] = [];
  let next: { target: string | Fd; format: DiskFormat | "probe" } | undefined = {
    target,
    format: options.format ?? "probe",
  };
  let complete = false;
  try {
    while (next !== undefined) {
      const readOnly: boolean = files.list.length > 0 || (options.readOnly ?? false);
      const { claims, lock = true } = options;
      next = addFile(files, seen, { ...next, readOnly, lock, claims });
    }
    complete = true;
    return files;
  } finally {
    if (!complete) files[Symbol.dispose]();
  }
}

/** Makes a disk of its open files, whose descriptors it takes over. */
export function assembleDisk(files: DiskFiles, options: OpenDiskOptions = {}): DiskImage {
  let image: DiskImage | undefined;
  const rest = files.take();
  try {
    for (let entry = rest.pop(); entry !== undefined; entry = rest.pop()) {
      const { path, format, readOnly, probed } = entry.file;
      const recovery = readOnly ? undefined : options.recovery;
      const file = new ImageFile(entry.fd, {
        path,
        readOnly,
        direct: options.direct ?? false,
        syncErrno: recovery === undefined ? undefined : syncErrnoOf(recovery),
      });
      const sparse = options.sparse ?? true;
      const backing = image;
      image = undefined;
      image = format === "raw" ? new RawImage(file, { sparse, probed }) : new Qcow2Image(file, {
        backing,
        sparse,
        recovery,
        ...(options.cacheBytes === undefined ? {} : { cacheBytes: options.cacheBytes }),
      });
    }
  } catch (error) {
    for (const { fd } of rest) fd.close();
    image?.close();
    throw error;
  }
  if (image === undefined) {
    throw new DiskError("a disk needs at least one file", { code: "EINVAL" });
  }
  return image;
}

interface FileRequest {
  readonly target: string | Fd;
  readonly format: DiskFormat | "probe";
  readonly readOnly: boolean;
  readonly lock: boolean;
  readonly claims: OpenDiskOptions["claims"];
}

/** Opens one file and tells what it is based on. */
function addFile(
  files: DiskFiles,
  seen: string[],
  request: FileRequest,
): { target: string; format: DiskFormat | "probe" } | undefined {
  const { readOnly } = request;
  const path = typeof request.target === "string"
    ? request.target
    : `/proc/self/fd/${request.target.raw}`;
  if (seen.length >= MAX_CHAIN_LENGTH) {
    if (typeof request.target !== "string") request.target.close();
    throw new DiskError(
      `${path}: expected at most ${MAX_CHAIN_LENGTH} images that are based on each other, got more`,
      { code: "ELOOP" },
    );
  }
  let fd: Fd | undefined;
  try {
    fd = openOne(request.target, readOnly);
    const status = fstat(fd);
    if (status.kind !== "file" && status.kind !== "block") {
      throw new DiskError(
        `${path}: expected a file or a block device, got a ${kindName(status.kind)}`,
        {
          code: "EINVAL",
        },
      );
    }
    const identity = status.kind === "block"
      ? `device ${status.rdevMajor}:${status.rdevMinor}`
      : `${status.dev}:${status.ino}`;
    if (seen.includes(identity)) {
      throw new DiskError(`${path}: the image is based on itself`, { code: "ELOOP" });
    }
    seen.push(identity);
    if (request.lock && request.claims !== undefined) {
      const { files: claimed, disk } = request.claims;
      claimed.add(identity, { path, isTop: seen.length === 1, readOnly }, disk);
    }
    if (request.lock && !lockSoon(fd, readOnly ? "shared" : "exclusive")) {
      throw new DiskError(
        `${path}: expected to lock it ${readOnly ? "for reading" : "for writing"}, but another ` +
          "program uses it (lock=false leaves the lock out)",
        { code: "EBUSY" },
      );
    }
    // Buffered, so that no alignment matters; the descriptor's flags are set again for its use.
    using file = new ImageFile(fd.dup(), { path, readOnly: true });
    const format = request.format === "probe" ? probe(file) : request.format;
    const header = format === "qcow2" ? readHeader(file) : undefined;
    const backing = header === undefined ? undefined : backingOf(header, path);
    const compression = header?.compression;
    files.add({ path, format, readOnly, probed: request.format === "probe", compression }, fd);
    fd = undefined;
    return backing;
  } catch (error) {
    fd?.close();
    if (isHostError(error) && error.syscall === "open") {
      const above = files.list.at(-1)?.path;
      const role = above === undefined ? "" : `, the backing file of ${above}`;
      throw new DiskError(`${path}${role}: it cannot be opened: ${error.reason}`, {
        code: error.code as ErrnoName,
      });
    }
    throw DiskError.from(error, `${path}: opening it`);
  }
}

/** Locks `fd`; false where another has the lock, and keeps it. */
function lockSoon(fd: Fd, how: "shared" | "exclusive"): boolean {
  const end = monotonicNs() + LOCK_WAIT_MS * 1e6;
  while (!flock(fd, how)) {
    if (monotonicNs() > end) return false;
    poll([], LOCK_TRY_MS);
  }
  return true;
}

function openOne(target: string | Fd, readOnly: boolean): Fd {
  const inherited = typeof target === "string" ? inheritedFdOfPath(target) : undefined;
  if (typeof target === "string" && inherited === undefined) {
    // Non-blocking, for what turns out to be a pipe must not hang us.
    const access = readOnly ? OpenFlag.ReadOnly : OpenFlag.ReadWrite;
    return openFile(target, access | OpenFlag.NonBlock | OpenFlag.NoTty);
  }
  const fd = typeof target === "string" ? validateInheritedFd(inherited ?? -1) : target;
  const access = getStatusFlags(fd) & ACCESS_MODE;
  const isEnough = access === OpenFlag.ReadWrite || (readOnly && access === OpenFlag.ReadOnly);
  if (isEnough) return fd;
  const number = fd.raw;
  fd.close();
  throw new DiskError(
    `descriptor ${inherited ?? number}: expected one that is open for ` +
      `${readOnly ? "reading" : "reading and writing"}`,
    { code: "EACCES" },
  );
}

function probe(file: ImageFile): DiskFormat {
  const start = new Uint8Array(PROBE_BYTES);
  file.read(start, 0);
  return probeFormat(start, file.path);
}

function backingOf(
  { backingFile, backingFormat }: Qcow2Header,
  path: string,
): { target: string; format: DiskFormat | "probe" } | undefined {
  if (backingFile === undefined) return undefined;
  return {
    target: backingPath(backingFile, path),
    format: backingFormatOf(backingFormat, path),
  };
}

/** The path of the backing file that the image at `path` names. */
function backingPath(name: string, path: string): string {
  let file = name;
  if (file.startsWith("file:")) file = file.slice("file:".length);
  else if (/^[^/]*:/.test(file)) {
    throw new DiskError(
      `${path}: expected a path as the name of the backing file, got ${JSON.stringify(name)}`,
      { code: "EINVAL" },
    );
  }
  if (file === "" || file.includes("\0")) {
    throw new DiskError(
      `${path}: expected a path as the name of the backing file, got ${JSON.stringify(name)}`,
      { code: "EINVAL" },
    );
  }
  const at = inheritedFdOfPath(path) === undefined ? path : Deno.readLinkSync(path);
  const found = resolve(dirname(at), file);
  // What an image says must not reach descriptors of this process.
  if (/^\/(proc|dev\/fd)(\/|$)/.test(found)) {
    throw new DiskError(`${path}: expected a backing file outside of /proc, got ${found}`, {
      code: "EINVAL",
    });
  }
  return found;
}

function backingFormatOf(name: string | undefined, path: string): DiskFormat | "probe" {
  switch (name) {
    case undefined:
    case "":
      return "probe";
    case "raw":
    case "file":
    case "host_device":
      return "raw";
    case "qcow2":
      return "qcow2";
    default:
      throw new DiskError(
        `${path}: expected a raw or qcow2 backing file, got format ${JSON.stringify(name)}`,
        { code: "EINVAL" },
      );
  }
}
