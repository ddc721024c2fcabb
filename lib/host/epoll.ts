/**
 * Waiting for many descriptors: epoll(7), and a reactor over it for threads that must not block.
 *
 * @module
 */

import { check, Errno, HostError, isHostError, isToRepeat } from "./errno.ts";
import { eventfd, signalEvent, takeEvent } from "./event.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { bindLibc, lastErrno } from "./libc.ts";
import { PollEvent } from "./poll.ts";

// Safe: the event table holds as many entries as the count says, and lives as long as the Epoll, which a
// pending asynchronous wait keeps alive.
const libc = bindLibc({
  epoll_create1: { parameters: ["i32"], result: "i32" },
  epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
  // Safe: one struct pollfd and one struct timespec, which live as long as the Epoll; no signal mask.
  ppoll: { parameters: ["buffer", "usize", "buffer", "pointer"], result: "i32" },
});
const libcAsync = bindLibc({
  epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32", nonblocking: true },
});

const CLOEXEC = 0o2000000;
/** Bytes of struct epoll_event: packed on x86-64. */
const EVENT_BYTES = 12;

/** Further bits for {@link Epoll.add} beside those of `PollEvent`. */
export const EpollFlag = {
  /** Report changes instead of states. */
  EdgeTriggered: 0x8000_0000,
  /** Report once, until {@link Epoll.modify}. */
  OneShot: 0x4000_0000,
  /** Wake only some of the waiters. */
  Exclusive: 0x1000_0000,
} as const;

/** A set of descriptors to wait for. */
export class Epoll implements Disposable {
  readonly #fd: Fd;
  readonly #events: DataView<ArrayBuffer>;
  readonly #change = new DataView(new ArrayBuffer(EVENT_BYTES));
  /** struct pollfd of its own descriptor, and struct timespec. */
  readonly #self = new DataView(new ArrayBuffer(8));
  readonly #time = new Int32Array(new ArrayBuffer(16));

  /**
   * @param maxEvents how many events one wait gives at most
   * @param fd an epoll descriptor to own instead of a new one
   */
  constructor(maxEvents = 64, fd?: Fd) {
    this.#fd = fd ?? Fd.adopt(check(libc().epoll_create1(CLOEXEC), "epoll_create1"));
    this.#events = new DataView(new ArrayBuffer(EVENT_BYTES * maxEvents));
  }

  /** Its own descriptor, which becomes readable when one of the set is ready. */
  get fd(): Fd {
    return this.#fd;
  }

  /** Waits for `events` of `fd`; they come with `token` (a whole number up to 2^53 - 1). */
  add(fd: FdLike, events: number, token: number = rawFd(fd)): void {
    this.#control(1, "ADD", { raw: rawFd(fd), events, token });
  }

  /** Replaces events and token. */
  modify(fd: FdLike, events: number, token: number = rawFd(fd)): void {
    this.#control(3, "MOD", { raw: rawFd(fd), events, token });
  }

  /** Waits for it no longer. */
  remove(fd: FdLike): void {
    this.#control(2, "DEL", { raw: rawFd(fd), events: 0, token: 0 });
  }

