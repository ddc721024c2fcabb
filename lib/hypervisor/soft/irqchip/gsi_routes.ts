import type { GsiRoute } from "../../types.ts";
import { type IoApic, IOAPIC_PINS } from "./ioapic.ts";
import type { LocalApics } from "./lapic.ts";
import { DELIVER_FIXED } from "./lapic_layout.ts";
import { GSI, GSI_COUNT, GSI_WORDS } from "./layout.ts";
import type { PicPair } from "./pic.ts";

// Words of a route.
const ROUTE_PIC = 0;
const ROUTE_IOAPIC = 1;
const ROUTE_MSI = 2;
const ROUTE_ADDRESS_LOW = 3;
const ROUTE_ADDRESS_HIGH = 4;
const ROUTE_DATA = 5;

/** On PCs the timer's interrupt arrives at I/O APIC pin 2, by the identity at pin 0: both work here. */
const TIMER_SECOND_PIN = 2;

/** Where interrupts can go. */
export interface GsiTargets {
  readonly pic: PicPair;
  readonly ioapic: IoApic;
  readonly lapics: LocalApics;
}

/**
 * Where each global system interrupt goes: to at most one PIC input, one I/O APIC pin and one message.
 * Not locked: its chip does that.
 */
export class GsiRoutes {
  readonly #words: Int32Array;
  readonly #pic: PicPair;
  readonly #ioapic: IoApic;
  readonly #lapics: LocalApics;

  /**
   * @param words the shared state.
   * @param targets the controllers of the same chip.
   */
  constructor(words: Int32Array, targets: GsiTargets) {
    this.#words = words;
    this.#pic = targets.pic;
    this.#ioapic = targets.ioapic;
    this.#lapics = targets.lapics;
  }

  /** Those of a PC: each I/O APIC pin by its number, ISA interrupts at the PICs, too. */
  reset(): void {
    this.#words.fill(0, GSI, GSI + GSI_WORDS * GSI_COUNT);
    for (let gsi = 0; gsi < IOAPIC_PINS; gsi++) {
      const route = GSI + gsi * GSI_WORDS;
      if (gsi < 16 && gsi !== 2) this.#words[route + ROUTE_PIC] = gsi + 1;
      this.#words[route + ROUTE_IOAPIC] = gsi + 1;
    }
  }

  /** Replaces the routes of `gsi`, which {@link checkGsiRoutes} has found good. */
  set(gsi: number, routes: readonly GsiRoute[]): void {
    const at = GSI + gsi * GSI_WORDS;
    const words = this.#words;
    words.fill(0, at, at + GSI_WORDS);
    for (const route of routes) {
      if (route.type === "msi") {
        words[at + ROUTE_MSI] = 1;
        words[at + ROUTE_ADDRESS_LOW] = Number(BigInt.asIntN(32, route.address));
        words[at + ROUTE_ADDRESS_HIGH] = Number(BigInt.asIntN(32, route.address >> 32n));
        words[at + ROUTE_DATA] = route.data;
      } else {
        words[at + (route.chip === "pic" ? ROUTE_PIC : ROUTE_IOAPIC)] = route.pin + 1;
      }
    }
  }

  /** The timer's interrupt, which is an edge. */
  tick(): void {
    this.drive(0, false);
    this.drive(0, true);
    if (this.#words[GSI + ROUTE_IOAPIC] === 1) {
      this.#ioapic.setLine(TIMER_SECOND_PIN, false);
      this.#ioapic.setLine(TIMER_SECOND_PIN, true);
    }
  }

  /** Drives `gsi`, one that exists. */
  drive(gsi: number, level: boolean): void {
    const words = this.#words;
    const at = GSI + gsi * GSI_WORDS;
    const pic = words[at + ROUTE_PIC] as number;
    const ioapic = words[at + ROUTE_IOAPIC] as number;
    if (pic !== 0) this.#pic.setLine(pic - 1, level);
    if (ioapic !== 0) this.#ioapic.setLine(ioapic - 1, level);
    if (level && words[at + ROUTE_MSI] !== 0 && words[at + ROUTE_ADDRESS_HIGH] === 0) {
      this.deliver(words[at + ROUTE_ADDRESS_LOW] as number, words[at + ROUTE_DATA] as number);
    }
  }

  /** Delivers a message-signalled interrupt; `address` is the lower half (Intel SDM vol. 3, 11.11). */
  deliver(address: number, data: number): void {
    const destination = (address >> 12) & 0xff;
    const logical = (address & 4) !== 0;
    const mode = (data >> 8) & 7;
    const level = (data & 0x8000) !== 0;
    // A level message that de-asserts means nothing to a local APIC.
    if (level && (data & 0x4000) === 0 && mode === DELIVER_FIXED) return;
    this.#lapics.send(mode, data & 0xff, destination, logical, level, false);
  }
}

/** @throws {RangeError} when `gsi` or a pin does not exist. */
export function checkGsiRoutes(gsi: number, routes: readonly GsiRoute[]): void {
  if (!Number.isInteger(gsi) || gsi < 0 || gsi >= GSI_COUNT) {
    throw new RangeError(`expected a GSI from 0 to ${GSI_COUNT - 1}, got ${gsi}`);
  }
  for (const route of routes) {
    if (route.type === "msi") continue;
    const pins = route.chip === "pic" ? 16 : IOAPIC_PINS;
    if (!Number.isInteger(route.pin) || route.pin < 0 || route.pin >= pins) {
      throw new RangeError(
        `expected a pin of the ${route.chip} from 0 to ${pins - 1}, got ${route.pin}`,
      );
    }
  }
}
