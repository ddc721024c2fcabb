/**
 * A front end's connection: requests go out in order, answers come back in the same order, and the death
 * of the back end is noticed when it happens.
 *
 * @module
 */

import { Alarm } from "../../base/mod.ts";
import {
  type FdLike,
  PollEvent,
  type Reactor,
  setNonblocking,
  type UnixSocket,
  type Watch,
} from "../../host/mod.ts";
import { VhostUserError } from "../errors.ts";
import { Channel } from "./channel.ts";
import type { Message } from "./message.ts";
import { MessageFlag, requestName } from "./protocol.ts";

/** How to hold a connection. */
export interface ConnectionOptions {
  /** Who the back end is, for messages. */
  readonly name: string;
  /** Whose loop it is handled in. */
  readonly reactor: Reactor;
  /** How long the back end may take for an answer. */
  readonly timeoutMs: number;
  /** Told once, when the connection ends otherwise than by disposing it. */
  readonly onClose: (error: VhostUserError) => void;
}

/** What a request is sent with. */
export interface RequestOptions {
  readonly payload?: Uint8Array;
  readonly fds?: readonly FdLike[];
}

interface Pending {
  readonly request: number;
  resolve(message: Message): void;
  reject(error: unknown): void;
}

/** Requests and answers. */
export class Connection implements Disposable {
  readonly #options: ConnectionOptions;
  readonly #channel: Channel;
  readonly #watch: Watch;
  readonly #pending: Pending[] = [];
  #timeout: Alarm | undefined;
  #end: VhostUserError | undefined;

  /** Takes over `socket`, a connected stream. */
  constructor(socket: UnixSocket, options: ConnectionOptions) {
    setNonblocking(socket.fd, true);
    this.#options = options;
    this.#channel = new Channel(socket, options.name);
    this.#watch = options.reactor.watch(socket.fd, PollEvent.In, () => this.#receive());
  }

  /** Why it has ended, if it has. */
  get end(): VhostUserError | undefined {
    return this.#end;
  }

  /**
   * Sends a request that is not answered.
   *
   * @throws {VhostUserError} where the back end is gone.
   */
  tell(request: number, options: RequestOptions = {}): void {
    this.#send(request, options, 0);
  }

  /**
   * Sends a request whose answer is the result, to be disposed.
   *
   * @throws {VhostUserError} where the back end is gone, does not answer in time, or breaks the rules.
   */
  query(
    request: number,
    options: RequestOptions & { readonly needReply?: boolean } = {},
  ): Promise<Message> {
    const { promise, resolve, reject } = Promise.withResolvers<Message>();
    try {
      this.#send(request, options, options.needReply ? MessageFlag.NeedReply : 0);
    } catch (error) {
      reject(error);
      return promise;
    }
    this.#pending.push({ request, resolve, reject });
    if (this.#pending.length === 1) this.#startTimeout();
    return promise;
  }

  /** Closes the connection; whoever waits for an answer gets an error. */
  [Symbol.dispose](): void {
    this.#close(new VhostUserError("closed", `${this.#options.name}: the connection was closed`));
  }

  #send(request: number, options: RequestOptions, flags: number): void {
    if (this.#end !== undefined) throw this.#end;
    try {
      this.#channel.send(request, options.payload, { flags, fds: options.fds ?? [] });
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  #receive(): void {
    try {
      // An answer may make its receiver close the connection.
      while (this.#end === undefined) {
        const message = this.#channel.receive();
        if (message === undefined) return;
        this.#deliver(message);
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  #deliver(message: Message): void {
    const pending = this.#pending[0];
    const isAnswer = pending?.request === message.request &&
      (message.flags & MessageFlag.Reply) !== 0;
    if (!isAnswer) {
      message[Symbol.dispose]();
      const expected = pending === undefined ? "no message" : requestName(pending.request);
      throw new VhostUserError(
        "violation",
        `${this.#options.name}: expected ${expected}, got ${message.name} ` +
          `(flags ${message.flags})`,
      );
    }
    this.#pending.shift();
    this.#startTimeout();
    pending.resolve(message);
  }

  #startTimeout(): void {
    this.#timeout?.[Symbol.dispose]();
    this.#timeout = undefined;
    const pending = this.#pending[0];
    if (pending === undefined) return;
    const { name, timeoutMs } = this.#options;
    this.#timeout = new Alarm(timeoutMs, () => {
      const what = requestName(pending.request);
      this.#fail(
        new VhostUserError("timeout", `${name}: no answer to ${what} within ${timeoutMs} ms`),
      );
    });
  }

  #fail(error: unknown): void {
    if (this.#end !== undefined) return;
    const reason = error instanceof VhostUserError
      ? error
      : new VhostUserError("closed", `${this.#options.name}: the connection failed`, {
        cause: error,
      });
    this.#close(reason);
    this.#options.onClose(reason);
  }

  #close(reason: VhostUserError): void {
    if (this.#end !== undefined) return;
    this.#end = reason;
    this.#timeout?.[Symbol.dispose]();
    this.#watch[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
    for (const { reject } of this.#pending.splice(0)) reject(reason);
  }
}
