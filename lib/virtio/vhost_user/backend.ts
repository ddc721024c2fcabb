/**
 * A vhost-user back end: serves one front end.
 *
 * @module
 */

import { log } from "../../base/mod.ts";
import {
  BusyPoll,
  Epoll,
  type Fd,
  type FdLike,
  monotonicMicros32,
  PollEvent,
  setNonblocking,
  type UnixSocket,
  type Watch,
  type WatchCallback,
} from "../../host/mod.ts";
import type { VirtioDeviceBackend } from "../device.ts";
import { VhostUserError } from "../errors.ts";
import { serveRequest } from "./backend_requests.ts";
import { Channel } from "./channel.ts";
import { type Message, Payload } from "./message.ts";
import { MessageFlag, ProtocolFeature } from "./protocol.ts";
import { ServedDevice } from "./served_device.ts";

/** How long a front end may leave answers unread. */
const SEND_TIMEOUT_MS = 1000;
/** Most messages before the queues have their turn. */
const TURN_MESSAGES = 16;
const SOCKET_TOKEN = 0;
/** How often to look at the queues between looks at everything else. */
const LOOKS = 64;
/** Most turns whose work was there at once, between looks at everything else. */
const QUICK_TURNS = 64;

/** Settings of a {@link VhostUserBackend}. */
export interface VhostUserBackendOptions {
  /**
   * How long to look for more work before the thread sleeps, where work has come as soon before, in us; 0,
   * the default, sleeps at once. It saves the time of waking up, and costs a processor that nobody else wants.
   */
  readonly spinUs?: number;
}

/** Serves one front end from the calling thread. */
export class VhostUserBackend implements Disposable {
  readonly #epoll = new Epoll(64);
  readonly #channel: Channel;
  readonly #served: ServedDevice;
  readonly #poll: BusyPoll;
  #quickTurns = 0;
  #open = true;

  /** Takes over `socket`, a connected stream. The device stays the caller's. */
  constructor(
    socket: UnixSocket,
    device: VirtioDeviceBackend,
    options: VhostUserBackendOptions = {},
  ) {
    this.#poll = new BusyPoll(options.spinUs ?? 0);
    setNonblocking(socket.fd, true);
    this.#channel = new Channel(socket, `front end of ${device.name}`, SEND_TIMEOUT_MS);
    this.#served = new ServedDevice(device, this.#epoll);
    this.#epoll.add(socket.fd, PollEvent.In, SOCKET_TOKEN);
  }

  /** Readable when {@link turn} has something to do, for those who have a loop of their own. */
  get fd(): Fd {
    return this.#epoll.fd;
  }

  /**
   * Calls back when `fd` is ready, from {@link turn}; for what the thread waits for besides the front end.
   */
  watch(fd: FdLike, events: number, callback: WatchCallback): Watch {
    return this.#served.watch(fd, events, callback);
  }

  /** Whether the front end is there. */
  get open(): boolean {
    return this.#open;
  }

  /**
   * Serves until the front end closes the connection.
   *
   * @throws {VhostUserError} where it breaks the rules of the protocol.
   */
  run(): void {
    while (this.turn(-1));
  }

  /**
   * Waits at most `timeoutMs` (-1 is forever), and handles what is there. Allocates nothing unless there
   * are messages.
   *
   * @returns false when the front end has closed the connection
   * @throws {VhostUserError} where it breaks the rules; nothing is served any more then.
   */
  turn(timeoutMs: number): boolean {
    if (!this.#open) return false;
    const served = this.#served;
    const epoll = this.#epoll;
    const count = this.#wait(served.pending ? 0 : timeoutMs);
    let messages = false;
    for (let index = 0; index < count; index++) {
      const token = epoll.token(index);
      if (token === SOCKET_TOKEN) messages = true;
      else served.dispatch(token, epoll.events(index));
    }
    if (messages) this.#receive();
    if (this.#open) served.service();
    return this.#open;
  }

  /** Stops serving: queues stop, the device is reset, memory is unmapped, the connection closed. */
  [Symbol.dispose](): void {
    this.#open = false;
    this.#served[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
    this.#epoll[Symbol.dispose]();
  }

  #wait(timeoutMs: number): number {
    const epoll = this.#epoll;
    const poll = this.#poll;
    if (timeoutMs === 0 || !poll.enabled) return epoll.wait(timeoutMs);
    const served = this.#served;
    if (served.polled && this.#quickTurns++ < QUICK_TURNS && served.look(1)) return 0;
    this.#quickTurns = 0;
    let count = 0;
    let found = false;
    if (poll.begin(monotonicMicros32(), !served.isDeep)) {
      served.setPolled(true);
      do {
        found = served.look(LOOKS);
        count = epoll.wait(0);
        if (found || count > 0) break;
      } while (poll.goesOn(monotonicMicros32()));
    }
    if (!found && count === 0) {
      // What came before the driver knew that it has to kick again.
      if (served.setPolled(false)) found = served.look(1);
      if (!found) count = epoll.wait(timeoutMs);
    }
    poll.end(monotonicMicros32());
    return count;
  }

  #receive(): void {
    try {
      for (let left = TURN_MESSAGES; left > 0; left--) {
        using message = this.#channel.receive();
        if (message === undefined) return;
        this.#handle(message);
      }
    } catch (error) {
      this.#open = false;
      if (!(error instanceof VhostUserError) || error.kind !== "closed") throw error;
      log.debug(error.message);
    }
  }

  #handle(message: Message): void {
    const acknowledged = message.needsReply &&
      (this.#served.protocolFeatures & ProtocolFeature.ReplyAck) !== 0n;
    let failed = 0;
    try {
      const answer = serveRequest(this.#served, message);
      if (answer !== undefined) {
        const { payload, fds = [], sent } = answer;
        this.#channel.send(message.request, payload, { flags: MessageFlag.Reply, fds });
        sent?.();
        return;
      }
    } catch (error) {
      // Who waits for an acknowledgement can be told; for all others the connection is the answer.
      const refused = error instanceof VhostUserError && error.kind === "refused";
      if (!refused || !acknowledged) throw error;
      this.#served.complain(`${message.name} refused: ${error.message}`);
      failed = 1;
    }
    if (!acknowledged) return;
    this.#channel.send(message.request, Payload.u64(failed), { flags: MessageFlag.Reply });
  }
}
