/**
 * A vhost-user front end: uses one back end.
 *
 * It belongs to a thread with an event loop and never blocks it. The data path does not pass through it:
 * driver and back end wake each other by the descriptors of {@link QueueEvents}.
 *
 * @module
 */

import {
  connectUnix,
  type FdLike,
  PollEvent,
  type Reactor,
  signalEvent,
  socketPair,
  takeEvent,
  UnixSocket,
  type Watch,
} from "../../host/mod.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import { VhostUserError } from "../errors.ts";
import { DeviceStatus, Feature } from "../features.ts";
import { PACKED_BEGIN } from "../packed_ring.ts";
import type { RingAddresses } from "../ring.ts";
import { Channel } from "./channel.ts";
import { Connection } from "./connection.ts";
import { FrontendState, type QueueEvents } from "./frontend_state.ts";
import { type Message, Payload, type RegionMessage } from "./message.ts";
import {
  BackendRequest,
  CONFIG_HEADER_BYTES,
  MAX_CONFIG_BYTES,
  MessageFlag,
  PROTOCOL_FEATURES,
  ProtocolFeature,
  Request,
  requestName,
} from "./protocol.ts";

/** Messages have 8 bits for the index of a queue. */
const MAX_QUEUES = 256;
/** How long a back end may take to answer, in ms. One that has just been started loads its program. */
const DEFAULT_TIMEOUT_MS = 60_000;
/**
 * User addresses are guest addresses and this: they name the same memory, are never 0, and tell nothing
 * of where this process has it.
 */
const USER_ADDRESS_BASE = 2 ** 44;
const WANTED_PROTOCOL_FEATURES = ProtocolFeature.Mq | ProtocolFeature.ReplyAck |
  ProtocolFeature.BackendReq | ProtocolFeature.Config | ProtocolFeature.InflightShmfd |
  ProtocolFeature.ResetDevice | ProtocolFeature.Status;
const RUNNING = DeviceStatus.Acknowledge | DeviceStatus.Driver | DeviceStatus.FeaturesOk |
  DeviceStatus.DriverOk;

/** How to use a back end. */
export interface VhostUserFrontendOptions {
  /** Who the back end is, for messages, such as `block device vda`. */
  readonly name: string;
  /** A connected stream socket, which is taken over, or the path of one that listens. */
  readonly socket: UnixSocket | string;
  /** Whose loop it is handled in. */
  readonly reactor: Reactor;
  /** How long the back end may take for an answer. */
  readonly timeoutMs?: number;
  /** What {@link VhostUserFrontend.takeState} gave of the front end of a back end that died. */
  readonly state?: FrontendState;
  /** The back end is gone, or broke the rules. Not called when this side closes. */
  readonly onClose?: (error: VhostUserError) => void;
  /** The configuration space has changed. */
  readonly onConfigChange?: () => void;
  /** The driver has broken queue `index`: the device needs a reset. */
  readonly onQueueError?: (index: number) => void;
}

/** A queue as the driver has set it up. */
export interface QueueSetup extends RingAddresses {
  readonly index: number;
  /** Descriptors, a power of two. */
  readonly size: number;
  /** Where to go on, as {@link VhostUserFrontend.stopQueue} gave it; at the begin where absent. */
  readonly base?: number;
}

/** What to start a device with. */
export interface Activation {
  /** The features that the driver has taken, of those that were offered. */
  readonly features: bigint;
  readonly memory: GuestMemory;
  readonly queues: readonly QueueSetup[];
  /** Queues that the record of requests has room for; those of `queues` where absent. */
  readonly record?: { readonly queueCount: number; readonly queueSize: number };
  /** Go on where a back end that died has stopped, instead of at each queue's index. */
  readonly resume?: boolean;
}

/** A connection to a back end. */
export class VhostUserFrontend implements Disposable {
  /** Who the back end is. */
  readonly name: string;
  readonly #options: VhostUserFrontendOptions;
  readonly #connection: Connection;
  readonly #started = new Map<number, Watch>();
  #state: FrontendState | undefined;
  #features = 0n;
  #protocolFeatures = 0n;
  #queueCount: number | undefined;
  #requests: Disposable | undefined;
  #connected = false;
  /** Whether the device was activated with packed queues. */
  #packed = false;
  /** Whether the back end was asked for a record of requests, and has none. */
  #keepsNoRecord = false;

