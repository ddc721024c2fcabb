/**
 * Messages over a stream socket, whole ones, whatever pieces they come in.
 *
 * @module
 */

import {
  type Fd,
  type FdLike,
  isHostError,
  PollEvent,
  pollFd,
  UnixSocket,
} from "../../host/mod.ts";
import { VhostUserError } from "../errors.ts";
import { Message } from "./message.ts";
import {
  HEADER_BYTES,
  MAX_MESSAGE_FDS,
  MAX_PAYLOAD_BYTES,
  MessageFlag,
  requestName,
} from "./protocol.ts";

/** How a message is sent. */
export interface SendOptions {
  /** Bits of `MessageFlag` beside the version. */
  readonly flags?: number;
  readonly fds?: readonly FdLike[];
}

/** One end of a connection. */
export class Channel implements Disposable {
  readonly #socket: UnixSocket;
  readonly #peer: string;
  readonly #sendTimeoutMs: number;
  readonly #buffer = new Uint8Array(new ArrayBuffer(HEADER_BYTES + MAX_PAYLOAD_BYTES));
  readonly #view = new DataView(this.#buffer.buffer);
  #have = 0;
  #fds: Fd[] = [];

  /**
   * @param peer who is at the other end, for messages
   * @param sendTimeoutMs how long a peer may leave its messages unread
   */
  constructor(socket: UnixSocket, peer: string, sendTimeoutMs = 0) {
    this.#socket = socket;
    this.#peer = peer;
    this.#sendTimeoutMs = sendTimeoutMs;
  }

  /** The socket's descriptor. */
  get fd(): Fd {
    return this.#socket.fd;
  }

  /**
   * Takes the next message, where all of it is there. Does not wait.
   *
   * @throws {VhostUserError} where the peer is gone or breaks the rules.
   */
  receive(): Message | undefined {
    if (!this.#fill(HEADER_BYTES)) return undefined;
    const request = this.#view.getUint32(0, true);
    const flags = this.#view.getUint32(4, true);
    const length = this.#view.getUint32(8, true);
    if ((flags & MessageFlag.VersionMask) !== MessageFlag.Version) {
      throw this.#violation(`expected version 1 of the protocol, got flags ${flags}`);
    }
    if (length > MAX_PAYLOAD_BYTES) {
      throw this.#violation(
        `${requestName(request)}: expected a payload of at most ${MAX_PAYLOAD_BYTES} bytes, got ` +
          `${length}`,
      );
    }
    if (!this.#fill(HEADER_BYTES + length)) return undefined;
    const payload = this.#buffer.slice(HEADER_BYTES, HEADER_BYTES + length);
    const fds = this.#fds;
    this.#fds = [];
    this.#have = 0;
    return new Message(request, flags, payload, fds);
  }

  /** @throws {VhostUserError} where the peer is gone or does not read. */
  send(request: number, payload?: Uint8Array, options: SendOptions = {}): void {
    const length = payload?.byteLength ?? 0;
    const bytes = new Uint8Array(new ArrayBuffer(HEADER_BYTES + length));
    const view = new DataView(bytes.buffer);
    view.setUint32(0, request, true);
    view.setUint32(4, MessageFlag.Version | (options.flags ?? 0), true);
    view.setUint32(8, length, true);
    if (payload !== undefined) bytes.set(payload, HEADER_BYTES);
    let sent = 0;
    while (sent < bytes.byteLength) {
      const count = this.#trySend(bytes.subarray(sent), sent === 0 ? options.fds : undefined);
      if (count >= 0) {
        sent += count;
        continue;
      }
      if (pollFd(this.fd, PollEvent.Out, this.#sendTimeoutMs) === 0) {
        throw new VhostUserError("timeout", `${this.#peer} does not read its messages`);
      }
    }
  }

  /** Closes the connection, and what came of a message of which the rest did not. */
  [Symbol.dispose](): void {
    for (const fd of this.#fds) fd.close();
    this.#fds = [];
    this.#socket[Symbol.dispose]();
  }

  #trySend(bytes: Uint8Array, fds: readonly FdLike[] = []): number {
    try {
      return this.#socket.sendMessage(bytes, fds);
    } catch (cause) {
      throw this.#gone(cause);
    }
  }

  /** Whether the buffer holds `wanted` bytes. */
  #fill(wanted: number): boolean {
    while (this.#have < wanted) {
      let received;
      try {
        received = this.#socket.recvMessage(wanted - this.#have, MAX_MESSAGE_FDS, {
          dontWait: true,
        });
      } catch (cause) {
        throw this.#gone(cause);
      }
      if (received === undefined) return false;
      this.#fds.push(...received.fds);
      if (received.fdsTruncated || this.#fds.length > MAX_MESSAGE_FDS) {
        throw this.#violation(`expected at most ${MAX_MESSAGE_FDS} descriptors with a message`);
      }
      if (received.bytes.byteLength === 0) {
        throw new VhostUserError(
          "closed",
          `${this.#peer} has closed the connection${this.#have > 0 ? " within a message" : ""}`,
        );
      }
      this.#buffer.set(received.bytes, this.#have);
      this.#have += received.bytes.byteLength;
    }
    return true;
  }

  #gone(cause: unknown): unknown {
    if (!isHostError(cause, "EPIPE", "ECONNRESET", "ENOTCONN")) return cause;
    return new VhostUserError("closed", `${this.#peer} has closed the connection`, { cause });
  }

  #violation(message: string): VhostUserError {
    return new VhostUserError("violation", `${this.#peer}: ${message}`);
  }
}
