/**
 * A block device with a driver in the same thread.
 *
 * @module
 */

import { MIB } from "../../lib/base/mod.ts";
import { type BlockOptions, diskConfig } from "../../lib/config/mod.ts";
import { GuestMemory } from "../../lib/memory/mod.ts";
import { DeviceRig } from "../../lib/virtio/testing/device_rig.ts";
import type { OpenedDevice, ServableDevice } from "../../lib/devices/mod.ts";
import { BLOCK_DEVICE } from "../../lib/devices/block/mod.ts";
import {
  HEADER_BYTES,
  RANGE_BYTES,
  RequestType,
  SECTOR_BYTES,
} from "../../lib/devices/block/protocol.ts";

const RINGS = 15 * MIB;
/** Bytes of guest memory for each request. */
const SLOT_BYTES = MIB / 4;
const SLOTS = 48;
const TIMEOUT_MS = 120_000;

/** A request to a disk. */
export interface DiskRequest {
  readonly type: number;
  readonly sector?: number;
  /** What the device reads behind the header. */
  readonly data?: Uint8Array;
  /** Bytes that the device writes before the status. */
  readonly length?: number;
  /** Lengths of the pieces that the data is cut into; the last one takes the rest. */
  readonly cuts?: readonly number[];
}

/** What came of it. */
export interface DiskAnswer {
  readonly status: number;
  readonly data: Uint8Array;
  /** Bytes that the device says that it wrote. */
  readonly written: number;
}

/** A range to discard or to zero. */
export interface DiskRange {
  readonly sector: number | bigint;
  readonly sectors: number;
  readonly flags?: number;
}

/** The bytes of a request's ranges. */
export function rangeBytes(ranges: readonly DiskRange[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(ranges.length * RANGE_BYTES));
  ranges.forEach(({ sector, sectors, flags = 0 }, index) => {
    view.setBigUint64(index * RANGE_BYTES, BigInt(sector), true);
    view.setUint32(index * RANGE_BYTES + 8, sectors, true);
    view.setUint32(index * RANGE_BYTES + 12, flags, true);
  });
  return new Uint8Array(view.buffer);
}

/** Opens a disk for a {@link DiskRig}, or several after each other. */
export function openDevice(options: BlockOptions): OpenedDevice {
  const disk = diskConfig({ queues: 2, ...options }, (key, message) => {
    throw new Error(`${key}: ${message}`);
  });
  return BLOCK_DEVICE.open(disk!);
}

/** A disk and its driver, which uses two queues. */
export class DiskRig implements Disposable {
  readonly device: ServableDevice;
  readonly rig: DeviceRig;
  readonly #memory = GuestMemory.create({ sizeBytes: 16 * MIB, backing: "mmap" });
  /** Requests that are not answered, the oldest first, by queue. */
  readonly #waiting: { status: number; data: number; length: number }[][] = [[], []];
  #slot = 0;

  /** Opens the disk as `vmctl device block` does, or takes one that {@link openDevice} opened. */
  constructor(from: BlockOptions | OpenedDevice, features?: bigint) {
    const isOpen = "fds" in from;
    const opened = isOpen ? from : openDevice(from);
    const fds = isOpen ? opened.fds.map((fd) => fd.dup()) : opened.fds;
    // As it travels to the process that serves it.
    this.device = BLOCK_DEVICE.make(JSON.parse(JSON.stringify(opened.settings)), fds);
    this.rig = new DeviceRig(this.device, {
      memory: this.#memory,
      ringsAt: RINGS,
      ...(features === undefined ? {} : { features }),
    });
  }

  /** Offers a request; at most 48 may wait for an answer. */
  offer(request: DiskRequest, queue = 0): void {
    const memory = this.#memory;
    const { type, sector = 0, data = new Uint8Array(0), length = 0, cuts = [] } = request;
    const at = this.#slot++ % SLOTS * SLOT_BYTES;
    memory.writeU32(at, type);
    memory.writeU32(at + 4, 0);
    memory.writeU64(at + 8, BigInt(sector));
    // Aligned, so that direct transfers are possible, as with drivers.
    const body = at + 4096;
    memory.writeFrom(body, data);
    const status = at + 2048;
    memory.writeU8(status, 0xff);
    this.rig.send(queue, [
      { address: at, length: HEADER_BYTES },
      ...cut(body, data.length, cuts),
      ...cut(body, length, cuts).map((buffer) => ({ ...buffer, writable: true })),
      { address: status, length: 1, writable: true },
    ]);
    this.#waiting[queue]!.push({ status, data: body, length });
  }

  /** Waits for the answers of a queue, in the order of the requests. */
  answers(queue = 0): DiskAnswer[] {
    const waiting = this.#waiting[queue]!.splice(0);
    const deadline = Date.now() + TIMEOUT_MS;
    const written = waiting.map(() => {
      for (;;) {
        const bytes = this.rig.used(queue);
        if (bytes >= 0) return bytes;
        // A wait also ends early, with nothing, where the kernel has to finish a transfer.
        if (!this.rig.turn(TIMEOUT_MS) && Date.now() > deadline) {
          throw new Error(`no answer within ${TIMEOUT_MS} ms`);
        }
      }
    });
    // Answers may come in any order; what was written is only known of one alone.
    return waiting.map(({ status, data, length }, index) => ({
      status: this.#memory.readU8(status),
      data: this.#memory.read(data, length),
      written: waiting.length === 1 ? written[index]! : -1,
    }));
  }

  /** Sends one request and waits for its answer. */
  request(request: DiskRequest, queue = 0): DiskAnswer {
    this.offer(request, queue);
    return this.answers(queue)[0]!;
  }

  /** Reads; the status must be good. */
  read(sector: number, sectors: number): Uint8Array {
    const length = sectors * SECTOR_BYTES;
    const { status, data } = this.request({ type: RequestType.In, sector, length });
    if (status !== 0) throw new Error(`status ${status}`);
    return data;
  }

  /** Writes; the result is the status. */
  write(sector: number, data: Uint8Array): number {
    return this.request({ type: RequestType.Out, sector, data }).status;
  }

  /** Flushes; the result is the status. */
  flush(): number {
    return this.request({ type: RequestType.Flush }).status;
  }

  /** Leaves everything as a process does that is killed. */
  abandon(): void {
    this.rig[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.device[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }
}

function cut(address: number, length: number, cuts: readonly number[]) {
  const buffers: { address: number; length: number }[] = [];
  let at = 0;
  for (const piece of [...cuts, length]) {
    const take = Math.min(piece, length - at);
    if (take > 0) buffers.push({ address: address + at, length: take });
    at += take;
  }
  return buffers;
}
