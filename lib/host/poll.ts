/**
 * Waiting for one or a few descriptors (poll(2)).
 *
 * @module
 */

import { Errno, HostError } from "./errno.ts";
import { type FdLike, rawFd } from "./fd.ts";
import { bindLibc, lastErrno } from "./libc.ts";

const libc = bindLibc({
  // Safe: the buffer holds as many struct pollfd as the count says.
  poll: { parameters: ["buffer", "u32", "i32"], result: "i32" },
});

/** Bits of poll and epoll, the same in both. */
export const PollEvent = {
  In: 1,
  Priority: 2,
  Out: 4,
  Error: 8,
  HangUp: 16,
  ReadHangUp: 0x2000,
} as const;

/** A descriptor and what to wait for. */
export interface PollRequest {
  readonly fd: FdLike;
  /** Bits of {@link PollEvent}. */
  readonly events: number;
}

/**
 * Waits until one of `requests` is ready, at most `timeoutMs` (-1 is forever).
 *
 * @returns the ready bits per request; all 0 after the time or a signal.
 */
export function poll(requests: readonly PollRequest[], timeoutMs = -1): number[] {
  const table = new DataView(new ArrayBuffer(Math.max(8, requests.length * 8)));
  requests.forEach((request, index) => {
    table.setInt32(index * 8, rawFd(request.fd), true);
    table.setInt16(index * 8 + 4, request.events, true);
  });
  const count = libc().poll(table, requests.length, timeoutMs);
  if (count < 0) {
    const errno = lastErrno();
    if (errno !== Errno.EINTR) throw new HostError("poll", errno);
  }
  return requests.map((_, index) => count < 0 ? 0 : table.getUint16(index * 8 + 6, true));
}

const single = new DataView(new ArrayBuffer(8));

/** Waits for one descriptor; returns the ready bits, 0 after the time or a signal. */
export function pollFd(fd: FdLike, events: number, timeoutMs = -1): number {
  single.setInt32(0, rawFd(fd), true);
  single.setInt16(4, events, true);
  single.setInt16(6, 0, true);
  if (libc().poll(single, 1, timeoutMs) >= 0) return single.getUint16(6, true);
  const errno = lastErrno();
  if (errno !== Errno.EINTR) throw new HostError("poll", errno);
  return 0;
}
