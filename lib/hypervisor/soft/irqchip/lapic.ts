import {
  BASE_BSP,
  BASE_ENABLED,
  BASE_HIGH,
  BASE_LOW,
  BASE_X2APIC,
  DELIVER_EXTINT,
  DELIVER_FIXED,
  DELIVER_INIT,
  DELIVER_LOWEST,
  DELIVER_NMI,
  DELIVER_SIPI,
  DELIVERY,
  DFR,
  ERROR_RECEIVE_VECTOR,
  ERROR_REGISTER,
  ERROR_SEND_VECTOR,
  ESR,
  ESR_PENDING,
  EVENT_INIT,
  EVENT_NMI,
  EVENT_SIPI,
  EVENTS,
  ICR_HIGH,
  ICR_LOW,
  IRR,
  ISR,
  LDR,
  LVT,
  LVT_COUNT,
  LVT_ERROR,
  LVT_LEVEL,
  LVT_LINT0,
  LVT_LINT1,
  LVT_REMOTE_IRR,
  LVT_TIMER,
  LVT_WRITABLE,
  MASKED,
  MODE_BITS,
  MsrStatus,
  SIPI_VECTOR,
  SVR,
  SVR_ENABLED,
  SVR_NO_EOI_BROADCAST,
  TIMER_DEADLINE_MODE,
  TIMER_DIVIDE,
  TMR,
  TPR,
  VERSION,
} from "./lapic_layout.ts";
import { LapicTimer } from "./lapic_timer.ts";
import { CPU_COUNT, LAPIC, LAPIC_WORDS, LAST_ARBITRATED, PHYS_BITS } from "./layout.ts";

/** What the local APICs need from the chip around them. */
export interface LapicBus {
  /** Something may have become deliverable to `cpu`. */
  wake(cpu: number): void;
  /** A level-triggered interrupt ended. */
  broadcastEoi(vector: number): void;
}

/**
 * The local APICs of all CPUs (Intel SDM vol. 3, chapter 11): xAPIC and x2APIC, timers, interrupts
 * between processors. Its timers run on guest nanoseconds: the bus clock is 1 GHz, as the TSC.
 * Not locked: its chip does that. The APIC id of a CPU is its number.
 */
export class LocalApics {
  /** Low half of what {@link readMsr} read. */
  msrLow = 0;
  /** High half of what {@link readMsr} read. */
  msrHigh = 0;
  readonly #w: Int32Array;
  readonly #timer: LapicTimer;
  readonly #bus: LapicBus;
  readonly #count: number;

  /**
   * @param words the shared state.
   * @param bus the chip.
   */
  constructor(words: Int32Array, bus: LapicBus) {
    this.#w = words;
    this.#timer = new LapicTimer(words);
    this.#bus = bus;
    this.#count = words[CPU_COUNT] as number;
  }

  /** Power-on state of all: xAPIC enabled; CPU 0 is the bootstrap processor, in virtual wire mode. */
  reset(): void {
    for (let cpu = 0; cpu < this.#count; cpu++) {
      const a = LAPIC + cpu * LAPIC_WORDS;
      this.#w.fill(0, a, a + LAPIC_WORDS);
      this.#w[a + BASE_LOW] = (0xfee0_0000 | BASE_ENABLED | (cpu === 0 ? BASE_BSP : 0)) | 0;
      this.#resetRegisters(cpu);
      this.#w[a + LVT + LVT_LINT1] = DELIVER_NMI << 8;
    }
    // As firmware leaves it: 8259A interrupts reach the bootstrap processor.
    this.#w[LAPIC + LVT + LVT_LINT0] = DELIVER_EXTINT << 8;
  }

