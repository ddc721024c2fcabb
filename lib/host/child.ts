/**
 * Child processes that were not started by the runtime, by their pidfd.
 *
 * @module
 */

import { check, Errno, HostError } from "./errno.ts";
import { type FdLike, rawFd } from "./fd.ts";
import { bindLibc, lastErrno } from "./libc.ts";

// Safe: numbers, and a buffer of the 128 bytes of siginfo_t.
const libc = bindLibc({
  waitid: { parameters: ["i32", "i32", "buffer", "i32"], result: "i32" },
});
const libcSignal = bindLibc({
  // Safe: numbers, no siginfo_t.
  syscall: { parameters: ["u32", "i32", "i32", "usize", "u32"], result: "i32" },
});

const P_PIDFD = 3;
const WNOHANG = 1;
const WEXITED = 4;
const CLD_EXITED = 1;
const CLD_DUMPED = 3;
const SYS_PIDFD_SEND_SIGNAL = 424;

/** How a process ended: by itself with a status, or by a signal. */
export type ProcessEnd =
  | { readonly kind: "exited"; readonly status: number }
  | { readonly kind: "killed"; readonly signal: number; readonly dumpedCore: boolean };

const info = new DataView(new ArrayBuffer(128));

/**
 * Takes the end of the child with this pidfd, once; undefined as long as it lives. The pidfd is readable
 * when it has ended.
 */
export function takeProcessEnd(pidfd: FdLike): ProcessEnd | undefined {
  info.setInt32(0, 0, true);
  check(libc().waitid(P_PIDFD, rawFd(pidfd), info, WEXITED | WNOHANG), "waitid");
  if (info.getInt32(0, true) === 0) return undefined;
  const code = info.getInt32(8, true);
  const status = info.getInt32(24, true);
  if (code === CLD_EXITED) return { kind: "exited", status };
  return { kind: "killed", signal: status, dumpedCore: code === CLD_DUMPED };
}

/** Sends `signal` to the process with this pidfd; false where it has ended. */
export function signalProcess(pidfd: FdLike, signal: number): boolean {
  if (libcSignal().syscall(SYS_PIDFD_SEND_SIGNAL, rawFd(pidfd), signal, 0n, 0) === 0) return true;
  const errno = lastErrno();
  if (errno === Errno.ESRCH) return false;
  throw new HostError("pidfd_send_signal", errno);
}
