/**
 * Which code the processor runs when: interpreter only, translated as soon as possible, as samples of
 * the guest say, by chance, by chance on another thread, or both, compared (see lockstep.ts): always, or
 * so seldom that hours of a guest's work take minutes (see guards.ts). All but `auto` are for tests.
 *
 * @module
 */

import { HypervisorError } from "../../../errors.ts";
import { FuelCost } from "../state.ts";

/** How code gets from the interpreter to the translator. */
export type Tier =
  | "auto"
  | "interpreter"
  | "translator-forced"
  | "random"
  | "elsewhere"
  | "lockstep"
  | "spot-checks";

const TIERS: readonly Tier[] = [
  "auto",
  "interpreter",
  "translator-forced",
  "random",
  "elsewhere",
  "lockstep",
  "spot-checks",
];

/**
 * The tier that environment variable `VMCTL_SOFT_TIER` names, for whole-program tests; else `auto`.
 *
 * @throws {HypervisorError} where it names none.
 */
export function tierOfEnvironment(): Tier {
  const state = Deno.permissions.querySync({ name: "env", variable: "VMCTL_SOFT_TIER" }).state;
  const name = state === "granted" ? Deno.env.get("VMCTL_SOFT_TIER") : undefined;
  if (name === undefined || name === "") return "auto";
  const tier = TIERS.find((t) => t === name);
  if (tier === undefined) {
    throw new HypervisorError(
      `VMCTL_SOFT_TIER: expected one of ${TIERS.join(", ")}; got "${name}"`,
    );
  }
  return tier;
}

/** Draws what the tier does next. The numbers are the same in every run. */
export class TierPolicy {
  #state = 0x2545f491;

  /** @param fuel Fuel between looks around (see FuelCost), where nothing else is asked for. */
  constructor(readonly tier: Tier, readonly fuel: number) {}

  /** True where regions are compared with the interpreter. */
  get compares(): boolean {
    return this.tier === "lockstep" || this.tier === "spot-checks";
  }

  /** Fuel of a region that is compared. */
  comparedFuel(): number {
    return 1 + this.#draw(60);
  }

  /** Fuel until generated code comes back. */
  nextFuel(): number {
    switch (this.tier) {
      case "translator-forced":
        return FuelCost.jump;
      case "random":
      case "elsewhere":
        return FuelCost.jump + this.#draw(60 * FuelCost.jump);
      case "spot-checks":
        // Often short, so that code that seldom runs is translated as well.
        return FuelCost.jump + this.#draw(this.#draw(8) === 0 ? this.fuel : this.fuel >> 4);
      case "auto":
        // By chance, so that samples of a loop show all of it.
        return (this.fuel >> 1) + this.#draw(this.fuel);
      default:
        return this.fuel;
    }
  }

  /** What may be left of it at any time. */
  restOfFuel(): number {
    return this.tier === "auto" ? 1 + this.#draw(this.fuel) : this.nextFuel();
  }

  /** True where the code that runs next is to be translated whatever its heat. */
  translatesNow(): boolean {
    switch (this.tier) {
      case "translator-forced":
        return true;
      case "random":
      case "spot-checks":
        return this.#draw(3) === 0;
      default:
        return false;
    }
  }

  /** True where another thread is to be asked for the code that runs next whatever its heat. */
  get asksNow(): boolean {
    return this.tier === "elsewhere";
  }

  /** True where the answer is to be waited for: seldom, so that most come while the guest runs. */
  waitsNow(): boolean {
    return this.#draw(32) === 0;
  }

  /** True where a region over several pages is to be asked for. */
  asksWide(): boolean {
    return this.#draw(2) === 0;
  }

  /** True where one instruction is to be interpreted although its code may be translated. */
  stepsAside(): boolean {
    return this.tier === "random" && this.#draw(16) === 0;
  }

  #draw(n: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) % n;
  }
}
