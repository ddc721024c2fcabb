/**
 * The virtio block device.
 *
 * @module
 */

import { log } from "../../base/mod.ts";
import { DiskError, type DiskImage } from "../../disk/mod.ts";
import { HostError, PollEvent, type Watch } from "../../host/mod.ts";
import { type DeviceContext, DeviceType } from "../../virtio/mod.ts";
import type { DeviceReply } from "../control/device_end.ts";
import type { DeviceRequest } from "../control/messages.ts";
import type { ServableDevice } from "../frame/device_kind.ts";
import {
  blockConfig,
  blockFeatures,
  type DiskPresentation,
  MAX_QUEUE_SIZE,
  setCapacity,
} from "./config_space.ts";
import { DiskCommands } from "./disk_commands.ts";
import { FailureLog } from "./failure_log.ts";
import { BlockFeature, ConfigField, RequestStatus, RequestType } from "./protocol.ts";
import { BlockRequest } from "./request.ts";
import type { RingTransfers } from "./ring_transfers.ts";

/**
 * Requests that come as soon after the last answer are waited for without sleeping, where nobody else wants the
 * processor. A guest makes one of 1 MiB in about 250 us.
 */
const SPIN_US = 400;

/** Settings of a {@link BlockDevice}. */
export interface BlockDeviceOptions extends DiskPresentation {
  /** Serial number, at most 20 ASCII characters. */
  readonly id: string;
  /** What takes requests beside the thread, owned by the device; all are carried out in turn without. */
  readonly transfers?: RingTransfers | undefined;
}

/** Says so where `image` has more than whole blocks: what does not fill one is not part of the disk. */
export function warnOfRest(image: DiskImage, blockBytes: number): void {
  const restBytes = image.sizeBytes % blockBytes;
  if (restBytes === 0) return;
  log.warn(
    `block: ${image.path} has ${image.sizeBytes} bytes, not a multiple of its blocks' ${blockBytes}: ` +
      `the guest does not see the last ${restBytes}`,
  );
}

/** A disk image as a virtio block device. */
export class BlockDevice implements ServableDevice {
  readonly type: number = DeviceType.Block;
  readonly name = "block";
  readonly features: bigint;
  readonly queueCount: number;
  readonly maxQueueSize: number = MAX_QUEUE_SIZE;
  readonly spinUs: number = SPIN_US;
  readonly config: Uint8Array;
  configChanged?: () => void;
  readonly #image: DiskImage;
  readonly #blockBytes: number;
  readonly #commands: DiskCommands;
  readonly #transfers: RingTransfers | undefined;
  readonly #failures: FailureLog;
  /** Room for as many requests as were ever under way at once, and one. */
  readonly #requests: BlockRequest[] = [];
  /** Those of them that are not under way. */
  readonly #idle: BlockRequest[] = [];
  #context: DeviceContext | undefined;
  #watch: Watch | undefined;
  /** Whether a queue had to wait for room. */
  #starved = false;

  /** Over `image`, which is closed with the device. */
  constructor(image: DiskImage, options: BlockDeviceOptions) {
    this.#image = image;
    this.#blockBytes = options.blockBytes;
    this.#transfers = options.transfers;
    this.#failures = new FailureLog(image.path);
    this.queueCount = options.queueCount;
    this.features = blockFeatures(image, options);
    this.config = blockConfig(image, options);
    this.#commands = new DiskCommands(image, { ...options, features: this.features });
  }

  activate(context: DeviceContext): void {
    this.#context = context;
    this.#setWriteThrough();
    const ring = this.#transfers?.ring;
    if (ring === undefined) return;
    this.#watch = context.watch(ring.fd, PollEvent.In, () => this.#complete());
  }

