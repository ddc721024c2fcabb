/**
 * A device under test with drivers of its queues, all in one thread and without a transport.
 *
 * @module
 */

import { Epoll, type FdLike, type Watch, type WatchCallback } from "../../host/mod.ts";
import type { DeviceContext, VirtioDeviceBackend } from "../device.ts";
import { DeviceMemory } from "../device_memory.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import { SplitVirtqueue } from "../split_virtqueue.ts";
import { type DriverBuffer, MockDriver } from "./mock_driver.ts";

const RING_SPACING = 0x1_0000;
const QUEUE_SIZE = 64;

/** Settings of a {@link DeviceRig}. */
export interface DeviceRigOptions {
  readonly memory: GuestMemory;
  /** Guest address from which on the rings lie, 64 KiB a queue. */
  readonly ringsAt: number;
  /** What was negotiated; all that the device offers where absent. */
  readonly features?: bigint;
  /** Queues that are started; all where absent. */
  readonly queues?: readonly number[];
}

/** A device and its drivers. */
export class DeviceRig implements Disposable {
  /** Queues that the driver was notified of since this was last cleared. */
  readonly notified = new Set<number>();
  /** How often the configuration changed. */
  configChanges = 0;
  readonly #device: VirtioDeviceBackend;
  readonly #options: DeviceRigOptions;
  readonly #memory: DeviceMemory;
  readonly #epoll = new Epoll();
  readonly #watches = new Map<number, WatchCallback>();
  readonly #queues = new Map<number, SplitVirtqueue>();
  readonly #drivers = new Map<number, MockDriver>();
  readonly #scheduled = new Set<number>();
  #nextToken = 1;

  /** Starts the device; it stays the caller's. */
  constructor(device: VirtioDeviceBackend, options: DeviceRigOptions) {
    this.#device = device;
    this.#options = options;
    this.#memory = DeviceMemory.of(options.memory);
    device.configChanged = () => {
      this.configChanges++;
    };
    this.start();
  }

  /** Activates the device with fresh queues. */
  start(): void {
    const device = this.#device;
    device.activate(this.#context());
    const { queues = Array.from({ length: device.queueCount }, (_, index) => index) } =
      this.#options;
    for (const index of queues) {
      const address = this.#options.ringsAt + index * RING_SPACING;
      const driver = new MockDriver(this.#memory, { address, size: QUEUE_SIZE });
      this.#drivers.set(index, driver);
      this.#queues.set(
        index,
        new SplitVirtqueue(this.#memory, {
          ...driver.addresses,
          size: QUEUE_SIZE,
          indirect: true,
          eventIdx: false,
        }),
      );
      device.queueStarted?.(index);
    }
    this.#serveScheduled();
  }

  /** Stops queues and resets the device. */
  stop(): void {
    for (const index of this.#queues.keys()) this.#device.queueStopping?.(index);
    this.#queues.clear();
    this.#device.reset();
  }

  /** Stops a queue and starts it again, as when a VM is suspended and resumed. */
  restart(index: number): void {
    const queue = this.#queues.get(index)!;
    this.#device.queueStopping?.(index);
    this.#queues.set(
      index,
      new SplitVirtqueue(this.#memory, {
        ...this.#drivers.get(index)!.addresses,
        size: QUEUE_SIZE,
        indirect: true,
        eventIdx: false,
        availableIndex: queue.base,
      }),
    );
    this.#device.queueStarted?.(index);
    this.#scheduled.add(index);
    this.#serveScheduled();
  }

  /** The queue while it is started. */
  queue(index: number): SplitVirtqueue {
    return this.#queues.get(index)!;
  }

  /** Offers a chain and has it served. */
  send(index: number, buffers: readonly DriverBuffer[]): void {
    const driver = this.#drivers.get(index)!;
    if (driver.add(buffers) < 0) throw new Error(`queue ${index} has no room`);
    driver.publish();
    this.#scheduled.add(index);
    this.#serveScheduled();
  }

  /** Takes the next chain that was used; the bytes that the device wrote, -1 where there is none. */
  used(index: number): number {
    const driver = this.#drivers.get(index)!;
    const head = driver.takeUsed();
    if (head < 0) return -1;
    driver.free(head);
    return driver.usedLength;
  }

  /** Waits for descriptors that the device watches, at most `timeoutMs`; whether there was one. */
  turn(timeoutMs: number): boolean {
    const count = this.#epoll.wait(timeoutMs);
    for (let index = 0; index < count; index++) {
      this.#watches.get(this.#epoll.token(index))?.(this.#epoll.events(index));
    }
    this.#serveScheduled();
    return count > 0;
  }

  [Symbol.dispose](): void {
    this.stop();
    this.#epoll[Symbol.dispose]();
  }

  #serveScheduled(): void {
    while (this.#scheduled.size > 0) {
      const [index] = this.#scheduled;
      this.#scheduled.delete(index!);
      this.#device.process(index!);
      this.#notify(index!);
    }
  }

  #notify(index: number): void {
    if (this.#queues.get(index)?.needsNotification()) this.notified.add(index);
  }

  #context(): DeviceContext {
    return {
      features: this.#options.features ?? this.#device.features,
      memory: this.#memory,
      queue: (index) => this.#queues.get(index),
      notify: (index) => this.#notify(index),
      schedule: (index) => {
        if (this.#queues.has(index)) this.#scheduled.add(index);
      },
      watch: (fd, events, callback) => this.#watch(fd, events, callback),
    };
  }

  #watch(fd: FdLike, events: number, callback: WatchCallback): Watch {
    const token = this.#nextToken++;
    this.#epoll.add(fd, events, token);
    this.#watches.set(token, callback);
    return {
      setEvents: (wanted) => this.#epoll.modify(fd, wanted, token),
      [Symbol.dispose]: () => {
        if (this.#watches.delete(token)) this.#epoll.remove(fd);
      },
    };
  }
}
