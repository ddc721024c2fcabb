/**
 * Output of a serial port on its way to the host: a ring in shared memory that the vCPU worker which
 * executes the OUT fills under the port's lock, and empties to a descriptor after it has let the lock
 * go. So a reader that does not read stops the guest, as flow control would, and nothing else: the
 * lock is free, and a vCPU that waits here hears when it is to stop.
 *
 * @module
 */

import { log } from "../base/mod.ts";
import { Errno, HostError, poll, PollEvent, pollFd, tryWrite } from "../host/mod.ts";

/** Bytes that the ring holds; a power of two. */
const RING_SIZE = 64 * 1024;
/**
 * From here on a vCPU that has written waits until another's flush is through. What is left above it
 * takes one exit's worth of string output from each vCPU.
 */
const HIGH_WATER = 16 * 1024;
/** Longest line that is held back until it is complete. */
const MAX_LINE = 4096;
/** Most bytes of one write: a pipe or socket that is ready takes them without blocking. */
const MAX_WRITE = 4096;
const NEWLINE = 0x0a;

/** What becomes of the bytes. */
export type SerialOutputKind =
  /** They are written as they come. */
  | "bytes"
  /** Whole lines are written, each for itself (datagrams). */
  | "lines"
  /** Whole lines become lines of the log. */
  | "log";

/** How a {@link SerialOutput} is made. */
export interface SerialOutputOptions {
  /** What becomes of the bytes. */
  readonly kind: SerialOutputKind;
  /** The port's name, such as `ttyS0`. */
  readonly label: string;
  /** Where to write, best non-blocking; -1 for the log. It stays open as long as a vCPU runs. */
  readonly fd: number;
  /** Readable while vCPUs shall not wait for output. */
  readonly wakeFd: number;
  /** Where set, each line begins with the seconds since this {@link Date.now} time. */
  readonly timestampOriginMs: number | undefined;
}

/** For another worker: {@link SerialOutput.attach}. */
export interface SerialOutputHandle extends SerialOutputOptions {
  readonly buffer: SharedArrayBuffer;
}

/** How a flush ended. */
export enum FlushResult {
  /** Nothing is left that can be written now. */
  Done,
  /** The reader does not read, and the vCPUs are asked to stop. */
  Blocked,
  /** Writing failed; from now on output is dropped. See {@link SerialOutput.failure}. */
  Failed,
}

// Words in front of the ring's bytes. Head and tail count bytes modulo 2^32.
const HEAD = 0;
const TAIL = 1;
const FLUSHING = 2;
const FAILURE = 3;
const LINE_START = 4;
const WORDS = 8;

/** One port's output. */
export class SerialOutput {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #ring: Uint8Array<SharedArrayBuffer>;
  readonly #handle: SerialOutputHandle;
  readonly #chunk = new Uint8Array(MAX_WRITE);
  readonly #line = new TextDecoder();

  private constructor(handle: SerialOutputHandle) {
    this.#handle = handle;
    this.#words = new Int32Array(handle.buffer, 0, WORDS);
    this.#ring = new Uint8Array(handle.buffer, WORDS * 4);
  }

  /** An empty ring. */
  static create(options: SerialOutputOptions): SerialOutput {
    const buffer = new SharedArrayBuffer(WORDS * 4 + RING_SIZE);
    new Int32Array(buffer)[LINE_START] = 1;
    return new SerialOutput({ buffer, ...options });
  }

  /** The ring that `handle` describes. */
  static attach(handle: SerialOutputHandle): SerialOutput {
    return new SerialOutput(handle);
  }

  /** For {@link attach} in another worker. */
  handle(): SerialOutputHandle {
    return this.#handle;
  }

  /** The port's name. */
  get label(): string {
    return this.#handle.label;
  }