  /**
   * Waits at most `timeoutMs` (-1 is forever).
   *
   * @returns the number of events, to be had by {@link token} and {@link events}; 0 also after a signal
   */
  wait(timeoutMs = -1): number {
    const capacity = this.#events.byteLength / EVENT_BYTES;
    const count = libc().epoll_wait(this.#fd.raw, this.#events, capacity, timeoutMs);
    if (count >= 0) return count;
    const errno = lastErrno();
    if (!isToRepeat(errno)) throw new HostError("epoll_wait", errno);
    return 0;
  }

  /**
   * Sleeps until there is an event, which the next {@link wait} gives, or for `timeoutMs` (up to 2^31
   * seconds), also for less than one, which {@link wait} would round.
   */
  sleep(timeoutMs: number): void {
    this.#self.setInt32(0, this.#fd.raw, true);
    this.#self.setInt16(4, PollEvent.In, true);
    const seconds = Math.trunc(timeoutMs / 1000);
    this.#time[0] = seconds;
    this.#time[2] = Math.min(Math.ceil((timeoutMs - seconds * 1000) * 1e6), 999_999_999);
    if (libc().ppoll(this.#self, 1n, this.#time, null) >= 0) return;
    const errno = lastErrno();
    if (!isToRepeat(errno)) throw new HostError("ppoll", errno);
  }

  /**
   * Like {@link wait}, on another thread. Only one wait of an Epoll at a time. The process does not end
   * by itself while it is pending.
   */
  async waitAsync(timeoutMs = -1): Promise<number> {
    const capacity = this.#events.byteLength / EVENT_BYTES;
    const count = await libcAsync().epoll_wait(this.#fd.raw, this.#events, capacity, timeoutMs);
    // The error number stayed with the other thread; with valid arguments it can only be EINTR.
    return Math.max(count, 0);
  }

  /** Token of event `index` of the last wait. */
  token(index: number): number {
    const at = index * EVENT_BYTES + 4;
    return this.#events.getUint32(at, true) + this.#events.getUint32(at + 4, true) * 2 ** 32;
  }

  /** Ready bits of event `index` of the last wait. */
  events(index: number): number {
    return this.#events.getUint32(index * EVENT_BYTES, true);
  }

  [Symbol.dispose](): void {
    this.#fd.close();
  }

  #control(
    operation: number,
    name: string,
    what: { raw: number; events: number; token: number },
  ): void {
    this.#change.setUint32(0, what.events >>> 0, true);
    this.#change.setUint32(4, what.token >>> 0, true);
    this.#change.setUint32(8, Math.floor(what.token / 2 ** 32), true);
    check(
      libc().epoll_ctl(this.#fd.raw, operation, what.raw, this.#change),
      `epoll_ctl(${name})`,
      `of descriptor ${what.raw}`,
    );
  }
}

/** A descriptor under watch; disposed, it is watched no longer (it is not closed). */
export interface Watch extends Disposable {
  /** Replaces the awaited events; 0 pauses (errors and hang-ups still come). */
  setEvents(events: number): void;
}

/** Called with the ready bits of `PollEvent`. */
export type WatchCallback = (events: number) => void;

interface Entry {
  readonly raw: number;
  readonly callback: WatchCallback;
  /** For a descriptor that epoll refuses because it never waits (a regular file, /dev/null). */
  readonly alwaysReady: boolean;
  events: number;
  /** Whether the next turn of an always ready one is due. */
  scheduled: boolean;
}

/**
 * Calls back when descriptors become ready, from the event loop of the thread that made it, which
 * stays free meanwhile: one thread of the runtime's pool waits. Descriptors should be non-blocking.
 * It keeps the process alive as long as something is watched.
 */
export class Reactor implements Disposable {
  readonly #epoll = new Epoll();
  readonly #wake = eventfd(0, { nonblock: true });
  readonly #watches = new Map<number, Entry>();
  readonly #onError: (error: unknown) => void;
  #nextToken = 1;
  #running = false;
  #closed = false;

  /** @param onError what to do with what a callback throws; by default it is an uncaught error */
  constructor(onError: (error: unknown) => void = reportError) {
    this.#onError = onError;
    this.#epoll.add(this.#wake, PollEvent.In, 0);
  }

  /**
   * Calls `callback` whenever one of `events` (of `PollEvent`) is ready; the callback handles it. A
   * descriptor can be watched once at a time, and is unwatched before it is closed. Regular files and
   * the like are always ready.
   */
  watch(fd: FdLike, events: number, callback: WatchCallback): Watch {
    if (this.#closed) throw new HostError("watch of a closed reactor", Errno.EBADF);
    const token = this.#nextToken++;
    const raw = rawFd(fd);
    const alwaysReady = !this.#addIfPollable(raw, events, token);
    const entry: Entry = { raw, callback, alwaysReady, events, scheduled: false };
    this.#watches.set(token, entry);
    if (alwaysReady) this.#schedule(entry);
    else if (!this.#running) void this.#run();
    return {
      setEvents: (wanted: number) => {
        if (!this.#watches.has(token)) return;
        entry.events = wanted;
        if (alwaysReady) this.#schedule(entry);
        else this.#epoll.modify(raw, wanted, token);
      },
      [Symbol.dispose]: () => this.#unwatch(token),
    };
  }

  /** Stops watching; descriptors stay open. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watches.clear();
    if (this.#running) signalEvent(this.#wake);
    else this.#release();
  }

  #addIfPollable(raw: number, events: number, token: number): boolean {
    try {
      this.#epoll.add(raw, events, token);
      return true;
    } catch (error) {
      if (isHostError(error, "EPERM")) return false;
      throw error;
    }
  }

  #schedule(entry: Entry): void {
    if (entry.scheduled || entry.events === 0) return;
    entry.scheduled = true;
    signalEvent(this.#wake);
    if (!this.#running) void this.#run();
  }

  /** Gives those that are always ready their turn. */
  #callScheduled(): void {
    for (const [token, entry] of [...this.#watches]) {
      if (!entry.scheduled || !this.#watches.has(token)) continue;
      entry.scheduled = false;
      const ready = entry.events & (PollEvent.In | PollEvent.Out);
      if (ready !== 0) this.#call(entry, ready);
      if (this.#watches.has(token)) this.#schedule(entry);
    }
  }

  #call(entry: Entry, events: number): void {
    try {
      entry.callback(events);
    } catch (error) {
      this.#onError(error);
    }
  }

  #unwatch(token: number): void {
    const entry = this.#watches.get(token);
    if (entry === undefined) return;
    this.#watches.delete(token);
    // Where the descriptor was closed too early, its number may be another watch's by now.
    const reused = [...this.#watches.values()].some((other) => other.raw === entry.raw);
    if (!entry.alwaysReady && !reused) {
      try {
        this.#epoll.remove(entry.raw);
      } catch (error) {
        // Closed before it was unwatched: the kernel has removed it already.
        if (!isHostError(error, "EBADF", "ENOENT", "EPERM")) throw error;
      }
    }
    if (this.#running && !this.#hasWork()) signalEvent(this.#wake);
  }

  #hasWork(): boolean {
    for (const { alwaysReady, scheduled } of this.#watches.values()) {
      if (!alwaysReady || scheduled) return true;
    }
    return false;
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#hasWork()) {
      const count = await this.#epoll.waitAsync();
      for (let index = 0; index < count && !this.#closed; index++) {
        const token = this.#epoll.token(index);
        if (token === 0) {
          takeEvent(this.#wake);
          this.#callScheduled();
          continue;
        }
        const entry = this.#watches.get(token);
        if (entry !== undefined) this.#call(entry, this.#epoll.events(index));
      }
    }
    this.#running = false;
    if (this.#closed) this.#release();
  }

  #release(): void {
    this.#epoll[Symbol.dispose]();
    this.#wake.close();
  }
}