  /** Only the mode of the cache can be written (virtio 1.2, 5.2.5). */
  writeConfig(offset: number, bytes: Uint8Array): void {
    // A longer write has it somewhere: a driver's, or several of them that are told of together.
    const value = bytes[ConfigField.Writeback - offset];
    if (value === undefined || this.#image.readOnly) return;
    this.config[ConfigField.Writeback] = value & 1;
    this.#setWriteThrough();
  }

  process(index: number): void {
    const queue = this.#context?.queue(index);
    if (queue === undefined) return;
    for (let request; (request = this.#room()) !== undefined;) {
      if (queue.pop(request.chain) === undefined) break;
      request.queue = index;
      const status = this.#begin(request);
      if (status === undefined) this.#idle.pop();
      else this.#answer(request, status);
    }
    this.#transfers?.ring.submit();
  }

  queueStopping(): void {
    this.#drain();
  }

  quiesce(): void {
    this.#drain();
  }

  reset(): void {
    this.#drain();
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    this.#context = undefined;
    if (!this.#image.readOnly) this.config[ConfigField.Writeback] = 1;
  }

  /** Makes the disk larger or, where that is asked for and the format can, smaller, and tells the driver. */
  control(request: DeviceRequest, reply: DeviceReply): void {
    if (request.name !== "resize") {
      reply.refuse(`${request.name} is nothing for a disk`);
      return;
    }
    // What is under way was asked of a disk of the size that it has.
    this.#drain();
    const { sizeBytes, shrink } = request.data;
    this.#image.resize(sizeBytes, { shrink });
    warnOfRest(this.#image, this.#blockBytes);
    setCapacity(this.config, this.#image, this.#blockBytes);
    this.configChanged?.();
    reply.answer(null);
  }

  [Symbol.dispose](): void {
    this.#transfers?.[Symbol.dispose]();
    this.#image.close();
  }

  // Who cannot flush is to find everything durable; who can, chooses (virtio 1.2, 5.2.6.2).
  #setWriteThrough(): void {
    const features = this.#context?.features ?? 0n;
    this.#commands.writeThrough = (features & BlockFeature.Flush) === 0n ||
      ((features & BlockFeature.ConfigWce) !== 0n && this.config[ConfigField.Writeback] === 0);
  }

  /** Room for one more request; undefined where as many are under way as can be. */
  #room(): BlockRequest | undefined {
    const idle = this.#idle;
    if (idle.length === 0) {
      const count = this.#requests.length;
      if (count > 0 && count >= (this.#transfers?.ring.capacity ?? 1)) {
        this.#starved = true;
        return undefined;
      }
      const request = new BlockRequest(count);
      this.#requests.push(request);
      idle.push(request);
    }
    return idle[idle.length - 1];
  }

  /** Carries a request out, or begins to; the result is its status if it has one. */
  #begin(request: BlockRequest): number | undefined {
    try {
      const status = this.#commands.prepare(request);
      if (status !== undefined) return status;
      switch (this.#transfers?.begin(request, this.#commands.writeThrough)) {
        case "done":
          return RequestStatus.Ok;
        case "pending":
          return undefined;
        default:
          if (request.type !== RequestType.In) this.#awaitWrites();
          return this.#commands.execute(request);
      }
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** Lets what changes the disk otherwise come after all writes under way, where it must. */
  #awaitWrites(): void {
    if (this.#transfers?.changesWait === true) this.#drain();
  }

  /** Takes what is done beside the thread. */
  #complete(): void {
    const { ring } = this.#transfers!;
    for (let token; (token = ring.complete()) >= 0;) {
      const request = this.#requests[token]!;
      this.#answer(request, this.#finish(request, ring.result));
      this.#idle.push(request);
      this.#context?.notify(request.queue);
    }
    if (!this.#starved) return;
    this.#starved = false;
    for (let index = 0; index < this.queueCount; index++) this.#context?.schedule(index);
  }

  #finish(request: BlockRequest, result: number): number {
    try {
      if (this.#transfers!.finish(request, result)) return RequestStatus.Ok;
      return this.#commands.execute(request);
    } catch (error) {
      return this.#failed(error);
    }
  }

  #failed(error: unknown): number {
    if (!(error instanceof DiskError || error instanceof HostError)) throw error;
    this.#failures.add(error);
    return RequestStatus.IoError;
  }

  #answer(request: BlockRequest, status: number): void {
    const { chain } = request;
    const { writable } = chain;
    const { writableBytes } = request;
    // Without room for a status there is nothing to answer.
    if (writableBytes >= 0) writable.writeU8(writableBytes, status);
    const written = status === RequestStatus.Ok
      ? writableBytes + 1
      : Math.min(1, writableBytes + 1);
    this.#context?.queue(request.queue)?.push(chain.head, written);
  }

  /** Waits until nothing is under way beside the thread. */
  #drain(): void {
    const ring = this.#transfers?.ring;
    if (ring === undefined) return;
    ring.submit();
    while (ring.underWay > 0) {
      ring.wait();
      this.#complete();
    }
  }
}
