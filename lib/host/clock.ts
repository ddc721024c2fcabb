/**
 * The host's clocks and scheduler.
 *
 * @module
 */

import { bindLibc } from "./libc.ts";

const libc = bindLibc({
  // Safe: the buffer is the 16 bytes of struct timespec.
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
  // Safe: takes nothing.
  sched_yield: { parameters: [], result: "i32" },
  // Safe: the buffer is as long as struct rusage.
  getrusage: { parameters: ["i32", "buffer"], result: "i32" },
  // Safe: PR_SET_TIMERSLACK takes a number.
  prctl: { parameters: ["i32", "usize"], result: "i32" },
});

const timespec = new Uint32Array(new ArrayBuffer(16));

/**
 * Nanoseconds of the monotonic clock; exact for 104 days of uptime, to 2 ns after that. About 40 ns a
 * call, and nothing is allocated. The same clock in every thread and process.
 */
export function monotonicNs(): number {
  return clockNs(1);
}

/**
 * The lower 32 bits of the microseconds of the monotonic clock, as a signed number: a small integer, for which
 * nothing is allocated even in code that is not optimized. It is for {@link microsBetween}.
 */
export function monotonicMicros32(): number {
  libc().clock_gettime(1, timespec);
  return Math.imul(timespec[0] ?? 0, 1_000_000) + Math.floor((timespec[2] ?? 0) / 1000) | 0;
}

/** Microseconds from `begin` to `now`, both of {@link monotonicMicros32}; whole multiples of 71.6 minutes are lost. */
export function microsBetween(begin: number, now: number): number {
  return now - begin >>> 0;
}

/** Nanoseconds since 1970 of the wall clock, to 256 ns. */
export function realtimeNs(): number {
  return clockNs(0);
}

/** Nanoseconds of processor time of the calling thread. */
export function threadCpuNs(): number {
  return clockNs(3);
}

const RUSAGE_THREAD = 1;
const rusage = new Int32Array(new ArrayBuffer(144));
/** The lower half of ru_nivcsw in struct rusage, in words. */
const INVOLUNTARY_SWITCHES = 136 / 4;

/** How often another thread took the processor from the calling one; its lower 32 bits. Nothing is allocated. */
export function threadPreemptions(): number {
  libc().getrusage(RUSAGE_THREAD, rusage);
  return rusage[INVOLUNTARY_SWITCHES] ?? 0;
}

const PR_SET_TIMERSLACK = 29;

/** Has the calling thread's sleeps end when their time is up, and not up to 50 us later to save interrupts. */
export function sleepExactly(): void {
  libc().prctl(PR_SET_TIMERSLACK, 1n);
}

/** Lets other threads run that wait for a processor, where there are any. */
export function yieldThread(): void {
  libc().sched_yield();
}

function clockNs(clock: number): number {
  libc().clock_gettime(clock, timespec);
  const seconds = (timespec[0] ?? 0) + (timespec[1] ?? 0) * 2 ** 32;
  return seconds * 1e9 + (timespec[2] ?? 0);
}