  private constructor(options: VhostUserFrontendOptions) {
    this.name = options.name;
    this.#options = options;
    const socket = typeof options.socket === "string"
      ? connectUnix(options.socket, "stream", { nonblock: true })
      : options.socket;
    this.#state = options.state ?? new FrontendState();
    this.#connection = new Connection(socket, {
      name: options.name,
      reactor: options.reactor,
      timeoutMs: options.timeoutMs ?? DEFAULT_TIMEOUT_MS,
      onClose: (error) => {
        this.#unwatch();
        // Before, it is connect() that fails.
        if (this.#connected) options.onClose?.(error);
      },
    });
  }

  /**
   * Connects, and learns what the back end offers.
   *
   * @throws {HostError} where nobody listens.
   * @throws {VhostUserError} where the back end does not speak the protocol.
   */
  static async connect(options: VhostUserFrontendOptions): Promise<VhostUserFrontend> {
    const frontend = new VhostUserFrontend(options);
    try {
      await frontend.#negotiate();
      // Gone right behind its last answer, of which nobody would be told any more.
      if (frontend.end !== undefined) throw frontend.end;
      frontend.#connected = true;
      return frontend;
    } catch (error) {
      // The state stays the caller's for another try.
      if (options.state !== undefined) frontend.#state = undefined;
      frontend[Symbol.dispose]();
      throw error;
    }
  }

  /** Features that the device offers. */
  get features(): bigint {
    return this.#features & ~PROTOCOL_FEATURES;
  }

  /** Features of the protocol that both sides have (of `ProtocolFeature`). */
  get protocolFeatures(): bigint {
    return this.#protocolFeatures;
  }

  /** How many queues the back end serves; undefined where it cannot tell. */
  get queueCount(): number | undefined {
    return this.#queueCount;
  }

  /** Whether the back end records what it holds, as far as it was asked, so that a successor can take that up. */
  get recordsRequests(): boolean {
    return this.#has(ProtocolFeature.InflightShmfd) && !this.#keepsNoRecord;
  }

  /** Why the connection has ended, if it has. */
  get end(): VhostUserError | undefined {
    return this.#connection.end;
  }

  /** The descriptors of queue `index`. */
  queueEvents(index: number): QueueEvents {
    return this.#live.events(index);
  }

  /**
   * Reads the configuration space.
   *
   * @throws {VhostUserError} "unsupported" where the back end has none, "refused" where it is shorter.
   */
  async readConfig(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    this.#requireConfig(offset, length);
    const payload = Payload.config(offset, new Uint8Array(length));
    using answer = await this.#connection.query(Request.GetConfig, { payload });
    if (answer.payload.byteLength !== payload.byteLength) {
      throw new VhostUserError(
        "refused",
        `${this.name}: expected ${length} bytes of configuration at ${offset}, got ` +
          `${Math.max(answer.payload.byteLength - CONFIG_HEADER_BYTES, 0)}`,
      );
    }
    return answer.payload.slice(CONFIG_HEADER_BYTES);
  }

  /** Writes the configuration space. */
  async writeConfig(offset: number, bytes: Uint8Array): Promise<void> {
    this.#requireConfig(offset, bytes.byteLength);
    await this.#command(Request.SetConfig, Payload.config(offset, bytes));
  }

  /**
   * Starts the device: the driver is ready.
   *
   * @throws {VhostUserError} where the back end refuses, or is gone.
   */
  async activate(activation: Activation): Promise<void> {
    const { features, memory, queues, record = roomFor(queues), resume = false } = activation;
    const protocol = this.#features & PROTOCOL_FEATURES;
    this.#packed = (features & Feature.RingPacked) !== 0n;
    const setup = [
      this.#command(Request.SetFeatures, Payload.u64(features | protocol)),
      this.#setMemory(memory),
    ];
    await Promise.all(setup);
    await this.#setInflight(record, resume);
    const commands = queues.map((queue) => this.#startQueue(queue, memory, resume));
    await Promise.all(commands);
    if (this.#has(ProtocolFeature.Status)) {
      await this.#command(Request.SetStatus, Payload.u64(RUNNING));
    }
    // What the driver had offered before, nobody else tells the back end.
    for (const { index } of queues) signalEvent(this.#live.events(index).kick);
  }

  /**
   * Starts one queue of a device that is active.
   *
   * @throws {VhostUserError} where the back end refuses, or is gone.
   */
  async startQueue(queue: QueueSetup, memory: GuestMemory): Promise<void> {
    await this.#startQueue(queue, memory, false);
    signalEvent(this.#live.events(queue.index).kick);
  }

  /**
   * Stops queue `index`; the result is where to go on: an index of the available ring, or for packed
   * queues the next available and the next used place.
   *
   * @throws {VhostUserError} where the back end is gone.
   */
  async stopQueue(index: number): Promise<number> {
    this.#started.get(index)?.[Symbol.dispose]();
    this.#started.delete(index);
    const payload = Payload.vringState({ index, num: 0 });
    using answer = await this.#connection.query(Request.GetVringBase, { payload });
    return answer.vringState().num;
  }

  /**
   * Lets no back end take up again what one held of queue `index`, which is stopped, or not started since a
   * death: its driver has taken it back.
   *
   * @throws {HostError} where the record cannot be written to: the driver has to reset the device then.
   */
  forgetRequests(index: number): void {
    this.#live.clearRecord(index, { packed: this.#packed });
  }

  /** Enables or disables queue `index`, where the back end knows of that. */
  async enableQueue(index: number, on: boolean): Promise<void> {
    if ((this.#features & PROTOCOL_FEATURES) === 0n) return;
    await this.#command(
      Request.SetVringEnable,
      Payload.vringState({ index, num: on ? 1 : 0 }),
    );
  }

  /** Stops all queues and brings the device back to its begin, for another {@link activate}. */
  async reset(): Promise<void> {
    const started = [...this.#started.keys()];
    await Promise.all(started.map((index) => this.enableQueue(index, false)));
    await Promise.all(started.map((index) => this.stopQueue(index)));
    if (this.#has(ProtocolFeature.ResetDevice)) await this.#command(Request.ResetDevice);
    else if (this.#has(ProtocolFeature.Status)) {
      await this.#command(Request.SetStatus, Payload.u64(0));
    }
    this.#live.setInflight(undefined);
    for (const index of started) {
      takeEvent(this.#live.events(index).kick);
      takeEvent(this.#live.events(index).error);
    }
  }

  /** The device status, as far as the back end keeps one. */
  async status(): Promise<number> {
    if (!this.#has(ProtocolFeature.Status)) return 0;
    using answer = await this.#connection.query(Request.GetStatus);
    return Number(answer.u64() & 0xffn);
  }

  /** What another front end needs to go on after the back end's death. This one is done. */
  takeState(): FrontendState {
    const state = this.#live;
    this.#state = undefined;
    this[Symbol.dispose]();
    return state;
  }

  /** Closes the connection, by which the back end ends. */
  [Symbol.dispose](): void {
    this.#unwatch();
    this.#connection[Symbol.dispose]();
    this.#state?.[Symbol.dispose]();
    this.#state = undefined;
  }

  get #live(): FrontendState {
    if (this.#state === undefined) {
      throw new VhostUserError("closed", `${this.name}: the front end was closed`);
    }
    return this.#state;
  }

  #has(feature: bigint): boolean {
    return (this.#protocolFeatures & feature) !== 0n;
  }

  async #negotiate(): Promise<void> {
    this.#connection.tell(Request.SetOwner);
    this.#features = await this.#number(Request.GetFeatures);
    if ((this.#features & PROTOCOL_FEATURES) === 0n) return;
    const offered = await this.#number(Request.GetProtocolFeatures);
    const wanted = offered & WANTED_PROTOCOL_FEATURES;
    this.#connection.tell(Request.SetProtocolFeatures, { payload: Payload.u64(wanted) });
    this.#protocolFeatures = wanted;
    if (this.#has(ProtocolFeature.BackendReq)) await this.#openRequestChannel();
    if (this.#has(ProtocolFeature.Mq)) {
      const count = await this.#number(Request.GetQueueNum);
      this.#queueCount = Math.min(Number(count), MAX_QUEUES);
    }
  }

  async #number(request: number): Promise<bigint> {
    using answer = await this.#connection.query(request);
    return answer.u64();
  }

  /** Sends a request, and waits for its acknowledgement where the back end gives one. */
  async #command(
    request: number,
    payload?: Uint8Array,
    fds: readonly FdLike[] = [],
  ): Promise<void> {
    const options = payload === undefined ? { fds } : { payload, fds };
    if (!this.#has(ProtocolFeature.ReplyAck)) {
      this.#connection.tell(request, options);
      return;
    }
    using answer = await this.#connection.query(request, { ...options, needReply: true });
    const result = answer.u64();
    if (result !== 0n) {
      throw new VhostUserError(
        "refused",
        `${this.name}: the back end refuses ${requestName(request)} (${result})`,
      );
    }
  }

  #setMemory(memory: GuestMemory): Promise<void> {
    const regions = memory.regions.map((region): RegionMessage => ({
      guestAddress: region.guestAddress,
      sizeBytes: region.sizeBytes,
      userAddress: region.guestAddress + USER_ADDRESS_BASE,
      fileOffset: region.fileOffset,
    }));
    const fds = regions.map(() => memory.fd);
    return this.#command(Request.SetMemTable, Payload.memoryTable(regions), fds);
  }

  async #setInflight(
    record: NonNullable<Activation["record"]>,
    resume: boolean,
  ): Promise<void> {
    if (!this.#has(ProtocolFeature.InflightShmfd) || record.queueCount === 0) return;
    if (!resume || this.#live.inflight === undefined) {
      const wanted = { sizeBytes: 0, fileOffset: 0, ...record };
      const payload = Payload.inflight(wanted);
      using answer = await this.#connection.query(Request.GetInflightFd, { payload });
      const message = answer.inflight();
      // A back end that keeps no record says so with a size of 0.
      this.#keepsNoRecord = message.sizeBytes === 0;
      if (this.#keepsNoRecord) return;
      this.#live.setInflight({ fd: answer.takeFd(), message });
    }
    const { fd, message } = this.#live.inflight!;
    await this.#command(Request.SetInflightFd, Payload.inflight(message), [fd]);
  }

  async #startQueue(queue: QueueSetup, memory: GuestMemory, resume: boolean): Promise<void> {
    const { index, size } = queue;
    const events = this.#live.events(index);
    // All chains that were offered but not used come again; the record says which of them were begun. Of a
    // packed queue it also says where to go on, as its ring does not, unless the queue was not begun yet.
    const base = resume && !this.#packed
      ? memory.readU16(queue.usedRing + 2)
      : queue.base ?? (this.#packed ? PACKED_BEGIN : 0);
    const commands = [
      this.#command(Request.SetVringNum, Payload.vringState({ index, num: size })),
      this.#command(Request.SetVringBase, Payload.vringState({ index, num: base })),
      this.#command(
        Request.SetVringAddr,
        Payload.vringAddresses({
          index,
          descriptorTable: queue.descriptorTable + USER_ADDRESS_BASE,
          usedRing: queue.usedRing + USER_ADDRESS_BASE,
          availableRing: queue.availableRing + USER_ADDRESS_BASE,
        }),
      ),
      this.#command(Request.SetVringCall, Payload.u64(index), [events.call]),
      this.#command(Request.SetVringErr, Payload.u64(index), [events.error]),
      this.#command(Request.SetVringKick, Payload.u64(index), [events.kick]),
      this.enableQueue(index, true),
    ];
    this.#watchErrors(index, events);
    await Promise.all(commands);
  }

  #watchErrors(index: number, events: QueueEvents): void {
    this.#started.get(index)?.[Symbol.dispose]();
    const watch = this.#options.reactor.watch(events.error, PollEvent.In, () => {
      takeEvent(events.error);
      this.#options.onQueueError?.(index);
    });
    this.#started.set(index, watch);
  }

  async #openRequestChannel(): Promise<void> {
    const [mine, theirs] = socketPair("stream", { nonblock: true });
    const channel = new Channel(mine, this.name);
    const watch = this.#options.reactor.watch(mine.fd, PollEvent.In, () => {
      try {
        for (let message; (message = channel.receive()) !== undefined;) {
          using _message = message;
          this.#serveBackend(channel, message);
        }
      } catch (error) {
        if (!(error instanceof VhostUserError)) throw error;
        // Closed or broken: the back end has nothing to say any more.
        this.#requests?.[Symbol.dispose]();
      }
    });
    this.#requests = {
      [Symbol.dispose]: () => {
        watch[Symbol.dispose]();
        channel[Symbol.dispose]();
      },
    };
    using _theirs = theirs;
    await this.#command(Request.SetBackendReqFd, undefined, [theirs.fd]);
  }

  #serveBackend(channel: Channel, message: Message): void {
    const known = message.request === BackendRequest.ConfigChange;
    if (message.needsReply) {
      channel.send(message.request, Payload.u64(known ? 0 : 1), { flags: MessageFlag.Reply });
    }
    if (known) this.#options.onConfigChange?.();
  }

  #requireConfig(offset: number, length: number): void {
    if (!this.#has(ProtocolFeature.Config)) {
      throw new VhostUserError("unsupported", `${this.name}: the back end has no configuration`);
    }
    if (offset >= 0 && length > 0 && offset + length <= MAX_CONFIG_BYTES) return;
    throw new VhostUserError(
      "refused",
      `${this.name}: expected up to ${MAX_CONFIG_BYTES} bytes of configuration, got ${length} at ` +
        `${offset}`,
    );
  }

  #unwatch(): void {
    for (const watch of this.#started.values()) watch[Symbol.dispose]();
    this.#started.clear();
    this.#requests?.[Symbol.dispose]();
    this.#requests = undefined;
  }
}

function roomFor(queues: readonly QueueSetup[]): NonNullable<Activation["record"]> {
  return {
    queueCount: Math.max(0, ...queues.map(({ index }) => index + 1)),
    queueSize: Math.max(0, ...queues.map(({ size }) => size)),
  };
}
