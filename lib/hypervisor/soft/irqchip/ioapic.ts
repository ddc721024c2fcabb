import { EOI_SEEN, EOI_WATCHED, IOAPIC, IOAPIC_WORDS } from "./layout.ts";
import type { LocalApics } from "./lapic.ts";
import { DELIVER_EXTINT, DELIVER_FIXED } from "./lapic_layout.ts";

/** Pins of the I/O APIC. */
export const IOAPIC_PINS = 24;

const SELECT = IOAPIC;
const ID = IOAPIC + 1;
/** Levels of the inputs. */
const LINES = IOAPIC + 2;
/** Requests: the level of level-triggered inputs, latched edges of others. */
const IRR = IOAPIC + 3;
const LOW = IOAPIC + 8;
const HIGH = LOW + IOAPIC_PINS;

const VERSION = ((IOAPIC_PINS - 1) << 16) | 0x20;
const DELIVERY_STATUS = 1 << 12;
const REMOTE_IRR = 1 << 14;
const LEVEL = 1 << 15;
const MASKED = 1 << 16;
const READ_ONLY = DELIVERY_STATUS | REMOTE_IRR;

/**
 * The I/O APIC (Intel 82093AA data sheet; with the EOI register of version 20h). Not locked: its chip
 * does that.
 */
export class IoApic {
  readonly #w: Int32Array;
  readonly #lapics: LocalApics;
  readonly #readPic: () => number;

  /**
   * @param words the shared state.
   * @param lapics where it delivers to.
   * @param readPic an INTA cycle at the 8259A, for pins in ExtINT mode.
   */
  constructor(words: Int32Array, lapics: LocalApics, readPic: () => number) {
    this.#w = words;
    this.#lapics = lapics;
    this.#readPic = readPic;
  }

  /** Power-on state: all pins masked. */
  reset(): void {
    this.#w.fill(0, IOAPIC, IOAPIC + IOAPIC_WORDS);
    for (let pin = 0; pin < IOAPIC_PINS; pin++) this.#w[LOW + pin] = MASKED;
  }

  /** Drives input `pin`. */
  setLine(pin: number, level: boolean): void {
    const w = this.#w;
    const bit = 1 << pin;
    const lines = w[LINES] as number;
    const entry = w[LOW + pin] as number;
    w[LINES] = level ? lines | bit : lines & ~bit;
    if ((entry & LEVEL) !== 0) {
      if (level) {
        w[IRR] = (w[IRR] as number) | bit;
        this.#service(pin);
      } else {
        w[IRR] = (w[IRR] as number) & ~bit;
      }
    } else if (level && (lines & bit) === 0 && (entry & MASKED) === 0) {
      // An edge at a masked input is lost (82093AA, 3.2.4).
      w[IRR] = (w[IRR] as number) | bit;
      this.#service(pin);
    }
  }

  /** Reads 32 bits at `offset` of the register page. */
  read(offset: number): number {
    if (offset === 0x00) return this.#w[SELECT] as number;
    if (offset !== 0x10) return 0;
    const index = this.#w[SELECT] as number;
    switch (index) {
      case 0:
      case 2:
        return this.#w[ID] as number;
      case 1:
        return VERSION;
      default: {
        const pin = (index - 0x10) >> 1;
        if (index < 0x10 || pin >= IOAPIC_PINS) return 0;
        return this.#w[((index & 1) !== 0 ? HIGH : LOW) + pin] as number;
      }
    }
  }

  /** Writes 32 bits at `offset` of the register page. */
  write(offset: number, value: number): void {
    const w = this.#w;
    if (offset === 0x00) {
      w[SELECT] = value & 0xff;
      return;
    }
    if (offset === 0x40) {
      this.endOfInterrupt(value & 0xff);
      return;
    }
    if (offset !== 0x10) return;
    const index = w[SELECT] as number;
    if (index === 0) {
      w[ID] = value & 0x0f00_0000;
      return;
    }
    const pin = (index - 0x10) >> 1;
    if (index < 0x10 || pin >= IOAPIC_PINS) return;
    if ((index & 1) !== 0) {
      w[HIGH + pin] = value;
      return;
    }
    const before = w[LOW + pin] as number;
    let entry = (value & 0x1_ffff & ~READ_ONLY) | (before & READ_ONLY);
    // Switching to edge triggering clears the remote IRR: software uses that as an EOI.
    if ((entry & LEVEL) === 0) entry &= ~REMOTE_IRR;
    w[LOW + pin] = entry;
    const bit = 1 << pin;
    if (((before ^ entry) & LEVEL) !== 0) {
      // Requests of one kind mean nothing to the other.
      if ((entry & LEVEL) !== 0) {
        w[IRR] = ((w[IRR] as number) & ~bit) | ((w[LINES] as number) & bit);
      } else w[IRR] = (w[IRR] as number) & ~bit;
    }
    this.#service(pin);
  }

  /** A local APIC (or the EOI register) ended level-triggered interrupt `vector`. */
  endOfInterrupt(vector: number): void {
    const w = this.#w;
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      const entry = w[LOW + pin] as number;
      if ((entry & 0xff) !== vector || (entry & REMOTE_IRR) === 0) continue;
      w[LOW + pin] = entry & ~REMOTE_IRR;
      const bit = 1 << pin;
      if (((w[EOI_WATCHED] as number) & bit) !== 0) {
        // Its owner drives the line again if there is still reason to.
        w[LINES] = (w[LINES] as number) & ~bit;
        w[IRR] = (w[IRR] as number) & ~bit;
        Atomics.or(w, EOI_SEEN, bit);
        Atomics.notify(w, EOI_SEEN);
      }
      this.#service(pin);
    }
  }

  #service(pin: number): void {
    const w = this.#w;
    const bit = 1 << pin;
    const entry = w[LOW + pin] as number;
    if (((w[IRR] as number) & bit) === 0 || (entry & MASKED) !== 0) return;
    const level = (entry & LEVEL) !== 0;
    if (level && (entry & REMOTE_IRR) !== 0) return;
    let mode = (entry >> 8) & 7;
    let vector = entry & 0xff;
    if (mode === DELIVER_EXTINT) {
      mode = DELIVER_FIXED;
      vector = this.#readPic();
    }
    const destination = (w[HIGH + pin] as number) >>> 24;
    const logical = (entry & 0x800) !== 0;
    const taken = this.#lapics.send(mode, vector, destination, logical, level, false);
    if (!level) w[IRR] = (w[IRR] as number) & ~bit;
    else if (taken) w[LOW + pin] = entry | REMOTE_IRR;
  }
}
