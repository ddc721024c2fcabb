/**
 * Filters of system calls (seccomp(2)), and news of calls that they stopped.
 *
 * @module
 */

import { check, Errno, HostError } from "./errno.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { tryIoctl } from "./ioctl.ts";
import { addressOf, bindLibc, lastErrno } from "./libc.ts";
import { NativeCode, protect, Protection } from "./native_code.ts";

const libc = bindLibc({
  // Safe: numbers only.
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
  // Safe: a buffer of the 152 bytes of glibc's struct sigaction.
  sigaction: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
});
const libcSeccomp = bindLibc({
  // Safe: the buffer is a struct sock_fprog that points at instructions which live until the call is
  // over; the kernel copies them.
  syscall: { parameters: ["i64", "u32", "u32", "buffer"], result: "i32" },
});
const libcRaw = bindLibc({
  // As safe as the call that the caller of rawSyscall chooses.
  syscall: {
    parameters: ["i64", "u64", "u64", "u64", "u64", "u64", "u64"],
    result: "i64",
  },
});

const PR_SET_NO_NEW_PRIVS = 38;
const PR_GET_NO_NEW_PRIVS = 39;
const SYS_SECCOMP = 317n;
const SYS_PIDFD_GETFD = 438;
/** Where a link in /proc to a descriptor of {@link installSeccompListener} leads. */
const LISTENER_NAME = "anon_inode:seccomp notify";
const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER = 8;
const SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16;
const INSTRUCTION_BYTES = 8;

/** Renounces new privileges by execve(2) for the calling thread, for ever. */
export function setNoNewPrivileges(): void {
  check(libc().prctl(PR_SET_NO_NEW_PRIVS, 1n, 0n, 0n, 0n), "prctl", "PR_SET_NO_NEW_PRIVS");
}

/** Whether the calling thread has renounced new privileges. */
export function hasNoNewPrivileges(): boolean {
  return check(libc().prctl(PR_GET_NO_NEW_PRIVS, 0n, 0n, 0n, 0n), "prctl") === 1;
}

/**
 * Loads a filter: an array of struct sock_filter. The calling thread needs {@link setNoNewPrivileges}
 * or CAP_SYS_ADMIN. For `"process"`, all threads get it, and no_new_privs of the calling one with it;
 * a thread cannot get rid of it, and threads that it creates have it, too.
 */
export function installSeccompFilter(
  program: Uint8Array<ArrayBuffer>,
  options: { scope: "thread" | "process" },
): void {
  const result = load(program, options.scope === "process" ? SECCOMP_FILTER_FLAG_TSYNC : 0);
  // With TSYNC the result is the number of a thread that has another filter already.
  if (result > 0) {
    throw new HostError("seccomp", Errno.ESRCH, {
      subject: `of thread ${result}, which has a filter of its own`,
    });
  }
}

/**
 * Loads a filter for all threads, as {@link installSeccompFilter} does, that holds calls for somebody else to
 * decide on (SECCOMP_RET_USER_NOTIF). Whoever has the result learns of them, by {@link receiveViolation}.
 *
 * @throws {HostError} EINVAL before Linux 5.7, EBUSY where a filter from before has such a descriptor.
 */
export function installSeccompListener(program: Uint8Array<ArrayBuffer>): Fd {
  const flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER |
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
  return Fd.adopt(load(program, flags));
}

function load(program: Uint8Array<ArrayBuffer>, flags: number): number {
  const count = program.length / INSTRUCTION_BYTES;
  if (!Number.isInteger(count) || count > 0xffff) throw new HostError("seccomp", Errno.EINVAL);
  const header = new DataView(new ArrayBuffer(16));
  header.setUint16(0, count, true);
  header.setBigUint64(8, addressOf(program), true);
  const call = libcSeccomp().syscall;
  return check(call(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, header), "seccomp");
}

const SECCOMP_IOCTL_NOTIF_RECV = 0xc050_2100;
const NOTIFICATION_BYTES = 80;

/**
 * Takes a call that is held, from the descriptor of {@link installSeccompListener}, which polls as readable
 * then. What the kernel says of it the process cannot change; its thread waits until the process is killed.
 *
 * @returns undefined where there is none any more, or `listener` is something else
 */
export function receiveViolation(listener: FdLike): SeccompViolation | undefined {
  const view = new DataView(new ArrayBuffer(NOTIFICATION_BYTES));
  if (tryIoctl(rawFd(listener), SECCOMP_IOCTL_NOTIF_RECV, view) < 0) return undefined;
  return {
    syscall: view.getUint32(16, true),
    arch: view.getUint32(20, true),
    address: view.getBigUint64(24, true),
    args: Array.from({ length: 6 }, (_, index) => view.getBigUint64(32 + index * 8, true)),
  };
}

/**
 * Makes any system call. For calls that have no wrapper here; what they do to this process is the
 * caller's responsibility.
 *
 * @param args Up to 6; the rest is 0.
 * @returns The result, or the error number as a negative number, as the kernel gives it.
 */
