/**
 * A device as a vhost-user back end holds it: its queues, the guest's memory, and when the device's methods
 * are called.
 *
 * @module
 */

import { log } from "../../base/mod.ts";
import {
  type Epoll,
  type Fd,
  type FdLike,
  PollEvent,
  setNonblocking,
  signalEvent,
  takeEvent,
  type Watch,
  type WatchCallback,
} from "../../host/mod.ts";
import type { DeviceContext, VirtioDeviceBackend } from "../device.ts";
import type { DeviceMemory } from "../device_memory.ts";
import { VhostUserError } from "../errors.ts";
import { DeviceStatus, Feature, QUEUE_FEATURES } from "../features.ts";
import { isQueueSize } from "../ring.ts";
import type { Channel } from "./channel.ts";
import type { InflightArea } from "./inflight_area.ts";
import { MemoryTable } from "./memory_table.ts";
import type { VringAddresses } from "./message.ts";
import { BackendRequest, PROTOCOL_FEATURES, ProtocolFeature } from "./protocol.ts";
import { refused, Vring } from "./vring.ts";

/** Most chains that a queue gives before the others and the front end have their turn. */
const TURN_CHAINS = 256;
/**
 * Chains after which the driver is told, where it wants that, while the device goes on with the next: both
 * then work at a time, and while the driver has more there is no need to wake anybody.
 */
const NOTIFY_CHAINS = 8;
/** Messages about what drivers and front ends do wrong that are logged, a connection. */
const MAX_COMPLAINTS = 10;
/** Watches of devices have tokens from here on; below are the queues'. */
const FIRST_WATCH_TOKEN = 1024;
/** Protocol features that it serves. */
const BACKEND_PROTOCOL_FEATURES: bigint = ProtocolFeature.Mq | ProtocolFeature.ReplyAck |
  ProtocolFeature.BackendReq | ProtocolFeature.Config | ProtocolFeature.InflightShmfd |
  ProtocolFeature.ResetDevice | ProtocolFeature.ConfigureMemSlots | ProtocolFeature.Status;

/** Which of a vring's descriptors. */
export type VringFdKind = "kick" | "call" | "error";

/** A device and its queues. */
export class ServedDevice implements Disposable {
  /** The device. */
  readonly device: VirtioDeviceBackend;
  /** Guest memory. */
  readonly memory: MemoryTable;
  /** Protocol features that the front end has taken. */
  protocolFeatures = 0n;
  readonly #epoll: Epoll;
  readonly #vrings: readonly Vring[];
  readonly #watches = new Map<number, WatchCallback>();
  readonly #context: DeviceContext;
  #nextToken = FIRST_WATCH_TOKEN;
  #features = 0n;
  #featuresKnown = false;
  #status = 0;
  #active = false;
  #inflight: InflightArea | undefined;
  #requests: Channel | undefined;
  #polled = false;
  /** Whether a queue gave several chains at once the last time. */
  #isDeep = false;
  #complaints = 0;

