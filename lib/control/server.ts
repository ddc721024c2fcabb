/**
 * Answers the clients of the control sockets, each at its own pace: a client that does not read its
 * answers is not read from, and nobody else waits for it.
 *
 * @module
 */

import { describeError, Logger } from "../base/mod.ts";
import {
  type Fd,
  isHostError,
  PollEvent,
  type Reactor,
  type UnixSocket,
  type Watch,
} from "../host/mod.ts";
import { ControlError } from "./errors.ts";
import type { ControlListener } from "./listener.ts";
import {
  encodeMessage,
  MAX_REQUEST_BYTES,
  MAX_REQUEST_FDS,
  parseRequest,
  type VmRequest,
  type VmResponse,
} from "./protocol.ts";

/** Most clients at once; more wait in the socket's backlog. */
const MAX_CLIENTS = 512;
/** Requests of one client before the others get their turn. */
const REQUESTS_PER_TURN = 16;
/** How long to leave clients waiting when the process has no descriptor for them, in ms. */
const ACCEPT_RETRY_MS = 200;

const log = new Logger("control");

/** What comes with a request. */
export interface RequestContext {
  /** Descriptors. */
  readonly fds: readonly Fd[];
  /** Aborted when the client leaves before it was answered. */
  readonly signal: AbortSignal;
}

/** Carries requests out. */
export interface RequestHandler {
  /**
   * Carries `request` out and says how it went. What it throws becomes an `ErrString`.
   *
   * @param about.fds the descriptors that came along; closed after the answer unless taken
   * @param about.signal the client has left: what it asked for is still done, but not waited for
   */
  handle(request: VmRequest, about: RequestContext): VmResponse | Promise<VmResponse>;
}

/** What a {@link ControlServer} needs. */
export interface ControlServerOptions {
  readonly reactor: Reactor;
  /** Disposed with the server. */
  readonly listeners: readonly ControlListener[];
  readonly handler: RequestHandler;
}

/** Listens and answers until it is disposed. */
export class ControlServer implements Disposable {
  readonly #reactor: Reactor;
  readonly #handler: RequestHandler;
  readonly #listeners: { readonly listener: ControlListener; readonly watch: Watch }[] = [];
  readonly #clients = new Set<Client>();
  #retry: ReturnType<typeof setTimeout> | undefined;
  #paused = false;

