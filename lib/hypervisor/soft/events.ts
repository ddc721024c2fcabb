/**
 * ioeventfd and irqfd of the software engine: registrations in shared memory, one epoll set for all
 * irqfds, which a vCPU looks at between blocks and sleeps on in HLT.
 *
 * @module
 */

import { Epoll, eventfd, Fd, PollEvent, signalEvent, takeEvent } from "../../host/mod.ts";
import { SharedLock } from "../../memory/mod.ts";
import { HypervisorError } from "../errors.ts";
import type { IoEventAddress } from "../types.ts";
import type { SoftIrqChip } from "./irqchip/mod.ts";

const MAX_IOEVENTS = 1024;
const MAX_IRQFDS = 1088;

// Words of the shared table.
const LOCK = 0;
const IOEVENT_COUNT = 1;
const IRQFD_COUNT = 2;
/** Number of the vCPU that sleeps on the epoll set, plus 1; or 0. */
const SLEEPER = 3;
/** Held while events are taken: a descriptor may block whoever comes second. */
const PUMP_LOCK = 4;
const IOEVENTS = 8;
/** space, address low, address high, length, has datamatch, data low, data high, descriptor. */
const IOEVENT_WORDS = 8;
const IRQFDS = IOEVENTS + MAX_IOEVENTS * IOEVENT_WORDS;
/** descriptor (-1: free), GSI, resample descriptor or -1. */
const IRQFD_WORDS = 4;
const WORDS = IRQFDS + MAX_IRQFDS * IRQFD_WORDS;

/** Token of the descriptor that wakes sleepers. */
const WAKE_TOKEN = MAX_IRQFDS;

/** What another worker of the process attaches to. */
export interface SoftEventsHandle {
  readonly buffer: SharedArrayBuffer;
  readonly epoll: number;
  readonly wake: number;
}

/** Event descriptors of a VM. */
export class SoftEvents implements Disposable {
  readonly #words: Int32Array;
  readonly #lock: SharedLock;
  readonly #pumpLock: SharedLock;
  readonly #epoll: Epoll;
  readonly #wake: Fd | number;
  /** How many signals of irqfds were seen to here. */
  taken = 0;

  private constructor(handle: {
    buffer: SharedArrayBuffer;
    epoll: Epoll;
    wake: Fd | number;
  }) {
    this.#words = new Int32Array(handle.buffer);
    this.#lock = new SharedLock(this.#words, LOCK);
    this.#pumpLock = new SharedLock(this.#words, PUMP_LOCK);
    this.#epoll = handle.epoll;
    this.#wake = handle.wake;
  }

  /** Makes an empty table. */
  static create(): SoftEvents {
    const epoll = new Epoll(64);
    const wake = eventfd(0, { nonblock: true });
    epoll.add(wake, PollEvent.In, WAKE_TOKEN);
    const events = new SoftEvents({
      buffer: new SharedArrayBuffer(WORDS * 4),
      epoll,
      wake,
    });
    for (let i = 0; i < MAX_IRQFDS; i++) events.#words[IRQFDS + i * IRQFD_WORDS] = -1;
    return events;
  }

  /** Attaches in another worker; it is never disposed, the numbers belong to the first. */
  static attach(handle: SoftEventsHandle): SoftEvents {
    return new SoftEvents({
      buffer: handle.buffer,
      epoll: new Epoll(64, Fd.adopt(handle.epoll)),
      wake: handle.wake,
    });
  }

  /** For another worker. */
  handle(): SoftEventsHandle {
    return {
      buffer: this.#words.buffer as SharedArrayBuffer,
      epoll: this.#epoll.fd.raw,
      wake: typeof this.#wake === "number" ? this.#wake : this.#wake.raw,
    };
  }

  // --- ioeventfd ---------------------------------------------------------------------------------