  /** A pulse on the NMI line, which is wired to every LINT1. */
  pulseLint1(): void {
    for (let cpu = 0; cpu < this.#count; cpu++) {
      const a = LAPIC + cpu * LAPIC_WORDS;
      const lvt = this.#w[a + LVT + LVT_LINT1] as number;
      if (!this.#enabled(a)) {
        if (cpu === 0) this.#receive(cpu, DELIVER_NMI, 0, false);
      } else if ((lvt & MASKED) === 0) {
        const level = (lvt & LVT_LEVEL) !== 0;
        this.#receive(cpu, (lvt & DELIVERY) >> 8, lvt & 0xff, level);
      }
    }
  }

  // Interrupts to the processor.

  /** Highest vector that is requested and not held back by the processor priority, or -1. */
  pendingVector(cpu: number): number {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    if (((w[a + SVR] as number) & SVR_ENABLED) === 0) return -1;
    const vector = this.#highestBit(a + IRR);
    if (vector < 0) return -1;
    return (vector & 0xf0) > (this.#ppr(a) & 0xf0) ? vector : -1;
  }

  /** Moves `vector` from requested to in service. */
  accept(cpu: number, vector: number): void {
    const a = LAPIC + cpu * LAPIC_WORDS;
    this.#clearBit(a + IRR, vector);
    this.#setBit(a + ISR, vector);
  }

  /** Spurious-interrupt vector of `cpu`. */
  spuriousVector(cpu: number): number {
    return (this.#w[LAPIC + cpu * LAPIC_WORDS + SVR] as number) & 0xff;
  }

  /** Whether the INT output of the 8259A reaches `cpu`. */
  acceptsExtInt(cpu: number): boolean {
    const a = LAPIC + cpu * LAPIC_WORDS;
    if (!this.#enabled(a)) return cpu === 0;
    const lint0 = this.#w[a + LVT + LVT_LINT0] as number;
    return (lint0 & (MASKED | DELIVERY)) === DELIVER_EXTINT << 8;
  }

  /**
   * Takes the pending {@link EVENT_NMI} and {@link EVENT_SIPI}; or {@link EVENT_INIT} alone, and what
   * came after it the next time.
   */
  takeEvents(cpu: number): number {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const events = this.#w[a + EVENTS] as number;
    if ((events & EVENT_INIT) === 0) {
      this.#w[a + EVENTS] = 0;
      return events;
    }
    this.#w[a + EVENTS] = events & ~EVENT_INIT;
    if (this.#enabled(a)) this.#resetRegisters(cpu);
    return EVENT_INIT;
  }

  /** Whether {@link takeEvents} would give something. */
  hasEvents(cpu: number): boolean {
    return this.#w[LAPIC + cpu * LAPIC_WORDS + EVENTS] !== 0;
  }

  /** Vector of the last start-up IPI: execution begins at `vector << 12`. */
  sipiVector(cpu: number): number {
    return this.#w[LAPIC + cpu * LAPIC_WORDS + SIPI_VECTOR] as number;
  }

  /** Task priority register, 8 bits. CR8 is its upper four. */
  getTpr(cpu: number): number {
    return this.#w[LAPIC + cpu * LAPIC_WORDS + TPR] as number;
  }

  /** Sets the task priority register. */
  setTpr(cpu: number, value: number): void {
    this.#w[LAPIC + cpu * LAPIC_WORDS + TPR] = value & 0xff;
    this.#bus.wake(cpu);
  }

  // Delivery from the I/O APIC, MSI and other CPUs.

  /**
   * Sends an interrupt message.
   * @param mode delivery mode, `DELIVER_…`.
   * @param vector its vector.
   * @param destination APIC id or logical set: 8 bits, or 32 where `wide` (x2APIC).
   * @param logical destination mode.
   * @param level trigger mode.
   * @param wide width of `destination`.
   * @returns whether a CPU took it. Positional, for a call allocates nothing.
   */
  send(
    mode: number,
    vector: number,
    destination: number,
    logical: boolean,
    level: boolean,
    wide: boolean,
  ): boolean {
    if (mode === DELIVER_LOWEST) {
      const cpu = this.#arbitrate(destination, logical, wide);
      return cpu >= 0 && this.#receive(cpu, DELIVER_FIXED, vector, level);
    }
    let taken = false;
    for (let cpu = 0; cpu < this.#count; cpu++) {
      if (this.#matches(cpu, destination, logical, wide)) {
        if (this.#receive(cpu, mode, vector, level)) taken = true;
      }
    }
    return taken;
  }

  #receive(cpu: number, mode: number, vector: number, level: boolean): boolean {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    switch (mode) {
      case DELIVER_FIXED:
      case DELIVER_LOWEST:
        if (!this.#enabled(a) || ((w[a + SVR] as number) & SVR_ENABLED) === 0) return false;
        if (vector < 16) {
          this.#error(cpu, ERROR_RECEIVE_VECTOR);
          return false;
        }
        this.#setBit(a + IRR, vector);
        if (level) this.#setBit(a + TMR, vector);
        else this.#clearBit(a + TMR, vector);
        break;
      case DELIVER_NMI:
        w[a + EVENTS] = (w[a + EVENTS] as number) | EVENT_NMI;
        break;
      case DELIVER_INIT:
        // What came before is forgotten: the processor starts over.
        w[a + EVENTS] = EVENT_INIT;
        break;
      case DELIVER_SIPI:
        w[a + SIPI_VECTOR] = vector;
        w[a + EVENTS] = (w[a + EVENTS] as number) | EVENT_SIPI;
        break;
      default:
        return false;
    }
    this.#bus.wake(cpu);
    return true;
  }

  #matches(cpu: number, destination: number, logical: boolean, wide: boolean): boolean {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    if (!this.#enabled(a)) return false;
    if (wide ? destination === -1 : destination === 0xff) return true;
    const x2 = ((w[a + BASE_LOW] as number) & BASE_X2APIC) !== 0;
    if (!logical) return destination === cpu;
    if (x2) {
      const id = this.#x2Ldr(cpu);
      return (id >>> 16) === (destination >>> 16) && (id & destination & 0xffff) !== 0;
    }
    if (wide && (destination & 0xffff_ff00) !== 0) return false;
    const id = (w[a + LDR] as number) >>> 24;
    if ((w[a + DFR] as number) >>> 28 === 0xf) return (id & destination) !== 0;
    return (id >> 4) === (destination >> 4) && (id & destination & 15) !== 0;
  }

  /** The matching CPU of lowest priority, the ones after the last taker first; -1 when none. */
  #arbitrate(destination: number, logical: boolean, wide: boolean): number {
    const w = this.#w;
    let best = -1;
    let bestPriority = 256;
    let cpu = w[LAST_ARBITRATED] as number;
    for (let i = 0; i < this.#count; i++) {
      cpu = cpu + 1 >= this.#count ? 0 : cpu + 1;
      const a = LAPIC + cpu * LAPIC_WORDS;
      if (!this.#enabled(a) || ((w[a + SVR] as number) & SVR_ENABLED) === 0) continue;
      if (!this.#matches(cpu, destination, logical, wide)) continue;
      const priority = this.#ppr(a);
      if (priority < bestPriority) {
        best = cpu;
        bestPriority = priority;
      }
    }
    if (best >= 0) w[LAST_ARBITRATED] = best;
    return best;
  }

  // Registers.

  /** Whether `cpu` answers at guest physical address `address` (4 KiB page, xAPIC mode). */
  decodes(cpu: number, address: number): boolean {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const low = this.#w[a + BASE_LOW] as number;
    if ((low & MODE_BITS) !== BASE_ENABLED) return false;
    const page = ((low & 0xffff_f000) >>> 0) + (this.#w[a + BASE_HIGH] as number) * 0x1_0000_0000;
    return address >= page && address < page + 0x1000;
  }

  /** Reads the 32-bit register at `offset` (a multiple of 16) of the xAPIC page. */
  readRegister(cpu: number, offset: number, nowNs: number): number {
    return this.#read(cpu, offset >> 4, nowNs, false);
  }

  /** Writes the 32-bit register at `offset` (a multiple of 16) of the xAPIC page. */
  writeRegister(cpu: number, offset: number, value: number, nowNs: number): void {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    switch (offset >> 4) {
      case 0x02: // The id stays what the topology says.
        break;
      case 0x0d:
        w[a + LDR] = value & 0xff00_0000;
        break;
      case 0x0e:
        w[a + DFR] = value | 0x0fff_ffff;
        break;
      case 0x30:
        w[a + ICR_LOW] = value & 0x000c_cfff;
        this.#sendIpi(cpu, value, (w[a + ICR_HIGH] as number) >>> 24, false);
        break;
      case 0x31:
        w[a + ICR_HIGH] = value & 0xff00_0000;
        break;
      default:
        if (!this.#write(cpu, offset >> 4, value, nowNs)) this.#error(cpu, ERROR_REGISTER);
    }
  }

  /** Reads an x2APIC register, IA32_APIC_BASE or IA32_TSC_DEADLINE into {@link msrLow}, {@link msrHigh}. */
  readMsr(cpu: number, index: number, nowNs: number): MsrStatus {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    this.msrHigh = 0;
    if (index === 0x1b) {
      this.msrLow = w[a + BASE_LOW] as number;
      this.msrHigh = w[a + BASE_HIGH] as number;
      return MsrStatus.Ok;
    }
    if (index === 0x6e0) {
      const value = this.#timer.readTscDeadline(a, nowNs);
      this.msrHigh = Math.floor(value / 0x1_0000_0000) | 0;
      this.msrLow = value | 0;
      return MsrStatus.Ok;
    }
    if (index < 0x800 || index > 0x8ff) return MsrStatus.NotMine;
    if (((w[a + BASE_LOW] as number) & MODE_BITS) !== MODE_BITS) return MsrStatus.Fault;
    const register = index - 0x800;
    switch (register) {
      case 0x02:
        this.msrLow = cpu;
        return MsrStatus.Ok;
      case 0x0d:
        this.msrLow = this.#x2Ldr(cpu);
        return MsrStatus.Ok;
      case 0x30:
        this.msrLow = w[a + ICR_LOW] as number;
        this.msrHigh = w[a + ICR_HIGH] as number;
        return MsrStatus.Ok;
      case 0x09: // Arbitration priority, EOI, remote read, destination format, ICR2, self IPI.
      case 0x0b:
      case 0x0c:
      case 0x0e:
      case 0x31:
      case 0x3f:
        return MsrStatus.Fault;
      default:
        if (!LocalApics.#exists(register)) return MsrStatus.Fault;
        this.msrLow = this.#read(cpu, register, nowNs, true);
        return MsrStatus.Ok;
    }
  }

  /** Writes an x2APIC register, IA32_APIC_BASE or IA32_TSC_DEADLINE. */
  writeMsr(cpu: number, index: number, low: number, high: number, nowNs: number): MsrStatus {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    low |= 0;
    high |= 0;
    if (index === 0x1b) return this.#writeBase(cpu, low, high);
    if (index === 0x6e0) {
      this.#timer.writeTscDeadline(a, (high >>> 0) * 0x1_0000_0000 + (low >>> 0));
      this.runTimer(cpu, nowNs); // One that has passed interrupts at once.
      return MsrStatus.Ok;
    }
    if (index < 0x800 || index > 0x8ff) return MsrStatus.NotMine;
    if (((w[a + BASE_LOW] as number) & MODE_BITS) !== MODE_BITS) return MsrStatus.Fault;
    const register = index - 0x800;
    if (register === 0x30) {
      if ((low & 0xfff3_2000) !== 0) return MsrStatus.Fault;
      w[a + ICR_LOW] = low & 0x000c_cfff;
      w[a + ICR_HIGH] = high;
      this.#sendIpi(cpu, low, high, true);
      return MsrStatus.Ok;
    }
    if (high !== 0) return MsrStatus.Fault;
    switch (register) {
      case 0x08:
        if ((low & ~0xff) !== 0) return MsrStatus.Fault;
        break;
      case 0x0b:
      case 0x28:
        if (low !== 0) return MsrStatus.Fault;
        break;
      case 0x0f:
        if ((low & ~(SVR_ENABLED | SVR_NO_EOI_BROADCAST | 0x2ff)) !== 0) return MsrStatus.Fault;
        break;
      case 0x32:
      case 0x33:
      case 0x34:
      case 0x35:
      case 0x36:
      case 0x37:
        // Delivery status and remote IRR may be written, to no effect.
        if ((low & ~((LVT_WRITABLE[register - 0x32] as number) | 0x5000)) !== 0) {
          return MsrStatus.Fault;
        }
        break;
      case 0x38:
        break;
      case 0x3e:
        if ((low & ~0xb) !== 0) return MsrStatus.Fault;
        break;
      case 0x3f:
        if ((low & ~0xff) !== 0) return MsrStatus.Fault;
        this.#sendIpi(cpu, (low & 0xff) | (1 << 18), 0, true);
        return MsrStatus.Ok;
      default:
        return MsrStatus.Fault;
    }
    this.#write(cpu, register, low, nowNs);
    return MsrStatus.Ok;
  }

  /** Tells the timer by how much the guest's TSC is ahead of guest nanoseconds. */
  setTscOffset(cpu: number, ticks: number): void {
    this.#timer.setTscOffset(LAPIC + cpu * LAPIC_WORDS, ticks);
  }

  static #exists(register: number): boolean {
    return register === 0x02 || register === 0x03 || register === 0x08 || register === 0x0a ||
      register === 0x0d || (register >= 0x0f && register <= 0x28) || register === 0x30 ||
      (register >= 0x32 && register <= 0x39) || register === 0x3e;
  }

  #read(cpu: number, register: number, nowNs: number, x2: boolean): number {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    if (register >= 0x10 && register < 0x28) {
      const group = register < 0x18 ? ISR : register < 0x20 ? TMR : IRR;
      return w[a + group + (register & 7)] as number;
    }
    switch (register) {
      case 0x02:
        return cpu << 24;
      case 0x03:
        return VERSION;
      case 0x08:
        return w[a + TPR] as number;
      case 0x09:
        return this.#ppr(a);
      case 0x0a:
        return this.#ppr(a);
      case 0x0d:
        return w[a + LDR] as number;
      case 0x0e:
        return w[a + DFR] as number;
      case 0x0f:
        return w[a + SVR] as number;
      case 0x28:
        return w[a + ESR] as number;
      case 0x30:
        return w[a + ICR_LOW] as number;
      case 0x31:
        return w[a + ICR_HIGH] as number;
      case 0x32:
      case 0x33:
      case 0x34:
      case 0x35:
      case 0x36:
      case 0x37:
        return w[a + LVT + register - 0x32] as number;
      case 0x38:
        return this.#timer.initialCount(a);
      case 0x39:
        return this.#timer.currentCount(a, nowNs);
      case 0x3e:
        return w[a + TIMER_DIVIDE] as number;
      case 0x0b:
      case 0x0c:
        return 0;
      default:
        if (!x2) this.#error(cpu, ERROR_REGISTER);
        return 0;
    }
  }

  /** Registers that both modes write alike. Returns whether there is one. */
  #write(cpu: number, register: number, value: number, nowNs: number): boolean {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    switch (register) {
      case 0x08:
        w[a + TPR] = value & 0xff;
        this.#bus.wake(cpu);
        return true;
      case 0x0b:
        this.#eoi(cpu);
        return true;
      case 0x0f: {
        const wasEnabled = ((w[a + SVR] as number) & SVR_ENABLED) !== 0;
        w[a + SVR] = value & (SVR_ENABLED | SVR_NO_EOI_BROADCAST | 0xff);
        const enabled = (value & SVR_ENABLED) !== 0;
        if (wasEnabled && !enabled) {
          for (let n = 0; n < LVT_COUNT; n++) {
            w[a + LVT + n] = (w[a + LVT + n] as number) | MASKED;
          }
          this.#timer.rearm(a, nowNs);
        } else if (!wasEnabled && enabled) {
          this.#bus.wake(cpu);
        }
        return true;
      }
      case 0x28:
        w[a + ESR] = w[a + ESR_PENDING] as number;
        w[a + ESR_PENDING] = 0;
        return true;
      case 0x32:
      case 0x33:
      case 0x34:
      case 0x35:
      case 0x36:
      case 0x37: {
        const n = register - 0x32;
        let lvt = value & (LVT_WRITABLE[n] as number);
        if (((w[a + SVR] as number) & SVR_ENABLED) === 0) lvt |= MASKED;
        if (n === LVT_LINT0 || n === LVT_LINT1) {
          lvt |= (w[a + LVT + n] as number) & LVT_REMOTE_IRR;
        }
        const before = w[a + LVT + n] as number;
        w[a + LVT + n] = lvt;
        if (n === LVT_TIMER) {
          // Counting goes on between one-shot and periodic, not to or from the deadline.
          if (((before ^ lvt) & TIMER_DEADLINE_MODE) !== 0) this.#timer.stop(a);
          this.#timer.rearm(a, nowNs);
        }
        if (n === LVT_LINT0) this.#bus.wake(cpu);
        return true;
      }
      case 0x38:
        this.#timer.writeInitialCount(a, value, nowNs);
        return true;
      case 0x3e:
        this.#timer.writeDivide(a, value, nowNs);
        return true;
      // Read-only.
      case 0x03:
      case 0x09:
      case 0x0a:
      case 0x0c:
      case 0x39:
        return true;
      default:
        return register >= 0x10 && register < 0x28;
    }
  }

  #writeBase(cpu: number, low: number, high: number): MsrStatus {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    if ((low & 0x2ff) !== 0) return MsrStatus.Fault;
    const bits = w[PHYS_BITS] as number;
    if (bits < 64 && high >>> (bits - 32) !== 0) return MsrStatus.Fault;
    const before = (w[a + BASE_LOW] as number) & MODE_BITS;
    const after = low & MODE_BITS;
    if (after === BASE_X2APIC) return MsrStatus.Fault;
    if (before === MODE_BITS && after === BASE_ENABLED) return MsrStatus.Fault;
    if (before === 0 && after === MODE_BITS) return MsrStatus.Fault;
    w[a + BASE_LOW] = low;
    w[a + BASE_HIGH] = high;
    if (before !== after) {
      if (after === 0) this.#resetRegisters(cpu);
      if (after === MODE_BITS) w[a + ICR_HIGH] = 0;
      this.#bus.wake(cpu);
    }
    return MsrStatus.Ok;
  }

  /** State after INIT, and when the APIC is switched off: all but the id and IA32_APIC_BASE. */
  #resetRegisters(cpu: number): void {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    w.fill(0, a, a + BASE_LOW);
    w[a + DFR] = -1;
    w[a + SVR] = 0xff;
    for (let n = 0; n < LVT_COUNT; n++) w[a + LVT + n] = MASKED;
    this.#timer.stop(a);
  }

