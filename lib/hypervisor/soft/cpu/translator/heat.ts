/**
 * What files say of how hot regions were, so that the next run has V8 compile them before the guest gets
 * there: as priorities in the modules themselves.
 *
 * @module
 */

import { Priority, readPriorities, withPriorities } from "../../wasm/mod.ts";
import type { Unit } from "./unit.ts";

/** Samples of a region that make it worth to be optimized ahead: with fewer, later loads cost a next boot more. */
const HOT = 64;

/** Name that region number `region` has in its module. */
export function regionName(region: number): string {
  return `r${region}`;
}

/**
 * `unit` with a module that names what is worth to be compiled ahead, by samples of its regions and by
 * what it named before; the same one where there is nothing new.
 */
export function withHeat(unit: Unit, samples: ReadonlyMap<number, number>): Unit {
  const priorities = readPriorities(unit.bytes);
  let changed = false;
  for (const [region, count] of samples) {
    const priority = count >= HOT ? Priority.Optimize : Priority.Compile;
    const name = regionName(region);
    if (priority <= (priorities.get(name) ?? Priority.None)) continue;
    priorities.set(name, priority);
    changed = true;
  }
  return changed ? { ...unit, bytes: withPriorities(unit.bytes, priorities) } : unit;
}
