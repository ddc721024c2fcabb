/**
 * MSI-X (PCI Local Bus 3.0, 6.8.2) over irqfds: the events of queues and of the configuration are bound
 * to the GSIs of their vectors while the guest wants them, and stay signalled while it does not, which is
 * what the pending bits show. An interrupt thus passes through no thread of the VMM.
 *
 * A guest without messages has the interrupt pin, INTA#: asserted while the ISR status is not 0. The main
 * thread then takes the queues' events, which is slower, and for those few.
 *
 * @module
 */

import { isHostError, PollEvent, pollFd, takeEvent } from "../../host/mod.ts";
import type { Vm } from "../../hypervisor/mod.ts";
import { DeviceStatus } from "../features.ts";
import {
  MsixControl,
  NO_VECTOR,
  Pci,
  PciCommand,
  PciStatus,
  QueueWord,
  VectorWord,
  Word,
} from "./layout.ts";
import type { PciSlot } from "./slot.ts";
import { type TransportState, vectorCountOf } from "./state.ts";

/** What of an entry is the guest's to write. */
const WRITABLE = [~3, ~0, ~0, 1] as const;

/** The vectors of a function. All of it under the state's lock. */
export class Interrupts {
  readonly #state: TransportState;
  readonly #vm: Vm;
  readonly #slot: PciSlot;
  /** The function's PCI configuration space. */
  readonly #pci: Uint8Array;
  readonly #vectorCount: number;

  constructor(state: TransportState, vm: Vm, slot: PciSlot) {
    this.#state = state;
    this.#vm = vm;
    this.#slot = slot;
    this.#pci = slot.config;
    this.#vectorCount = vectorCountOf(state.handle.queueCount);
  }

  /** `vector` where there is one, else none. */
  valid(vector: number): number {
    return vector < this.#vectorCount ? vector : NO_VECTOR;
  }