  /** True where any ioeventfd is registered. */
  get hasIoEvents(): boolean {
    return (this.#words[IOEVENT_COUNT] as number) > 0;
  }

  /** Registers an ioeventfd. */
  addIoEvent(at: IoEventAddress, fd: number): void {
    this.#lock.lock();
    try {
      const count = this.#words[IOEVENT_COUNT] as number;
      if (count === MAX_IOEVENTS) {
        throw new HypervisorError(`at most ${MAX_IOEVENTS} ioeventfds can be registered`);
      }
      if (this.#findIoEvent(at) >= 0) {
        throw new HypervisorError(
          `an ioeventfd is already registered at ${at.space} ${at.address.toString(16)}`,
        );
      }
      const w = IOEVENTS + count * IOEVENT_WORDS;
      this.#words.set([...ioEventKey(at), fd], w);
      Atomics.store(this.#words, IOEVENT_COUNT, count + 1);
    } finally {
      this.#lock.unlock();
    }
  }

  /** Removes one. */
  removeIoEvent(at: IoEventAddress): void {
    this.#lock.lock();
    try {
      const index = this.#findIoEvent(at);
      if (index < 0) {
        throw new HypervisorError(
          `no ioeventfd is registered at ${at.space} ${at.address.toString(16)}`,
        );
      }
      const last = (this.#words[IOEVENT_COUNT] as number) - 1;
      const from = IOEVENTS + last * IOEVENT_WORDS;
      this.#words.copyWithin(IOEVENTS + index * IOEVENT_WORDS, from, from + IOEVENT_WORDS);
      Atomics.store(this.#words, IOEVENT_COUNT, last);
    } finally {
      this.#lock.unlock();
    }
  }

  #findIoEvent(at: IoEventAddress): number {
    const key = ioEventKey(at);
    const count = this.#words[IOEVENT_COUNT] as number;
    for (let i = 0; i < count; i++) {
      const w = IOEVENTS + i * IOEVENT_WORDS;
      if (key.every((value, k) => this.#words[w + k] === value)) return i;
    }
    return -1;
  }

  /** Signals the ioeventfd that a write matches; true where one did. */
  signalIoEvent(mmio: boolean, address: number, write: { size: number; data: DataView }): boolean {
    const words = this.#words;
    const count = words[IOEVENT_COUNT] as number;
    const space = mmio ? 1 : 0;
    const low = address | 0;
    const high = (address / 0x1_0000_0000) | 0;
    for (let i = 0; i < count; i++) {
      const w = IOEVENTS + i * IOEVENT_WORDS;
      if (words[w] !== space || words[w + 1] !== low || words[w + 2] !== high) continue;
      const length = words[w + 3] as number;
      if (length !== 0 && length !== write.size) continue;
      if (words[w + 4] !== 0 && !matches(write, words[w + 5] as number, words[w + 6] as number)) {
        continue;
      }
      signalEvent(words[w + 7] as number);
      return true;
    }
    return false;
  }

  // --- irqfd -------------------------------------------------------------------------------------

  /** True where any irqfd is registered. */
  get hasIrqfds(): boolean {
    return (this.#words[IRQFD_COUNT] as number) > 0;
  }

  /** Registers an irqfd. */
  addIrqfd(fd: number, gsi: number, resample: number): void {
    this.#lock.lock();
    try {
      for (let i = 0; i < MAX_IRQFDS; i++) {
        const w = IRQFDS + i * IRQFD_WORDS;
        if (this.#words[w] !== -1) continue;
        this.#words[w] = fd;
        this.#words[w + 1] = gsi;
        this.#words[w + 2] = resample;
        this.#epoll.add(fd, PollEvent.In, i);
        Atomics.add(this.#words, IRQFD_COUNT, 1);
        return;
      }
      throw new HypervisorError(`at most ${MAX_IRQFDS} irqfds can be registered`);
    } finally {
      this.#lock.unlock();
    }
  }

  /** Removes one. */
  removeIrqfd(fd: number, gsi: number): number {
    this.#lock.lock();
    try {
      for (let i = 0; i < MAX_IRQFDS; i++) {
        const w = IRQFDS + i * IRQFD_WORDS;
        if (this.#words[w] !== fd || this.#words[w + 1] !== gsi) continue;
        this.#epoll.remove(fd);
        this.#words[w] = -1;
        Atomics.sub(this.#words, IRQFD_COUNT, 1);
        return this.#words[w + 2] as number;
      }
      throw new HypervisorError(`descriptor ${fd} is no irqfd of GSI ${gsi}`);
    } finally {
      this.#lock.unlock();
    }
  }

  /** Raises the interrupts of irqfds that were signalled. */
  pump(chip: SoftIrqChip): void {
    if (!this.#pumpLock.tryLock()) return;
    try {
      this.#take(chip);
    } finally {
      this.#pumpLock.unlock();
    }
  }

  /**
   * Sleeps up to `timeoutMs` until irqfds are signalled, and raises their interrupts; or until
   * {@link wake}. Does not sleep where the mailbox of vCPU `id`, `words[index]`, is not empty.
   *
   * @returns false where another vCPU sleeps here already, which will see to the irqfds.
   */
  sleep(
    chip: SoftIrqChip,
    options: { id: number; timeoutMs: number; words: Int32Array; index: number },
  ): boolean {
    const words = this.#words;
    if (Atomics.compareExchange(words, SLEEPER, 0, options.id + 1) !== 0) return false;
    // Who fills the mailbox after this look sees the sleeper and wakes it.
    const mail = Atomics.load(options.words, options.index) !== 0;
    if (!mail) this.#epoll.sleep(options.timeoutMs);
    this.#pumpLock.lock();
    try {
      takeEvent(this.#wake);
      Atomics.store(words, SLEEPER, 0);
      this.#take(chip);
    } finally {
      this.#pumpLock.unlock();
    }
    return true;
  }

  /** Takes what is there now: what was a moment ago another may have taken. */
  #take(chip: SoftIrqChip): void {
    const words = this.#words;
    const count = this.#epoll.wait(0);
    for (let i = 0; i < count; i++) {
      const token = this.#epoll.token(i);
      if (token === WAKE_TOKEN) continue;
      const w = IRQFDS + token * IRQFD_WORDS;
      const fd = words[w] as number;
      if (fd < 0 || takeEvent(fd) === 0) continue;
      this.taken++;
      const gsi = words[w + 1] as number;
      chip.setIrqLine(gsi, true);
      // Without resampling an irqfd is an edge.
      if (words[w + 2] === -1) chip.setIrqLine(gsi, false);
    }
  }

  /** Signals the resample descriptors of I/O APIC pins whose interrupt ended. */
  resample(pins: number): void {
    for (let i = 0; i < MAX_IRQFDS; i++) {
      const w = IRQFDS + i * IRQFD_WORDS;
      const resample = this.#words[w + 2] as number;
      if (this.#words[w] === -1 || resample === -1) continue;
      if ((pins >>> (this.#words[w + 1] as number)) & 1) signalEvent(resample);
    }
  }

  /** Wakes vCPU `id` (any where absent) where it sleeps in {@link sleep}; its mailbox is filled before. */
  wake(id?: number): void {
    const sleeper = Atomics.load(this.#words, SLEEPER);
    if (id === undefined ? sleeper !== 0 : sleeper === id + 1) signalEvent(this.#wake);
  }

  [Symbol.dispose](): void {
    if (typeof this.#wake === "number") return;
    this.#wake.close();
    this.#epoll[Symbol.dispose]();
  }
}

/** The registration as words, without the descriptor. */
function ioEventKey(at: IoEventAddress): number[] {
  const data = at.datamatch ?? 0n;
  return [
    at.space === "mmio" ? 1 : 0,
    at.address | 0,
    (at.address / 0x1_0000_0000) | 0,
    at.length,
    at.datamatch === undefined ? 0 : 1,
    Number(BigInt.asIntN(32, data)),
    Number(BigInt.asIntN(32, data >> 32n)),
  ];
}

function matches(write: { size: number; data: DataView }, low: number, high: number): boolean {
  const { size, data } = write;
  switch (size) {
    case 1:
      return high === 0 && data.getUint8(0) === low;
    case 2:
      return high === 0 && data.getUint16(0, true) === low;
    case 4:
      return high === 0 && data.getInt32(0, true) === low;
    default:
      return data.getInt32(0, true) === low && data.getInt32(4, true) === high;
  }
}
