/**
 * Joins small units into larger ones for a file: an instance costs a vCPU about the same whatever is in it, and
 * V8 12 KiB a module.
 *
 * @module
 */

import { joinModules } from "../../wasm/mod.ts";
import { regionName } from "./heat.ts";
import type { Unit } from "./unit.ts";

/** About how large joined modules become, in bytes. */
const JOINED_BYTES = 128 << 10;
/** Units from here on stay alone. */
const LARGE_BYTES = JOINED_BYTES / 2;
/** Fewer than these wait for others. */
const LEAST = 6;

const REGION = /^r(\d+)$/;

/** One unit of all regions of `units`, in that order; undefined where that cannot be. */
export function joinUnits(units: readonly Unit[]): Unit | undefined {
  const firsts: number[] = [];
  let count = 0;
  for (const { regions } of units) {
    firsts.push(count);
    count += regions.length;
  }
  const bytes = joinModules(units.map((unit) => unit.bytes), (of, name) => {
    const number = Number(REGION.exec(name)?.[1] ?? NaN);
    if (!(number < (units[of]?.regions.length ?? 0))) throw new RangeError("no region");
    return regionName((firsts[of] as number) + number);
  });
  return bytes === undefined ? undefined : { regions: units.flatMap((u) => u.regions), bytes };
}

/**
 * Joins what is small of `items`, in their order; a joined one stands where its first part stood.
 *
 * @param unitOf The unit of an item, undefined where that is not to be joined.
 * @param make An item of a joined unit and what it was made of.
 */
export function joinSmall<T>(
  items: readonly T[],
  unitOf: (item: T) => Unit | undefined,
  make: (unit: Unit, parts: readonly T[]) => T,
): T[] {
  const places: T[][] = [];
  let group: { place: T[]; units: Unit[]; bytes: number } | undefined;
  const finish = () => {
    if (group === undefined || group.units.length < LEAST) return;
    const joined = joinUnits(group.units);
    if (joined !== undefined) group.place.splice(0, Infinity, make(joined, [...group.place]));
    group = undefined;
  };
  for (const item of items) {
    const unit = unitOf(item);
    if (unit === undefined || unit.bytes.length >= LARGE_BYTES) {
      places.push([item]);
      continue;
    }
    if (group === undefined) {
      group = { place: [], units: [], bytes: 0 };
      places.push(group.place);
    }
    group.place.push(item);
    group.units.push(unit);
    group.bytes += unit.bytes.length;
    if (group.bytes >= JOINED_BYTES) finish();
  }
  finish();
  return places.flat();
}
