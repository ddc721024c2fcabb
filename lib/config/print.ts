/**
 * Options in the words of the command line.
 *
 * @module
 */

import { type KeyValue, printKeyValues } from "./grammar.ts";
import type { DecodedOptions, ItemType, OptionTable } from "./option_types.ts";

/** One word for each option, lists one for each item; flags that are off are left out. */
export function printArguments<Table extends OptionTable>(
  table: Table,
  options: DecodedOptions<Table>,
): string[] {
  const values: Readonly<Record<string, unknown>> = options;
  return Object.entries(table).flatMap(([name, { type }]) => {
    const value = values[name];
    if (value === undefined || value === false) return [];
    if (type.kind === "boolean") return [`--${name}`];
    if (type.kind !== "list") return [`--${name}=${printItem(type, value)}`];
    return (value as unknown[]).map((item) => `--${name}=${printItem(type.item, item)}`);
  });
}

function printItem(type: ItemType, value: unknown): string {
  return type.kind === "record"
    ? printKeyValues(value as Readonly<Record<string, KeyValue>>)
    : String(value);
}
