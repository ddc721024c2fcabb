/**
 * Creating disk images.
 *
 * @module
 */

import { dirname, resolve } from "node:path";
import { alignUp } from "../base/mod.ts";
import { openFile, OpenFlag } from "../host/mod.ts";
import { DiskError } from "./errors.ts";
import type { DiskFormat } from "./image.ts";
import { ImageFile } from "./image_file.ts";
import { assembleDisk, openDiskFiles } from "./open.ts";
import { writeQcow2 } from "./qcow2/create.ts";

const SECTOR_BYTES = 512;

/** What {@link createQcow2} makes. */
export interface CreateQcow2Options {
  /** Bytes of the disk, rounded up to sectors of 512; the backing file's unless stated. */
  readonly sizeBytes?: number | undefined;
  /** What it is based on, relative to the new image's folder. */
  readonly backingFile?: string | undefined;
  /** The backing file's format; told by its first bytes unless stated. */
  readonly backingFormat?: DiskFormat | "probe" | undefined;
  /** 64 KiB unless stated. */
  readonly clusterBytes?: number;
}

/**
 * Makes a new qcow2 image at `path`; a file that is there is replaced.
 *
 * @returns bytes of the disk
 * @throws {DiskError} when neither a size nor a backing file is given, or it cannot be made.
 */
export function createQcow2(path: string, options: CreateQcow2Options): number {
  const { backingFile, clusterBytes } = options;
  let sizeBytes = options.sizeBytes;
  let backing: { path: string; format: DiskFormat } | undefined;
  if (backingFile !== undefined) {
    const target = resolve(dirname(path), backingFile);
    using files = openDiskFiles(target, {
      readOnly: true,
      lock: false,
      format: options.backingFormat ?? "probe",
    });
    backing = { path: backingFile, format: files.list[0]?.format ?? "raw" };
    if (files.list.some((file) => isSame(file.fd, path))) {
      throw new DiskError(`${path}: an image cannot be based on itself`, { code: "ELOOP" });
    }
    using image = assembleDisk(files, { readOnly: true });
    sizeBytes ??= image.sizeBytes;
  }
  if (sizeBytes === undefined) {
    throw new DiskError(`${path}: expected a size or a backing file`, { code: "EINVAL" });
  }
  sizeBytes = alignUp(sizeBytes, SECTOR_BYTES);
  let made = false;
  try {
    // Not truncated before it is known that nobody uses it.
    const fd = openFile(path, OpenFlag.ReadWrite | OpenFlag.Create | OpenFlag.NonBlock, 0o644);
    using file = new ImageFile(fd, { path, readOnly: false });
    if (file.isDevice) {
      throw new DiskError(`${path}: expected a file, got a block device`, { code: "EINVAL" });
    }
    file.lockExclusive();
    file.setLength(0);
    made = true;
    writeQcow2(file, {
      sizeBytes,
      backing,
      ...(clusterBytes === undefined ? {} : { clusterBytes }),
    });
  } catch (error) {
    // What could not be finished is no image.
    if (made) Deno.removeSync(path);
    throw DiskError.from(error, `${path}: creating it`);
  }
  return sizeBytes;
}

function isSame(fd: number, path: string): boolean {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${fd}`) === resolve(path);
  } catch {
    return false;
  }
}
