/**
 * Named constants of policies.
 *
 * @module
 */

import { CONSTANTS_TABLE } from "./constants_table.ts";

let table: ReadonlyMap<string, bigint> | undefined;

/** All constants: 64-bit values without a sign. */
export function constants(): ReadonlyMap<string, bigint> {
  return table ??= readTable();
}

function readTable(): ReadonlyMap<string, bigint> {
  const values = new Map<string, bigint>();
  for (const family of CONSTANTS_TABLE) {
    for (const word of family.trim().split(/\s+/)) {
      const equals = word.indexOf("=");
      values.set(word.slice(0, equals), BigInt(`0x${word.slice(equals + 1)}`));
    }
  }
  return values;
}

let errnoNames: ReadonlyMap<number, string> | undefined;

/** Name of error number `errno`, such as `ENOENT`, or its digits. */
export function errnoConstantName(errno: number): string {
  errnoNames ??= readErrnoNames();
  return errnoNames.get(errno) ?? String(errno);
}

function readErrnoNames(): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  for (const [name, value] of constants()) {
    // Of two names of one number, the one that programs use.
    const preferred = name === "EAGAIN" || name === "EDEADLK" || name === "EOPNOTSUPP";
    if (/^E[A-Z0-9]+$/.test(name) && !/^(EPOLL|EVIO|EPIOC)/.test(name)) {
      if (preferred || !names.has(Number(value))) names.set(Number(value), name);
    }
  }
  return names;
}
