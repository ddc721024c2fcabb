/**
 * Descriptors that carry events: eventfd(2), timerfd(2).
 *
 * @module
 */

import { check, Errno, isToRepeat } from "./errno.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { tryRead } from "./file.ts";
import { bindLibc, lastErrno } from "./libc.ts";

// Safe: numbers, and buffers of the 8 and 32 bytes that the kernel reads or writes.
const libc = bindLibc({
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
});
const libcTimer = bindLibc({
  timerfd_create: { parameters: ["i32", "i32"], result: "i32" },
  timerfd_settime: { parameters: ["i32", "i32", "buffer", "pointer"], result: "i32" },
});

const CLOEXEC = 0o2000000;
const NONBLOCK = 0o4000;

/** Settings of {@link eventfd}. */
export interface EventfdOptions {
  /** Whether reading an unsignalled one fails with EAGAIN instead of waiting. */
  readonly nonblock?: boolean;
  /** Whether a read takes 1 instead of all. */
  readonly semaphore?: boolean;
}

/** A counter that can be waited for. */
export function eventfd(initial = 0, options: EventfdOptions = {}): Fd {
  const flags = CLOEXEC | (options.nonblock ? NONBLOCK : 0) | (options.semaphore ? 1 : 0);
  return Fd.adopt(check(libc().eventfd(initial, flags), "eventfd"));
}

const one = new Uint8Array(new ArrayBuffer(8));
one[0] = 1;
const counter = new DataView(new ArrayBuffer(8));
const counterBytes = new Uint8Array(counter.buffer);

/** Adds 1 to an eventfd. Nothing is allocated. A counter at its maximum stays: it is signalled anyway. */
export function signalEvent(fd: FdLike): void {
  const raw = rawFd(fd);
  for (;;) {
    const result = libc().write(raw, one, 8);
    if (result >= 0) return;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return;
    if (!isToRepeat(errno)) check(result, "write(eventfd)");
  }
}

/** Takes the count of an eventfd, or the expirations of a timerfd; 0 when there are none now. */
export function takeEvent(fd: FdLike): number {
  if (tryRead(fd, counterBytes) < 0) return 0;
  return counter.getUint32(0, true) + counter.getUint32(4, true) * 2 ** 32;
}

/** A timer of the monotonic clock that can be waited for; disarmed. */
export function timerfd(options: { readonly nonblock?: boolean } = {}): Fd {
  const CLOCK_MONOTONIC = 1;
  const flags = CLOEXEC | (options.nonblock === false ? 0 : NONBLOCK);
  return Fd.adopt(check(libcTimer().timerfd_create(CLOCK_MONOTONIC, flags), "timerfd_create"));
}

/** When a timer fires. */
export interface TimerSetting {
  /** In ns: from now, or the monotonic clock's time where `absolute`; 0 disarms. */
  readonly ns: number;
  /** Period after that in ns; 0 is once. */
  readonly intervalNs?: number;
  /** Whether `ns` is a time of the clock. */
  readonly absolute?: boolean;
}

const spec = new DataView(new ArrayBuffer(32));

/** Arms or disarms a timer of {@link timerfd}. */
export function setTimer(fd: FdLike, setting: TimerSetting): void {
  const TFD_TIMER_ABSTIME = 1;
  putTimespec(0, setting.intervalNs ?? 0);
  putTimespec(16, setting.ns);
  const flags = setting.absolute ? TFD_TIMER_ABSTIME : 0;
  check(libcTimer().timerfd_settime(rawFd(fd), flags, spec, null), "timerfd_settime");
}

function putTimespec(at: number, ns: number): void {
  const seconds = Math.floor(ns / 1e9);
  spec.setUint32(at, seconds >>> 0, true);
  spec.setUint32(at + 4, Math.floor(seconds / 2 ** 32), true);
  spec.setUint32(at + 8, Math.floor(ns - seconds * 1e9), true);
  spec.setUint32(at + 12, 0, true);
}
