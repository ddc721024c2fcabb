/**
 * Learns of the system calls that a jailed device makes and its policy forbids.
 *
 * @module
 */

import { Ticker } from "../../base/mod.ts";
import {
  type Fd,
  findSeccompListener,
  parseViolation,
  PollEvent,
  type Reactor,
  receiveViolation,
  type SeccompViolation,
  type UnixSocket,
  VIOLATION_REPORT_BYTES,
  type Watch,
} from "../../host/mod.ts";
import { type JailedProcess, syscallName } from "../../jail/mod.ts";

/** More than the two that a device sends itself. */
const MAX_LAST_MESSAGES = 4;

/** How often to look for a descriptor that does not come, in ms. */
const SEARCH_MS = 1000;

/** Settings of a {@link ViolationWatch}. */
export interface ViolationWatchOptions {
  /** Name of the device's kind. */
  readonly kind: string;
  readonly reactor: Reactor;
  /** The device. */
  readonly process: JailedProcess;
}

/**
 * The VMM's end of the socket that `confineProcess` was given. Before it does anything else, the device
 * hands over the descriptor by which the kernel tells of calls; what comes later is no such thing, and only
 * says what a device that was trapped says of itself.
 */
export class ViolationWatch implements Disposable {
  readonly #socket: UnixSocket;
  readonly #options: ViolationWatchOptions;
  readonly #watch: Watch;
  readonly #search: Ticker;
  #listener: Fd | undefined;
  #calls: Watch | undefined;
  #description: string | undefined;

  /** Takes `socket` over, which is non-blocking. */
  constructor(socket: UnixSocket, options: ViolationWatchOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#watch = options.reactor.watch(socket.fd, PollEvent.In, () => this.#receive());
    this.#search = new Ticker(SEARCH_MS, () => this.#searchListener());
  }

  /** What the device did first that it may not; undefined where it did nothing. */
  get description(): string | undefined {
    return this.#description;
  }

  [Symbol.dispose](): void {
    // What a device wrote just before its end.
    for (let left = MAX_LAST_MESSAGES; left > 0 && this.#receive(); left--);
    this.#search[Symbol.dispose]();
    this.#forgetSocket();
    this.#forgetListener();
  }

  /** @returns whether there may be more */
  #receive(): boolean {
    if (this.#socket.fd.closed) return false;
    const message = this.#socket.recvMessage(VIOLATION_REPORT_BYTES, 1, { dontWait: true });
    if (message === undefined) return false;
    const [listener] = message.fds;
    const violation = parseViolation(message.bytes);
    if (violation !== undefined) this.#tell(violation);
    if (listener !== undefined && this.#listener === undefined) this.#listen(listener);
    else listener?.close();
    if (message.endOfFile) this.#forgetSocket();
    return true;
  }

  /** Where even the handing over is forbidden, the device holds still in it. */
  #searchListener(): void {
    const { process } = this.#options;
    const listener = this.#listener === undefined && process.end === undefined
      ? findSeccompListener(process)
      : undefined;
    if (listener !== undefined) this.#listen(listener);
  }

  #listen(listener: Fd): void {
    this.#search[Symbol.dispose]();
    this.#listener = listener;
    this.#calls = this.#options.reactor.watch(listener, PollEvent.In, (events) => {
      // After a hang-up, older kernels would wait for ever.
      const violation = (events & PollEvent.In) === 0 ? undefined : receiveViolation(listener);
      if (violation !== undefined) {
        this.#tell(violation);
        // It holds still in a call that it may not make.
        this.#options.process.kill();
      }
      // It has made its last call, or is gone.
      this.#calls?.[Symbol.dispose]();
    });
  }

  #tell({ syscall, args }: SeccompViolation): void {
    const name = syscallName(syscall) ?? "unknown";
    this.#description ??= `it made the system call ${name} (${syscall}), which ` +
      `${this.#options.kind}_device.policy forbids, with ` +
      args.map((value) => `0x${value.toString(16)}`).join(", ");
  }

  #forgetSocket(): void {
    this.#watch[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
  }

  // Closed after the device's end: calls that are held would fail instead.
  #forgetListener(): void {
    this.#calls?.[Symbol.dispose]();
    this.#listener?.close();
  }
}
