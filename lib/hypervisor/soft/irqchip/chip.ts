import { SharedLock } from "../../../memory/mod.ts";
import type { GsiRoute } from "../../types.ts";
import { checkGsiRoutes, GsiRoutes } from "./gsi_routes.ts";
import { GuestClock, type GuestClockHandle } from "./guest_clock.ts";
import { IoApic } from "./ioapic.ts";
import { LocalApics } from "./lapic.ts";
import type { MsrStatus } from "./lapic_layout.ts";
import { LapicRegisters } from "./lapic_registers.ts";
import {
  CLOCK,
  CPU_COUNT,
  EOI_SEEN,
  EOI_WATCHED,
  GSI_COUNT,
  LAYOUT_VERSION,
  LOCK,
  NEXT_DEADLINE,
  PHYS_BITS,
  totalWords,
  VERSION,
} from "./layout.ts";
import { PicPair } from "./pic.ts";
import { Pit } from "./pit.ts";

/** Guest physical address of the I/O APIC's page. */
export const IOAPIC_BASE = 0xfec0_0000;

const PORT_NONE = 0;
const PORT_PIC = 1;
const PORT_PIT = 2;
const PORT_B = 3;
const PORTS = new Uint8Array(0x100);
PORTS.fill(PORT_PIC, 0x20, 0x22);
PORTS.fill(PORT_PIC, 0xa0, 0xa2);
PORTS.fill(PORT_PIT, 0x40, 0x44);
PORTS[0x61] = PORT_B;

function portKind(port: number): number {
  if (port < 0x100) return PORTS[port] as number;
  return port === 0x4d0 || port === 0x4d1 ? PORT_PIC : PORT_NONE;
}

/**
 * Where a CPU hears that something may have become deliverable to it: bit 0 of the word is set and the
 * word notified. The CPU clears the bit before it looks.
 */
export interface CpuMailbox {
  /** Shared words. */
  readonly words: Int32Array;
  /** Which of them. */
  readonly index: number;
  /** Word that is set to 0 too, so that a CPU which only looks there notices soon. */
  readonly fuel?: number;
}

/** From where another worker of this process attaches to a {@link SoftIrqChip}. */
export interface SoftIrqChipHandle {
  /** The shared state. */
  readonly buffer: SharedArrayBuffer;
  /** One for each CPU. */
  readonly mailboxes: readonly CpuMailbox[];
}

/** Settings of a new {@link SoftIrqChip}. */
export interface SoftIrqChipOptions {
  /** One for each CPU; as many CPUs are made. */
  readonly mailboxes: readonly CpuMailbox[];
  /** Physical address width in bits, as CPUID says; IA32_APIC_BASE is checked against it. */
  readonly physicalAddressBits?: number;
  /** Host nanoseconds, for tests. */
  readonly hostNow?: () => number;
}

/**
 * The interrupt controllers and the timer of a PC in software: 8259A pair, 8254, I/O APIC and local
 * APICs. All state is in one SharedArrayBuffer under one lock, so that every worker may call it; the
 * objects themselves hold no state. Nothing is allocated after construction.
 */
export class SoftIrqChip {
  /** Guest time. */
  readonly clock: GuestClock;
  /** Called when a CPU's mailbox was filled, for CPUs that sleep on something else. */
  onWake: (cpu: number) => void = () => {};
  /** Number of CPUs. */
  readonly cpuCount: number;
  readonly #words: Int32Array;
  readonly #numbers: Float64Array;
  readonly #lock: SharedLock;
  readonly #mailboxes: readonly CpuMailbox[];
  readonly #pic: PicPair;
  readonly #pit: Pit;
  readonly #ioapic: IoApic;
  readonly #lapics: LocalApics;
  readonly #registers: LapicRegisters;
  readonly #routes: GsiRoutes;

