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
  // The caller exists, so what comes is no error.
  const nice = Math.min(libc().getpriority(PRIO_PROCESS, 0) + steps, MAX_NICE);
  let count = 0;
  try {
    for (const { name: tid } of Deno.readDirSync(TASKS)) {
      if (threadName(tid) !== name) continue;
      // Nobody needs a right for less; a thread that has ended is not missed.
      if (libc().setpriority(PRIO_PROCESS, Number(tid), nice) === 0) count++;
    }
  } catch (error) {
    // Without /proc all threads stay as they are.
    if (!(error instanceof Error)) throw error;
  }
  return count;
}

function threadName(tid: string): string | undefined {
  try {
    return Deno.readTextFileSync(`${TASKS}/${tid}/comm`).trimEnd();
  } catch (error) {
    if (error instanceof Error) return undefined;
    throw error;
  }
}
