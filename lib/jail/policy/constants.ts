/**
 * Named constants of policies.
 *
 * @module
 */

import { CONSTANTS_TABLE } from "./constants_table.ts";

const known = new Map<string, bigint>();

/**
 * The constant `name`: 64 bits without a sign; undefined where there is none of that name. The table is
 * searched, not read as a whole, which would take longer than all else that a policy needs.
 */
export function constantValue(name: string): bigint | undefined {
  const value = known.get(name) ?? searchTable(name);
  if (value !== undefined) known.set(name, value);
  return value;
}

/** Combines constants that must exist. */
export function flags(...names: readonly string[]): bigint {
  return names.reduce((sum, name) => {
    const value = constantValue(name);
    if (value === undefined) throw new TypeError(`no constant ${name}`);
    return sum | value;
  }, 0n);
}

/** Names of all constants. */
export function constantNames(): string[] {
  return CONSTANTS_TABLE.flatMap((family) =>
    family.trim().split(/\s+/).map((word) => word.slice(0, word.indexOf("=")))
  );
}

function searchTable(name: string): bigint | undefined {
  if (!/^\w+$/.test(name)) return undefined;
  const word = `${name}=`;
  for (const family of CONSTANTS_TABLE) {
    for (let at = family.indexOf(word); at >= 0; at = family.indexOf(word, at + 1)) {
      // Families begin with white space, so there is a character in front of each name.
      if (!/\s/.test(family[at - 1] ?? "")) continue;
      const digits = /^[0-9a-f]+/.exec(family.slice(at + word.length, at + word.length + 16));
      return digits === null ? undefined : BigInt(`0x${digits[0]}`);
    }
  }
  return undefined;
}

let errnoNames: ReadonlyMap<number, string> | undefined;

/** Name of error number `errno`, such as `ENOENT`, or its digits. */
export function errnoConstantName(errno: number): string {
  errnoNames ??= readErrnoNames();
  return errnoNames.get(errno) ?? String(errno);
}

function readErrnoNames(): ReadonlyMap<number, string> {
  const names = new Map<number, string>();
  const isErrno = (name: string) => /^E[A-Z0-9]+$/.test(name) && !/^(EPOLL|EVIO|EPIOC)/.test(name);
  for (const name of constantNames().filter(isErrno)) {
    const value = Number(constantValue(name));
    // Of two names of one number, the one that programs use.
    const isPreferred = name === "EAGAIN" || name === "EDEADLK" || name === "EOPNOTSUPP";
    if (isPreferred || !names.has(value)) names.set(value, name);
  }
  return names;
}
