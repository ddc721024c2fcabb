/**
 * Messages of the vhost-user protocol: payloads as they are checked and made. Numbers are little-endian,
 * as the machines are that this runs on.
 *
 * @module
 */

import type { Fd } from "../../host/mod.ts";
import { VhostUserError } from "../errors.ts";
import {
  INFLIGHT_BYTES,
  INFLIGHT_PACKED_BYTES,
  MAX_TABLE_REGIONS,
  MessageFlag,
  REGION_BYTES,
  requestName,
  VRING_ADDR_BYTES,
} from "./protocol.ts";

/** A number and what it belongs to (a vring's index). */
export interface VringState {
  readonly index: number;
  readonly num: number;
}

/** Where a vring lies, in the front end's addresses. */
export interface VringAddresses {
  readonly index: number;
  readonly descriptorTable: number;
  readonly usedRing: number;
  readonly availableRing: number;
}

/** A piece of guest memory in a file. */
export interface RegionMessage {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly userAddress: number;
  readonly fileOffset: number;
}

/** The record of what is in flight, in a file. */
export interface InflightMessage {
  readonly sizeBytes: number;
  readonly fileOffset: number;
  readonly queueCount: number;
  readonly queueSize: number;
}

/** A message that was received. Disposing it closes the descriptors that nobody has taken. */
export class Message implements Disposable {
  /** What it is. */
  readonly request: number;
  /** Bits of `MessageFlag`. */
  readonly flags: number;
  /** What comes with it. */
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly #view: DataView<ArrayBuffer>;
  #fds: Fd[];

  constructor(request: number, flags: number, payload: Uint8Array<ArrayBuffer>, fds: Fd[]) {
    this.request = request;
    this.flags = flags;
    this.payload = payload;
    this.#view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    this.#fds = fds;
  }

  /** Its name. */
  get name(): string {
    return requestName(this.request);
  }

  /** Whether an answer is wanted even where the message has none of its own. */
  get needsReply(): boolean {
    return (this.flags & MessageFlag.NeedReply) !== 0;
  }

  /** How many descriptors came with it. */
  get fdCount(): number {
    return this.#fds.length;
  }

  /** Takes all descriptors. */
  takeFds(): Fd[] {
    const fds = this.#fds;
    this.#fds = [];
    return fds;
  }

  /** Takes the one descriptor that it has. */
  takeFd(): Fd {
    this.expectFds(1);
    return this.#fds.pop()!;
  }

  /** @throws {VhostUserError} where the payload has another length. */
  expectBytes(...lengths: readonly number[]): void {
    if (lengths.includes(this.payload.byteLength)) return;
    throw new VhostUserError(
      "violation",
      `${this.name}: expected a payload of ${lengths.join(" or ")} bytes, got ` +
        `${this.payload.byteLength}`,
    );
  }

