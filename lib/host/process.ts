/**
 * Facts about this process and its limits.
 *
 * @module
 */

import { check, Errno } from "./errno.ts";
import { bindLibc, lastErrno } from "./libc.ts";

// Safe: numbers, and buffers of the 16 bytes of struct rlimit64.
const libc = bindLibc({
  getuid: { parameters: [], result: "u32" },
  geteuid: { parameters: [], result: "u32" },
  getgid: { parameters: [], result: "u32" },
  getegid: { parameters: [], result: "u32" },
  umask: { parameters: ["u32"], result: "u32" },
});
const libcLimit = bindLibc({
  prlimit64: { parameters: ["i32", "i32", "buffer", "buffer"], result: "i32" },
});

const libcMemory = bindLibc({
  malloc_trim: { parameters: ["usize"], result: "i32" },
});

// Safe: the kernel writes into the buffer, whose length it is told.
const libcRandom = bindLibc({
  getrandom: { parameters: ["buffer", "usize", "u32"], result: "i32" },
});

/** Fills `into` with the kernel's random bytes, waiting for its generator to be ready (getrandom(2)). */
export function getrandom(into: Uint8Array<ArrayBuffer>): void {
  let at = 0;
  while (at < into.byteLength) {
    const rest = at === 0 ? into : into.subarray(at);
    // Larger requests may be cut short by signals.
    const count = libcRandom().getrandom(rest, BigInt(rest.byteLength), 0);
    if (count >= 0) at += count;
    else if (lastErrno() !== Errno.EINTR) check(count, "getrandom");
  }
}

/** Real user id. */
export function getuid(): number {
  return libc().getuid();
}

/** Effective user id. */
export function geteuid(): number {
  return libc().geteuid();
}

/** Real group id. */
export function getgid(): number {
  return libc().getgid();
}

/** Effective group id. */
export function getegid(): number {
  return libc().getegid();
}

/** Sets the process's file mode mask; returns the former one. */
export function umask(mask: number): number {
  return libc().umask(mask);
}

/** Resources of {@link getResourceLimit}. */
export const Resource = { Core: 4, OpenFiles: 7, LockedMemory: 8, AddressSpace: 9 } as const;

/** A limit; `Infinity` where there is none. */
export interface ResourceLimit {
  readonly soft: number;
  readonly hard: number;
}

/** The limit of one of {@link Resource} for this process. */
export function getResourceLimit(resource: number): ResourceLimit {
  const limit = new DataView(new ArrayBuffer(16));
  check(libcLimit().prlimit64(0, resource, null, limit), "prlimit");
  return { soft: limitAt(limit, 0), hard: limitAt(limit, 8) };
}

/** Sets the limit of one of {@link Resource} for this process. */
export function setResourceLimit(resource: number, limit: ResourceLimit): void {
  const bytes = new DataView(new ArrayBuffer(16));
  putLimit(bytes, 0, limit.soft);
  putLimit(bytes, 8, limit.hard);
  check(libcLimit().prlimit64(0, resource, bytes, null), "prlimit");
}

const INFINITY = 0xffff_ffff_ffff_ffffn;

function limitAt(view: DataView, at: number): number {
  const value = view.getBigUint64(at, true);
  return value === INFINITY ? Infinity : Number(value);
}

function putLimit(view: DataView, at: number, value: number): void {
  view.setBigUint64(at, value === Infinity ? INFINITY : BigInt(value), true);
}

type Collect = (
  options:
    | { type: "major"; execution: "sync"; flavor: "regular" | "last-resort" }
    | { type: "minor"; execution: "sync" },
) => void;

/**
 * Collects the garbage of this thread's heap and what lies outside of it, and gives it back to the host.
 * That takes some milliseconds to some tens of them.
 *
 * @param thoroughly Whether pages of the heap that are half empty are given back, too.
 * @returns false where V8 runs without `--expose-gc`, other than in the executable: then nothing is done.
 */
export function collectGarbage(thoroughly: boolean): boolean {
  const collect = (globalThis as { gc?: Collect }).gc;
  if (collect === undefined) return false;
  const flavor = thoroughly ? "last-resort" : "regular";
  collect({ type: "major", execution: "sync", flavor });
  // Modules lie in the C library's memory, and what compilers used.
  releaseFreeMemory();
  return true;
}

/**
 * Collects what has become garbage of this thread's young objects, and what of it lies outside of the heap,
 * which does not make the collector come sooner. That takes less than a millisecond.
 */
export function collectYoungGarbage(): void {
  (globalThis as { gc?: Collect }).gc?.({ type: "minor", execution: "sync" });
}

/** Gives memory back to the host that the C library keeps for later (malloc_trim(3)). */
export function releaseFreeMemory(): void {
  libcMemory().malloc_trim(0n);
}

/** Unit of processor times in /proc (USER_HZ is 100 on x86). */
const CLOCK_TICK_MS = 10;

/** What the kernel tells of a process or thread (proc_pid_stat(5)). */
export interface ProcessStat {
  /** Its name, at most 15 bytes of it. */
  readonly name: string;
  /** What it does, such as `R` or `S`. */
  readonly state: string;
  /** Its process group. */
  readonly group: number;
  /** Process group in the foreground of its terminal; -1 where it has none. */
  readonly foregroundGroup: number;
  /** How long it has computed, in ms, a multiple of 10. */
  readonly cpuTimeMs: number;
}

/**
 * Reads a file such as `/proc/1/stat` or `/proc/1/task/1/stat`.
 *
 * @throws {Error} of the runtime where there is no such process or thread.
 */
export function readProcessStat(path: string): ProcessStat {
  const stat = Deno.readTextFileSync(path);
  // The name in parentheses, which may hold anything, is the second field.
  const nameEnd = stat.lastIndexOf(")");
  const fields = stat.slice(nameEnd + 2).split(" ");
  const number = (field: number) => Number(fields[field - 3]);
  return {
    name: stat.slice(stat.indexOf("(") + 1, nameEnd),
    state: fields[0] ?? "?",
    group: number(5),
    foregroundGroup: number(8),
    cpuTimeMs: (number(14) + number(15)) * CLOCK_TICK_MS,
  };
}
