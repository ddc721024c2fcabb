/**
 * The kind of device `block`: a disk is opened here, and served wherever its descriptors go.
 *
 * @module
 */

import { log, MIB } from "../../base/mod.ts";
import type { DiskConfig } from "../../config/mod.ts";
import {
  assembleDisk,
  type Compression,
  DiskError,
  type DiskFile,
  DiskFiles,
  type DiskFormat,
  type DiskImage,
  hasPartitions,
  loadDecoder,
  openDecoder,
  openDiskFiles,
  type OpenDiskOptions,
} from "../../disk/mod.ts";
import {
  type Fd,
  ftruncate,
  HostError,
  IoUring,
  isHostError,
  memfdCreate,
  mmap,
} from "../../host/mod.ts";
import type { DeviceKind, OpenedDevice, PreparedDevice } from "../frame/device_kind.ts";
import { DeviceError } from "../frame/errors.ts";
import { BlockDevice, warnOfRest } from "./block_device.ts";
import { RingTransfers } from "./ring_transfers.ts";

/** Room for the changes of 64k clusters; when it is full, tables are written. */
const RECOVERY_BYTES = MIB;
/** Most requests under way beside the thread. */
const MAX_TRANSFERS = 128;

/** A disk, and what the guest is told of it. */
export interface ServedDisk extends DiskConfig {
  /** Its name in the guest, where the kernel is told to find its root file system there. */
  readonly rootName?: string | undefined;
  /** Of `OpenDiskOptions`. */
  readonly claims?: OpenDiskOptions["claims"];
}

/**
 * What the process that serves the disk is told; descriptors are the files', then the recovery memory, then those
 * of the libraries.
 */
interface BlockSettings {
  readonly files: readonly {
    readonly path: string;
    readonly format: DiskFormat;
    readonly readOnly: boolean;
    readonly probed: boolean;
  }[];
  readonly recovery: boolean;
  /** The host's libraries for compressed clusters, as far as it has them. */
  readonly decoders?: readonly Compression[];
  readonly executor: DiskConfig["executor"];
  readonly sparse: boolean;
  readonly direct: boolean;
  readonly blockBytes: number;
  readonly queueCount: number;
  readonly packedQueues: boolean;
  readonly id: string;
  /** Of {@link ServedDisk}. */
  readonly rootName: string | null;
}

/** Disks. */
export const BLOCK_DEVICE: DeviceKind<ServedDisk> = {
  name: "block",
  open: openBlock,
  prepare: (settings, fds) => new PreparedBlock(settings as BlockSettings, fds),
  make: (settings, fds, prepared) => makeBlock(settings as BlockSettings, fds, prepared),
};

function openBlock(disk: ServedDisk): OpenedDevice {
  const { path, readOnly, lock, format, executor, claims, rootName = null, ...others } = disk;
  const { pciDevice: _pciDevice, bootIndex: _bootIndex, ...presentation } = others;
  using files = openDiskFiles(path, { readOnly, lock, format, claims });
  const decoders = openDecoders(files.list);
  const settings: BlockSettings = {
    files: files.list.map(({ fd: _fd, compression: _compression, ...file }) => file),
    recovery: !readOnly,
    decoders: decoders.map(({ compression }) => compression),
    executor,
    sparse: presentation.sparse,
    direct: presentation.direct,
    blockBytes: presentation.blockBytes,
    queueCount: presentation.queueCount,
    packedQueues: presentation.packedQueues,
    id: presentation.id,
    rootName,
  };
  const fds = files.take().map(({ fd }) => fd);
  if (settings.recovery) {
    const memory = memfdCreate("vmctl-block-recovery");
    ftruncate(memory, RECOVERY_BYTES);
    fds.push(memory);
  }
  fds.push(...decoders.map(({ fd }) => fd));
  return {
    settings: { ...settings },
    fds,
    queueCount: settings.queueCount,
    [Symbol.dispose]() {
      for (const fd of fds) fd.close();
    },
  };
}

/** Opens the libraries that clusters of `files` are expanded with, each once. */
function openDecoders(files: readonly DiskFile[]): { compression: Compression; fd: Fd }[] {
  const found: { compression: Compression; fd: Fd }[] = [];
  for (const compression of new Set(files.map(({ compression }) => compression))) {
    const fd = compression === undefined ? undefined : openDecoder(compression);
    if (compression !== undefined && fd !== undefined) found.push({ compression, fd });
  }
  return found;
}

/** The place of the libraries among the descriptors. */
function decodersAt({ files, recovery }: BlockSettings): number {
  return files.length + (recovery ? 1 : 0);
}

/** The libraries for compressed clusters, and the ring where it is of use. */
class PreparedBlock implements Disposable {
  readonly ring: IoUring | undefined;

  /** @param fds numbers of the descriptors of `settings` */
  constructor(settings: BlockSettings, fds: readonly number[]) {
    const { executor, decoders = [] } = settings;
    const first = decodersAt(settings);
    decoders.forEach((compression, index) => {
      const fd = fds[first + index];
      if (fd !== undefined) loadDecoder(compression, fd);
    });
    if (executor === "epoll") return;
    try {
      this.ring = new IoUring(MAX_TRANSFERS);
    } catch (error) {
      if (executor === "uring" || !isHostError(error)) throw error;
      log.debug(`block: one request after the other: ${error.message}`);
    }
  }

  [Symbol.dispose](): void {
    this.ring?.[Symbol.dispose]();
  }
}

function makeBlock(
  settings: BlockSettings,
  fds: readonly Fd[],
  prepared: PreparedDevice = new PreparedBlock(settings, fds.map((fd) => fd.raw)),
): BlockDevice {
  using stack = new DisposableStack();
  stack.use(prepared);
  const ring = prepared instanceof PreparedBlock ? prepared.ring : undefined;
  const { files, sparse, direct, blockBytes, queueCount, packedQueues, id } = settings;
  const opened: DiskFile[] = [];
  files.forEach((file, index) => {
    const fd = fds[index];
    if (fd !== undefined) opened.push({ ...file, fd: fd.take() });
  });
  using disk = DiskFiles.adopt(opened);
  // Loaded by now.
  for (const fd of fds.slice(decodersAt(settings))) fd.close();
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
  if (image.trouble !== undefined) log.warn(`block: ${image.trouble}`);
  warnOfRest(image, blockBytes);
  if (settings.rootName !== null) hintAtPartitions(image, settings.rootName);
  const transfers = ring === undefined || image.transfers === undefined
    ? undefined
    : new RingTransfers(image.transfers, ring);
  const presentation = { blockBytes, queueCount, packedQueues, sparse };
  const device = new BlockDevice(image, { ...presentation, id, transfers });
  stack.move();
  return device;
}

/** Whoever means a file system on a partition has to say which one. */
function hintAtPartitions(image: DiskImage, name: string): void {
  try {
    if (!hasPartitions(image)) return;
  } catch (error) {
    if (!(error instanceof DiskError || error instanceof HostError)) throw error;
    // The guest will see that it cannot be read.
    return;
  }
  log.warn(
    `block: ${image.path} has partitions, and the guest looks for its root file system on all of it ` +
      `(root=/dev/${name}); where it is on one of them, say so, such as by --params root=/dev/${name}1`,
  );
}
