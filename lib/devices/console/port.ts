/**
 * One port of a console: between a pair of queues and descriptors. It never waits: where the host has no
 * room or no input, it has itself called back.
 *
 * @module
 */

import { describeError, log } from "../../base/mod.ts";
import {
  type Fd,
  getStatusFlags,
  isHostError,
  OpenFlag,
  PollEvent,
  pollFd,
  tryRead,
  tryWrite,
  type Watch,
} from "../../host/mod.ts";
import { DescriptorChain, type DeviceContext } from "../../virtio/mod.ts";
import { receiveQueueOf, transmitQueueOf } from "./protocol.ts";

/** Most bytes of one read or write. */
const TRANSFER_BYTES = 64 * 1024;
/** What a pipe takes without waiting once it is writable (PIPE_BUF). */
const SURE_BYTES = 4096;
/** Transfers before the other queues have their turn. */
const TURN_TRANSFERS = 16;

/** What a port is connected with; both are optional. */
export interface PortFiles {
  /** Where output goes; dropped without. */
  readonly output: Fd | undefined;
  /** Where input comes from. */
  readonly input: Fd | undefined;
}

/** A direction of a port: its descriptor, and how it is waited for. */
class Line implements Disposable {
  readonly fd: Fd;
  readonly #events: number;
  readonly #waits: boolean;
  #watch: Watch | undefined;

  constructor(fd: Fd, events: number) {
    this.fd = fd;
    this.#events = events;
    // The flag belongs to whoever else has the file open, so it is left as it is.
    this.#waits = (getStatusFlags(fd) & OpenFlag.NonBlock) === 0;
  }

  /** Most bytes of a transfer now; 0 where it would wait. */
  get room(): number {
    if (!this.#waits) return TRANSFER_BYTES;
    return pollFd(this.fd, this.#events, 0) === 0 ? 0 : SURE_BYTES;
  }

  /** Has `callback` called once there is room. */
  await(context: DeviceContext, callback: () => void): void {
    if (this.#watch !== undefined) return;
    this.#watch = context.watch(this.fd, this.#events, () => {
      // A hang-up is told over and over, so it is watched only while somebody waits.
      this.forget();
      callback();
    });
  }

  forget(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }

  [Symbol.dispose](): void {
    this.forget();
    this.fd.close();
  }
}

/** A port. */
export class ConsolePort implements Disposable {
  readonly #index: number;
  readonly #buffer = new Uint8Array(TRANSFER_BYTES);
  readonly #received = new DescriptorChain();
  readonly #sending = new DescriptorChain();
  #output: Line | undefined;
  #input: Line | undefined;
  #context: DeviceContext | undefined;
  /** Whether {@link #sending} is held. */
  #held = false;
  /** Bytes of the chain in turn that were written. */
  #sent = 0;

  /** @param files taken over */
  constructor(index: number, files: PortFiles) {
    this.#index = index;
    this.#output = files.output && new Line(files.output, PollEvent.Out);
    this.#input = files.input && new Line(files.input, PollEvent.In);
  }

  activate(context: DeviceContext): void {
    this.#context = context;
  }

  /** Gives input to the guest. */
  receive(): void {
    const context = this.#context;
    const queue = context?.queue(receiveQueueOf(this.#index));
    if (context === undefined || queue === undefined) return;
    for (let turn = 0; this.#input !== undefined; turn++) {
      if (turn === TURN_TRANSFERS) return context.schedule(receiveQueueOf(this.#index));
      const chain = queue.pop(this.#received);
      if (chain === undefined) return;
      const wanted = Math.min(this.#input.room, chain.writable.lengthBytes);
      const count = chain.writable.lengthBytes === 0
        ? 0
        : wanted === 0
        ? -1
        : this.#read(this.#buffer.subarray(0, wanted));
      if (count > 0 || chain.writable.lengthBytes === 0) {
        chain.writable.copyFrom(this.#buffer.subarray(0, count));
        queue.push(chain.head, count);
        continue;
      }
      queue.unpop(chain.head);
      if (count < 0) this.#input.await(context, () => this.#resume("receive"));
      else this.#endInput();
      return;
    }
  }

  /** Writes what the guest sends. */
  transmit(): void {
    const context = this.#context;
    const queue = context?.queue(transmitQueueOf(this.#index));
    if (context === undefined || queue === undefined) return;
    const sending = this.#sending;
    for (let turn = 0;;) {
      if (!this.#held) {
        if (queue.pop(sending) === undefined) return;
        this.#held = true;
      }
      while (this.#output !== undefined && this.#sent < sending.readable.lengthBytes) {
        if (turn++ === TURN_TRANSFERS) return context.schedule(transmitQueueOf(this.#index));
        const count = this.#write(this.#output);
        if (count < 0) {
          this.#output?.await(context, () => this.#resume("transmit"));
          return;
        }
        this.#sent += count;
      }
      this.#held = false;
      this.#sent = 0;
      queue.push(sending.head, 0);
    }
  }

  /** The transmit queue stops: what is not written yet is written when it goes on. */
  transmitStopping(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#context?.queue(transmitQueueOf(this.#index))?.unpop(this.#sending.head);
  }

  /** Guest memory moves: a chain that is held is to be read anew. */
  quiesce(): void {
    this.transmitStopping();
  }

  reset(): void {
    this.#input?.forget();
    this.#output?.forget();
    this.#context = undefined;
    this.#held = false;
    this.#sent = 0;
  }

  [Symbol.dispose](): void {
    this.#input?.[Symbol.dispose]();
    this.#output?.[Symbol.dispose]();
    this.#input = this.#output = undefined;
  }

  #resume(direction: "receive" | "transmit"): void {
    const context = this.#context;
    if (context === undefined) return;
    this[direction]();
    const index = this.#index;
    context.notify(direction === "receive" ? receiveQueueOf(index) : transmitQueueOf(index));
  }

  /** The bytes that were read; -1 where there are none now, 0 at the end. */
  #read(into: Uint8Array): number {
    try {
      return tryRead(this.#input!.fd, into);
    } catch (error) {
      // EIO is a terminal that was hung up.
      if (!isHostError(error)) throw error;
      if (error.code !== "EIO") {
        log.warn(`hvc${this.#index}: input ended: ${describeError(error)}`);
      }
      return 0;
    }
  }

  #write(output: Line): number {
    const room = output.room;
    if (room === 0) return -1;
    const { readable } = this.#sending;
    const count = readable.copyTo(this.#buffer.subarray(0, room), this.#sent);
    try {
      return tryWrite(output.fd, this.#buffer.subarray(0, count));
    } catch (error) {
      if (!isHostError(error)) throw error;
      log.warn(
        `hvc${this.#index}: output is dropped from now on: ${describeError(error)}`,
      );
      this.#output = undefined;
      output[Symbol.dispose]();
      return count;
    }
  }

  #endInput(): void {
    this.#input?.[Symbol.dispose]();
    this.#input = undefined;
  }
}
