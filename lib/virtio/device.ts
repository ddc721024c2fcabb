/**
 * What a virtio device is to whatever carries it.
 *
 * @module
 */

import type { FdLike, Watch, WatchCallback } from "../host/mod.ts";
import type { DeviceMemory } from "./device_memory.ts";
import type { Virtqueue } from "./virtqueue.ts";

/** What a device is given while it is active. All of it belongs to the thread that serves the device. */
export interface DeviceContext {
  /** The features that were negotiated, of those that the device offered and those of queues. */
  readonly features: bigint;
  /** Guest memory as it is mapped now. Changes are announced by {@link VirtioDeviceBackend.quiesce}. */
  readonly memory: DeviceMemory;
  /** Queue `index` while it is started. */
  queue(index: number): Virtqueue | undefined;
  /**
   * Notifies the driver of what was pushed to queue `index`, where it wants that. After
   * {@link VirtioDeviceBackend.process} this is done by itself.
   */
  notify(index: number): void;
  /** Has {@link VirtioDeviceBackend.process} called for queue `index` soon. */
  schedule(index: number): void;
  /** Calls back when `fd` is ready, from the loop that serves the device. */
  watch(fd: FdLike, events: number, callback: WatchCallback): Watch;
}

/**
 * A virtio device: a queue handler without a transport. Its methods are called from one thread, never
 * nested. What they throw ends the device.
 */
export interface VirtioDeviceBackend {
  /** Its type (of `DeviceType`). */
  readonly type: number;
  /** For messages, such as `block`. */
  readonly name: string;
  /** Features of its type that it offers; those of queues are added by what carries it. */
  readonly features: bigint;
  /** How many queues it has. */
  readonly queueCount: number;
  /** Most descriptors of a queue. */
  readonly maxQueueSize: number;
  /** Its configuration space, little-endian, as the driver reads it now. */
  readonly config: Uint8Array;
  /**
   * Tells that the configuration has changed, whether the device is active or not: who carries it may
   * have a copy. Set by what carries it.
   */
  configChanged?: () => void;
  /** The driver writes the configuration space; without this, it is read-only. */
  writeConfig?(offset: number, bytes: Uint8Array): void;
  /** The driver is ready and the first queue is about to start. */
  activate(context: DeviceContext): void;
  /** Queue `index` has started, or goes on with other memory. */
  queueStarted?(index: number): void;
  /** Queue `index` stops: what is held of it is to be finished and pushed before this returns. */
  queueStopping?(index: number): void;
  /**
   * There may be chains in queue `index`. Those that are not taken stay, and are the device's to look
   * for again.
   */
  process(index: number): void;
  /**
   * Guest memory is about to be mapped otherwise: nothing may be in work when this returns. Chains that
   * are held need not be finished, but their pieces are void.
   */
  quiesce?(): void;
  /** Back to what it was before {@link activate}; what was held is forgotten. */
  reset(): void;
}
