/**
 * Input of a serial port: from a descriptor on the host to the port's receive FIFO, as fast as the
 * guest takes it and no faster, so that nothing is lost however much comes.
 *
 * @module
 */

import { describeError, Logger } from "../base/mod.ts";
import { isHostError, PollEvent, type Reactor, tryRead, type Watch } from "../host/mod.ts";

/** Most bytes of one read. */
const READ_SIZE = 64 * 1024;

const log = new Logger("serial");

/** The receiving side of a serial port. */
export interface InputPort {
  /** Takes as many of `bytes` as there is room for; returns how many. */
  receive(bytes: Uint8Array): number;
  /** Changes, and is notified, when there may be room. */
  readonly roomEvent: { readonly words: Int32Array<SharedArrayBuffer>; readonly index: number };
}

/** Settings of a {@link SerialInput}. */
export interface SerialInputOptions {
  readonly reactor: Reactor;
  readonly port: InputPort;
  /** Looks at what was read and tells what of it the guest gets; all of it where absent. */
  readonly filter?: (bytes: Uint8Array) => Uint8Array;
  /** How many bytes may wait for the guest before no more are read. */
  readonly limitBytes?: number;
}

/** Reads a descriptor until its end and hands the bytes to a port. */
export class SerialInput implements Disposable {
  readonly #fd: number;
  readonly #options: SerialInputOptions;
  readonly #buffer = new Uint8Array(READ_SIZE);
  readonly #queue: Uint8Array[] = [];
  readonly #limit: number;
  #queued = 0;
  #watch: Watch | undefined;
  #reading = false;
  #pumping = false;
  #closed = false;

  /** @param fd stays open as long as this is not disposed, and is not closed by it */
  constructor(fd: number, options: SerialInputOptions) {
    this.#fd = fd;
    this.#options = options;
    this.#limit = options.limitBytes ?? READ_SIZE;
  }

  /** Begins to read, or goes on after {@link pause}. */
  start(): void {
    if (this.#closed || this.#reading) return;
    this.#reading = true;
    try {
      this.#watch = this.#options.reactor.watch(this.#fd, PollEvent.In, () => this.#read());
    } catch (error) {
      // A regular file is always ready; epoll refuses it.
      if (!isHostError(error, "EPERM")) throw error;
      this.#readMore();
    }
  }

  /** Stops reading; what was read still goes to the guest. */
  pause(): void {
    this.#reading = false;
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.pause();
    const { words, index } = this.#options.port.roomEvent;
    Atomics.notify(words, index);
  }

  /** Lets more come, now that there is room for it. */
  #readMore(): void {
    if (this.#watch !== undefined) this.#watch.setEvents(PollEvent.In);
    else while (this.#reading && this.#queued < this.#limit) this.#read();
  }

  #read(): void {
    let count: number;
    try {
      count = tryRead(this.#fd, this.#buffer);
    } catch (error) {
      // EIO is a terminal that was hung up.
      if (!isHostError(error, "EIO")) log.warn(`input ended: ${describeError(error)}`);
      count = 0;
    }
    if (count < 0) return;
    if (count === 0) return this.pause();
    const read = this.#buffer.subarray(0, count);
    const bytes = this.#options.filter?.(read) ?? read;
    if (bytes.length === 0) return;
    this.#queue.push(bytes.slice());
    this.#queued += bytes.length;
    if (this.#queued >= this.#limit) this.#watch?.setEvents(0);
    if (!this.#pumping) void this.#pump();
  }

  /** Hands the queue to the port, waiting whenever it is full. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    const { port } = this.#options;
    const { words, index } = port.roomEvent;
    for (let head = this.#queue[0]; head !== undefined && !this.#closed; head = this.#queue[0]) {
      const seen = Atomics.load(words, index);
      const count = port.receive(head);
      if (count === 0) {
        const wait = Atomics.waitAsync(words, index, seen);
        if (wait.async) await wait.value;
        continue;
      }
      if (count < head.length) this.#queue[0] = head.subarray(count);
      else this.#queue.shift();
      const full = this.#queued >= this.#limit;
      this.#queued -= count;
      if (full && this.#queued < this.#limit) this.#readMore();
    }
    this.#pumping = false;
  }
}
