/**
 * The state of a virtio function over PCI, in memory that main and all vCPU workers share.
 *
 * @module
 */

import { SharedCarver, SharedLock } from "../../memory/mod.ts";
import { writableConfig } from "./config_space.ts";
import { MAX_QUEUES, NO_VECTOR, QueueWord, VectorWord, Word } from "./layout.ts";

/** What does not change while the VM lives; posted to the vCPU workers. */
export interface VirtioPciHandle {
  readonly buffer: SharedArrayBuffer;
  /** Its number on the PCI bus. */
  readonly device: number;
  /** Of `DeviceType`. */
  readonly deviceType: number;
  readonly queueCount: number;
  readonly maxQueueSize: number;
  readonly configBytes: number;
  /** Descriptors that the guest's notifications signal, by queue. */
  readonly kicks: readonly number[];
  /** Descriptors that interrupt the guest, by queue. */
  readonly calls: readonly number[];
  /** The descriptor that interrupts the guest when the configuration has changed. */
  readonly configEvent: number;
  /** GSI of vector 0; the others follow. */
  readonly firstGsi: number;
}

/** Vectors of a function: one for each queue, one for configuration changes. */
export function vectorCountOf(queueCount: number): number {
  return queueCount + 1;
}

/** Words and bytes, and the lock over them. */
export class TransportState {
  /** From where another worker attaches to the same state. */
  readonly handle: VirtioPciHandle;
  /** To be held by who changes it. */
  readonly lock: SharedLock;
  /** See {@link Word}. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** See {@link QueueWord}. */
  readonly queues: Int32Array<SharedArrayBuffer>;
  /** See {@link VectorWord}. */
  readonly vectors: Int32Array<SharedArrayBuffer>;
  /** The device's own configuration space. */
  readonly config: Uint8Array<SharedArrayBuffer>;
  /** Which bytes of that the driver may write. */
  readonly writableConfig: Uint8Array;

  constructor(handle: VirtioPciHandle) {
    const carver = new SharedCarver(handle.buffer);
    this.handle = handle;
    this.words = carver.int32(Word.Count);
    this.queues = carver.int32(QueueWord.Count * handle.queueCount);
    this.vectors = carver.int32(VectorWord.Count * vectorCountOf(handle.queueCount));
    this.config = carver.uint8(handle.configBytes);
    this.writableConfig = writableConfig(handle.deviceType, handle.configBytes);
    this.lock = new SharedLock(this.words, Word.Lock);
  }

  /** The state of a new function. */
  static create(handle: Omit<VirtioPciHandle, "buffer">): TransportState {
    const { queueCount, configBytes } = handle;
    if (queueCount < 0 || queueCount > MAX_QUEUES) {
      throw new RangeError(`expected up to ${MAX_QUEUES} queues, got ${queueCount}`);
    }
    const words = Word.Count + QueueWord.Count * queueCount +
      VectorWord.Count * vectorCountOf(queueCount);
    const buffer = new SharedArrayBuffer(words * 4 + configBytes);
    const state = new TransportState({ ...handle, buffer });
    for (let vector = 0; vector < vectorCountOf(queueCount); vector++) {
      // Masked (PCI Local Bus 3.0, 6.8.2.9).
      state.vectors[vector * VectorWord.Count + VectorWord.Control] = 1;
    }
    state.clear();
    return state;
  }

  /** What a reset leaves of what the driver has set up. Under the lock. */
  clear(): void {
    const { words, handle } = this;
    words[Word.Status] = 0;
    words[Word.DeviceFeatureSelect] = 0;
    words[Word.DriverFeatureSelect] = 0;
    words[Word.DriverFeaturesLow] = 0;
    words[Word.DriverFeaturesHigh] = 0;
    words[Word.QueueSelect] = 0;
    words[Word.ConfigVector] = NO_VECTOR;
    words[Word.Isr] = 0;
    words[Word.DirtyFrom] = 0;
    words[Word.DirtyTo] = 0;
    words[Word.Active] = 0;
    words[Word.Halted] = 0;
    for (let index = 0; index < handle.queueCount; index++) this.clearQueue(index);
    Atomics.store(words, Word.Resetting, 0);
  }

  /** The same for one queue. Its descriptors' registrations stay as they are. */
  clearQueue(index: number): void {
    const at = index * QueueWord.Count;
    const { queues } = this;
    queues[at + QueueWord.Size] = this.handle.maxQueueSize;
    queues[at + QueueWord.Vector] = NO_VECTOR;
    queues[at + QueueWord.Enabled] = 0;
    for (let word = 0; word < 6; word++) queues[at + QueueWord.Addresses + word] = 0;
    Atomics.store(queues, at + QueueWord.Resetting, 0);
  }

  /** Whether a queue's reset waits for the host side. */
  get queueResets(): boolean {
    const { queues, handle } = this;
    for (let index = 0; index < handle.queueCount; index++) {
      if (Atomics.load(queues, index * QueueWord.Count + QueueWord.Resetting) !== 0) return true;
    }
    return false;
  }

  /** Tells the host side that there is something to do. */
  request(): void {
    Atomics.add(this.words, Word.Requests, 1);
    Atomics.notify(this.words, Word.Requests);
  }

  /** Tells the guest side that something was done. */
  done(): void {
    Atomics.add(this.words, Word.Done, 1);
    Atomics.notify(this.words, Word.Done);
  }
}
