/**
 * Words, bits and encodings of a local APIC (Intel SDM vol. 3, chapter 11), shared by its parts.
 *
 * @module
 */

// Words of one local APIC.
/** Task priority. */
export const TPR = 0;
/** Logical destination. */
export const LDR = 1;
/** Destination format. */
export const DFR = 2;
/** Spurious-interrupt vector, with the enable bit. */
export const SVR = 3;
/** Errors since the last write to ESR, and those that this write made readable. */
export const ESR_PENDING = 4;
/** Error status. */
export const ESR = 5;
/** Interrupt command, low half. */
export const ICR_LOW = 6;
/** Interrupt command, high half. */
export const ICR_HIGH = 7;
/** Timer, thermal, performance, LINT0, LINT1, error: in register order. */
export const LVT = 8;
/** Initial count of the timer. */
export const TIMER_INITIAL = 14;
/** Divide configuration of the timer. */
export const TIMER_DIVIDE = 15;
/** In-service bits, eight words. */
export const ISR = 16;
/** Trigger mode bits, eight words. */
export const TMR = 24;
/** Interrupt request bits, eight words. */
export const IRR = 32;
/** IA32_APIC_BASE, low half. */
export const BASE_LOW = 40;
/** IA32_APIC_BASE, high half. */
export const BASE_HIGH = 41;
/** Pending `EVENT_…` bits. */
export const EVENTS = 42;
/** Vector of the last start-up IPI. */
export const SIPI_VECTOR = 43;
/** Float64: guest nanoseconds at which the timer counts from its initial value. */
export const TIMER_START = 44;
/** Float64: guest nanoseconds of the next timer interrupt, or Infinity. */
export const TIMER_DEADLINE = 46;
/** Float64: value of IA32_TSC_DEADLINE, 0 when disarmed. */
export const TSC_DEADLINE = 48;
/** Float64: what the guest's TSC is ahead of guest nanoseconds. */
export const TSC_OFFSET = 50;

/** Local vector table: timer. */
export const LVT_TIMER = 0;
/** Local vector table: LINT0. */
export const LVT_LINT0 = 3;
/** Local vector table: LINT1. */
export const LVT_LINT1 = 4;
/** Local vector table: error. */
export const LVT_ERROR = 5;
/** Entries of the local vector table. */
export const LVT_COUNT = 6;

/** LVT bit: masked. */
export const MASKED = 1 << 16;
/** LVT bit: level-triggered. */
export const LVT_LEVEL = 1 << 15;
/** LVT bit: accepted, EOI to come. */
export const LVT_REMOTE_IRR = 1 << 14;
/** LVT bit: active low. */
export const LVT_LOW_ACTIVE = 1 << 13;
/** LVT field: delivery mode. */
export const DELIVERY = 7 << 8;
/** Timer mode bit: periodic. */
export const TIMER_PERIODIC = 1 << 17;
/** Timer mode bit: TSC deadline. */
export const TIMER_DEADLINE_MODE = 1 << 18;
/** Bits that can be written, by LVT. Delivery status and remote IRR cannot. */
export const LVT_WRITABLE: readonly number[] = [
  TIMER_PERIODIC | TIMER_DEADLINE_MODE | MASKED | 0xff,
  MASKED | DELIVERY | 0xff,
  MASKED | DELIVERY | 0xff,
  MASKED | LVT_LEVEL | LVT_LOW_ACTIVE | DELIVERY | 0xff,
  MASKED | LVT_LEVEL | LVT_LOW_ACTIVE | DELIVERY | 0xff,
  MASKED | 0xff,
];

/** SVR bit: the APIC is enabled by software. */
export const SVR_ENABLED = 1 << 8;
/** SVR bit: EOI is not broadcast to I/O APICs. */
export const SVR_NO_EOI_BROADCAST = 1 << 12;
/** ESR bit: illegal vector sent. */
export const ERROR_SEND_VECTOR = 1 << 5;
/** ESR bit: illegal vector received. */
export const ERROR_RECEIVE_VECTOR = 1 << 6;
/** ESR bit: access to a register that does not exist. */
export const ERROR_REGISTER = 1 << 7;

/** Version 14h, six LVTs, EOI broadcast can be suppressed. */
export const VERSION = 0x0105_0014;

/** IA32_APIC_BASE bit: bootstrap processor. */
export const BASE_BSP = 1 << 8;
/** IA32_APIC_BASE bit: x2APIC mode. */
export const BASE_X2APIC = 1 << 10;
/** IA32_APIC_BASE bit: the APIC is on. */
export const BASE_ENABLED = 1 << 11;
/** The bits of IA32_APIC_BASE that make the mode. */
export const MODE_BITS = BASE_X2APIC | BASE_ENABLED;

// Delivery modes of ICR, LVT, I/O APIC and MSI.
/** To all the destinations. */
export const DELIVER_FIXED = 0;
/** To the destination of lowest priority. */
export const DELIVER_LOWEST = 1;
/** System management interrupt; there is no SMM here, so it is dropped. */
export const DELIVER_SMI = 2;
/** Non-maskable interrupt. */
export const DELIVER_NMI = 4;
/** INIT. */
export const DELIVER_INIT = 5;
/** Start-up IPI. */
export const DELIVER_SIPI = 6;
/** As from an external 8259A. */
export const DELIVER_EXTINT = 7;

/** {@link LocalApics.takeEvents}: a non-maskable interrupt is pending. */
export const EVENT_NMI = 1;
/** {@link LocalApics.takeEvents}: an INIT came; the local APIC has been reset. */
export const EVENT_INIT = 2;
/** {@link LocalApics.takeEvents}: a start-up IPI came; its vector is in `sipiVector`. */
export const EVENT_SIPI = 4;

/** Outcome of an access to a model-specific register. */
export enum MsrStatus {
  /** Done. */
  Ok,
  /** The access raises #GP(0). */
  Fault,
  /** Not a register of the interrupt controller. */
  NotMine,
}
