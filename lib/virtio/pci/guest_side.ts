/**
 * A virtio function as a vCPU's worker answers for it: reads and writes of its BAR and of its PCI
 * configuration. What needs the back end is left to the host side. Waited for is that the back end has come
 * up, as guests begin before that, and not for long: a reset, for whose end a driver has to look anyway
 * (virtio 1.2, 4.1.4.3.2), and that the back end leaves the memory of a guest alone which forbids it to
 * master the bus.
 *
 * @module
 */

import { signalEvent } from "../../host/mod.ts";
import type { Vm } from "../../hypervisor/mod.ts";
import { CommonConfig, Pending } from "./common_config.ts";
import { Interrupts } from "./interrupts.ts";
import {
  BAR_SIZE_BYTES,
  BarOffset,
  Common,
  Isr,
  NOTIFY_MULTIPLIER,
  Pci,
  PciCommand,
  Settled,
  Word,
} from "./layout.ts";
import { moveNotifications } from "./notifications.ts";
import type { PciSlot } from "./slot.ts";
import { TransportState, type VirtioPciHandle } from "./state.ts";

/** How long a vCPU waits for the host side by default; whoever stops or suspends the VM waits as long. */
const HOST_WAIT_MS = 100;
const REGION_BYTES = 0x1000;

/** What a function is connected to in one worker. */
export interface FunctionWiring {
  readonly vm: Vm;
  readonly slot: PciSlot;
  /** How long the host side is waited for, in ms; 100 where absent. */
  readonly hostWaitMs?: number;
}

/** A virtio function on a PCI bus, as one vCPU's worker has it. */
export class VirtioPciFunction {
  /** Its number on the PCI bus. */
  readonly device: number;
  readonly #state: TransportState;
  readonly #vm: Vm;
  readonly #slot: PciSlot;
  readonly #hostWaitMs: number;
  readonly #interrupts: Interrupts;
  readonly #common: CommonConfig;
  readonly #access = new DataView(new ArrayBuffer(8));
  #settled = false;

  /** Attaches to the function of `handle`. */
  constructor(handle: VirtioPciHandle, wiring: FunctionWiring) {
    const { vm, slot, hostWaitMs = HOST_WAIT_MS } = wiring;
    this.#hostWaitMs = hostWaitMs;
    this.device = handle.device;
    this.#state = new TransportState(handle);
    this.#vm = vm;
    this.#slot = slot;
    this.#interrupts = new Interrupts(this.#state, vm, slot);
    this.#common = new CommonConfig(this.#state, this.#interrupts);
  }

