/**
 * The smallest virtio block device (virtio 1.2, 5.2): a disk in memory, for tests and benchmarks.
 *
 * @module
 */

import type { DescriptorChain } from "../chain.ts";
import type { DeviceContext, VirtioDeviceBackend } from "../device.ts";
import { DeviceType, Feature } from "../features.ts";

/** Bytes of a sector. */
export const SECTOR_BYTES = 512;
/** Bytes of a request's header: type (32), reserved (32), sector (64). */
export const BLOCK_HEADER_BYTES = 16;
/** Types of requests. */
export const BlockRequest = { Read: 0, Write: 1, Flush: 4, GetId: 8 } as const;
/** Status bytes. */
export const BlockStatus = { Ok: 0, IoError: 1, Unsupported: 2 } as const;

const BLK_F_SEG_MAX = 1n << 2n;
const BLK_F_BLK_SIZE = 1n << 6n;
const BLK_F_FLUSH = 1n << 9n;
const BLK_F_MQ = 1n << 12n;
/** Of the mode of the cache, which the driver can choose. */
const WRITEBACK = 32;
const ID = new TextEncoder().encode("memory block\0\0\0\0\0\0\0\0");

/** Settings of a {@link MemoryBlock}. */
export interface MemoryBlockOptions {
  readonly queueCount?: number;
  /** Whether it offers packed queues. */
  readonly packed?: boolean;
  /** Requests that begin there are taken and never given back, as by a device that hangs. */
  readonly stuckSector?: number;
  /** Told of each of them. */
  readonly onStuck?: () => void;
}

/** A disk over `bytes`. */
export class MemoryBlock implements VirtioDeviceBackend {
  readonly type: number = DeviceType.Block;
  readonly name = "memory block";
  readonly features: bigint;
  readonly queueCount: number;
  readonly maxQueueSize = 1024;
  readonly config: Uint8Array = new Uint8Array(60);
  configChanged?: () => void;
  /** Requests that were answered. */
  requests = 0;
  readonly #disk: Uint8Array;
  readonly #stuckSector: number;
  readonly #onStuck: (() => void) | undefined;
  #context: DeviceContext | undefined;

  constructor(disk: Uint8Array, options: MemoryBlockOptions = {}) {
    this.#disk = disk;
    this.queueCount = options.queueCount ?? 1;
    this.#stuckSector = options.stuckSector ?? -1;
    this.#onStuck = options.onStuck;
    this.features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_MQ |
      (options.packed === true ? Feature.RingPacked : 0n);
    const view = new DataView(this.config.buffer);
    view.setBigUint64(0, BigInt(disk.byteLength / SECTOR_BYTES), true);
    view.setUint32(12, 126, true);
    view.setUint32(20, SECTOR_BYTES, true);
    view.setUint8(WRITEBACK, 1);
    view.setUint16(34, this.queueCount, true);
  }

  /** While it is active. */
  get context(): DeviceContext | undefined {
    return this.#context;
  }

  activate(context: DeviceContext): void {
    this.#context = context;
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    const value = bytes[WRITEBACK - offset];
    if (value !== undefined) this.config[WRITEBACK] = value & 1;
  }

  process(index: number): void {
    const queue = this.#context?.queue(index);
    if (queue === undefined) return;
    for (let chain; (chain = queue.pop()) !== undefined;) {
      if (chain.readable.lengthBytes >= 16 && chain.readable.readU32(8) === this.#stuckSector) {
        this.#onStuck?.();
        continue;
      }
      queue.push(chain.head, this.#serve(chain));
      this.requests++;
    }
  }

  reset(): void {
    this.#context = undefined;
    this.config[WRITEBACK] = 1;
  }

  /** Answers a request; the result is what was written. */
  #serve({ readable, writable }: DescriptorChain): number {
    if (readable.lengthBytes < BLOCK_HEADER_BYTES || writable.lengthBytes < 1) return 0;
    const dataBytes = writable.lengthBytes - 1;
    const at = readable.readU64AsNumber(8) * SECTOR_BYTES;
    const disk = this.#disk;
    let status: number = BlockStatus.Ok;
    let written = 0;
    switch (readable.readU32(0)) {
      case BlockRequest.Read:
        if (at + dataBytes > disk.byteLength) status = BlockStatus.IoError;
        else written = writable.copyFrom(disk.subarray(at, at + dataBytes));
        break;
      case BlockRequest.Write: {
        const length = readable.lengthBytes - BLOCK_HEADER_BYTES;
        if (at + length > disk.byteLength) status = BlockStatus.IoError;
        else readable.copyTo(disk.subarray(at, at + length), BLOCK_HEADER_BYTES);
        break;
      }
      case BlockRequest.Flush:
        break;
      case BlockRequest.GetId:
        written = writable.copyFrom(ID.subarray(0, Math.min(ID.length, dataBytes)));
        break;
      default:
        status = BlockStatus.Unsupported;
    }
    writable.writeU8(dataBytes, status);
    return written + 1;
  }
}
