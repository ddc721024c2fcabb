/**
 * What an image is, without opening it for use.
 *
 * @module
 */

import { Fd, fstat } from "../host/mod.ts";
import { DiskError } from "./errors.ts";
import type { DiskFormat } from "./image.ts";
import { ImageFile } from "./image_file.ts";
import { type DiskFiles, openDiskFiles } from "./open.ts";
import { checkQcow2, type CheckReport } from "./qcow2/check.ts";
import type { Compression } from "./qcow2/decoders.ts";
import { Incompatible } from "./qcow2/header.ts";
import { readHeader } from "./qcow2/metadata.ts";
import { readSnapshots, type Snapshot } from "./qcow2/snapshots.ts";

/** What {@link diskInfo} tells of each file. */
export interface DiskInfo {
  readonly path: string;
  readonly format: DiskFormat;
  /** Bytes that the guest sees. */
  readonly sizeBytes: number;
  /** Bytes that the host holds for it. */
  readonly allocatedBytes: number;
  /** For qcow2. */
  readonly qcow2?: {
    readonly version: number;
    readonly clusterBytes: number;
    readonly refcountBits: number;
    readonly compression: Compression;
    /** Whether its reference counts are out of date. */
    readonly dirty: boolean;
    /** Whether it is marked as damaged. */
    readonly corrupt: boolean;
    readonly backingFile: string | undefined;
    readonly backingFormat: string | undefined;
    readonly snapshots: readonly Snapshot[];
  };
}

/** Settings of {@link diskInfo} and {@link checkDisk}. */
export interface InspectOptions {
  /** The format; told by the first bytes unless stated. */
  readonly format?: DiskFormat | "probe";
}

/** Facts about an image and all that it is based on, the image first. Takes no lock. */
export function diskInfo(path: string, options: InspectOptions = {}): DiskInfo[] {
  using files = openDiskFiles(path, { ...options, readOnly: true, lock: false });
  return inspect(files);
}

/**
 * Checks that an image is sound; of what it is based on, only that it is there.
 *
 * @throws {DiskError} EBUSY when it is in use, EINVAL when it is not qcow2 or cannot be read so far.
 */
export function checkDisk(path: string, options: InspectOptions = {}): CheckReport {
  using files = openDiskFiles(path, { ...options, readOnly: true });
  const [first] = files.take().map((entry, at) => {
    if (at > 0) entry.fd.close();
    return entry;
  });
  if (first === undefined) throw new DiskError(`${path}: no file`);
  using file = new ImageFile(first.fd, { path, readOnly: true });
  if (first.file.format !== "qcow2") {
    throw new DiskError(`${path}: expected a qcow2 image, got a raw one, which is always sound`, {
      code: "EINVAL",
    });
  }
  return checkQcow2(file);
}

function inspect(files: DiskFiles): DiskInfo[] {
  return files.take().map(({ file: { path, format }, fd }) => inspectOne(path, format, fd));
}

function inspectOne(path: string, format: DiskFormat, fd: Fd): DiskInfo {
  using file = new ImageFile(fd, { path, readOnly: true });
  const { allocatedBytes } = fstat(file.rawFd);
  if (format === "raw") return { path, format, sizeBytes: file.lengthBytes, allocatedBytes };
  const header = readHeader(file);
  return {
    path,
    format,
    sizeBytes: header.sizeBytes,
    allocatedBytes,
    qcow2: {
      version: header.version,
      clusterBytes: header.clusterBytes,
      refcountBits: header.refcountBits,
      compression: header.compression,
      dirty: (header.incompatible & Incompatible.Dirty) !== 0n,
      corrupt: (header.incompatible & Incompatible.Corrupt) !== 0n,
      backingFile: header.backingFile,
      backingFormat: header.backingFormat,
      snapshots: readSnapshots(file, header).list,
    },
  };
}
