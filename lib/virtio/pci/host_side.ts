/**
 * A virtio function as the machine's main thread has it: what the guest wants of the back end, and what the
 * back end wants the guest to know.
 *
 * @module
 */

import { type Fd, signalEvent } from "../../host/mod.ts";
import type { Vm } from "../../hypervisor/mod.ts";
import { DeviceStatus } from "../features.ts";
import type { QueueEvents } from "../vhost_user/frontend_state.ts";
import type { QueueSetup } from "../vhost_user/frontend.ts";
import { buildConfigSpace, type ConfigSpace } from "./config_space.ts";
import { Interrupts } from "./interrupts.ts";
import { Isr, Pci, PciCommand, QueueWord, Settled, Word } from "./layout.ts";
import type { PciSlot } from "./slot.ts";
import { TransportState, vectorCountOf, type VirtioPciHandle } from "./state.ts";

const TWO_32 = 2 ** 32;

/** How to make a function. */
export interface VirtioPciOptions {
  /** Its number on the PCI bus, 1 to 31. */
  readonly device: number;
  /** Type of the device (of `DeviceType`). */
  readonly deviceType: number;
  /** Most descriptors of a queue, a power of two. */
  readonly maxQueueSize: number;
  /** The events of each queue. */
  readonly queues: readonly QueueEvents[];
  /** The event of configuration changes. */
  readonly configEvent: Fd;
  /** Length of the configuration space. */
  readonly configBytes: number;
  /** First of as many GSIs as there are vectors. */
  readonly firstGsi: number;
}

/** What the guest wants now. */
export interface Wishes {
  /** The device shall be reset; nothing else counts then. */
  readonly reset: boolean;
  /** The device shall run, with these features. */
  readonly features: bigint | undefined;
  /** Queues that shall run. */
  readonly queues: readonly QueueSetup[];
  /** Queues that shall be reset. */
  readonly queueResets: readonly number[];
  /** The queues shall stand still: the function may not reach memory. Those that start do not begin, either. */
  readonly halt: boolean;
  /** What the driver has written to the configuration space. */
  readonly config: { readonly offset: number; readonly bytes: Uint8Array } | undefined;
}

/** A function on the bus. Until {@link settle}, whoever accesses its BAR waits. */
export class VirtioPciHost {
  /** For the vCPUs' workers. */
  readonly handle: VirtioPciHandle;
  /** For the bus. */
  readonly configSpace: ConfigSpace;
  readonly #state: TransportState;
  readonly #interrupts: Interrupts;
  readonly #slot: PciSlot;