  private constructor(handle: SoftIrqChipHandle, clock: GuestClock) {
    const words = new Int32Array(handle.buffer);
    this.clock = clock;
    this.cpuCount = words[CPU_COUNT] as number;
    this.#words = words;
    this.#numbers = new Float64Array(handle.buffer, 0, handle.buffer.byteLength >> 3);
    this.#lock = new SharedLock(words, LOCK);
    this.#mailboxes = handle.mailboxes;
    this.#lapics = new LocalApics(words, {
      wake: (cpu) => this.#wake(cpu),
      broadcastEoi: (vector) => this.#ioapic.endOfInterrupt(vector),
    });
    this.#registers = new LapicRegisters(words, this.#lapics, (cpu) => this.#wake(cpu));
    this.#pic = new PicPair(words, () => this.#wakeForPic());
    this.#pit = new Pit(words, () => this.#routes.tick());
    this.#ioapic = new IoApic(words, this.#lapics, () => this.#pic.acknowledge());
    this.#routes = new GsiRoutes(words, {
      pic: this.#pic,
      ioapic: this.#ioapic,
      lapics: this.#lapics,
    });
  }

  /** Makes a chip in power-on state with guest time 0. */
  static create(options: SoftIrqChipOptions): SoftIrqChip {
    const cpuCount = options.mailboxes.length;
    const buffer = new SharedArrayBuffer(totalWords(cpuCount) * 4);
    const words = new Int32Array(buffer);
    words[VERSION] = LAYOUT_VERSION;
    words[CPU_COUNT] = cpuCount;
    words[PHYS_BITS] = options.physicalAddressBits ?? 46;
    const place = { buffer, wordIndex: CLOCK };
    const clock = options.hostNow === undefined
      ? GuestClock.create({ place })
      : GuestClock.create({ place, hostNow: options.hostNow });
    const chip = new SoftIrqChip({ buffer, mailboxes: options.mailboxes }, clock);
    chip.reset();
    return chip;
  }

  /** Attaches to a chip of another worker. */
  static attach(handle: SoftIrqChipHandle): SoftIrqChip {
    return new SoftIrqChip(
      handle,
      new GuestClock({ buffer: handle.buffer, wordIndex: CLOCK }),
    );
  }

  /** For another worker. */
  handle(): SoftIrqChipHandle {
    return { buffer: this.#words.buffer as SharedArrayBuffer, mailboxes: this.#mailboxes };
  }

  /** For others who need guest time, such as the power management timer. */
  clockHandle(): GuestClockHandle {
    return this.clock.handle();
  }

  /** Power-on state of all parts and routes. Guest time goes on. */
  reset(): void {
    this.#lock.lock();
    this.#numbers[NEXT_DEADLINE >> 1] = Infinity;
    this.#pic.reset();
    this.#pit.reset();
    this.#ioapic.reset();
    this.#lapics.reset();
    this.#routes.reset();
    this.#lock.unlock();
  }

  // Interrupts to a processor.

  /**
   * The vector that waits to be taken by `cpu`, or -1. The interrupt flag and the like are the
   * processor's own matter. Between this and {@link acknowledge} another may overtake it.
   */
  pendingVector(cpu: number): number {
    this.#lock.lock();
    const vector = this.#pic.output && this.#lapics.acceptsExtInt(cpu)
      ? this.#pic.peekVector()
      : this.#lapics.pendingVector(cpu);
    this.#lock.unlock();
    return vector;
  }

  /** Takes the interrupt: returns its vector, which is now in service; -1 when none waits any more. */
  acknowledge(cpu: number): number {
    this.#lock.lock();
    let vector: number;
    if (this.#pic.output && this.#lapics.acceptsExtInt(cpu)) {
      vector = this.#pic.acknowledge();
    } else {
      vector = this.#lapics.pendingVector(cpu);
      if (vector >= 0) this.#lapics.accept(cpu, vector);
    }
    this.#lock.unlock();
    return vector;
  }

  /**
   * Takes the pending NMI and start-up IPI of `cpu` as bits `EVENT_…`; or INIT alone, and what came
   * after it the next time.
   */
  takeEvents(cpu: number): number {
    if (!this.#lapics.hasEvents(cpu)) return 0;
    this.#lock.lock();
    const events = this.#lapics.takeEvents(cpu);
    this.#lock.unlock();
    return events;
  }

  /** Whether {@link takeEvents} would give something. */
  hasEvents(cpu: number): boolean {
    return this.#lapics.hasEvents(cpu);
  }

  /** Vector of the last start-up IPI: execution begins at `vector << 12`. */
  sipiVector(cpu: number): number {
    return this.#lapics.sipiVector(cpu);
  }

  /** Task priority of `cpu`, 8 bits; CR8 is its upper four. */
  getTpr(cpu: number): number {
    return this.#lapics.getTpr(cpu);
  }

  /** Sets the task priority of `cpu`, 8 bits. */
  setTpr(cpu: number, value: number): void {
    this.#lock.lock();
    this.#lapics.setTpr(cpu, value);
    this.#lock.unlock();
  }

  // Sources.

  /** Drives global system interrupt `gsi`. Unknown ones are ignored. */
  setIrqLine(gsi: number, level: boolean): void {
    if (gsi < 0 || gsi >= GSI_COUNT) return;
    this.#lock.lock();
    this.#routes.drive(gsi, level);
    this.#lock.unlock();
  }

  /** Delivers a message-signalled interrupt (Intel SDM vol. 3, 11.11). Others are ignored. */
  deliverMsi(address: number, data: number): void {
    if (Math.floor(address / 0x10_0000) !== 0xfee) return;
    this.#lock.lock();
    this.#routes.deliver(address | 0, data);
    this.#lock.unlock();
  }

  /** A pulse on the NMI line (LINT1 of every local APIC). */
  signalNmi(): void {
    this.#lock.lock();
    this.#lapics.pulseLint1();
    this.#lock.unlock();
  }

  /**
   * Replaces the routes of `gsi`: at most one PIC input, one I/O APIC pin and one message.
   * @throws {RangeError} when `gsi` or a pin does not exist.
   */
  setGsiRoutes(gsi: number, routes: readonly GsiRoute[]): void {
    checkGsiRoutes(gsi, routes);
    this.#lock.lock();
    this.#routes.set(gsi, routes);
    this.#lock.unlock();
  }

  /**
   * Says whether somebody wants to know of the end of level-triggered interrupts at I/O APIC pin `pin`
   * (resampling): the line then falls by itself, and {@link takeEndedPins} reports it.
   */
  watchEndOfInterrupt(pin: number, watched: boolean): void {
    if (watched) Atomics.or(this.#words, EOI_WATCHED, 1 << pin);
    else Atomics.and(this.#words, EOI_WATCHED, ~(1 << pin));
  }

  /** Takes the set of watched pins whose interrupt ended. */
  takeEndedPins(): number {
    if (this.#words[EOI_SEEN] === 0) return 0;
    return Atomics.exchange(this.#words, EOI_SEEN, 0);
  }

  // Ports.

  /** Whether `port` belongs to the chip. */
  handlesPort(port: number): boolean {
    return portKind(port) !== PORT_NONE;
  }

  /** IN of `size` bytes. */
  portIn(port: number, size: number, data: DataView): void {
    for (let i = 0; i < size; i++) data.setUint8(i, this.readPort(port + i));
  }

  /** OUT of `size` bytes. */
  portOut(port: number, size: number, data: DataView): void {
    for (let i = 0; i < size; i++) this.writePort(port + i, data.getUint8(i));
  }

  /** IN of one byte; all ones where there is no register. */
  readPort(port: number): number {
    const kind = portKind(port);
    if (kind === PORT_NONE) return 0xff;
    const now = kind === PORT_PIC ? 0 : this.clock.nowNs();
    this.#lock.lock();
    let value: number;
    if (kind === PORT_PIC) value = this.#pic.read(port);
    else if (kind === PORT_PIT) value = this.#pit.read(port, now);
    else value = this.#pit.readPortB(now);
    this.#lock.unlock();
    return value & 0xff;
  }

  /** OUT of one byte. */
  writePort(port: number, value: number): void {
    const kind = portKind(port);
    if (kind === PORT_NONE) return;
    const now = kind === PORT_PIC ? 0 : this.clock.nowNs();
    this.#lock.lock();
    if (kind === PORT_PIC) {
      this.#pic.write(port, value & 0xff);
    } else {
      const before = this.#pit.deadlineNs;
      if (kind === PORT_PIT) this.#pit.write(port, value & 0xff, now);
      else this.#pit.writePortB(value & 0xff, now);
      const deadline = this.#pit.deadlineNs;
      if (deadline < (this.#numbers[NEXT_DEADLINE >> 1] as number)) {
        this.#numbers[NEXT_DEADLINE >> 1] = deadline;
      }
      // CPU 0 may sleep until what was next for it before, while another one writes.
      if (deadline < before && this.cpuCount > 1) this.#wake(0);
    }
    this.#lock.unlock();
  }

  // Memory.

  /** Whether guest physical address `address` belongs to the chip, seen from `cpu`. */
  handlesMmio(address: number, cpu = 0): boolean {
    return (address >= IOAPIC_BASE && address < IOAPIC_BASE + 0x1000) ||
      this.#registers.decodes(cpu, address);
  }

  /** Load by `cpu`. Registers have 32 bits; the rest of a wider access reads 0. */
  mmioRead(cpu: number, address: number, size: number, data: DataView): void {
    const offset = address & 0xfff;
    let value = 0;
    if (address >= IOAPIC_BASE && address < IOAPIC_BASE + 0x1000) {
      this.#lock.lock();
      value = this.#ioapic.read(offset & ~3);
      this.#lock.unlock();
    } else if ((offset & 0xf) < 4) {
      const now = this.clock.nowNs();
      this.#lock.lock();
      value = this.#registers.readRegister(cpu, offset & ~0xf, now);
      this.#lock.unlock();
    }
    value >>>= (offset & 3) << 3;
    switch (size) {
      case 1:
        data.setUint8(0, value);
        break;
      case 2:
        data.setUint16(0, value, true);
        break;
      case 8:
        data.setUint32(4, 0, true);
        data.setUint32(0, value, true);
        break;
      default:
        data.setUint32(0, value, true);
    }
  }

  /** Store by `cpu`. Only aligned 32-bit stores (or the low half of 64) have an effect. */
  mmioWrite(cpu: number, address: number, size: number, data: DataView): void {
    const offset = address & 0xfff;
    if (address >= IOAPIC_BASE && address < IOAPIC_BASE + 0x1000) {
      let value: number;
      if (size === 1) value = data.getUint8(0); // IOREGSEL may be written as a byte.
      else if (size === 2) value = data.getUint16(0, true);
      else value = data.getInt32(0, true);
      if ((offset & 3) !== 0) return;
      this.#lock.lock();
      this.#ioapic.write(offset, value);
      this.#lock.unlock();
      return;
    }
    if (size < 4 || (offset & 0xf) !== 0) return;
    const value = data.getInt32(0, true);
    const now = this.clock.nowNs();
    this.#lock.lock();
    this.#registers.writeRegister(cpu, offset, value, now);
    this.#lock.unlock();
  }

  // Model-specific registers.

  /** Low half of what {@link readMsr} read. Of this object alone, as each worker has its own. */
  get msrLow(): number {
    return this.#registers.msrLow;
  }

  /** High half of what {@link readMsr} read. */
  get msrHigh(): number {
    return this.#registers.msrHigh;
  }

  /** RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or x2APIC; the value is in `msrLow` and `msrHigh`. */
  readMsr(cpu: number, index: number): MsrStatus {
    const now = this.clock.nowNs();
    this.#lock.lock();
    const status = this.#registers.readMsr(cpu, index, now);
    this.#lock.unlock();
    return status;
  }

  /** WRMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or x2APIC. */
  writeMsr(cpu: number, index: number, low: number, high: number): MsrStatus {
    const now = this.clock.nowNs();
    this.#lock.lock();
    const status = this.#registers.writeMsr(cpu, index, low, high, now);
    this.#lock.unlock();
    return status;
  }

  /** Tells the deadline timer of `cpu` by how many ticks its TSC is ahead of guest nanoseconds. */
  setTscOffset(cpu: number, ticks: number): void {
    this.#lock.lock();
    this.#registers.setTscOffset(cpu, ticks);
    this.#lock.unlock();
  }

  // Timers.

  /** Delivers all timer interrupts that are due at guest time `nowNs`, each timer at most once. */
  runTimers(nowNs: number): void {
    if (nowNs < (this.#numbers[NEXT_DEADLINE >> 1] as number)) return;
    this.#lock.lock();
    this.#numbers[NEXT_DEADLINE >> 1] = Infinity;
    this.#pit.runTimer(nowNs);
    let next = this.#pit.deadlineNs;
    for (let cpu = 0; cpu < this.cpuCount; cpu++) {
      this.#lapics.runTimer(cpu, nowNs);
      const deadline = this.#lapics.deadlineNs(cpu);
      if (deadline < next) next = deadline;
    }
    this.#numbers[NEXT_DEADLINE >> 1] = next;
    this.#lock.unlock();
  }

  /** Guest nanoseconds at which `cpu` must call {@link runTimers} again; Infinity when it need not. */
  nextDeadlineNs(cpu: number): number {
    const own = this.#lapics.deadlineNs(cpu);
    return cpu === 0 ? Math.min(own, this.#pit.deadlineNs) : own;
  }

  /** Guest nanoseconds of the earliest timer of all CPUs: before it, {@link runTimers} does nothing. */
  get earliestDeadlineNs(): number {
    return this.#numbers[NEXT_DEADLINE >> 1] as number;
  }

  #wake(cpu: number): void {
    const mailbox = this.#mailboxes[cpu];
    if (mailbox === undefined) return;
    // Whoever set the bit before notified for it.
    if ((Atomics.or(mailbox.words, mailbox.index, 1) & 1) === 0) {
      Atomics.notify(mailbox.words, mailbox.index);
      this.onWake(cpu);
    }
    if (mailbox.fuel !== undefined) Atomics.store(mailbox.words, mailbox.fuel, 0);
  }

  #wakeForPic(): void {
    for (let cpu = 0; cpu < this.cpuCount; cpu++) {
      if (this.#lapics.acceptsExtInt(cpu)) this.#wake(cpu);
    }
  }
}
