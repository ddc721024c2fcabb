/**
 * The VMM's end of a device's control channel.
 *
 * @module
 */

import { Alarm, ShapeError } from "../../base/mod.ts";
import {
  isHostError,
  monotonicNs,
  PollEvent,
  type Reactor,
  type UnixSocket,
  type Watch,
} from "../../host/mod.ts";
import { DeviceControlError } from "./errors.ts";
import {
  type AnswerOf,
  type DeviceEvent,
  type DevicePacket,
  type DeviceRequestName,
  encodeRequest,
  MAX_CONTROL_BYTES,
  parseAnswer,
  parseDevicePacket,
  type RequestOf,
} from "./messages.ts";

/** How long a device may take to answer, in ms; on a busy host it may wait for a processor. */
const DEFAULT_TIMEOUT_MS = 20_000;
/** Requests without an answer at once. */
const MAX_PENDING = 256;
/** Packets before other descriptors of the thread have their turn. */
const PACKETS_PER_TURN = 16;
/** Events that a device may send at once, and a second on the average. A guest can cause some. */
const EVENT_BURST = 256;
const EVENTS_PER_SECOND = 64;

/** Settings of a {@link DeviceControlClient}. */
export interface DeviceControlClientOptions {
  readonly reactor: Reactor;
  /** Name of the device, for messages. */
  readonly device: string;
  /** Told of what the device tells by itself. */
  readonly onEvent?: (event: DeviceEvent) => void;
  /**
   * Told once when nothing more comes from the device: undefined where it closed the channel, else how
   * it broke its rules.
   */
  readonly onEnd?: (error: DeviceControlError | undefined) => void;
}

/** Settings of {@link DeviceControlClient.request}. */
export interface DeviceRequestOptions {
  /** How long to wait for the answer; Infinity is as long as the device lives. */
  readonly timeoutMs?: number;
  /** Ends the waiting, not what the device does. */
  readonly signal?: AbortSignal;
}

interface Pending {
  readonly name: DeviceRequestName;
  readonly resolve: (answer: AnswerOf<DeviceRequestName>) => void;
  readonly reject: (error: unknown) => void;
}

/** Asks a device. */
export class DeviceControlClient implements Disposable {
  readonly #socket: UnixSocket;
  readonly #options: DeviceControlClientOptions;
  readonly #watch: Watch;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #closed = false;
  #eventCredit = EVENT_BURST;
  #creditNs = monotonicNs();

  /** Takes over `socket`, non-blocking SOCK_SEQPACKET. */
  constructor(socket: UnixSocket, options: DeviceControlClientOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#watch = options.reactor.watch(socket.fd, PollEvent.In, () => this.#receive());
  }

  /** Whether the device can be asked. */
  get open(): boolean {
    return !this.#closed;
  }

  /**
   * Asks the device, and gives its answer.
   *
   * @throws {DeviceControlError} when it refuses, does not answer in time, or is gone.
   */
  async request<Name extends DeviceRequestName>(
    name: Name,
    data: RequestOf<Name>,
    options: DeviceRequestOptions = {},
  ): Promise<AnswerOf<Name>> {
    const { timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options;
    signal?.throwIfAborted();
    if (this.#closed) throw this.#error("it is gone");
    if (this.#pending.size >= MAX_PENDING) throw this.#error("too much is asked of it at once");
    const id = this.#nextId++;
    this.#send(encodeRequest(id, name, data));
    const { promise, resolve, reject } = Promise.withResolvers<AnswerOf<DeviceRequestName>>();
    this.#pending.set(id, { name, resolve, reject });
    const late = () => reject(this.#error(`no answer to ${name} within ${timeoutMs} ms`));
    using _alarm = new Alarm(timeoutMs, late);
    const abort = () => reject(signal?.reason);
    signal?.addEventListener("abort", abort);
    try {
      // What is pending under this name was read with this name's reader.
      return await promise as AnswerOf<Name>;
    } finally {
      signal?.removeEventListener("abort", abort);
      // The id stays known until it is answered, unless nobody waits for it: a late answer is no breach.
      const pending = this.#pending.get(id);
      if (pending !== undefined) this.#pending.set(id, { ...pending, resolve() {}, reject() {} });
    }
  }

  /** Closes the channel; what is asked fails. */
  [Symbol.dispose](): void {
    this.#close(this.#error("the channel is closed"));
  }

  #send(packet: Uint8Array): void {
    try {
      if (this.#socket.sendMessage(packet) >= 0) return;
    } catch (cause) {
      if (!isHostError(cause)) throw cause;
      throw this.#error("it is gone", cause);
    }
    throw this.#error("it does not read what it is told");
  }

  #receive(): void {
    try {
      for (let left = PACKETS_PER_TURN; left > 0 && !this.#closed; left--) {
        const message = this.#socket.recvMessage(MAX_CONTROL_BYTES, 0, { dontWait: true });
        if (message === undefined) return;
        if (message.endOfFile) {
          this.#end(undefined);
          return;
        }
        if (message.truncated || message.fdsTruncated) {
          throw new ShapeError(`a packet beyond ${MAX_CONTROL_BYTES} bytes, or with descriptors`);
        }
        this.#handle(parseDevicePacket(message.bytes));
      }
    } catch (error) {
      if (isHostError(error, "ECONNRESET", "EPIPE")) this.#end(undefined);
      else if (error instanceof ShapeError) this.#end(this.#error(error.message));
      else throw error;
    }
  }

  #handle(packet: DevicePacket): void {
    if (packet.kind === "event") {
      this.#chargeEvent();
      this.#options.onEvent?.(packet.event);
      return;
    }
    const pending = this.#pending.get(packet.id);
    if (pending === undefined) throw new ShapeError(`an answer to ${packet.id}, not asked`);
    this.#pending.delete(packet.id);
    if (packet.kind === "error") {
      pending.reject(this.#error(packet.message));
      return;
    }
    try {
      pending.resolve(parseAnswer(pending.name, packet.answer));
    } catch (error) {
      pending.reject(error);
      throw error;
    }
  }

  #chargeEvent(): void {
    const now = monotonicNs();
    const earned = (now - this.#creditNs) * EVENTS_PER_SECOND / 1e9;
    this.#creditNs = now;
    this.#eventCredit = Math.min(this.#eventCredit + earned, EVENT_BURST) - 1;
    if (this.#eventCredit < 0) throw new ShapeError("a flood of events");
  }

  #end(error: DeviceControlError | undefined): void {
    if (this.#closed) return;
    this.#close(error ?? this.#error("it is gone"));
    this.#options.onEnd?.(error);
  }

  #close(error: DeviceControlError): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch[Symbol.dispose]();
    this.#socket[Symbol.dispose]();
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }

  #error(message: string, cause?: unknown): DeviceControlError {
    return new DeviceControlError(`${this.#options.device}: ${message}`, { cause });
  }
}