  constructor(options: ControlServerOptions) {
    this.#reactor = options.reactor;
    this.#handler = options.handler;
    for (const listener of options.listeners) {
      const watch = this.#reactor.watch(
        listener.socket.fd,
        PollEvent.In,
        () => this.#accept(listener),
      );
      this.#listeners.push({ listener, watch });
    }
  }

  /** Clients that are connected now. */
  get clientCount(): number {
    return this.#clients.size;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#retry);
    for (const { listener, watch } of this.#listeners.splice(0)) {
      watch[Symbol.dispose]();
      listener[Symbol.dispose]();
    }
    for (const client of [...this.#clients]) client[Symbol.dispose]();
  }

  #accept(listener: ControlListener): void {
    while (this.#clients.size < MAX_CLIENTS) {
      let socket: UnixSocket | undefined;
      try {
        socket = listener.socket.accept({ nonblock: true });
      } catch (error) {
        log.warn(`cannot take a client: ${describeError(error)}`);
        this.#pause();
        this.#retry = setTimeout(() => this.#resume(), ACCEPT_RETRY_MS);
        return;
      }
      if (socket === undefined) return;
      this.#clients.add(
        new Client(socket, {
          reactor: this.#reactor,
          handler: this.#handler,
          onClose: (client) => {
            this.#clients.delete(client);
            this.#resume();
          },
        }),
      );
    }
    this.#pause();
  }

  #pause(): void {
    this.#paused = true;
    for (const { watch } of this.#listeners) watch.setEvents(0);
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    clearTimeout(this.#retry);
    for (const { watch } of this.#listeners) watch.setEvents(PollEvent.In);
  }
}

interface ClientOptions {
  readonly reactor: Reactor;
  readonly handler: RequestHandler;
  readonly onClose: (client: Client) => void;
}

/** One connection. Its requests are carried out one after the other. */
class Client implements Disposable {
  readonly #socket: UnixSocket;
  readonly #handler: RequestHandler;
  readonly #onClose: (client: Client) => void;
  #watch: Watch | undefined;
  /** The answer that the client has no room for yet. */
  #unsent: Uint8Array | undefined;
  #busy = false;
  readonly #left = new AbortController();
  #wasReset = false;
  #closed = false;

  constructor(socket: UnixSocket, options: ClientOptions) {
    this.#socket = socket;
    this.#handler = options.handler;
    this.#onClose = options.onClose;
    this.#watch = options.reactor.watch(
      socket.fd,
      PollEvent.In,
      (events) => this.#ready(events),
    );
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch?.[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
    this.#onClose(this);
  }

  #ready(events: number): void {
    const gone = (events & (PollEvent.HangUp | PollEvent.Error)) !== 0;
    if (this.#unsent !== undefined) {
      if (gone) return this.#leave();
      const bytes = this.#unsent;
      this.#unsent = undefined;
      this.#send(bytes);
    }
    if (this.#busy) {
      // A hang-up would be reported over and over.
      if (gone) this.#leave();
      return;
    }
    this.#read();
  }

  #read(): void {
    for (let turn = 0; turn < REQUESTS_PER_TURN; turn++) {
      if (this.#busy || this.#closed || this.#unsent !== undefined) return;
      if (!this.#readOne()) return;
    }
  }

  /** Takes one request and answers it or begins to; false when there is none. */
  #readOne(): boolean {
    let fds: readonly Fd[] = [];
    let answer: VmResponse | Promise<VmResponse>;
    try {
      const message = this.#socket.recvMessage(MAX_REQUEST_BYTES, MAX_REQUEST_FDS);
      if (message === undefined) return false;
      fds = message.fds;
      if (message.endOfFile) {
        this[Symbol.dispose]();
        return false;
      }
      if (message.truncated) {
        throw new ControlError(`request: longer than ${MAX_REQUEST_BYTES} bytes`);
      }
      if (message.fdsTruncated) {
        throw new ControlError(`request: more than ${MAX_REQUEST_FDS} descriptors`);
      }
      const { signal } = this.#left;
      answer = this.#handler.handle(parseRequest(message.bytes), { fds, signal });
    } catch (error) {
      if (isHostError(error, "ECONNRESET") && !this.#wasReset) {
        // It has left answers unread: that is told once, before what it asked for.
        this.#wasReset = true;
        if (this.#watch === undefined) return true;
        this.#leave();
        return false;
      }
      if (isHostError(error, "ECONNRESET", "EPIPE", "ENOTCONN")) {
        closeAll(fds);
        this[Symbol.dispose]();
        return false;
      }
      answer = failure(error);
    }
    if (!(answer instanceof Promise)) {
      closeAll(fds);
      this.#send(encodeMessage(answer));
      return true;
    }
    this.#busy = true;
    this.#watch?.setEvents(0);
    void this.#answerLater(answer, fds);
    return false;
  }

  async #answerLater(pending: Promise<VmResponse>, fds: readonly Fd[]): Promise<void> {
    let answer: VmResponse;
    try {
      answer = await pending;
    } catch (error) {
      answer = failure(error);
    }
    closeAll(fds);
    this.#busy = false;
    if (this.#closed) return;
    if (this.#watch === undefined) return this.#leave();
    this.#watch.setEvents(PollEvent.In);
    this.#send(encodeMessage(answer));
  }

  /** The client has left; what it still asked for is done, and nobody waits for the answers. */
  #leave(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    this.#unsent = undefined;
    this.#left.abort(new ControlError("the client has left"));
    // One that only reads no more could go on asking, and what follows would have no end.
    this.#socket.shutdown("read");
    while (!this.#busy && !this.#closed && this.#readOne());
    if (!this.#busy) this[Symbol.dispose]();
  }

  #send(bytes: Uint8Array): void {
    if (this.#closed || this.#watch === undefined) return;
    try {
      if (this.#socket.sendMessage(bytes) >= 0) {
        this.#watch.setEvents(PollEvent.In);
        return;
      }
    } catch (error) {
      if (!isHostError(error)) throw error;
      log.debug(`a client cannot be answered: ${describeError(error)}`);
      this.#leave();
      return;
    }
    this.#unsent = bytes;
    this.#watch.setEvents(PollEvent.Out);
  }
}

function failure(error: unknown): VmResponse {
  if (!(error instanceof ControlError)) log.debug(`a request failed: ${describeError(error)}`);
  return { ErrString: describeError(error) };
}

function closeAll(fds: readonly Fd[]): void {
  for (const fd of fds) fd.close();
}
