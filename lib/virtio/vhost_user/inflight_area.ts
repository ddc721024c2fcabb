/**
 * The memory in which a back end records what it holds, shared with the front end, which gives it to the
 * successor of a back end that died.
 *
 * @module
 */

import {
  addSeals,
  Errno,
  Fd,
  type FdLike,
  fstat,
  ftruncate,
  HostError,
  type Mapping,
  memfdCreate,
  mmap,
  pread,
  pwrite,
  Seal,
} from "../../host/mod.ts";
import { alignUp } from "../../base/mod.ts";
import { PAGE_SIZE } from "../../memory/mod.ts";
import { VhostUserError } from "../errors.ts";
import { InflightQueue, inflightQueueBytes } from "../inflight.ts";
import { packedInflightBytes, PackedInflightQueue } from "../packed_inflight.ts";
import { PACKED_BEGIN } from "../packed_ring.ts";
import { isQueueSize } from "../ring.ts";
import type { InflightMessage } from "./message.ts";

/** Of the features at the begin of each queue's record. */
const FEATURES_BYTES = 8;

/** Records of some queues of one size. */
export class InflightArea implements Disposable {
  /** Its file. */
  readonly fd: Fd;
  /** What the other end needs to know of it. */
  readonly message: InflightMessage;
  readonly #mapping: Mapping;

  private constructor(fd: Fd, message: InflightMessage, mapping: Mapping) {
    this.fd = fd;
    this.message = message;
    this.#mapping = mapping;
  }

  /** Makes an empty one, of which `packed` says the layout of the queues. */
  static create(
    { queueCount, queueSize, packed }: {
      readonly queueCount: number;
      readonly queueSize: number;
      readonly packed: boolean;
    },
  ): InflightArea {
    requireQueues(queueCount, queueSize);
    const sizeBytes = alignUp(queueBytes(queueSize, packed) * queueCount, PAGE_SIZE);
    using stack = new DisposableStack();
    const fd = stack.use(memfdCreate("vmctl inflight"));
    ftruncate(fd, sizeBytes);
    addSeals(fd, Seal.Shrink | Seal.Grow | Seal.Seal);
    const mapping = mmap(sizeBytes, { fd });
    stack.move();
    return new InflightArea(fd, { sizeBytes, fileOffset: 0, queueCount, queueSize }, mapping);
  }

  /**
   * One that comes from the other end, for packed or split queues; `fd` is taken over.
   *
   * @throws {VhostUserError} "refused" where the file does not hold it.
   */
  static adopt(
    fd: Fd,
    message: InflightMessage,
    { packed }: { readonly packed: boolean },
  ): InflightArea {
    using stack = new DisposableStack();
    stack.use(fd);
    const { sizeBytes, fileOffset, queueCount, queueSize } = message;
    requireQueues(queueCount, queueSize);
    const status = fstat(fd);
    const valid = status.kind === "file" && fileOffset % PAGE_SIZE === 0 &&
      sizeBytes >= queueBytes(queueSize, packed) * queueCount &&
      fileOffset + sizeBytes <= status.sizeBytes;
    if (!valid) {
      throw new VhostUserError(
        "refused",
        `inflight record: expected ${queueCount} queues of ${queueSize} in a file, got ` +
          `${sizeBytes} bytes at ${fileOffset} of ${status.sizeBytes}`,
      );
    }
    let mapping: Mapping;
    try {
      mapping = mmap(sizeBytes, { fd, offset: fileOffset });
    } catch (cause) {
      if (!(cause instanceof HostError)) throw cause;
      throw new VhostUserError("refused", `inflight record: ${cause.message}`, { cause });
    }
    stack.move();
    return new InflightArea(fd, message, mapping);
  }

  /** The record of split queue `index`, where there is room for its `size`. */
  queue(index: number, size: number): InflightQueue | undefined {
    const bytes = this.#bytesOf(index, { size, packed: false });
    return bytes === undefined ? undefined : new InflightQueue(bytes, size);
  }

