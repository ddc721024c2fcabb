/**
 * A block driver over a {@link MockDriver}, for tests: one request at a time.
 *
 * @module
 */

import { PollEvent, type Reactor, signalEvent, takeEvent } from "../../host/mod.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import { DeviceMemory } from "../device_memory.ts";
import { VirtioError } from "../errors.ts";
import { Feature } from "../features.ts";
import type { QueueSetup } from "../vhost_user/frontend.ts";
import type { QueueEvents } from "../vhost_user/frontend_state.ts";
import { BLOCK_HEADER_BYTES, BlockRequest } from "./memory_block.ts";
import { MockDriver } from "./mock_driver.ts";

const RINGS = 0x1_0000;
const REQUESTS = 0x10_0000;
/** Each request has so many bytes for header, data and status. */
const REQUEST_BYTES = 0x1_1000;
const SIZE = 64;

/** Settings of a {@link BlockClient}. */
export interface BlockClientOptions {
  readonly memory: GuestMemory;
  readonly reactor: Reactor;
  readonly features: bigint;
  /** Guest physical address from which on it uses memory; 0 where absent. */
  readonly address?: number;
}

/** What came of a request. */
export interface BlockAnswer {
  readonly status: number;
  readonly data: Uint8Array;
}

/** A driver of queue 0 of a block device. */
export class BlockClient {
  /** Its ring. */
  readonly driver: MockDriver;
  readonly #options: BlockClientOptions;
  readonly #waiting = new Map<number, (answer: BlockAnswer) => void>();
  readonly #places = new Map<
    number,
    { slot: number; body: number; length: number; status: number }
  >();
  /** Those of 16 places in memory that no request has; requests may end in any order. */
  readonly #freeSlots = Array.from({ length: 16 }, (_, slot) => slot);

  constructor(options: BlockClientOptions) {
    this.#options = options;
    this.driver = new MockDriver(DeviceMemory.of(options.memory), {
      address: (options.address ?? 0) + RINGS,
      size: SIZE,
      eventIdx: (options.features & Feature.RingEventIdx) !== 0n,
    });
  }

  /** For the front end. */
  get queue(): QueueSetup {
    return { index: 0, size: SIZE, ...this.driver.addresses };
  }

  /** Takes what the device has used whenever it interrupts, until the result is disposed. */
  listen(events: QueueEvents): Disposable {
    return this.#options.reactor.watch(events.call, PollEvent.In, () => {
      takeEvent(events.call);
      do this.#collect(); while (this.driver.wantInterrupts(true));
    });
  }

  /** Reads `length` bytes. */
  async read(events: QueueEvents, sector: number, length: number): Promise<Uint8Array> {
    const answer = await this.submit(events, { type: BlockRequest.Read, sector, length });
    if (answer.status !== 0) throw new VirtioError(`read: status ${answer.status}`);
    return answer.data;
  }

  /** Writes `data`. */
  async write(events: QueueEvents, sector: number, data: Uint8Array): Promise<void> {
    const answer = await this.submit(events, { type: BlockRequest.Write, sector, data });
    if (answer.status !== 0) throw new VirtioError(`write: status ${answer.status}`);
  }

  /** Sends any request. */
  submit(
    events: QueueEvents,
    request: { type: number; sector: number; data?: Uint8Array; length?: number },
  ): Promise<BlockAnswer> {
    const { memory } = this.#options;
    const { type, sector, data = new Uint8Array(0), length = 0 } = request;
    const slot = this.#freeSlots.shift();
    if (slot === undefined) throw new VirtioError("block client: 16 requests are under way");
    const at = (this.#options.address ?? 0) + REQUESTS + slot * REQUEST_BYTES;
    memory.writeU32(at, type);
    memory.writeU32(at + 4, 0);
    memory.writeU64(at + 8, BigInt(sector));
    const body = at + BLOCK_HEADER_BYTES;
    memory.writeFrom(body, data);
    const status = body + data.byteLength + length;
    memory.writeU8(status, 0xff);
    const buffers = [{ address: at, length: BLOCK_HEADER_BYTES }];
    if (data.byteLength > 0) buffers.push({ address: body, length: data.byteLength });
    const writable = length > 0 ? [{ address: body, length, writable: true }] : [];
    const head = this.driver.add([
      ...buffers,
      ...writable,
      { address: status, length: 1, writable: true },
    ]);
    if (head < 0) throw new VirtioError("block client: no descriptors");
    const { promise, resolve } = Promise.withResolvers<BlockAnswer>();
    this.#waiting.set(head, resolve);
    this.#places.set(head, { slot, body, length, status });
    if (this.driver.publish()) signalEvent(events.kick);
    return promise;
  }

  #collect(): void {
    for (let head; (head = this.driver.takeUsed()) >= 0;) {
      const resolve = this.#waiting.get(head);
      const place = this.#places.get(head);
      if (resolve === undefined || place === undefined) throw new VirtioError(`answered: ${head}`);
      this.#waiting.delete(head);
      this.#places.delete(head);
      this.#freeSlots.push(place.slot);
      this.driver.free(head);
      const { memory } = this.#options;
      resolve({
        status: memory.readU8(place.status),
        data: memory.read(place.body, place.length),
      });
    }
  }
}
