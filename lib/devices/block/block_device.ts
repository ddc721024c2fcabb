/**
 * The virtio block device.
 *
 * @module
 */

import { DiskError, type DiskImage } from "../../disk/mod.ts";
import { HostError, IoVector } from "../../host/mod.ts";
import {
  type DescriptorChain,
  type DeviceContext,
  DeviceType,
  type Pieces,
} from "../../virtio/mod.ts";
import type { DeviceReply } from "../control/device_end.ts";
import type { DeviceRequest } from "../control/messages.ts";
import type { ServableDevice } from "../frame/device_kind.ts";
import {
  blockConfig,
  blockFeatures,
  type DiskPresentation,
  MAX_DISCARD_SECTORS,
  MAX_QUEUE_SIZE,
  MAX_RANGES,
  MAX_ZERO_SECTORS,
  setCapacity,
} from "./config_space.ts";
import { FailureLog } from "./failure_log.ts";
import {
  BlockFeature,
  ConfigField,
  HEADER_BYTES,
  ID_BYTES,
  RANGE_BYTES,
  RANGE_UNMAP,
  RequestStatus,
  RequestType,
  SECTOR_BYTES,
} from "./protocol.ts";

/** Settings of a {@link BlockDevice}. */
export interface BlockDeviceOptions extends DiskPresentation {
  /** Serial number, at most 20 ASCII characters. */
  readonly id: string;
}

/** A disk image as a virtio block device. */
export class BlockDevice implements ServableDevice {
  readonly type: number = DeviceType.Block;
  readonly name = "block";
  readonly features: bigint;
  readonly queueCount: number;
  readonly maxQueueSize: number = MAX_QUEUE_SIZE;
  readonly config: Uint8Array;
  readonly #image: DiskImage;
  readonly #options: BlockDeviceOptions;
  readonly #id = new Uint8Array(ID_BYTES);
  readonly #failures: FailureLog;
  readonly #vector = new IoVector();
  #context: DeviceContext | undefined;
  /** Whether each write is made durable before it is answered. */
  #writeThrough = false;

