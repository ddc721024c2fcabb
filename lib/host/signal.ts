/**
 * Signals to threads, as a way to interrupt a blocking system call.
 *
 * @module
 */

import { check, Errno, HostError } from "./errno.ts";
import { bindLibc, lastErrno } from "./libc.ts";

// Safe: struct sigaction of glibc has 152 bytes, sigset_t 128; the buffers have these sizes.
const libc = bindLibc({
  sigaction: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  pthread_sigmask: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  kill: { parameters: ["i32", "i32"], result: "i32" },
  // Used as the handler: it gets the signal number, returns its absolute value, touches nothing, and so
  // is async-signal-safe and reentrant.
  abs: { type: "pointer" },
});
const libcThread = bindLibc({
  // Safe: numbers only. The wrappers gettid() and tgkill() are younger than the C libraries supported.
  syscall: { parameters: ["u32", "i32", "i32", "i32"], result: "i32" },
});

const SYS_GETTID = 186;
const SYS_TGKILL = 234;
const SYS_GETPID = 39;

/** Numbers of signals on x86-64 Linux. */
export const Signal = {
  Hangup: 1,
  Interrupt: 2,
  Quit: 3,
  Abort: 6,
  Kill: 9,
  User1: 10,
  Segv: 11,
  User2: 12,
  Pipe: 13,
  Alarm: 14,
  Terminate: 15,
  Child: 17,
  Continue: 18,
  Stop: 19,
  WindowChange: 28,
} as const;

const SIGNAL_NAMES = [
  ...["HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2"],
  ...["PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG"],
  ...["XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS"],
];

/** Such as `SIGKILL`, or `signal 40` where it has no name. */
export function signalName(signal: number): string {
  const name = SIGNAL_NAMES[signal - 1];
  return name === undefined ? `signal ${signal}` : `SIG${name}`;
}

/** First real-time signal that the C library leaves to programs. */
export const FIRST_REALTIME_SIGNAL = 34;

/**
 * Makes `signal` interrupt a blocking system call (EINTR) of the thread that gets it, and do nothing
 * else. For the whole process. Signals are to be sent to one thread, with {@link tgkill}.
 */
export function installNoopSignalHandler(signal: number): void {
  const action = new DataView(new ArrayBuffer(152));
  const handler = Deno.UnsafePointer.value(libc().abs);
  action.setBigUint64(0, handler, true);
  // sa_mask and sa_flags stay 0: without SA_RESTART the call comes back with EINTR.
  check(libc().sigaction(signal, action, null), "sigaction", `of signal ${signal}`);
}

/** Makes the process ignore `signal` or return to its default action. */
export function setSignalDisposition(signal: number, disposition: "default" | "ignore"): void {
  const action = new DataView(new ArrayBuffer(152));
  action.setBigUint64(0, disposition === "ignore" ? 1n : 0n, true);
  check(libc().sigaction(signal, action, null), "sigaction", `of signal ${signal}`);
}

/** Blocks or unblocks `signal` for the calling thread. */
export function blockSignal(signal: number, blocked = true): void {
  const set = new DataView(new ArrayBuffer(128));
  const bit = signal - 1;
  set.setUint8(bit >> 3, 1 << (bit & 7));
  const error = libc().pthread_sigmask(blocked ? 0 : 1, set, null);
  if (error !== 0) throw new HostError("pthread_sigmask", error);
}

/** Number of the calling thread. */
export function gettid(): number {
  return libcThread().syscall(SYS_GETTID, 0, 0, 0);
}

/** Number of this process. */
export function getpid(): number {
  return libcThread().syscall(SYS_GETPID, 0, 0, 0);
}

/** Sends `signal` to thread `tid` of process `pid`; false where there is no such thread any more. */
export function tgkill(pid: number, tid: number, signal: number): boolean {
  if (libcThread().syscall(SYS_TGKILL, pid, tid, signal) === 0) return true;
  const errno = lastErrno();
  if (errno === Errno.ESRCH) return false;
  throw new HostError("tgkill", errno);
}

/** Sends `signal` to a process (0 only asks); false where there is none. */
export function kill(pid: number, signal: number): boolean {
  if (libc().kill(pid, signal) === 0) return true;
  const errno = lastErrno();
  if (errno === Errno.ESRCH) return false;
  throw new HostError("kill", errno, { subject: `of process ${pid}` });
}
