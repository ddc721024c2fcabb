import { ACPI_S5_SLEEP_TYPE } from "../../boot/mod.ts";
import type { GuestClock } from "../../hypervisor/mod.ts";
import { SharedLock } from "../../memory/mod.ts";
import type { IrqLine } from "./wiring.ts";

// Words.
const LOCK = 0;
const STATUS = 1;
const ENABLE = 2;
const CONTROL = 3;
const GPE_STATUS = 4;
const GPE_ENABLE = 5;
const LINE = 6;

/** Words that the power management block takes in shared memory. */
export const ACPI_PM_WORDS = 8;

const STATUS_TIMER = 1 << 0;
const STATUS_GLOBAL = 1 << 5;
const STATUS_POWER_BUTTON = 1 << 8;
const STATUS_SLEEP_BUTTON = 1 << 9;
const STATUS_RTC = 1 << 10;
const STATUS_WAKE = 1 << 15;
const STATUS_BITS = STATUS_TIMER | STATUS_GLOBAL | STATUS_POWER_BUTTON | STATUS_SLEEP_BUTTON |
  STATUS_RTC | STATUS_WAKE;
const ENABLE_BITS = STATUS_TIMER | STATUS_GLOBAL | STATUS_POWER_BUTTON | STATUS_SLEEP_BUTTON |
  STATUS_RTC;
const CONTROL_SCI = 1 << 0;
const CONTROL_SLEEP = 1 << 13;
/** Ticks per guest nanosecond. */
const PM_TIMER_PER_NS = 3_579_545 / 1e9;

/**
 * ACPI fixed hardware (ACPI 6.5, 4.8.3): PM1a event and control block, power management timer (32 bits),
 * general-purpose event block 0, SCI as a level. There is no SMI command port, so the machine is always
 * in ACPI mode. The timer's carry interrupt is not made.
 */
export class AcpiPm {
  readonly #w: Int32Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;
  readonly #gsi: number;
  readonly #irq: IrqLine;
  readonly #clock: GuestClock;
  readonly #onPowerOff: () => void;

  /**
   * @param words {@link ACPI_PM_WORDS} shared words.
   * @param wiring what it is connected to.
   */
  constructor(
    words: Int32Array<SharedArrayBuffer>,
    wiring: {
      readonly gsi: number;
      readonly irq: IrqLine;
      readonly clock: GuestClock;
      readonly onPowerOff: () => void;
    },
  ) {
    this.#w = words;
    this.#lock = new SharedLock(words, LOCK);
    this.#gsi = wiring.gsi;
    this.#irq = wiring.irq;
    this.#clock = wiring.clock;
    this.#onPowerOff = wiring.onPowerOff;
  }

  /** Power-on state, before any worker uses it. */
  reset(): void {
    this.#w.fill(0);
    this.#w[CONTROL] = CONTROL_SCI;
  }

  /** The user pressed the power button. */
  pressPowerButton(): void {
    this.#raise(STATUS_POWER_BUTTON);
  }

  /** The user pressed the sleep button. */
  pressSleepButton(): void {
    this.#raise(STATUS_SLEEP_BUTTON);
  }

  /** General-purpose event `bit` (0 to 15) happened. */
  raiseGpe(bit: number): void {
    this.#lock.lock();
    try {
      this.#w[GPE_STATUS] = (this.#w[GPE_STATUS] as number) | 1 << (bit & 15);
      this.#update();
    } finally {
      this.#lock.unlock();
    }
  }

  /** The power management timer. */
  readTimer(): number {
    return Math.floor(this.#clock.nowNs() * PM_TIMER_PER_NS) % 0x1_0000_0000;
  }

  /** Reads byte `offset` (0 to 3) of the PM1a event block. */
  readEvent(offset: number): number {
    const word = this.#w[offset < 2 ? STATUS : ENABLE] as number;
    return word >> (offset & 1) * 8 & 0xff;
  }

  /** Writes byte `offset` of the PM1a event block: ones clear status bits, enable bits are set. */
  writeEvent(offset: number, value: number): void {
    const w = this.#w;
    const shift = (offset & 1) * 8;
    this.#lock.lock();
    try {
      if (offset < 2) w[STATUS] = (w[STATUS] as number) & ~(value << shift);
      else w[ENABLE] = ((w[ENABLE] as number) & ~(0xff << shift) | value << shift) & ENABLE_BITS;
      this.#update();
    } finally {
      this.#lock.unlock();
    }
  }

  /** Reads byte `offset` (0 or 1) of the PM1a control block. */
  readControl(offset: number): number {
    return (this.#w[CONTROL] as number) >> offset * 8 & 0xff;
  }

  /** Writes byte `offset` of the PM1a control block. Setting SLP_EN with type S5 powers off. */
  writeControl(offset: number, value: number): void {
    const w = this.#w;
    let off = false;
    this.#lock.lock();
    try {
      const shift = offset * 8;
      const control = (w[CONTROL] as number) & ~(0xff << shift) | value << shift;
      off = (control & CONTROL_SLEEP) !== 0 && (control >> 10 & 7) === ACPI_S5_SLEEP_TYPE;
      w[CONTROL] = control & ~CONTROL_SLEEP | CONTROL_SCI;
    } finally {
      this.#lock.unlock();
    }
    if (off) this.#onPowerOff();
  }

  /** Reads byte `offset` (0 to 3) of general-purpose event block 0. */
  readGpe(offset: number): number {
    const word = this.#w[offset < 2 ? GPE_STATUS : GPE_ENABLE] as number;
    return word >> (offset & 1) * 8 & 0xff;
  }

  /** Writes byte `offset` of general-purpose event block 0. */
  writeGpe(offset: number, value: number): void {
    const w = this.#w;
    const shift = (offset & 1) * 8;
    this.#lock.lock();
    try {
      if (offset < 2) w[GPE_STATUS] = (w[GPE_STATUS] as number) & ~(value << shift);
      else w[GPE_ENABLE] = (w[GPE_ENABLE] as number) & ~(0xff << shift) | value << shift;
      this.#update();
    } finally {
      this.#lock.unlock();
    }
  }

  #raise(status: number): void {
    this.#lock.lock();
    try {
      this.#w[STATUS] = ((this.#w[STATUS] as number) | status) & STATUS_BITS;
      this.#update();
    } finally {
      this.#lock.unlock();
    }
  }

  #update(): void {
    const w = this.#w;
    const level = ((w[STATUS] as number) & (w[ENABLE] as number)) !== 0 ||
      ((w[GPE_STATUS] as number) & (w[GPE_ENABLE] as number)) !== 0;
    if (level === (w[LINE] !== 0)) return;
    w[LINE] = level ? 1 : 0;
    this.#irq(this.#gsi, level);
  }
}