export function rawSyscall(number: number, args: readonly bigint[] = []): bigint {
  const arg = (index: number) => BigInt.asUintN(64, args[index] ?? 0n);
  const result = libcRaw().syscall(BigInt(number), arg(0), arg(1), arg(2), arg(3), arg(4), arg(5));
  return result === -1n ? BigInt(-lastErrno()) : result;
}

/**
 * A copy of the descriptor of {@link installSeccompListener} that another process has and does not hand
 * over; undefined where it has none, or may not be looked into (pidfd_getfd(2), Linux 5.6).
 *
 * @param process its pidfd and its number
 */
export function findSeccompListener(process: { pidfd: FdLike; pid: number }): Fd | undefined {
  const folder = `/proc/${process.pid}/fd`;
  try {
    for (const { name } of Deno.readDirSync(folder)) {
      if (Deno.readLinkSync(`${folder}/${name}`) !== LISTENER_NAME) continue;
      const fd = rawSyscall(SYS_PIDFD_GETFD, [BigInt(rawFd(process.pidfd)), BigInt(name), 0n]);
      if (fd >= 0n) return Fd.adopt(Number(fd));
    }
  } catch {
    // It is about to end, or not ours to look into.
  }
  return undefined;
}

/** A system call that a filter stopped with SIGSYS. */
export interface SeccompViolation {
  readonly syscall: number;
  /** AUDIT_ARCH of the call. */
  readonly arch: number;
  /** Address of the instruction behind the call. */
  readonly address: bigint;
  /** Its 6 arguments; 64 bits without a sign. */
  readonly args: readonly bigint[];
}

const SIGSYS = 31;
const SA_SIGINFO = 4;
const SIGINFO_BYTES = 32;
/** Where registers lie in ucontext_t, and how many bytes are passed on: R8 to RIP. */
const REGISTERS_OFFSET = 40;
const REGISTERS_BYTES = 17 * 8;

/** Bytes of a report, which is written at once. */
export const VIOLATION_REPORT_BYTES = SIGINFO_BYTES + REGISTERS_BYTES;

/** Status of a process that {@link reportViolations} ended: what shells show for SIGSYS. */
export const VIOLATION_EXIT_STATUS = 128 + SIGSYS;

/**
 * Lets a call that a filter traps end the process with {@link VIOLATION_EXIT_STATUS}, after a report
 * ({@link parseViolation}) into descriptor `fd`. The filter must allow `writev` to it and `exit_group`.
 * The thread that made the call may hold any lock, so the handler is machine code that makes these two
 * calls and nothing else.
 */
export function reportViolations(fd: number): void {
  // Never released: the handler stays until the process ends.
  const code = new NativeCode(4096);
  // The handler has the signal's number in EDI, siginfo_t in RSI, ucontext_t in RDX, and never returns,
  // so it may use any register and the stack. It makes two struct iovec on the stack.
  const parts = [
    [0x48, 0x83, 0xec, 0x20], // sub rsp, 32
    [0x48, 0x89, 0x34, 0x24], // mov [rsp], rsi
    [0x48, 0xc7, 0x44, 0x24, 0x08, ...le32(SIGINFO_BYTES)], // mov qword [rsp + 8], bytes
    [0x48, 0x83, 0xc2, REGISTERS_OFFSET], // add rdx, offset
    [0x48, 0x89, 0x54, 0x24, 0x10], // mov [rsp + 16], rdx
    [0x48, 0xc7, 0x44, 0x24, 0x18, ...le32(REGISTERS_BYTES)], // mov qword [rsp + 24], bytes
    [0xbf, ...le32(fd)], // mov edi, fd
    [0x48, 0x89, 0xe6], // mov rsi, rsp
    [0xba, ...le32(2)], // mov edx, 2
    [0xb8, ...le32(20)], // mov eax, SYS_writev
    [0x0f, 0x05], // syscall
    [0xbf, ...le32(VIOLATION_EXIT_STATUS)], // mov edi, status
    [0xb8, ...le32(231)], // mov eax, SYS_exit_group
    [0x0f, 0x05], // syscall
    [0x0f, 0x0b], // ud2
  ];
  code.bytes.set(parts.flat());
  protect(code.address, 4096, Protection.Read | Protection.Execute);
  const action = new DataView(new ArrayBuffer(152));
  action.setBigUint64(0, code.address, true);
  action.setInt32(136, SA_SIGINFO, true);
  check(libc().sigaction(SIGSYS, action, null), "sigaction", "of SIGSYS");
}

function le32(value: number): number[] {
  return [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
}

/** Reads a report; undefined where `bytes` is none. */
export function parseViolation(bytes: Uint8Array): SeccompViolation | undefined {
  if (bytes.length < VIOLATION_REPORT_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getInt32(0, true) !== SIGSYS) return undefined;
  const register = (index: number) => view.getBigUint64(SIGINFO_BYTES + index * 8, true);
  return {
    address: view.getBigUint64(16, true),
    syscall: view.getUint32(24, true),
    arch: view.getUint32(28, true),
    // RDI, RSI, RDX, R10, R8, R9 in the order of the kernel's gregs.
    args: [register(8), register(9), register(12), register(2), register(0), register(1)],
  };
}
