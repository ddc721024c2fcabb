/**
 * The common configuration structure (virtio 1.2, 4.1.4.3): the driver's view of features, status and
 * queues. What it writes against the rules is ignored, or the device asks for a reset.
 *
 * @module
 */

import { DeviceStatus, Feature } from "../features.ts";
import { isQueueSize } from "../ring.ts";
import type { Interrupts } from "./interrupts.ts";
import { Common, QueueWord, Word } from "./layout.ts";
import type { TransportState } from "./state.ts";

const VERSION_1_HIGH = Number(Feature.Version1 >> 32n);
const RING_RESET_HIGH = Number(Feature.RingReset >> 32n);
const KNOWN_STATUS = DeviceStatus.Acknowledge | DeviceStatus.Driver | DeviceStatus.FeaturesOk |
  DeviceStatus.DriverOk | DeviceStatus.Failed;

/** What a write leaves to be waited for. */
export enum Pending {
  Nothing,
  /** The host side resets the device or a queue. */
  Reset,
}

/** The registers. All of it under the state's lock. */
export class CommonConfig {
  readonly #state: TransportState;
  readonly #interrupts: Interrupts;

  constructor(state: TransportState, interrupts: Interrupts) {
    this.#state = state;
    this.#interrupts = interrupts;
  }

  /** The byte at `offset`. */
  readByte(offset: number): number {
    // Fields begin at multiples of their widths, so that the byte of one is that of its 32-bit word.
    return this.#word(offset & ~3) >>> (offset & 3) * 8 & 0xff;
  }

  /** Writes a field in its width; other widths are ignored. */
  write(offset: number, size: number, value: number): Pending {
    const { words } = this.#state;
    // Between its begin and its end a reset belongs to the device.
    if (words[Word.Resetting] !== 0) return Pending.Nothing;
    switch (offset << 4 | size) {
      case Common.DeviceFeatureSelect << 4 | 4:
        words[Word.DeviceFeatureSelect] = value;
        break;
      case Common.DriverFeatureSelect << 4 | 4:
        words[Word.DriverFeatureSelect] = value;
        break;
      case Common.DriverFeature << 4 | 4:
        this.#writeFeatures(value);
        break;
      case Common.ConfigVector << 4 | 2:
        words[Word.ConfigVector] = this.#interrupts.valid(value);
        this.#interrupts.update();
        break;
      case Common.DeviceStatus << 4 | 1:
        return this.#writeStatus(value);
      case Common.QueueSelect << 4 | 2:
        words[Word.QueueSelect] = value;
        break;
      default:
        if (offset >= Common.QueueSize) return this.#writeQueue(offset, size, value);
    }
    return Pending.Nothing;
  }