  constructor(options: VirtioPciOptions, vm: Vm, slot: PciSlot) {
    const { device, deviceType, maxQueueSize, queues, configEvent, configBytes } = options;
    this.#state = TransportState.create({
      device,
      deviceType,
      queueCount: queues.length,
      maxQueueSize,
      configBytes,
      kicks: queues.map(({ kick }) => kick.raw),
      calls: queues.map(({ call }) => call.raw),
      configEvent: configEvent.raw,
      firstGsi: options.firstGsi,
    });
    this.handle = this.#state.handle;
    this.configSpace = buildConfigSpace({
      deviceType,
      queueCount: queues.length,
      vectorCount: vectorCountOf(queues.length),
      deviceConfigBytes: configBytes,
    });
    this.#interrupts = new Interrupts(this.#state, vm, slot);
    this.#slot = slot;
  }

  /** Lets the guest have the function: this is what its back end offers, and its configuration space. */
  settle(features: bigint, config: Uint8Array): void {
    const { words } = this.#state;
    words[Word.FeaturesLow] = Number(BigInt.asIntN(32, features));
    words[Word.FeaturesHigh] = Number(BigInt.asIntN(32, features >> 32n));
    this.#state.config.set(config);
    this.giveUp();
  }

  /** Lets nobody wait any longer; without {@link settle} it is a function that offers nothing. */
  giveUp(): void {
    Atomics.store(this.#state.words, Word.Settled, Settled.Yes);
    Atomics.notify(this.#state.words, Word.Settled);
  }

  /** Changes from 0 when a vCPU waits for the back end, and when none has to any more. */
  get awaitedEvent(): { readonly words: Int32Array<SharedArrayBuffer>; readonly index: number } {
    return { words: this.#state.words, index: Word.Settled };
  }

  /** Counts what the guest wants, for `Atomics.waitAsync`. */
  get event(): { readonly words: Int32Array<SharedArrayBuffer>; readonly index: number } {
    return { words: this.#state.words, index: Word.Requests };
  }

  /** The device status as the driver reads it. */
  get status(): number {
    return Atomics.load(this.#state.words, Word.Status);
  }

  /**
   * What the guest wants. A device that it wants to run counts as active from now on: it is
   * {@link finishReset} that ends a reset.
   */
  wishes(): Wishes {
    const state = this.#state;
    return state.lock.withLock((): Wishes => {
      const { words } = state;
      const nothing = { features: undefined, queues: [], queueResets: [], halt: !this.mastersBus };
      const config = this.#takeConfig();
      if (words[Word.Resetting] !== 0) return { ...nothing, reset: true, config: undefined };
      const wanted = DeviceStatus.DriverOk | DeviceStatus.FeaturesOk;
      const never = DeviceStatus.NeedsReset | DeviceStatus.Failed;
      const runs = (words[Word.Status]! & (wanted | never)) === wanted;
      if (!runs) return { ...nothing, reset: false, config };
      words[Word.Active] = 1;
      const features = BigInt(words[Word.DriverFeaturesLow]! >>> 0) |
        BigInt(words[Word.DriverFeaturesHigh]! >>> 0) << 32n;
      return { ...nothing, reset: false, features, ...this.#queueWishes(), config };
    });
  }

  /** Whether the function may reach memory (PCI Local Bus 3.0, 6.2.2). */
  get mastersBus(): boolean {
    return (this.#slot.config[Pci.Command]! & PciCommand.BusMaster) !== 0;
  }

  /** The queues stand still, as `halt` of the {@link Wishes} asked for, or do not any more. */
  setHalted(halted: boolean): void {
    Atomics.store(this.#state.words, Word.Halted, Number(halted));
    this.#state.done();
  }

  /** Whether a driver runs that has no messages, so that {@link interrupt} is wanted for used buffers. */
  get usesPin(): boolean {
    return !this.#interrupts.enabled && Atomics.load(this.#state.words, Word.Active) !== 0;
  }

  /**
   * Tells a driver without messages of the queues' events, by the ISR status (virtio 1.2, 4.1.4.5) and the
   * pin. Where messages are enabled it leaves the events to them.
   */
  interrupt(): void {
    const { lock, words } = this.#state;
    lock.withLock(() => {
      if (this.#interrupts.enabled || !this.#interrupts.takeUntold()) return;
      words[Word.Isr] = words[Word.Isr]! | Isr.Queue;
      this.#interrupts.updatePin();
    });
  }

  /** The device is reset, and has this configuration space: what its driver had written there is undone. */
  finishReset(config: Uint8Array): void {
    const state = this.#state;
    state.lock.withLock(() => {
      state.clear();
      state.config.set(config.subarray(0, state.config.length));
      this.#interrupts.update();
      this.#interrupts.drain();
    });
    state.done();
  }

  /** Queue `index` is reset. */
  finishQueueReset(index: number): void {
    const state = this.#state;
    state.lock.withLock(() => {
      state.clearQueue(index);
      this.#interrupts.update();
    });
    state.done();
  }

  /** Shows the driver another configuration space, of which it is told. */
  changeConfig(config: Uint8Array): void {
    this.#state.lock.withLock(() => {
      this.#show(config);
      this.#announce();
    });
  }

  /** Shows the driver what the device has made of what it wrote. */
  showConfig(config: Uint8Array): void {
    this.#state.lock.withLock(() => this.#show(config));
  }

  /** What the driver has written that nobody has heard of yet stays. */
  #show(config: Uint8Array): void {
    const { words, config: shown, writableConfig } = this.#state;
    const from = words[Word.DirtyFrom]!;
    const to = words[Word.DirtyTo]!;
    const end = Math.min(config.length, shown.length);
    let isChanged = false;
    for (let at = 0; at < end; at++) {
      const isWritten = at >= from && at < to && writableConfig[at] !== 0;
      if (isWritten || shown[at] === config[at]) continue;
      shown[at] = config[at]!;
      isChanged = true;
    }
    // Who is just reading a field in parts begins again (virtio 1.2, 4.1.4.3.1).
    if (isChanged) words[Word.ConfigGeneration] = words[Word.ConfigGeneration]! + 1;
  }

  /** The device cannot go on before a reset (virtio 1.2, 2.1.2); the driver is told. */
  needReset(): void {
    const { lock, words } = this.#state;
    lock.withLock(() => {
      const status = words[Word.Status]!;
      if (status === 0 || (status & DeviceStatus.NeedsReset) !== 0) return;
      words[Word.Status] = status | DeviceStatus.NeedsReset;
      this.#announce();
    });
  }

  #announce(): void {
    const { words, handle } = this.#state;
    words[Word.ConfigGeneration] = words[Word.ConfigGeneration]! + 1;
    words[Word.Isr] = words[Word.Isr]! | Isr.Config;
    if (!this.#interrupts.enabled) this.#interrupts.updatePin();
    else if ((words[Word.Status]! & DeviceStatus.DriverOk) !== 0) signalEvent(handle.configEvent);
  }

  #takeConfig(): Wishes["config"] {
    const { words, config } = this.#state;
    const from = words[Word.DirtyFrom]!;
    const to = words[Word.DirtyTo]!;
    if (to === 0) return undefined;
    words[Word.DirtyFrom] = 0;
    words[Word.DirtyTo] = 0;
    return { offset: from, bytes: Uint8Array.from(config.subarray(from, to)) };
  }

  #queueWishes(): Pick<Wishes, "queues" | "queueResets"> {
    const { queues: words, handle } = this.#state;
    const queues: QueueSetup[] = [];
    const queueResets: number[] = [];
    for (let index = 0; index < handle.queueCount; index++) {
      const at = index * QueueWord.Count;
      if (words[at + QueueWord.Resetting] !== 0) queueResets.push(index);
      else if (words[at + QueueWord.Enabled] !== 0) {
        queues.push({
          index,
          size: words[at + QueueWord.Size]!,
          descriptorTable: address(words, at + QueueWord.Addresses),
          availableRing: address(words, at + QueueWord.Addresses + 2),
          usedRing: address(words, at + QueueWord.Addresses + 4),
        });
      }
    }
    return { queues, queueResets };
  }
}

/** 64 bits; what a number cannot hold exactly is no address of memory, and stays none. */
function address(words: Int32Array, at: number): number {
  return (words[at]! >>> 0) + (words[at + 1]! >>> 0) * TWO_32;
}
