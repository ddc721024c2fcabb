/**
 * Puts options of several sources together.
 *
 * @module
 */

import type { DecodedOptions, OptionTable, ValueType } from "./option_types.ts";

/**
 * The options of `first` overlaid with those of `second`: lists append, records merge key by key,
 * everything else is overwritten. Associative; no options at all is its neutral element.
 */
export function mergeOptions<Table extends OptionTable>(
  table: Table,
  ...sources: readonly DecodedOptions<Table>[]
): DecodedOptions<Table> {
  const result: Record<string, unknown> = {};
  for (const source of sources) {
    for (const [name, value] of Object.entries(source)) {
      if (value === undefined) continue;
      const before = result[name];
      result[name] = before === undefined ? value : mergeValue(table[name]!.type, before, value);
    }
  }
  return result as DecodedOptions<Table>;
}

function mergeValue(type: ValueType, first: unknown, second: unknown): unknown {
  if (type.kind === "list") return [...first as unknown[], ...second as unknown[]];
  if (type.kind === "record") return { ...first as object, ...second as object };
  return second;
}