  /** The guest is about to read its PCI configuration. */
  configReading(offset: number, size: number): void {
    if (offset + size <= Pci.AccessData || offset >= Pci.AccessEnd) return;
    const length = this.#accessLength();
    if (length === 0) return;
    this.barRead(0, this.#accessOffset(), length, this.#access);
    const { config } = this.#slot;
    for (let n = 0; n < length; n++) config[Pci.AccessData + n] = this.#access.getUint8(n);
  }

  /** The guest has written its PCI configuration. */
  configWritten(offset: number, size: number): void {
    const end = offset + size;
    if (offset < Pci.Bar0 + 8) {
      this.#locked(() => {
        moveNotifications(this.#state, this.#vm, this.#slot.barPage(0));
        this.#interrupts.update();
      });
      if (offset <= Pci.Command && end > Pci.Command) this.#commandWritten();
    } else if (offset < Pci.MsixCap + 4 && end > Pci.MsixControl) {
      this.#locked(() => this.#interrupts.update());
      // Without messages it is the host side that looks after events.
      this.#state.request();
    } else if (offset < Pci.AccessEnd && end > Pci.AccessData) {
      const length = this.#accessLength();
      for (let n = 0; n < length; n++) {
        this.#access.setUint8(n, this.#slot.config[Pci.AccessData + n]!);
      }
      if (length !== 0) this.barWrite(0, this.#accessOffset(), length, this.#access);
    }
  }

  /** Reads `size` (1, 2, 4, 8) bytes at `offset` of the BAR. */
  barRead(_bar: number, offset: number, size: number, data: DataView): void {
    if (!this.#settled) this.#awaitBackend();
    const region = offset & ~(REGION_BYTES - 1);
    const at = offset - region;
    const { lock } = this.#state;
    lock.lock();
    try {
      switch (region) {
        case BarOffset.Common:
          for (let n = 0; n < size; n++) {
            data.setUint8(n, at + n < Common.Bytes ? this.#common.readByte(at + n) : 0);
          }
          return;
        case BarOffset.Isr:
          this.#fill(size, data);
          if (at === 0) data.setUint8(0, this.#takeIsr());
          return;
        case BarOffset.Device: {
          const { config } = this.#state;
          for (let n = 0; n < size; n++) data.setUint8(n, config[at + n] ?? 0);
          return;
        }
        case BarOffset.MsixTable:
        case BarOffset.MsixPending:
          this.#readMsix(region, at, size, data);
          return;
        default:
          this.#fill(size, data);
      }
    } finally {
      lock.unlock();
    }
  }

  /** Writes `size` bytes at `offset` of the BAR. */
  barWrite(_bar: number, offset: number, size: number, data: DataView): void {
    const region = offset & ~(REGION_BYTES - 1);
    const at = offset - region;
    if (region === BarOffset.Notify) {
      // Here only where the engine did not signal the descriptor itself.
      const kick = at % NOTIFY_MULTIPLIER === 0
        ? this.#state.handle.kicks[at / NOTIFY_MULTIPLIER]
        : undefined;
      if (kick !== undefined) signalEvent(kick);
      return;
    }
    if (!this.#settled) this.#awaitBackend();
    if (region === BarOffset.Common) {
      this.#writeCommon(at, size, data);
      return;
    }
    const { lock } = this.#state;
    lock.lock();
    try {
      if (region === BarOffset.Device) this.#writeConfig(at, size, data);
      else if (region === BarOffset.MsixTable && size >= 4 && at % size === 0) {
        for (let n = 0; n < size; n += 4) {
          this.#interrupts.writeTable((at + n) / 4, data.getInt32(n, true));
        }
      }
    } finally {
      lock.unlock();
    }
  }

  #writeCommon(at: number, size: number, data: DataView): void {
    const { lock } = this.#state;
    if (Atomics.load(this.#state.words, Word.Resetting) !== 0) this.#awaitReset();
    let pending = Pending.Nothing;
    lock.lock();
    try {
      if (size === 8) {
        this.#common.write(at, 4, data.getInt32(0, true));
        this.#common.write(at + 4, 4, data.getInt32(4, true));
      } else {
        const value = size === 1
          ? data.getUint8(0)
          : size === 2
          ? data.getUint16(0, true)
          : data.getInt32(0, true);
        pending = this.#common.write(at, size, value);
      }
    } finally {
      lock.unlock();
    }
    if (pending === Pending.Reset) this.#awaitReset();
  }

  #awaitBackend(): void {
    const { words } = this.#state;
    const { No, Yes, Awaited } = Settled;
    if (Atomics.compareExchange(words, Word.Settled, No, Awaited) === No) {
      Atomics.notify(words, Word.Settled);
    }
    // Whoever ends the VM ends this, too.
    while (Atomics.load(words, Word.Settled) !== Yes) {
      Atomics.wait(words, Word.Settled, Awaited);
    }
    this.#settled = true;
  }

  /** Whoever takes the bus away from the function uses memory again that its queues were in. */
  #commandWritten(): void {
    this.#state.request();
    this.#awaitHost(() => this.#halting);
  }

  get #halting(): boolean {
    const { words } = this.#state;
    return (this.#slot.config[Pci.Command]! & PciCommand.BusMaster) === 0 &&
      Atomics.load(words, Word.Active) !== 0 && Atomics.load(words, Word.Halted) === 0;
  }

  /** Waits for the host side to reset, so that drivers rarely have to ask again. */
  #awaitReset(): void {
    this.#awaitHost(() => this.#resetting);
  }

  #awaitHost(busy: () => boolean): void {
    const { words } = this.#state;
    const deadline = performance.now() + this.#hostWaitMs;
    for (;;) {
      const seen = Atomics.load(words, Word.Done);
      if (!busy()) return;
      const left = deadline - performance.now();
      if (left <= 0) return;
      Atomics.wait(words, Word.Done, seen, left);
    }
  }

  get #resetting(): boolean {
    const { words } = this.#state;
    return Atomics.load(words, Word.Resetting) !== 0 || this.#state.queueResets;
  }

  #takeIsr(): number {
    const { words } = this.#state;
    let isr = words[Word.Isr]!;
    words[Word.Isr] = 0;
    // Who has no messages looks here.
    if (!this.#interrupts.enabled && this.#interrupts.takeUntold()) isr |= Isr.Queue;
    this.#interrupts.updatePin();
    return isr;
  }

  #readMsix(region: number, at: number, size: number, data: DataView): void {
    this.#fill(size, data);
    if (size < 4 || at % size !== 0) return;
    for (let n = 0; n < size; n += 4) {
      const index = (at + n) / 4;
      const value = region === BarOffset.MsixTable
        ? this.#interrupts.readTable(index)
        : this.#interrupts.readPending(index);
      data.setInt32(n, value, true);
    }
  }

  #writeConfig(at: number, size: number, data: DataView): void {
    const { config, words, writableConfig } = this.#state;
    if (at + size > config.length || words[Word.Resetting] !== 0) return;
    let isWritten = false;
    for (let n = 0; n < size; n++) {
      // What it shall not write along with that (virtio 1.2, 2.5.2) stays the device's.
      if (writableConfig[at + n] === 0) continue;
      config[at + n] = data.getUint8(n);
      const isClean = words[Word.DirtyTo] === 0;
      words[Word.DirtyFrom] = isClean ? at + n : Math.min(at + n, words[Word.DirtyFrom]!);
      words[Word.DirtyTo] = Math.max(at + n + 1, words[Word.DirtyTo]!);
      isWritten = true;
    }
    if (isWritten) this.#state.request();
  }

  #fill(size: number, data: DataView): void {
    for (let n = 0; n < size; n++) data.setUint8(n, 0);
  }

  /** Bytes of an access through the PCI configuration (virtio 1.2, 4.1.4.9), 0 where it is not valid. */
  #accessLength(): number {
    const { config } = this.#slot;
    const length = this.#read32(Pci.AccessLength);
    const offset = this.#accessOffset();
    const valid = config[Pci.AccessBar] === 0 && (length === 1 || length === 2 || length === 4) &&
      offset % length === 0 && offset + length <= BAR_SIZE_BYTES;
    return valid ? length : 0;
  }

  #accessOffset(): number {
    return this.#read32(Pci.AccessOffset);
  }

  #read32(offset: number): number {
    const { config } = this.#slot;
    return (config[offset]! | config[offset + 1]! << 8 | config[offset + 2]! << 16 |
      config[offset + 3]! << 24) >>> 0;
  }

  #locked(body: () => void): void {
    this.#state.lock.withLock(body);
  }
}
