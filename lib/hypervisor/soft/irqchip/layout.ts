/**
 * Where the interrupt controllers keep their state: word numbers in one SharedArrayBuffer. Words are
 * Int32 unless a comment says that a Float64 lies there (then the word number is even).
 *
 * @module
 */

/** Bumped by hand when the layout changes, so that a stale handle is refused. */
export const LAYOUT_VERSION = 1;

/** Word of {@link LAYOUT_VERSION}. */
export const VERSION = 0;
/** The one lock over everything here but the clock. */
export const LOCK = 1;
/** Number of CPUs. */
export const CPU_COUNT = 2;
/** CPU that took the last lowest-priority interrupt. */
export const LAST_ARBITRATED = 3;
/** I/O APIC pins whose end of interrupt somebody wants to know, and those that had one. */
export const EOI_WATCHED = 4;
/** See {@link EOI_WATCHED}. */
export const EOI_SEEN = 5;
/** Physical address width of the processors in bits. */
export const PHYS_BITS = 6;
/** Float64: earliest deadline of any timer in guest nanoseconds, Infinity when none runs. */
export const NEXT_DEADLINE = 8;
/** The guest clock: {@link CLOCK_WORDS} words. */
export const CLOCK = 16;
/** Words of a guest clock. */
export const CLOCK_WORDS = 8;

/** First of the two PICs, {@link PIC_WORDS} words each. */
export const PIC = 32;
/** Words of one PIC. */
export const PIC_WORDS = 24;

/** I/O APIC. */
export const IOAPIC = 96;
/** Words of the I/O APIC. */
export const IOAPIC_WORDS = 8 + 2 * 24;

/** PIT: {@link PIT_CHANNEL_WORDS} words for each of three channels. */
export const PIT = 160;
/** Words of one PIT channel. */
export const PIT_CHANNEL_WORDS = 24;

/** Routes of global system interrupts, {@link GSI_WORDS} words each. */
export const GSI = 256;
/** Words of one route. */
export const GSI_WORDS = 6;
/** Number of global system interrupts: those of the I/O APIC, and messages of many PCI functions. */
export const GSI_COUNT = 1088;

/** Local APICs, {@link LAPIC_WORDS} words each. */
export const LAPIC = GSI + GSI_WORDS * GSI_COUNT;
/** Words of one local APIC. */
export const LAPIC_WORDS = 64;

/** Words of the whole for `cpuCount` CPUs. */
export function totalWords(cpuCount: number): number {
  return LAPIC + LAPIC_WORDS * cpuCount;
}