  /** Whether bytes wait to be flushed. */
  get pending(): boolean {
    return Atomics.load(this.#words, HEAD) !== Atomics.load(this.#words, TAIL);
  }

  /** The errno of the write that failed, 0 where none did. */
  get failure(): number {
    return Atomics.load(this.#words, FAILURE);
  }

  /** Takes one byte. The caller holds the port's lock, so there is one writer at a time. */
  write(byte: number): void {
    if (this.#handle.timestampOriginMs !== undefined) {
      if (Atomics.load(this.#words, LINE_START) === 1) this.#pushTimestamp();
      Atomics.store(this.#words, LINE_START, byte === NEWLINE ? 1 : 0);
    }
    this.#push(byte);
  }

  /**
   * Writes what waits. Blocks while the reader does not read, until the wake descriptor is readable.
   * Called without any lock.
   */
  flush(): FlushResult {
    while (this.pending) {
      if (Atomics.compareExchange(this.#words, FLUSHING, 0, 1) !== 0) {
        // Another vCPU writes, in order; it looks again after it has let go.
        if (this.#used() < HIGH_WATER) return FlushResult.Done;
        Atomics.wait(this.#words, FLUSHING, 1);
        if (pollFd(this.#handle.wakeFd, PollEvent.In, 0) !== 0) return FlushResult.Blocked;
        continue;
      }
      let result: FlushResult | undefined;
      try {
        result = this.#drain(false);
      } finally {
        Atomics.store(this.#words, FLUSHING, 0);
        Atomics.notify(this.#words, FLUSHING);
      }
      if (result !== undefined) return result;
    }
    return FlushResult.Done;
  }

  /** Writes what is left at the end, incomplete lines too, as far as it goes without waiting. */
  finish(): void {
    if (this.pending && this.failure === 0) this.#drain(true);
  }

  #used(): number {
    return (Atomics.load(this.#words, HEAD) - Atomics.load(this.#words, TAIL)) >>> 0;
  }

  #push(byte: number): void {
    // Never reached by one exit's output; a guest that gets here loses bytes, not the host.
    if (this.#used() >= RING_SIZE) return;
    const head = Atomics.load(this.#words, HEAD);
    this.#ring[head & RING_SIZE - 1] = byte;
    Atomics.store(this.#words, HEAD, head + 1 | 0);
  }

  #pushTimestamp(): void {
    const seconds = (Date.now() - (this.#handle.timestampOriginMs ?? 0)) / 1000;
    const prefix = `[${seconds.toFixed(6).padStart(12)}] `;
    for (let at = 0; at < prefix.length; at++) this.#push(prefix.charCodeAt(at));
  }

  /** Writes until the ring is empty (undefined), or it cannot go on. */
  #drain(last: boolean): FlushResult | undefined {
    for (;;) {
      if (this.failure !== 0) {
        Atomics.store(this.#words, TAIL, Atomics.load(this.#words, HEAD));
        return undefined;
      }
      const count = this.#peek(last);
      if (count === 0) return this.pending ? FlushResult.Done : undefined;
      const taken = this.#send(count, last);
      if (taken < 0) return taken === BLOCKED ? FlushResult.Blocked : FlushResult.Failed;
      Atomics.add(this.#words, TAIL, taken);
    }
  }

  /** Copies what is to be written next to the chunk; returns its length. */
  #peek(last: boolean): number {
    const available = Math.min(this.#used(), MAX_WRITE);
    const tail = Atomics.load(this.#words, TAIL);
    const byLine = this.#handle.kind !== "bytes";
    for (let at = 0; at < available; at++) {
      const byte = this.#ring[tail + at & RING_SIZE - 1] ?? 0;
      this.#chunk[at] = byte;
      if (byLine && byte === NEWLINE) return at + 1;
    }
    return !byLine || last || available >= MAX_LINE ? available : 0;
  }

  /** Hands `count` bytes of the chunk on; returns how many were taken, or a negative reason. */
  #send(count: number, last: boolean): number {
    const bytes = this.#chunk.subarray(0, count);
    if (this.#handle.kind === "log") {
      log.info(`${this.#handle.label}: ${this.#line.decode(bytes).trimEnd()}`);
      return count;
    }
    try {
      for (;;) {
        if (pollFd(this.#handle.fd, PollEvent.Out, 0) === 0) {
          if (last) return BLOCKED;
          const [, wake] = poll([
            { fd: this.#handle.fd, events: PollEvent.Out },
            { fd: this.#handle.wakeFd, events: PollEvent.In },
          ]);
          if (wake !== 0) return BLOCKED;
        }
        const taken = tryWrite(this.#handle.fd, bytes);
        if (taken >= 0) return taken;
        if (last) return BLOCKED;
      }
    } catch (error) {
      const errno = error instanceof HostError ? error.errno : Errno.EIO;
      Atomics.store(this.#words, FAILURE, errno);
      return FAILED;
    }
  }
}

const BLOCKED = -1;
const FAILED = -2;