  #enabled(a: number): boolean {
    return ((this.#w[a + BASE_LOW] as number) & BASE_ENABLED) !== 0;
  }

  #x2Ldr(cpu: number): number {
    return ((cpu >> 4) << 16) | (1 << (cpu & 15));
  }

  /** Processor priority: the higher of task priority and class in service. */
  #ppr(a: number): number {
    const tpr = this.#w[a + TPR] as number;
    const serving = this.#highestBit(a + ISR);
    return serving < 0 || (tpr & 0xf0) >= (serving & 0xf0) ? tpr : serving & 0xf0;
  }

  #eoi(cpu: number): void {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    const vector = this.#highestBit(a + ISR);
    if (vector < 0) return;
    this.#clearBit(a + ISR, vector);
    const level = ((w[a + TMR + (vector >> 5)] as number) & (1 << (vector & 31))) !== 0;
    if (level && ((w[a + SVR] as number) & SVR_NO_EOI_BROADCAST) === 0) {
      this.#bus.broadcastEoi(vector);
    }
    // Mostly nothing waits behind it.
    if (this.pendingVector(cpu) >= 0) this.#bus.wake(cpu);
  }

  #sendIpi(cpu: number, low: number, destination: number, x2: boolean): void {
    const mode = (low >> 8) & 7;
    const vector = low & 0xff;
    const shorthand = (low >> 18) & 3;
    const fixed = mode === DELIVER_FIXED || (mode === DELIVER_LOWEST && !x2);
    if (fixed && vector < 16) {
      this.#error(cpu, ERROR_SEND_VECTOR);
      return;
    }
    if (!fixed && mode !== DELIVER_NMI && mode !== DELIVER_INIT && mode !== DELIVER_SIPI) return;
    // INIT level de-assert only synchronizes arbitration ids.
    if (mode === DELIVER_INIT && (low & 0x8000) !== 0 && (low & 0x4000) === 0) return;
    switch (shorthand) {
      case 0:
        this.send(mode, vector, destination, (low & 0x800) !== 0, false, x2);
        break;
      case 1:
        if (fixed) this.#receive(cpu, DELIVER_FIXED, vector, false);
        break;
      default:
        for (let other = 0; other < this.#count; other++) {
          if (other === cpu && (shorthand === 3 || !fixed)) continue;
          if (fixed && !this.#enabled(LAPIC + other * LAPIC_WORDS)) continue;
          this.#receive(other, mode, vector, false);
        }
    }
  }

  #error(cpu: number, error: number): void {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    const before = w[a + ESR_PENDING] as number;
    w[a + ESR_PENDING] = before | error;
    const lvt = w[a + LVT + LVT_ERROR] as number;
    // An error of the error interrupt's own vector must not raise another.
    if ((before & error) === 0 && (lvt & MASKED) === 0 && (lvt & 0xff) >= 16) {
      this.#receive(cpu, DELIVER_FIXED, lvt & 0xff, false);
    }
  }

  // Timer.

  /** Guest nanoseconds of the next timer interrupt of `cpu`, or Infinity. */
  deadlineNs(cpu: number): number {
    return this.#timer.deadlineNs(LAPIC + cpu * LAPIC_WORDS);
  }

  /** Delivers the timer interrupt of `cpu` if it is due; missed periods are one interrupt. */
  runTimer(cpu: number, nowNs: number): void {
    const vector = this.#timer.expire(LAPIC + cpu * LAPIC_WORDS, nowNs);
    if (vector >= 0) this.#receive(cpu, DELIVER_FIXED, vector, false);
  }

  // Bit sets of 256 vectors.

  #setBit(set: number, vector: number): void {
    const i = set + (vector >> 5);
    this.#w[i] = (this.#w[i] as number) | (1 << (vector & 31));
  }

  #clearBit(set: number, vector: number): void {
    const i = set + (vector >> 5);
    this.#w[i] = (this.#w[i] as number) & ~(1 << (vector & 31));
  }

  #highestBit(set: number): number {
    for (let n = 7; n >= 0; n--) {
      const word = this.#w[set + n] as number;
      if (word !== 0) return n * 32 + 31 - Math.clz32(word);
    }
    return -1;
  }
}
