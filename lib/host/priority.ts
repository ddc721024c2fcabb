/**
 * Priorities of this process's threads.
 *
 * @module
 */

import { bindLibc } from "./libc.ts";

const libc = bindLibc({
  // Safe: numbers only, both.
  getpriority: { parameters: ["i32", "u32"], result: "i32" },
  setpriority: { parameters: ["i32", "u32", "i32"], result: "i32" },
});

/** A process or, on Linux, a thread by its number; 0 for the caller. */
const PRIO_PROCESS = 0;
/** The lowest priority. */
const MAX_NICE = 19;
const TASKS = "/proc/self/task";

/**
 * Lets the threads of this process that are called `name` (of at most 15 characters, as the kernel keeps
 * it) go behind the caller: each of the `steps` (of nice(2)) makes it count for a fifth less where
 * processors are scarce.
 *
 * @returns how many there are.
 */
export function lowerPriority(name: string, steps: number): number {
  const found = [...threads()].filter((thread) => thread.name === name);
  return lower(found.map(({ tid }) => tid), steps);
}

/**
 * The same for one thread: of those that are called `prefix` and a number, the one with the highest.
 *
 * @returns whether there is one.
 */
export function lowerPriorityOfLast(prefix: string, steps: number): boolean {
  let last: { readonly tid: number; readonly number: number } | undefined;
  for (const { tid, name } of threads()) {
    const digits = name.startsWith(prefix) ? name.slice(prefix.length) : "";
    if (!/^\d+$/.test(digits)) continue;
    const number = Number(digits);
    if (last === undefined || number > last.number) last = { tid, number };
  }
  return last !== undefined && lower([last.tid], steps) === 1;
}

function lower(tids: readonly number[], steps: number): number {
  // The caller exists, so what comes is no error.
  const nice = Math.min(libc().getpriority(PRIO_PROCESS, 0) + steps, MAX_NICE);
  // Nobody needs a right for less; a thread that has ended is not missed.
  return tids.filter((tid) => libc().setpriority(PRIO_PROCESS, tid, nice) === 0).length;
}

/** This process's threads; without /proc none is known. */
function* threads(): Generator<{ readonly tid: number; readonly name: string }> {
  try {
    for (const { name: tid } of Deno.readDirSync(TASKS)) {
      const name = threadName(tid);
      if (name !== undefined) yield { tid: Number(tid), name };
    }
  } catch (error) {
    if (!(error instanceof Error)) throw error;
  }
}

function threadName(tid: string): string | undefined {
  try {
    return Deno.readTextFileSync(`${TASKS}/${tid}/comm`).trimEnd();
  } catch (error) {
    if (error instanceof Error) return undefined;
    throw error;
  }
}
