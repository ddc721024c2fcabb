/**
 * The kind of device `block`: a disk is opened here, and served wherever its descriptors go.
 *
 * @module
 */

import { formatSize, MIB } from "../../base/mod.ts";
import type { BLOCK, DecodedRecord } from "../../config/mod.ts";
import {
  assembleDisk,
  type DiskFile,
  DiskFiles,
  type DiskFormat,
  openDiskFiles,
} from "../../disk/mod.ts";
import { type Fd, ftruncate, memfdCreate, mmap } from "../../host/mod.ts";
import type { DeviceKind, OpenedDevice } from "../frame/device_kind.ts";
import { DeviceError } from "../frame/errors.ts";
import { BlockDevice } from "./block_device.ts";

const DEFAULT_BLOCK_BYTES = 512;
const DEFAULT_QUEUES = 16;
/** Room for the changes of 64k clusters; when it is full, tables are written. */
const RECOVERY_BYTES = MIB;

/** A disk as it stands in the options. */
export type BlockOptions = DecodedRecord<typeof BLOCK["fields"]>;

/** What the process that serves the disk is told; descriptors are the files', then the recovery memory. */
interface BlockSettings {
  readonly files: readonly {
    readonly path: string;
    readonly format: DiskFormat;
    readonly readOnly: boolean;
    readonly probed: boolean;
  }[];
  readonly recovery: boolean;
  readonly sparse: boolean;
  readonly direct: boolean;
  readonly blockBytes: number;
  readonly queueCount: number;
  readonly id: string;
}

/** Disks. */
export const BLOCK_DEVICE: DeviceKind<BlockOptions> = {
  name: "block",
  open: openBlock,
  make: (settings, fds) => makeBlock(settings as BlockSettings, fds),
};

function openBlock(options: BlockOptions): OpenedDevice {
  const { path, ro: readOnly = false, direct = false } = options;
  if (path === undefined) throw new DeviceError("block: expected the path of a disk image");
  checkBlockOptions(options);
  using files = openDiskFiles(path, {
    readOnly,
    lock: options.lock ?? true,
    format: options.format ?? "probe",
  });
  const isQcow2 = files.list[0]?.format === "qcow2";
  const settings: BlockSettings = {
    files: files.list.map(({ fd: _fd, ...file }) => file),
    recovery: isQcow2 && !readOnly,
    sparse: options.sparse ?? true,
    direct,
    blockBytes: options["block-size"] ?? DEFAULT_BLOCK_BYTES,
    queueCount: options.queues ?? DEFAULT_QUEUES,
    id: options.id ?? "",
  };
  const fds = files.take().map(({ fd }) => fd);
  if (settings.recovery) {
    const memory = memfdCreate("vmctl-block-recovery");
    ftruncate(memory, RECOVERY_BYTES);
    fds.push(memory);
  }
  return {
    settings: { ...settings },
    fds,
    [Symbol.dispose]() {
      for (const fd of fds) fd.close();
    },
  };
}

/** @throws {DeviceError} where options do not fit. */
function checkBlockOptions(options: BlockOptions): void {
  const { path, "block-size": blockBytes = DEFAULT_BLOCK_BYTES } = options;
  if (!Number.isInteger(Math.log2(blockBytes))) {
    throw new DeviceError(
      `${path}: expected a power of two as block-size, got ${blockBytes} (${
        formatSize(blockBytes)
      })`,
    );
  }
  if (options["packed-queue"] === true) {
    throw new DeviceError(`${path}: packed-queue is not supported, queues are split ones`);
  }
}

function makeBlock(settings: BlockSettings, fds: readonly Fd[]): BlockDevice {
  const { files, sparse, direct, blockBytes, queueCount, id } = settings;
  const opened: DiskFile[] = [];
  files.forEach((file, index) => {
    const fd = fds[index];
    if (fd !== undefined) opened.push({ ...file, fd: fd.take() });
  });
  using disk = DiskFiles.adopt(opened);
  using memory = settings.recovery ? fds[files.length] : undefined;
  if (opened.length !== files.length || settings.recovery !== (memory !== undefined)) {
    throw new DeviceError(
      `block: expected descriptors of ${files.length} files, got ${fds.length}`,
    );
  }
  const image = assembleDisk(disk, {
    sparse,
    direct,
    ...(memory === undefined ? {} : { recovery: mmap(RECOVERY_BYTES, { fd: memory }).bytes }),
  });
  return new BlockDevice(image, { blockBytes, queueCount, sparse, id });
}