  constructor(device: VirtioDeviceBackend, epoll: Epoll) {
    this.device = device;
    this.#epoll = epoll;
    this.#vrings = Array.from({ length: device.queueCount }, (_, index) => new Vring(index, epoll));
    this.memory = new MemoryTable((memory) => this.#switchMemory(memory));
    this.#context = this.#makeContext();
    device.configChanged = () => this.#tellConfigChanged();
  }

  /** Features that it offers. */
  get offeredFeatures(): bigint {
    return this.device.features | QUEUE_FEATURES | PROTOCOL_FEATURES;
  }

  /** Protocol features that it offers. */
  get offeredProtocolFeatures(): bigint {
    // Front ends that know that a type has no configuration do not expect to hear of one.
    const without = this.device.config.byteLength === 0 ? ProtocolFeature.Config : 0n;
    return BACKEND_PROTOCOL_FEATURES & ~without;
  }

  /** The device status, as the front end set it, and whether a reset is needed. */
  get status(): number {
    return this.#status;
  }

  /** Whether queues are packed ones. */
  get isPacked(): boolean {
    return (this.#features & Feature.RingPacked) !== 0n;
  }

  /** Whether a queue waits for its turn. */
  get pending(): boolean {
    const vrings = this.#vrings;
    for (let index = 0; index < vrings.length; index++) {
      if (vrings[index]!.pending) return true;
    }
    return false;
  }

  /** The front end sets the device status; 0 is a reset. */
  setStatus(status: number): void {
    if (status === 0) this.reset();
    this.#status = status | (this.#status & DeviceStatus.NeedsReset);
  }

  /** The front end has chosen features. */
  setFeatures(features: bigint): void {
    const surplus = features & ~this.offeredFeatures;
    if (surplus !== 0n) {
      throw refused(`features 0x${surplus.toString(16)} were not offered`);
    }
    if (this.#featuresKnown && features === this.#features) return;
    if (this.#vrings.some(({ queue }) => queue !== undefined)) {
      throw refused("features cannot change while queues are started");
    }
    this.#deactivate();
    this.#features = features;
    this.#featuresKnown = true;
    // Who does not know of enabling has all enabled.
    if ((features & PROTOCOL_FEATURES) === 0n) {
      for (const vring of this.#vrings) vring.enabled = true;
    }
  }

  /** Sets the size of a stopped queue. */
  setSize(index: number, size: number): void {
    const vring = this.#stopped(index);
    if (!isQueueSize(size) || size > this.device.maxQueueSize) {
      throw refused(
        `queue ${index}: expected a power of two up to ${this.device.maxQueueSize}, got ${size}`,
      );
    }
    vring.size = size;
  }

  /** Sets where a queue lies. */
  setAddresses(addresses: VringAddresses): void {
    const vring = this.#vring(addresses.index);
    const { queue } = vring;
    if (queue !== undefined) {
      if (queue.heldCount > 0) throw refused(`queue ${vring.index} cannot move: it is at work`);
      vring.base = queue.base;
    }
    vring.addresses = addresses;
    if (queue !== undefined) {
      vring.queue = undefined;
      this.#start(vring);
    }
  }

  /** Sets the index that a stopped queue goes on from; of a packed one, its available and its used place. */
  setBase(index: number, base: number): void {
    const vring = this.#stopped(index);
    const isShort = base <= 0xffff;
    if (!isShort && !this.isPacked) {
      throw refused(`queue ${index}: expected an index of 16 bits, got ${base}`);
    }
    // Some front ends, such as DPDK's, know one place only: nothing is held in between while a queue is stopped.
    vring.base = isShort && this.isPacked ? (base | base << 16) >>> 0 : base;
  }

  /** Takes over a descriptor of a queue; a kick descriptor starts it. */
  setFd(index: number, kind: VringFdKind, fd: Fd | undefined): void {
    using owned = fd;
    const vring = this.#vring(index);
    if (owned !== undefined) setNonblocking(owned, true);
    if (kind !== "kick") {
      vring[kind]?.close();
      vring[kind] = owned?.dup();
      // What was pushed while there was nobody to tell.
      if (kind === "call") this.#notify(vring);
      return;
    }
    if (owned === undefined) {
      throw refused(`queue ${index}: expected a kick descriptor, polling is not supported`);
    }
    vring.setKick(owned);
    if (vring.queue !== undefined) return;
    try {
      this.#start(vring);
    } catch (error) {
      vring.dropKick();
      throw error;
    }
  }

  /** Enables or disables a queue. */
  setEnabled(index: number, on: boolean): void {
    const vring = this.#vring(index);
    vring.enabled = on;
    vring.queue?.setEnabled(on);
    vring.pending = on && vring.queue !== undefined;
  }

  /** Stops a queue; the result is the index to go on from, and to be called when the front end knows it. */
  stop(index: number): { readonly base: number; readonly told: () => void } {
    const vring = this.#vring(index);
    const { queue } = vring;
    this.#stop(vring);
    return { base: vring.base, told: () => queue?.end() };
  }

  /** The back end's own record of what is in flight, or the one that its predecessor left. */
  setInflight(area: InflightArea): void {
    if (this.#vrings.some(({ queue }) => queue !== undefined)) {
      area[Symbol.dispose]();
      throw refused("the inflight record cannot change while queues are started");
    }
    this.#inflight?.[Symbol.dispose]();
    this.#inflight = area;
  }

  /** Sets the channel for messages to the front end. */
  setRequestChannel(channel: Channel): void {
    this.#requests?.[Symbol.dispose]();
    this.#requests = channel;
  }

  /** Disables all queues. */
  disableAll(): void {
    for (const vring of this.#vrings) this.setEnabled(vring.index, false);
  }

  /** Stops all queues and resets the device; memory and descriptors stay. */
  reset(): void {
    this.#deactivate();
    this.#inflight?.clear();
    this.#status = 0;
    for (const vring of this.#vrings) {
      vring.base = 0;
      vring.size = 0;
      vring.addresses = undefined;
      vring.enabled = this.#featuresKnown && (this.#features & PROTOCOL_FEATURES) === 0n;
    }
  }

  /** Calls back when `fd` is ready. */
  watch(fd: FdLike, events: number, callback: WatchCallback): Watch {
    const token = this.#nextToken++;
    this.#epoll.add(fd, events, token);
    this.#watches.set(token, callback);
    return {
      setEvents: (wanted) => this.#epoll.modify(fd, wanted, token),
      [Symbol.dispose]: () => {
        if (this.#watches.delete(token)) this.#epoll.remove(fd);
      },
    };
  }

  /** Handles that the descriptor with `token` is ready. */
  dispatch(token: number, events: number): void {
    if (token >= FIRST_WATCH_TOKEN) {
      this.#watches.get(token)?.(events);
      return;
    }
    const vring = this.#vrings[token - 1];
    if (vring?.kick === undefined) return;
    if ((events & PollEvent.In) !== 0) takeEvent(vring.kick);
    // A pipe whose writer is gone would be ready for ever.
    if ((events & (PollEvent.HangUp | PollEvent.Error)) !== 0) vring.dropKick();
    vring.pending = vring.enabled && vring.queue !== undefined;
  }

  /**
   * Says whether queues are looked at by themselves: drivers need not kick then.
   *
   * @returns whether this is a change
   */
  setPolled(on: boolean): boolean {
    if (on === this.#polled) return false;
    this.#polled = on;
    for (const vring of this.#vrings) vring.queue?.setPolled(on);
    return true;
  }

  /**
   * Looks up to `times` whether drivers have offered more since the last look.
   *
   * @returns whether they have; the queues wait for their turn then
   */
  look(times: number): boolean {
    const vrings = this.#vrings;
    let found = false;
    for (let left = times; left > 0 && !found; left--) {
      for (let index = 0; index < vrings.length; index++) {
        const vring = vrings[index]!;
        const offered = vring.enabled ? vring.queue?.offered : undefined;
        if (offered === undefined || offered === vring.seen) continue;
        vring.seen = offered;
        vring.pending = true;
        found = true;
      }
      if (left > 1) Atomics.pause();
    }
    return found;
  }

  /** Whether queues are looked at without kicks, see {@link setPolled}. */
  get polled(): boolean {
    return this.#polled;
  }

  /** Whether a driver had several chains at once: they come together when it kicks, and so do the answers. */
  get isDeep(): boolean {
    return this.#isDeep;
  }

  /** Lets the device work on the queues that wait. */
  service(): void {
    this.#isDeep = false;
    const vrings = this.#vrings;
    for (let index = 0; index < vrings.length; index++) {
      const vring = vrings[index]!;
      if (vring.pending) this.#serve(vring);
      // Devices also take chains from callbacks of their own.
      else if (vring.queue?.fault !== undefined) this.#notify(vring);
    }
  }

  /** Logs what a driver or its front end did wrong; who goes on with it does not fill the log. */
  complain(message: string): void {
    this.#complaints++;
    if (this.#complaints > MAX_COMPLAINTS) return;
    log.warn(`${this.device.name}: ${message}`);
    if (this.#complaints < MAX_COMPLAINTS) return;
    log.warn(`${this.device.name}: no more of these are logged`);
  }

  /** Stops everything. */
  [Symbol.dispose](): void {
    this.#deactivate();
    delete this.device.configChanged;
    this.memory[Symbol.dispose]();
    this.#inflight?.[Symbol.dispose]();
    this.#requests?.[Symbol.dispose]();
    for (const vring of this.#vrings) vring[Symbol.dispose]();
  }

  #makeContext(): DeviceContext {
    // deno-lint-ignore no-this-alias
    const served = this;
    return {
      get features() {
        return served.#features & ~PROTOCOL_FEATURES;
      },
      get memory() {
        return served.memory.memory;
      },
      queue: (index) => served.#vrings[index]?.queue,
      notify: (index) => {
        const vring = served.#vrings[index];
        if (vring !== undefined) served.#notify(vring);
      },
      schedule: (index) => {
        const vring = served.#vrings[index];
        if (vring !== undefined) vring.pending = vring.enabled && vring.queue !== undefined;
      },
      watch: (fd, events, callback) => served.watch(fd, events, callback),
    };
  }

  #vring(index: number): Vring {
    const vring = this.#vrings[index];
    if (vring !== undefined) return vring;
    throw refused(`expected a queue below ${this.#vrings.length}, got ${index}`);
  }

  #stopped(index: number): Vring {
    const vring = this.#vring(index);
    if (vring.queue === undefined) return vring;
    throw refused(`queue ${index} is started`);
  }

  #start(vring: Vring): void {
    const { memory } = this.memory;
    const rings = vring.locate(memory);
    if (!this.#active) {
      this.#active = true;
      this.device.activate(this.#context);
    }
    const queue = vring.start({
      memory,
      rings,
      features: this.#features,
      inflight: this.#inflight,
    });
    queue.setPolled(this.#polled);
    queue.setEnabled(vring.enabled);
    this.device.queueStarted?.(vring.index);
    // Kicks may have come before, or been lost with a predecessor.
    vring.pending = vring.enabled;
  }

  #stop(vring: Vring): void {
    const { queue } = vring;
    if (queue !== undefined) {
      this.device.queueStopping?.(vring.index);
      this.#notify(vring);
      vring.base = queue.base;
      vring.queue = undefined;
      vring.pending = false;
    }
    vring.dropKick();
  }

  #deactivate(): void {
    for (const vring of this.#vrings) this.#stop(vring);
    if (!this.#active) return;
    this.#active = false;
    this.device.reset();
  }

  #serve(vring: Vring): void {
    vring.pending = false;
    const { queue } = vring;
    if (queue === undefined) return;
    // Before anything is taken: what comes meanwhile is looked at once too often rather than never.
    vring.seen = queue.offered;
    for (let left = TURN_CHAINS; left > 0; left -= NOTIFY_CHAINS) {
      queue.beginTurn(NOTIFY_CHAINS);
      this.device.process(vring.index);
      const { turnExhausted, turnChains } = queue;
      queue.endTurn();
      if (turnChains > 1) this.#isDeep = true;
      this.#notify(vring);
      if (!turnExhausted || queue !== vring.queue) return;
    }
    // What is left comes after the others, without a further kick.
    vring.pending = vring.enabled;
  }

  #notify(vring: Vring): void {
    const { queue, call } = vring;
    if (queue === undefined) return;
    if (queue.fault !== undefined) this.#tellFault(vring, queue.fault.message);
    else if (call !== undefined && queue.needsNotification()) signalEvent(call);
  }

  #tellFault(vring: Vring, message: string): void {
    if (vring.faultTold) return;
    vring.faultTold = true;
    this.#status |= DeviceStatus.NeedsReset;
    this.complain(`queue ${vring.index} is broken by its driver: ${message}`);
    if (vring.error !== undefined) signalEvent(vring.error);
  }

  #tellConfigChanged(): void {
    const needed = ProtocolFeature.BackendReq | ProtocolFeature.Config;
    if (this.#requests === undefined || (this.protocolFeatures & needed) !== needed) return;
    try {
      this.#requests.send(BackendRequest.ConfigChange);
    } catch (error) {
      if (!(error instanceof VhostUserError)) throw error;
      // Where the whole front end is gone, its own connection says so.
      log.debug(`${this.device.name}: ${error.message}`);
    }
  }

  #switchMemory(memory: DeviceMemory): void {
    if (!this.#active) return;
    this.device.quiesce?.();
    for (const vring of this.#vrings) {
      if (vring.queue === undefined) continue;
      vring.queue.setMemory(memory);
      this.device.queueStarted?.(vring.index);
      this.#notify(vring);
    }
  }
}
