/**
 * Interrupt controllers, timer and clock of the software processor.
 *
 * @module
 */

export {
  type CpuMailbox,
  IOAPIC_BASE,
  SoftIrqChip,
  type SoftIrqChipHandle,
  type SoftIrqChipOptions,
} from "./chip.ts";
export { EVENT_INIT, EVENT_NMI, EVENT_SIPI, MsrStatus } from "./lapic_layout.ts";
export {
  GUEST_TSC_HZ,
  GuestClock,
  type GuestClockHandle,
  PIT_HZ,
  PM_TIMER_HZ,
} from "./guest_clock.ts";