  #word(offset: number): number {
    const { words, handle } = this.#state;
    switch (offset) {
      case Common.DeviceFeatureSelect:
        return words[Word.DeviceFeatureSelect]!;
      case Common.DeviceFeature: {
        const select = words[Word.DeviceFeatureSelect]!;
        return select === 0 || select === 1 ? words[Word.FeaturesLow + select]! : 0;
      }
      case Common.DriverFeatureSelect:
        return words[Word.DriverFeatureSelect]!;
      case Common.DriverFeature: {
        const select = words[Word.DriverFeatureSelect]!;
        return select === 0 || select === 1 ? words[Word.DriverFeaturesLow + select]! : 0;
      }
      case Common.ConfigVector:
        return words[Word.ConfigVector]! | handle.queueCount << 16;
      case Common.DeviceStatus:
        return words[Word.Status]! | (words[Word.ConfigGeneration]! & 0xff) << 8 |
          words[Word.QueueSelect]! << 16;
      default:
        return this.#queueWord(offset);
    }
  }

  #queueWord(offset: number): number {
    const at = this.#selected;
    if (at < 0) return 0;
    const { queues, words } = this.#state;
    switch (offset) {
      case Common.QueueSize:
        return queues[at + QueueWord.Size]! | queues[at + QueueWord.Vector]! << 16;
      case Common.QueueEnable:
        return queues[at + QueueWord.Enabled]! | words[Word.QueueSelect]! << 16;
      case Common.QueueNotifyData:
        return words[Word.QueueSelect]! | queues[at + QueueWord.Resetting]! << 16;
      default: {
        const word = offset - Common.QueueDescriptors >> 2;
        return word >= 0 && word < 6 ? queues[at + QueueWord.Addresses + word]! : 0;
      }
    }
  }

  /** Index of the selected queue's words, negative where there is none. */
  get #selected(): number {
    const { words, handle } = this.#state;
    const index = words[Word.QueueSelect]!;
    return index < handle.queueCount ? index * QueueWord.Count : -1;
  }

  #writeFeatures(value: number): void {
    const { words } = this.#state;
    const select = words[Word.DriverFeatureSelect]!;
    const settled = (words[Word.Status]! & DeviceStatus.FeaturesOk) !== 0;
    if (settled || (select !== 0 && select !== 1)) return;
    words[Word.DriverFeaturesLow + select] = value;
  }

  #writeStatus(value: number): Pending {
    if (value === 0) return this.#reset();
    const { words } = this.#state;
    const before = words[Word.Status]!;
    // A driver takes no bit back but by a reset (virtio 1.2, 2.1.1).
    let status = before | value & KNOWN_STATUS;
    const begun = status & ~before;
    if ((begun & DeviceStatus.FeaturesOk) !== 0 && !this.#featuresFit) {
      status &= ~DeviceStatus.FeaturesOk;
    }
    const starts = (begun & DeviceStatus.DriverOk) !== 0;
    // Nobody may start a device with features that were not agreed on.
    if (starts && (status & DeviceStatus.FeaturesOk) === 0) status |= DeviceStatus.NeedsReset;
    words[Word.Status] = status;
    if (starts) this.#state.request();
    return Pending.Nothing;
  }

  get #featuresFit(): boolean {
    const { words } = this.#state;
    const low = words[Word.DriverFeaturesLow]!;
    const high = words[Word.DriverFeaturesHigh]!;
    return (low & ~words[Word.FeaturesLow]!) === 0 && (high & ~words[Word.FeaturesHigh]!) === 0 &&
      (high & VERSION_1_HIGH) !== 0;
  }

  #reset(): Pending {
    const state = this.#state;
    if (state.words[Word.Active] !== 0) {
      Atomics.store(state.words, Word.Resetting, 1);
      state.request();
      return Pending.Reset;
    }
    state.clear();
    this.#interrupts.update();
    this.#interrupts.drain();
    return Pending.Nothing;
  }

  #writeQueue(offset: number, size: number, value: number): Pending {
    const at = this.#selected;
    if (at < 0) return Pending.Nothing;
    const { queues, words } = this.#state;
    if (queues[at + QueueWord.Resetting] !== 0) return Pending.Nothing;
    switch (offset << 4 | size) {
      case Common.QueueVector << 4 | 2:
        queues[at + QueueWord.Vector] = this.#interrupts.valid(value);
        this.#interrupts.update();
        return Pending.Nothing;
      case Common.QueueReset << 4 | 2:
        return value === 1 ? this.#resetQueue(at) : Pending.Nothing;
    }
    // What describes a queue stays as it is while the queue is enabled.
    if (queues[at + QueueWord.Enabled] !== 0) return Pending.Nothing;
    switch (offset << 4 | size) {
      case Common.QueueSize << 4 | 2:
        if (isQueueSize(value) && value <= this.#state.handle.maxQueueSize) {
          queues[at + QueueWord.Size] = value;
        }
        break;
      case Common.QueueEnable << 4 | 2:
        if (value !== 1) break;
        queues[at + QueueWord.Enabled] = 1;
        if ((words[Word.Status]! & DeviceStatus.DriverOk) !== 0) this.#state.request();
        break;
      default: {
        const word = offset - Common.QueueDescriptors >> 2;
        if (size === 4 && (offset & 3) === 0 && word >= 0 && word < 6) {
          queues[at + QueueWord.Addresses + word] = value;
        }
      }
    }
    return Pending.Nothing;
  }

  #resetQueue(at: number): Pending {
    const { queues, words } = this.#state;
    const agreed = (words[Word.DriverFeaturesHigh]! & RING_RESET_HIGH) !== 0 &&
      (words[Word.Status]! & DeviceStatus.FeaturesOk) !== 0;
    if (!agreed || queues[at + QueueWord.Enabled] === 0) return Pending.Nothing;
    if (words[Word.Active] === 0) {
      this.#state.clearQueue(at / QueueWord.Count);
      this.#interrupts.update();
      return Pending.Nothing;
    }
    Atomics.store(queues, at + QueueWord.Resetting, 1);
    this.#state.request();
    return Pending.Reset;
  }
}