  /** Over `image`, which is closed with the device. */
  constructor(image: DiskImage, options: BlockDeviceOptions) {
    this.#image = image;
    this.#options = options;
    this.#failures = new FailureLog(image.path);
    this.queueCount = options.queueCount;
    this.features = blockFeatures(image, options);
    this.config = blockConfig(image, options);
    new TextEncoder().encodeInto(options.id, this.#id);
  }

  activate(context: DeviceContext): void {
    this.#context = context;
    this.#setWriteThrough();
  }

  /** Only the mode of the cache can be written (virtio 1.2, 5.2.5). */
  writeConfig(offset: number, bytes: Uint8Array): void {
    const [value] = bytes;
    if (offset !== ConfigField.Writeback || bytes.length !== 1 || value === undefined) return;
    this.config[ConfigField.Writeback] = value & 1;
    this.#setWriteThrough();
  }

  process(index: number): void {
    const queue = this.#context?.queue(index);
    if (queue === undefined) return;
    for (let chain; (chain = queue.pop()) !== undefined;) {
      queue.push(chain.head, this.#serve(chain));
    }
  }

  reset(): void {
    this.#context = undefined;
    if (!this.#image.readOnly) this.config[ConfigField.Writeback] = 1;
  }

  /** Makes the disk larger or, where the format can, smaller, and tells the driver. */
  control(request: DeviceRequest, reply: DeviceReply): void {
    if (request.name !== "resize") {
      reply.refuse(`${request.name} is nothing for a disk`);
      return;
    }
    this.#image.resize(request.data.sizeBytes);
    setCapacity(this.config, this.#image, this.#options.blockBytes);
    this.#context?.configChanged();
    reply.answer(null);
  }

  [Symbol.dispose](): void {
    this.#image.close();
  }

  // Who cannot flush is to find everything durable; who can, chooses (virtio 1.2, 5.2.6.2).
  #setWriteThrough(): void {
    const features = this.#context?.features ?? 0n;
    this.#writeThrough = (features & BlockFeature.Flush) === 0n ||
      ((features & BlockFeature.ConfigWce) !== 0n && this.config[ConfigField.Writeback] === 0);
  }

  /** Answers a request; the result is how many bytes were written. */
  #serve({ readable, writable }: DescriptorChain): number {
    // Without room for a status there is nothing to answer.
    if (writable.lengthBytes < 1) return 0;
    const dataBytes = writable.lengthBytes - 1;
    let status: number;
    try {
      status = readable.lengthBytes < HEADER_BYTES
        ? RequestStatus.IoError
        : this.#execute(readable, writable);
    } catch (error) {
      if (!(error instanceof DiskError || error instanceof HostError)) throw error;
      this.#failures.add(error);
      status = RequestStatus.IoError;
    }
    writable.writeU8(dataBytes, status);
    return status === RequestStatus.Ok ? writable.lengthBytes : 1;
  }

  /** Does what a request asks for; the result is its status. */
  #execute(readable: Pieces, writable: Pieces): number {
    switch (readable.readU32(0)) {
      case RequestType.In:
        return this.#transfer(readable, writable, writable.lengthBytes - 1);
      case RequestType.Out:
        return this.#transfer(readable, undefined, readable.lengthBytes - HEADER_BYTES);
      case RequestType.Flush:
        this.#image.flush();
        return RequestStatus.Ok;
      case RequestType.GetId:
        writable.copyFrom(this.#id.subarray(0, Math.min(ID_BYTES, writable.lengthBytes - 1)));
        return RequestStatus.Ok;
      case RequestType.Discard:
        return this.#ranges(readable, false);
      case RequestType.WriteZeroes:
        return this.#ranges(readable, true);
      default:
        return RequestStatus.Unsupported;
    }
  }

  #transfer(readable: Pieces, into: Pieces | undefined, lengthBytes: number): number {
    // Beyond 2^53 it is rounded, and beyond any disk.
    const offset = readable.readU64AsNumber(8) * SECTOR_BYTES;
    if (lengthBytes % SECTOR_BYTES !== 0 || offset + lengthBytes > this.#capacityBytes) {
      return RequestStatus.IoError;
    }
    const vector = this.#vector;
    vector.clear();
    if (into !== undefined) {
      into.appendTo(vector, 0, lengthBytes);
      this.#image.readAt(offset, vector);
      return RequestStatus.Ok;
    }
    readable.appendTo(vector, HEADER_BYTES, lengthBytes);
    this.#image.writeAt(offset, vector);
    if (this.#writeThrough) this.#image.flush();
    return RequestStatus.Ok;
  }

  /** Discards ranges, or zeroes them. All of them are checked before anything is done. */
  #ranges(readable: Pieces, zero: boolean): number {
    const wanted = zero ? BlockFeature.WriteZeroes : BlockFeature.Discard;
    if ((this.features & wanted) === 0n) return RequestStatus.Unsupported;
    const lengthBytes = readable.lengthBytes - HEADER_BYTES;
    const count = lengthBytes / RANGE_BYTES;
    if (!Number.isInteger(count) || count < 1 || count > MAX_RANGES) return RequestStatus.IoError;
    // Read once: the guest could change them between check and use.
    const bytes = new Uint8Array(lengthBytes);
    readable.copyTo(bytes, HEADER_BYTES);
    const view = new DataView(bytes.buffer);
    const most = zero ? MAX_ZERO_SECTORS : MAX_DISCARD_SECTORS;
    for (let at = 0; at < lengthBytes; at += RANGE_BYTES) {
      const flags = view.getUint32(at + 12, true);
      if ((flags & ~(zero ? RANGE_UNMAP : 0)) !== 0) return RequestStatus.Unsupported;
      const sectors = view.getUint32(at + 8, true);
      const end = Number(view.getBigUint64(at, true)) + sectors;
      if (sectors > most || end * SECTOR_BYTES > this.#capacityBytes) return RequestStatus.IoError;
    }
    for (let at = 0; at < lengthBytes; at += RANGE_BYTES) {
      const offset = Number(view.getBigUint64(at, true)) * SECTOR_BYTES;
      const length = view.getUint32(at + 8, true) * SECTOR_BYTES;
      const unmap = (view.getUint32(at + 12, true) & RANGE_UNMAP) !== 0;
      if (zero) this.#image.writeZeroes(offset, length, { unmap });
      else this.#image.discard(offset, length);
    }
    if (this.#writeThrough) this.#image.flush();
    return RequestStatus.Ok;
  }

  get #capacityBytes(): number {
    const { blockBytes } = this.#options;
    return Math.floor(this.#image.sizeBytes / blockBytes) * blockBytes;
  }
}
