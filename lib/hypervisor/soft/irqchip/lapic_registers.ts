import type { LocalApics } from "./lapic.ts";
import {
  BASE_ENABLED,
  BASE_HIGH,
  BASE_LOW,
  BASE_X2APIC,
  DFR,
  ERROR_REGISTER,
  ESR,
  ESR_PENDING,
  ICR_HIGH,
  ICR_LOW,
  IRR,
  ISR,
  LDR,
  LVT,
  LVT_COUNT,
  LVT_LINT0,
  LVT_LINT1,
  LVT_REMOTE_IRR,
  LVT_TIMER,
  LVT_WRITABLE,
  MASKED,
  MODE_BITS,
  MsrStatus,
  SVR,
  SVR_ENABLED,
  SVR_NO_EOI_BROADCAST,
  TIMER_DEADLINE_MODE,
  TIMER_DIVIDE,
  TMR,
  TPR,
  VERSION,
} from "./lapic_layout.ts";
import type { LapicTimer } from "./lapic_timer.ts";
import { LAPIC, LAPIC_WORDS, PHYS_BITS } from "./layout.ts";

/**
 * The registers of the local APICs as their CPUs see them (Intel SDM vol. 3, 11.4 and 11.12): a page of
 * memory in xAPIC mode, model-specific registers in x2APIC mode, and IA32_APIC_BASE, which tells. Numbers
 * of registers are those of x2APIC, which are the offsets in the page divided by 16.
 * Not locked: its chip does that.
 */
export class LapicRegisters {
  /** Low half of what {@link readMsr} read. */
  msrLow = 0;
  /** High half of what {@link readMsr} read. */
  msrHigh = 0;
  readonly #w: Int32Array;
  readonly #lapics: LocalApics;
  readonly #timer: LapicTimer;
  readonly #wake: (cpu: number) => void;

  /**
   * @param words the shared state.
   * @param lapics what the registers belong to.
   * @param wake is told of a CPU to which something may have become deliverable.
   */
  constructor(words: Int32Array, lapics: LocalApics, wake: (cpu: number) => void) {
    this.#w = words;
    this.#lapics = lapics;
    this.#timer = lapics.timer;
    this.#wake = wake;
  }

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
        this.#lapics.sendIpi(cpu, value, (w[a + ICR_HIGH] as number) >>> 24, false);
        break;
      case 0x31:
        w[a + ICR_HIGH] = value & 0xff00_0000;
        break;
      default:
        if (!this.#write(cpu, offset >> 4, value, nowNs)) {
          this.#lapics.raiseError(cpu, ERROR_REGISTER);
        }
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
        this.msrLow = this.#lapics.x2LogicalId(cpu);
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
        if (!exists(register)) return MsrStatus.Fault;
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
      this.#lapics.runTimer(cpu, nowNs); // One that has passed interrupts at once.
      return MsrStatus.Ok;
    }
    if (index < 0x800 || index > 0x8ff) return MsrStatus.NotMine;
    if (((w[a + BASE_LOW] as number) & MODE_BITS) !== MODE_BITS) return MsrStatus.Fault;
    const register = index - 0x800;
    if (register === 0x30) {
      if ((low & 0xfff3_2000) !== 0) return MsrStatus.Fault;
      w[a + ICR_LOW] = low & 0x000c_cfff;
      w[a + ICR_HIGH] = high;
      this.#lapics.sendIpi(cpu, low, high, true);
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
        this.#lapics.sendIpi(cpu, (low & 0xff) | (1 << 18), 0, true);
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
      case 0x0a:
        return this.#lapics.processorPriority(cpu);
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
        if (!x2) this.#lapics.raiseError(cpu, ERROR_REGISTER);
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
        this.#wake(cpu);
        return true;
      case 0x0b:
        this.#lapics.endOfInterrupt(cpu);
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
          this.#wake(cpu);
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
        if (n === LVT_LINT0) this.#wake(cpu);
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
      if (after === 0) this.#lapics.resetRegisters(cpu);
      if (after === MODE_BITS) w[a + ICR_HIGH] = 0;
      this.#wake(cpu);
    }
    return MsrStatus.Ok;
  }
}

/** Whether there is such a register to read in x2APIC mode. */
function exists(register: number): boolean {
  return register === 0x02 || register === 0x03 || register === 0x08 || register === 0x0a ||
    register === 0x0d || (register >= 0x0f && register <= 0x28) || register === 0x30 ||
    (register >= 0x32 && register <= 0x39) || register === 0x3e;
}
