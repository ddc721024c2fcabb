/**
 * The device's end of its control channel. Nothing here waits or needs an event loop: a device sleeps in
 * its own.
 *
 * @module
 */

import { describeError, ShapeError, VmctlError } from "../../base/mod.ts";
import { type Fd, isHostError, PollEvent, pollFd, type UnixSocket } from "../../host/mod.ts";
import { DeviceControlError } from "./errors.ts";
import {
  type AnswerOf,
  type DeviceEvent,
  type DeviceRequest,
  type DeviceRequestName,
  encodeAnswer,
  encodeError,
  encodeEvent,
  MAX_CONTROL_BYTES,
  parseRequestPacket,
} from "./messages.ts";

/** Packets before the queues have their turn. */
const PACKETS_PER_TURN = 16;
/** How long a VMM may leave what it is told unread. */
const SEND_TIMEOUT_MS = 1000;

/** Answers one request, now or later, once. */
export interface DeviceReply {
  /** It is done. */
  answer(answer: AnswerOf<DeviceRequestName>): void;
  /** It is refused. */
  refuse(message: string): void;
}

/** A device that can be told things. */
export interface ControllableDevice {
  /** Such as `block`. */
  readonly name: string;
  /**
   * Carries `request` out and answers it by `reply`. It is called whether the device is active or not.
   *
   * @throws {VmctlError} with the reason, which refuses it.
   */
  control?(request: DeviceRequest, reply: DeviceReply): void;
  /** Where it tells things by itself; set by whoever serves it. */
  tell?: (event: DeviceEvent) => void;
}

/** Takes requests of the VMM to a device. */
export class DeviceControlServer implements Disposable {
  readonly #socket: UnixSocket;
  readonly #device: ControllableDevice;

  /** Takes over `socket`, SOCK_SEQPACKET; the device stays the caller's. */
  constructor(socket: UnixSocket, device: ControllableDevice) {
    this.#socket = socket;
    this.#device = device;
    device.tell = (event) => this.#send(encodeEvent(event));
  }

  /** Readable where {@link receive} has something to do. */
  get fd(): Fd {
    return this.#socket.fd;
  }

  /**
   * Handles what is there.
   *
   * @returns false when the VMM has closed the channel
   * @throws {DeviceControlError} where it breaks the rules.
   */
  receive(): boolean {
    try {
      for (let left = PACKETS_PER_TURN; left > 0; left--) {
        const message = this.#socket.recvMessage(MAX_CONTROL_BYTES, 0, { dontWait: true });
        if (message === undefined) return true;
        if (message.endOfFile) return false;
        if (message.truncated || message.fdsTruncated) {
          throw new ShapeError(`a packet beyond ${MAX_CONTROL_BYTES} bytes, or with descriptors`);
        }
        this.#handle(message.bytes);
      }
      return true;
    } catch (error) {
      if (isHostError(error, "ECONNRESET", "EPIPE")) return false;
      if (!(error instanceof ShapeError)) throw error;
      throw new DeviceControlError(`${this.#device.name}: control channel: ${error.message}`);
    }
  }

  [Symbol.dispose](): void {
    delete this.#device.tell;
    this.#socket[Symbol.dispose]();
  }

  #handle(packet: Uint8Array): void {
    const { id, request } = parseRequestPacket(packet);
    const device = this.#device;
    let answered = false;
    const once = (message: Uint8Array) => {
      if (answered) throw new DeviceControlError(`${device.name}: ${request.name} answered twice`);
      answered = true;
      this.#send(message);
    };
    const reply: DeviceReply = {
      answer: (answer) => once(encodeAnswer(id, answer)),
      refuse: (message) => once(encodeError(id, message)),
    };
    if (device.control === undefined) {
      reply.refuse(`${request.name} is nothing for it`);
      return;
    }
    try {
      device.control(request, reply);
    } catch (error) {
      if (!(error instanceof VmctlError) || answered) throw error;
      reply.refuse(describeError(error));
    }
  }

  #send(packet: Uint8Array): void {
    try {
      while (this.#socket.sendMessage(packet) < 0) {
        if (pollFd(this.fd, PollEvent.Out, SEND_TIMEOUT_MS) !== 0) continue;
        throw new DeviceControlError(`${this.#device.name}: the VMM does not read what it is told`);
      }
    } catch (error) {
      // Where the VMM is gone, the channel says so when it is read.
      if (!isHostError(error, "EPIPE", "ECONNRESET", "ENOTCONN")) throw error;
    }
  }
}