  /** @throws {VhostUserError} where it came with another number of descriptors. */
  expectFds(...counts: readonly number[]): void {
    if (counts.includes(this.#fds.length)) return;
    throw new VhostUserError(
      "violation",
      `${this.name}: expected ${counts.join(" or ")} descriptors, got ${this.#fds.length}`,
    );
  }

  /** The payload as one number of 64 bits. */
  u64(): bigint {
    this.expectBytes(8);
    return this.#view.getBigUint64(0, true);
  }

  /** The payload as index and number. */
  vringState(): VringState {
    this.expectBytes(8);
    return { index: this.#view.getUint32(0, true), num: this.#view.getUint32(4, true) };
  }

  /** The payload as addresses of a vring. Their log flag is not supported. */
  vringAddresses(): VringAddresses {
    this.expectBytes(VRING_ADDR_BYTES);
    const flags = this.#view.getUint32(4, true);
    if (flags !== 0) {
      throw new VhostUserError("violation", `${this.name}: expected no flags, got ${flags}`);
    }
    return {
      index: this.#view.getUint32(0, true),
      descriptorTable: this.#number(8),
      usedRing: this.#number(16),
      availableRing: this.#number(24),
    };
  }

  /** The payload as a memory table. */
  memoryTable(): RegionMessage[] {
    const count = this.payload.byteLength >= 8 ? this.#view.getUint32(0, true) : 0;
    if (count < 1 || count > MAX_TABLE_REGIONS) {
      throw new VhostUserError(
        "violation",
        `${this.name}: expected 1 to ${MAX_TABLE_REGIONS} regions, got ${count}`,
      );
    }
    this.expectBytes(8 + count * REGION_BYTES);
    return Array.from({ length: count }, (_, index) => this.#region(8 + index * REGION_BYTES));
  }

  /** The payload as one region. */
  region(): RegionMessage {
    this.expectBytes(8 + REGION_BYTES);
    return this.#region(8);
  }

  /** The payload as an inflight record. */
  inflight(): InflightMessage {
    this.expectBytes(INFLIGHT_BYTES, INFLIGHT_PACKED_BYTES);
    return {
      sizeBytes: this.#number(0),
      fileOffset: this.#number(8),
      queueCount: this.#view.getUint16(16, true),
      queueSize: this.#view.getUint16(18, true),
    };
  }

  [Symbol.dispose](): void {
    for (const fd of this.takeFds()) fd.close();
  }

  #region(at: number): RegionMessage {
    return {
      guestAddress: this.#number(at),
      sizeBytes: this.#number(at + 8),
      userAddress: this.#number(at + 16),
      fileOffset: this.#number(at + 24),
    };
  }

  /** 64 bits as a number; what that does not hold is no address or size of anything. */
  #number(at: number): number {
    const value = this.#view.getBigUint64(at, true);
    if (value <= Number.MAX_SAFE_INTEGER) return Number(value);
    throw new VhostUserError(
      "violation",
      `${this.name}: expected numbers up to 2^53, got 0x${value.toString(16)}`,
    );
  }
}

/** A payload that is being made. */
class PayloadWriter {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView<ArrayBuffer>;
  #at = 0;

  constructor(lengthBytes: number) {
    this.#view = new DataView(new ArrayBuffer(lengthBytes));
    this.bytes = new Uint8Array(this.#view.buffer);
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value, true);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
    return this;
  }

  u64(value: number | bigint): this {
    this.#view.setBigUint64(this.#at, BigInt(value), true);
    this.#at += 8;
    return this;
  }

  region(region: RegionMessage): this {
    return this.u64(region.guestAddress).u64(region.sizeBytes).u64(region.userAddress)
      .u64(region.fileOffset);
  }
}

/** Payloads of messages to send. */
export const Payload = {
  /** A number of 64 bits. */
  u64(value: number | bigint): Uint8Array<ArrayBuffer> {
    return new PayloadWriter(8).u64(value).bytes;
  },
  /** Index and number. */
  vringState({ index, num }: VringState): Uint8Array<ArrayBuffer> {
    return new PayloadWriter(8).u32(index).u32(num).bytes;
  },
  /** Addresses of a vring. */
  vringAddresses(addresses: VringAddresses): Uint8Array<ArrayBuffer> {
    const { index, descriptorTable, usedRing, availableRing } = addresses;
    return new PayloadWriter(VRING_ADDR_BYTES).u32(index).u32(0).u64(descriptorTable).u64(usedRing)
      .u64(availableRing).u64(0).bytes;
  },
  /** A memory table. */
  memoryTable(regions: readonly RegionMessage[]): Uint8Array<ArrayBuffer> {
    const writer = new PayloadWriter(8 + regions.length * REGION_BYTES).u32(regions.length).u32(0);
    for (const region of regions) writer.region(region);
    return writer.bytes;
  },
  /** One region. */
  region(region: RegionMessage): Uint8Array<ArrayBuffer> {
    return new PayloadWriter(8 + REGION_BYTES).u64(0).region(region).bytes;
  },
  /** Part of the configuration space. */
  config(offset: number, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
    const { bytes: payload } = new PayloadWriter(12 + bytes.byteLength).u32(offset)
      .u32(bytes.byteLength).u32(0);
    payload.set(bytes, 12);
    return payload;
  },
  /** An inflight record, in as many bytes as the peer takes for it. */
  inflight(inflight: InflightMessage, lengthBytes = INFLIGHT_BYTES): Uint8Array<ArrayBuffer> {
    return new PayloadWriter(lengthBytes).u64(inflight.sizeBytes).u64(inflight.fileOffset)
      .u16(inflight.queueCount).u16(inflight.queueSize).bytes;
  },
} as const;
