import {
  BASE_BSP,
  BASE_ENABLED,
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
  ERROR_SEND_VECTOR,
  ESR_PENDING,
  EVENT_INIT,
  EVENT_NMI,
  EVENT_SIPI,
  EVENTS,
  IRR,
  ISR,
  LDR,
  LVT,
  LVT_COUNT,
  LVT_ERROR,
  LVT_LEVEL,
  LVT_LINT0,
  LVT_LINT1,
  MASKED,
  SIPI_VECTOR,
  SVR,
  SVR_ENABLED,
  SVR_NO_EOI_BROADCAST,
  TMR,
  TPR,
} from "./lapic_layout.ts";
import { LapicTimer } from "./lapic_timer.ts";
import { CPU_COUNT, LAPIC, LAPIC_WORDS, LAST_ARBITRATED } from "./layout.ts";

/** What the local APICs need from the chip around them. */
export interface LapicBus {
  /** Something may have become deliverable to `cpu`. */
  wake(cpu: number): void;
  /** A level-triggered interrupt ended. */
  broadcastEoi(vector: number): void;
}

/**
 * The local APICs of all CPUs (Intel SDM vol. 3, chapter 11): what they take, hold back and send to each
 * other. Their registers are {@link LapicRegisters}. Their timers run on guest nanoseconds: the bus clock
 * is 1 GHz, as the TSC. Not locked: its chip does that. The APIC id of a CPU is its number.
 */
export class LocalApics {
  /** Their timers; a timer that has passed interrupts by {@link runTimer}. */
  readonly timer: LapicTimer;
  readonly #w: Int32Array;
  readonly #bus: LapicBus;
  readonly #count: number;

  /**
   * @param words the shared state.
   * @param bus the chip.
   */
  constructor(words: Int32Array, bus: LapicBus) {
    this.#w = words;
    this.timer = new LapicTimer(words);
    this.#bus = bus;
    this.#count = words[CPU_COUNT] as number;
  }

  /** Power-on state of all: xAPIC enabled; CPU 0 is the bootstrap processor, in virtual wire mode. */
  reset(): void {
    for (let cpu = 0; cpu < this.#count; cpu++) {
      const a = LAPIC + cpu * LAPIC_WORDS;
      this.#w.fill(0, a, a + LAPIC_WORDS);
      this.#w[a + BASE_LOW] = (0xfee0_0000 | BASE_ENABLED | (cpu === 0 ? BASE_BSP : 0)) | 0;
      this.resetRegisters(cpu);
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
    return (vector & 0xf0) > (this.processorPriority(cpu) & 0xf0) ? vector : -1;
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
    if (this.#enabled(a)) this.resetRegisters(cpu);
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
          this.raiseError(cpu, ERROR_RECEIVE_VECTOR);
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
      const id = this.x2LogicalId(cpu);
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
      const priority = this.processorPriority(cpu);
      if (priority < bestPriority) {
        best = cpu;
        bestPriority = priority;
      }
    }
    if (best >= 0) w[LAST_ARBITRATED] = best;
    return best;
  }

  // What registers do.

  /** State after INIT, and when the APIC is switched off: all but the id and IA32_APIC_BASE. */
  resetRegisters(cpu: number): void {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const w = this.#w;
    w.fill(0, a, a + BASE_LOW);
    w[a + DFR] = -1;
    w[a + SVR] = 0xff;
    for (let n = 0; n < LVT_COUNT; n++) w[a + LVT + n] = MASKED;
    this.timer.stop(a);
  }

  /** Logical destination register of x2APIC mode: cluster and place in it. */
  x2LogicalId(cpu: number): number {
    return ((cpu >> 4) << 16) | (1 << (cpu & 15));
  }

  /** Processor priority: the higher of task priority and class in service. */
  processorPriority(cpu: number): number {
    const a = LAPIC + cpu * LAPIC_WORDS;
    const tpr = this.#w[a + TPR] as number;
    const serving = this.#highestBit(a + ISR);
    return serving < 0 || (tpr & 0xf0) >= (serving & 0xf0) ? tpr : serving & 0xf0;
  }

  /** Ends the interrupt in service of highest priority. */
  endOfInterrupt(cpu: number): void {
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

  /**
   * Sends the interrupt that `cpu` wrote to its command register.
   * @param low the register's low half.
   * @param destination as for {@link send}.
   * @param x2 whether that is in x2APIC mode.
   */
  sendIpi(cpu: number, low: number, destination: number, x2: boolean): void {
    const mode = (low >> 8) & 7;
    const vector = low & 0xff;
    const shorthand = (low >> 18) & 3;
    const fixed = mode === DELIVER_FIXED || (mode === DELIVER_LOWEST && !x2);
    if (fixed && vector < 16) {
      this.raiseError(cpu, ERROR_SEND_VECTOR);
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

  /** Notes an error, and interrupts `cpu` for it where it wants that. */
  raiseError(cpu: number, error: number): void {
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
    return this.timer.deadlineNs(LAPIC + cpu * LAPIC_WORDS);
  }

  /** Delivers the timer interrupt of `cpu` if it is due; missed periods are one interrupt. */
  runTimer(cpu: number, nowNs: number): void {
    const vector = this.timer.expire(LAPIC + cpu * LAPIC_WORDS, nowNs);
    if (vector >= 0) this.#receive(cpu, DELIVER_FIXED, vector, false);
  }

  #enabled(a: number): boolean {
    return ((this.#w[a + BASE_LOW] as number) & BASE_ENABLED) !== 0;
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