  /** Whether messages are what the guest uses. */
  get enabled(): boolean {
    return (this.#control & MsixControl.Enable) !== 0;
  }

  /** Reads word `index` of the table. */
  readTable(index: number): number {
    const vector = index >> 2;
    if (vector >= this.#vectorCount) return 0;
    return this.#state.vectors[vector * VectorWord.Count + (index & 3)] as number;
  }

  /** Writes word `index` of the table. */
  writeTable(index: number, value: number): void {
    const vector = index >> 2;
    if (vector >= this.#vectorCount) return;
    const word = index & 3;
    const at = vector * VectorWord.Count + word;
    const next = value & WRITABLE[word]!;
    if (this.#state.vectors[at] === next) return;
    this.#state.vectors[at] = next;
    this.update();
  }

  /** Reads word `index` of the pending bits. */
  readPending(index: number): number {
    let bits = 0;
    const first = index * 32;
    const { queueCount, calls, configEvent } = this.#state.handle;
    for (let source = 0; source <= queueCount; source++) {
      const vector = this.#vectorOf(source);
      if (vector < first || vector >= first + 32 || this.#bound(source) !== 0) continue;
      const fd = source === queueCount ? configEvent : calls[source]!;
      if (pollFd(fd, PollEvent.In, 0) !== 0) bits |= 1 << (vector - first);
    }
    return bits;
  }

  /** Takes the events that no message has told the guest of; whether there was one of a queue. */
  takeUntold(): boolean {
    let any = false;
    const { calls } = this.#state.handle;
    for (let source = 0; source < calls.length; source++) {
      if (this.#bound(source) === 0 && takeEvent(calls[source]!) > 0) any = true;
    }
    return any;
  }

  /** Forgets all events, for a reset. */
  drain(): void {
    const { calls, configEvent } = this.#state.handle;
    for (const call of calls) takeEvent(call);
    takeEvent(configEvent);
  }

  /** Binds and unbinds events as table, control registers and vectors say now. */
  update(): void {
    const on = this.#messagesFlow;
    const { queueCount } = this.#state.handle;
    for (let source = 0; source <= queueCount; source++) {
      const vector = this.#vectorOf(source);
      const live = on && vector < this.#vectorCount && this.#route(vector);
      this.#bind(source, live ? this.#state.handle.firstGsi + vector : 0);
    }
    this.updatePin();
  }

  /** Asserts the pin, or no longer, as ISR status and registers say now (PCI Local Bus 3.0, 6.2.2 and 6.2.3). */
  updatePin(): void {
    const { words } = this.#state;
    const { NoInterrupt } = PciCommand;
    const wanted = words[Word.Isr] !== 0 && !this.enabled &&
      (words[Word.Status]! & DeviceStatus.DriverOk) !== 0;
    const before = this.#pci[Pci.Status]!;
    this.#pci[Pci.Status] = wanted ? before | PciStatus.Interrupt : before & ~PciStatus.Interrupt;
    const level = wanted && (this.#pci[Pci.Command + 1]! << 8 & NoInterrupt) === 0;
    if ((words[Word.Asserted] !== 0) === level) return;
    words[Word.Asserted] = Number(level);
    this.#slot.interrupt(level);
  }

  get #control(): number {
    return this.#pci[Pci.MsixControl]! | this.#pci[Pci.MsixControl + 1]! << 8;
  }

  /** A message is a write of the function's, for which it must be allowed to master the bus. */
  get #messagesFlow(): boolean {
    const { Enable, FunctionMask } = MsixControl;
    return (this.#control & (Enable | FunctionMask)) === Enable &&
      (this.#pci[Pci.Command]! & PciCommand.BusMaster) !== 0;
  }

  #vectorOf(source: number): number {
    const { words, queues, handle } = this.#state;
    return source === handle.queueCount
      ? words[Word.ConfigVector]!
      : queues[source * QueueWord.Count + QueueWord.Vector]!;
  }

  /** Sends the GSI of `vector` where its entry says; false where it is masked or cannot be sent. */
  #route(vector: number): boolean {
    const { vectors, handle } = this.#state;
    const at = vector * VectorWord.Count;
    if ((vectors[at + VectorWord.Control]! & 1) !== 0) return false;
    const low = vectors[at + VectorWord.AddressLow]!;
    const high = vectors[at + VectorWord.AddressHigh]!;
    const data = vectors[at + VectorWord.Data]!;
    const same = vectors[at + VectorWord.Routed] === 1 &&
      vectors[at + VectorWord.RoutedLow] === low && vectors[at + VectorWord.RoutedHigh] === high &&
      vectors[at + VectorWord.RoutedData] === data;
    if (same) return true;
    const address = BigInt(high >>> 0) << 32n | BigInt(low >>> 0);
    try {
      this.#vm.setGsiRoutes(handle.firstGsi + vector, [{ type: "msi", address, data: data >>> 0 }]);
    } catch (error) {
      // KVM refuses messages that no interrupt controller would take; the guest wrote it.
      if (!isHostError(error, "EINVAL")) throw error;
      vectors[at + VectorWord.Routed] = 0;
      this.#vm.setGsiRoutes(handle.firstGsi + vector, []);
      return false;
    }
    vectors[at + VectorWord.RoutedLow] = low;
    vectors[at + VectorWord.RoutedHigh] = high;
    vectors[at + VectorWord.RoutedData] = data;
    vectors[at + VectorWord.Routed] = 1;
    return true;
  }

  #bound(source: number): number {
    const { words, queues, handle } = this.#state;
    return source === handle.queueCount
      ? words[Word.ConfigGsi]!
      : queues[source * QueueWord.Count + QueueWord.Gsi]!;
  }

  #bind(source: number, gsi: number): void {
    const before = this.#bound(source);
    if (before === gsi) return;
    const { words, queues, handle } = this.#state;
    const isConfig = source === handle.queueCount;
    const fd = isConfig ? handle.configEvent : handle.calls[source]!;
    if (before !== 0) this.#vm.unregisterIrqfd(fd, before);
    if (isConfig) words[Word.ConfigGsi] = gsi;
    else queues[source * QueueWord.Count + QueueWord.Gsi] = gsi;
    // What was signalled meanwhile interrupts the guest now.
    if (gsi !== 0) this.#vm.registerIrqfd(fd, gsi);
  }
}