  /** The record of packed queue `index`, where there is room for its `size`. */
  packedQueue(index: number, size: number): PackedInflightQueue | undefined {
    const bytes = this.#bytesOf(index, { size, packed: true });
    return bytes === undefined ? undefined : new PackedInflightQueue(bytes, size);
  }

  #bytesOf(
    index: number,
    { size, packed }: { readonly size: number; readonly packed: boolean },
  ): Uint8Array | undefined {
    const { queueCount, queueSize, sizeBytes } = this.message;
    const bytes = queueBytes(queueSize, packed);
    // It was made for queues of either layout, and may be used for the other.
    if (index >= queueCount || size > queueSize || (index + 1) * bytes > sizeBytes) {
      return undefined;
    }
    return this.#mapping.bytes.subarray(index * bytes, (index + 1) * bytes);
  }

  /** Forgets all that is recorded. */
  clear(): void {
    this.#mapping.bytes.fill(0);
  }

  /** Unmaps it; the memory lives on in the other end. */
  [Symbol.dispose](): void {
    this.#mapping[Symbol.dispose]();
    this.fd.close();
  }
}

/**
 * Makes queue `index` one of whose requests nothing is recorded, where nobody uses it. Whose file it is may be
 * another's: it may become shorter at any time, have pages that are not there to be had, or be one that write(2)
 * does not reach, as on hugetlbfs, or only at its end. So it is mapped, as by whom it serves, and the kernel
 * writes to the mapping, which tells what is missing instead of ending the process.
 *
 * @throws {HostError} where it cannot be written to, such as for a seal; a part of it may be written then.
 */
export function clearRecord(
  fd: FdLike,
  message: InflightMessage,
  { index, packed }: { readonly index: number; readonly packed: boolean },
): void {
  const { sizeBytes, fileOffset, queueCount, queueSize } = message;
  if (!isQueueSize(queueSize) || index >= queueCount) return;
  const length = queueBytes(queueSize, packed);
  const end = (index + 1) * length;
  // In a layout that is not the protocol's, it is not known where it is.
  if (end > sizeBytes) return;
  const bytes = new Uint8Array(length);
  if (packed) new PackedInflightQueue(bytes, queueSize).begin(PACKED_BEGIN & 0xffff);
  else new InflightQueue(bytes, queueSize).recover(0);
  // The features before it are the back end's.
  const record = bytes.subarray(FEATURES_BYTES);
  using source = memfdCreate("vmctl cleared record");
  requireAll("pwrite", pwrite(source, record, 0), record.byteLength);
  const status = fstat(fd);
  // The mapping has all of the page in which the file ends.
  requireAll("mmap", Math.max(0, Math.min(end, status.sizeBytes - fileOffset)), end);
  // What is mapped of hugetlbfs is whole pages of it.
  const unit = Math.max(PAGE_SIZE, status.blockBytes);
  using mapping = mmap(Math.ceil(end / unit) * unit, { fd, offset: fileOffset });
  const into = mapping.bytes.subarray(end - record.byteLength, end);
  requireAll("pread", pread(source, into, 0), record.byteLength);
}

function requireAll(syscall: string, count: number, wanted: number): void {
  if (count === wanted) return;
  throw new HostError(syscall, Errno.EFAULT, {
    subject: `${count} of ${wanted} bytes of a record`,
  });
}

function queueBytes(queueSize: number, packed: boolean): number {
  return packed ? packedInflightBytes(queueSize) : inflightQueueBytes(queueSize);
}

function requireQueues(queueCount: number, queueSize: number): void {
  if (queueCount >= 1 && queueCount <= 256 && isQueueSize(queueSize)) return;
  throw new VhostUserError(
    "refused",
    `inflight record: expected 1 to 256 queues of a power of two, got ${queueCount} of ${queueSize}`,
  );
}
