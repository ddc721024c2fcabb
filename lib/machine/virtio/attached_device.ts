/**
 * A virtio device of a VM: does on the vhost-user connection what the guest wants of its registers,
 * and looks after the back end. The data path is not here.
 *
 * @module
 */

import { describeError, Logger } from "../../base/mod.ts";
import type { Platform } from "../../devices/mod.ts";
import { eventfd, type Fd, PollEvent, type Reactor, type Watch } from "../../host/mod.ts";
import type { Vm } from "../../hypervisor/mod.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import {
  BAR_SIZE_BYTES,
  Feature,
  FrontendState,
  vectorCountOf,
  VhostUserError,
  type VirtioPciHandle,
  VirtioPciHost,
  type Wishes,
} from "../../virtio/mod.ts";
import { MachineError } from "../errors.ts";
import { Backend } from "./backend.ts";
import type { VirtioDevice } from "./device.ts";
import { DeviceQueues } from "./device_queues.ts";

const log = new Logger("virtio");

const DEFAULT_QUEUE_SIZE = 256;
/** A back end that dies more often than this within a minute is not started again. */
const MAX_DEATHS_PER_MINUTE = 5;

/** Misuse by the guest is logged so often. */
const MAX_COMPLAINTS = 10;

/** Settings of an {@link AttachedDevice}. */
export interface AttachOptions {
  readonly device: VirtioDevice;
  readonly reactor: Reactor;
  /** Ends attempts to reach back ends: the VM ends. */
  readonly signal: AbortSignal;
  /** Whether a back end that died is started again. */
  readonly restart: boolean;
  /** The device is lost, for the reason that is given. */
  readonly onLost: (why: string) => void;
}

/** Where a device is put. */
export interface DevicePlace {
  /** Number on the PCI bus. */
  readonly number: number;
  /** Address of its BAR in the beginning. */
  readonly barAddress: number;
  /** First of its {@link AttachedDevice.vectorCount} GSIs. */
  readonly firstGsi: number;
}

/** What a device tells about itself. */
export interface VirtioDeviceInfo {
  readonly name: string;
  readonly deviceType: number;
  /** Number on the PCI bus. */
  readonly pci: number;
  /** Whether its back end is there. */
  readonly serves: boolean;
  /** Device status as the driver sees it. */
  readonly status: number;
  /** Queues that run. */
  readonly queues: readonly { readonly index: number; readonly size: number }[];
  /** Whether they stand still. */
  readonly halted: boolean;
  /** How often its back end was started again. */
  readonly restarts: number;
}

/** A device and its back end. */
export class AttachedDevice implements AsyncDisposable {
  readonly #options: AttachOptions;
  readonly #configEvent: Fd;
  /** What the driver has written to the configuration space since the last reset, in this order. */
  readonly #written = new Map<number, Uint8Array>();
  /** As much of that as no back end has heard of yet: its registers tell it only once. */
  readonly #untold = new Map<number, Uint8Array>();
  readonly #deaths: number[] = [];
  /** Of the queues' events, while the guest has an interrupt pin for them. */
  #pinWatches: readonly Watch[] = [];
  /** What the back end and its successors are given; the back end's once it is there. */
  readonly #state = new FrontendState();
  #launch: Promise<void> | undefined;
  #reached: Backend | undefined;
  #host: VirtioPciHost | undefined;
  #parts: { readonly queues: DeviceQueues; readonly place: DevicePlace } | undefined;
  #restarts = 0;
  #complaints = 0;
  #suspended = false;
  #ended = false;
  /** One thing at a time is done on the connection. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: AttachOptions) {
    this.#options = options;
    this.#configEvent = eventfd(0, { nonblock: true });
  }

  /**
   * Launches the device's back end, and lets the guest have it where it is on the bus.
   *
   * @throws {VmctlError} where that is not possible.
   */
  launch(): Promise<void> {
    return this.#launch ??= this.#reach();
  }

  async #reach(): Promise<void> {
    const { device, reactor, signal } = this.#options;
    // Before it is there, there is nothing to be told.
    const tell = (action: () => void) => {
      if (this.#reached !== undefined) action();
    };
    const backend = await Backend.launch({
      device,
      reactor,
      signal,
      onDeath: () => tell(() => this.#poke()),
      onConfigChange: () => tell(() => this.#readConfig()),
      onQueueError: (index) => tell(() => this.#queueBroke(index)),
    }, this.#state);
    this.#reached = backend;
    if (device.packedQueues === "wanted" && (backend.features & Feature.RingPacked) === 0n) {
      log.warn(`${this.name}: its back end has no packed queues; its driver is offered split ones`);
    }
    if (this.#host !== undefined) this.#settle(this.#host);
  }

  /**
   * Resolves when its back end is to be launched: at once, or where the guest boots without it, when somebody
   * wants it, or after `patienceMs`.
   */
  async whenWanted(patienceMs: number): Promise<void> {
    const { wanted } = this.#options.device;
    if (wanted === undefined || this.#launch !== undefined) return;
    // What is not on the bus, no guest accesses.
    const { words, index } = this.#host?.awaitedEvent ??
      { words: new Int32Array(new SharedArrayBuffer(4)), index: 0 };
    const wait = Atomics.waitAsync(words, index, 0, patienceMs);
    if (wait.async) await Promise.race([wait.value, wanted]);
  }

  /** Whether the guest boots without it. */
  get isLate(): boolean {
    return this.#options.device.wanted !== undefined;
  }

  /** Whether it can be put on the bus before its back end is there. */
  get isForeseen(): boolean {
    return this.#options.device.isForeseen === true;
  }

  /** Lets no vCPU wait for its back end any longer. */
  giveUp(): void {
    this.#host?.giveUp();
  }

  get #backend(): Backend {
    if (this.#reached === undefined) {
      throw new MachineError(`${this.name}: its back end is not there yet`);
    }
    return this.#reached;
  }

  /** Of the driver, from when it is on the bus. */
  get #queues(): DeviceQueues {
    return this.#parts!.queues;
  }

  /** What the guest sees of it before it is accessed. */
  get #shape(): { readonly queueCount: number; readonly configBytes: number } {
    const { device } = this.#options;
    if (device.isForeseen === true && device.queueCount !== undefined) {
      return { queueCount: device.queueCount, configBytes: Backend.configBytesOf(device) };
    }
    const { queueCount, config } = this.#backend;
    return { queueCount, configBytes: config.byteLength };
  }

  /** Lets the guest have it. @throws {MachineError} where it is not what was foreseen. */
  #settle(host: VirtioPciHost): void {
    const { features, config, queueCount } = this.#backend;
    const expected = this.#shape;
    if (queueCount !== expected.queueCount || config.byteLength !== expected.configBytes) {
      throw new MachineError(
        `${this.name}: expected a back end of ${expected.queueCount} queues and ` +
          `${expected.configBytes} bytes of configuration, got ${queueCount} and ` +
          `${config.byteLength}`,
      );
    }
    host.settle(features | Feature.RingReset, config);
    void this.#serve(host);
  }

  /** Who it is. */
  get name(): string {
    return this.#options.device.name;
  }

  /** Of `VirtioDevice`. */
  get pciDevice(): number | undefined {
    return this.#options.device.pciDevice;
  }

  /** How many interrupts it has. */
  get vectorCount(): number {
    return vectorCountOf(this.#shape.queueCount);
  }

  /**
   * Puts it on the bus, before any vCPU runs, and before its back end is there only where that is
   * foreseen. The result is for the vCPUs' workers.
   */
  install(
    place: DevicePlace,
    parts: { readonly vm: Vm; readonly memory: GuestMemory; readonly platform: Platform },
  ): VirtioPciHandle {
    const { vm, memory, platform: { pci } } = parts;
    const { device } = this.#options;
    const { queueCount, configBytes } = this.#shape;
    const queueSize = device.queueSize ?? DEFAULT_QUEUE_SIZE;
    const queues = Array.from({ length: queueCount }, (_, index) => this.#state.events(index));
    const host = new VirtioPciHost(
      {
        device: place.number,
        deviceType: device.deviceType,
        maxQueueSize: queueSize,
        queues,
        configEvent: this.#configEvent,
        configBytes,
        firstGsi: place.firstGsi,
      },
      vm,
      pci.slot(place.number),
    );
    pci.install({
      device: place.number,
      ...host.configSpace,
      bars: [{ index: 0, sizeBytes: BAR_SIZE_BYTES, address: place.barAddress }],
    });
    this.#host = host;
    const { name } = this;
    this.#parts = { queues: new DeviceQueues({ name, memory, queueCount, queueSize }), place };
    if (this.#reached !== undefined) this.#settle(host);
    return host.handle;
  }

  /** Stops the queues; vCPUs do not run. */
  suspend(): Promise<void> {
    return this.#inTurn(async () => {
      this.#suspended = true;
      await this.#orDeath(() => this.#queues.halt(this.#backend.frontend));
    });
  }

  /** Lets the queues go on. */
  resume(): Promise<void> {
    return this.#inTurn(async () => {
      this.#suspended = false;
      if (!(this.#host?.mastersBus ?? true)) return;
      await this.#orDeath(() => this.#queues.goOn(this.#backend.frontend));
    }).finally(() => this.#poke());
  }

  /** What it is and does. */
  info(): VirtioDeviceInfo {
    return {
      name: this.name,
      deviceType: this.#options.device.deviceType,
      pci: this.#parts?.place.number ?? 0,
      serves: this.#reached !== undefined,
      status: this.#host?.status ?? 0,
      queues: this.#parts?.queues.running.map(({ index, size }) => ({ index, size })) ?? [],
      halted: this.#parts?.queues.halted ?? false,
      restarts: this.#restarts,
    };
  }

  /** Ends the back end; its launch must have been called off. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    this.#host?.giveUp();
    // Whoever launched it has heard of that.
    await this.#launch?.catch(() => {});
    for (const watch of this.#pinWatches) watch[Symbol.dispose]();
    this.#pinWatches = [];
    this.#poke();
    const reached = this.#reached;
    await reached?.[Symbol.asyncDispose]();
    await this.#turn;
    // A successor may have been there just when it was called off.
    if (this.#reached !== reached) await this.#reached?.[Symbol.asyncDispose]();
    if (!this.#state.disposed) this.#state[Symbol.dispose]();
    this.#configEvent.close();
  }

  /** Does what the guest wants, as long as the device is there. */
  async #serve(host: VirtioPciHost): Promise<void> {
    const { words, index } = host.event;
    while (!this.#ended) {
      const seen = Atomics.load(words, index);
      await this.#inTurn(() => this.#attend(host));
      this.#watchForPin(host);
      const wait = Atomics.waitAsync(words, index, seen);
      if (wait.async) await wait.value;
    }
  }

  #watchForPin(host: VirtioPciHost): void {
    const wanted = host.usesPin && !this.#ended;
    if (wanted === (this.#pinWatches.length > 0)) return;
    for (const watch of this.#pinWatches) watch[Symbol.dispose]();
    const { frontend } = this.#backend;
    const queues = wanted ? this.#backend.queueCount : 0;
    this.#pinWatches = Array.from(
      { length: queues },
      (_, index) =>
        this.#options.reactor.watch(frontend.queueEvents(index).call, PollEvent.In, () => {
          host.interrupt();
          // Messages are what the guest has from now on.
          if (!host.usesPin) this.#watchForPin(host);
        }),
    );
  }

  async #attend(host: VirtioPciHost): Promise<void> {
    while (!this.#ended) {
      try {
        if (this.#backend.frontend.end !== undefined) await this.#replace();
        if (!this.#suspended) await this.#fulfil(host, host.wishes());
        return;
      } catch (error) {
        if (this.#ended) return;
        // It died meanwhile: what it did not do is its successor's.
        if (this.#backend.frontend.end !== undefined) continue;
        this.#complain(describeError(error));
        host.needReset();
        return;
      }
    }
  }

  async #fulfil(host: VirtioPciHost, wishes: Wishes): Promise<void> {
    const { frontend } = this.#backend;
    const queues = this.#queues;
    if (wishes.config !== undefined) {
      const { offset, bytes } = wishes.config;
      this.#untold.delete(offset);
      this.#untold.set(offset, bytes);
    }
    if (wishes.reset) {
      this.#untold.clear();
      await queues.reset(frontend);
      this.#written.clear();
      host.finishReset(await this.#backend.readConfig());
      return;
    }
    if (wishes.halt) await queues.halt(frontend);
    else if (queues.halted) {
      host.setHalted(false);
      await queues.goOn(frontend);
    }
    const { features } = wishes;
    if (features !== undefined) {
      await queues.start(frontend, { features, queues: wishes.queues });
      for (const index of wishes.queueResets) {
        await queues.stop(frontend, index);
        host.finishQueueReset(index);
      }
    }
    if (wishes.halt) host.setHalted(true);
    if (this.#untold.size === 0) return;
    for (const [offset, bytes] of this.#untold) await this.#writeConfig({ offset, bytes });
    host.showConfig(await this.#backend.readConfig());
    // A back end that dies before that has its successor hear of all of it.
    this.#untold.clear();
  }

  /**
   * What a back end does not do because it has just died is its successor's: that one holds its queues
   * still as long as it shall, and starts them all otherwise.
   */
  async #orDeath(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      const hasSuccessor = this.#options.restart && !this.#ended &&
        this.#reached?.frontend.end !== undefined;
      if (!hasSuccessor) throw error;
    }
  }

  async #writeConfig({ offset, bytes }: NonNullable<Wishes["config"]>): Promise<void> {
    try {
      await this.#backend.frontend.writeConfig(offset, bytes);
      this.#written.delete(offset);
      this.#written.set(offset, bytes);
    } catch (error) {
      const refused = error instanceof VhostUserError &&
        (error.kind === "refused" || error.kind === "unsupported");
      if (!refused) throw error;
      // A field that is read-only; the driver sees again what is there.
      log.debug(describeError(error));
      this.#host?.changeConfig(await this.#backend.readConfig());
    }
  }

  /** Goes on with another back end. @throws {MachineError} where that is not to be. */
  async #replace(): Promise<void> {
    const { device, restart } = this.#options;
    const queues = this.#queues;
    // Of queues that it has stopped it holds no requests.
    const mayHold = queues.running.length > 0 && !queues.areStopped;
    const dead = this.#backend;
    const reason = await dead.reason();
    if (this.#ended) throw new MachineError(reason);
    if (!restart || dead.violated) this.#lose(reason);
    const now = performance.now();
    this.#deaths.push(now);
    while (this.#deaths[0]! < now - 60_000) this.#deaths.shift();
    if (this.#deaths.length > MAX_DEATHS_PER_MINUTE) {
      this.#lose(`${reason}; it dies again and again`);
    }
    if (mayHold && !dead.recordsRequests) {
      this.#lose(
        `${reason}; it kept no record of the requests that it held (the inflight feature of vhost-user), ` +
          "so the guest may lose some where it goes on: start the VM again, or use a back end that keeps one",
      );
    }
    log.warn(`${device.name} ended (${reason}), starting it again`);
    try {
      this.#reached = await dead.revive();
    } catch (error) {
      this.#lose(`${reason}; it cannot be started again: ${describeError(error)}`);
    }
    this.#restarts++;
    // Such as a disk's cache that is to write through, before anything is written.
    for (const [offset, bytes] of [...this.#written]) await this.#writeConfig({ offset, bytes });
    await queues.takeUp(this.#backend.frontend);
  }

  /** @throws {MachineError} always */
  #lose(reason: string): never {
    this.#ended = true;
    this.#options.onLost(`${this.name} ended: ${reason}`);
    throw new MachineError(reason);
  }

  #readConfig(): void {
    this.#inTurn(async () => this.#host?.changeConfig(await this.#backend.readConfig()))
      .catch((error) => log.debug(`${this.name}: ${describeError(error)}`));
  }

  #queueBroke(index: number): void {
    this.#complain(`${this.name}: the driver has broken queue ${index}; it needs a reset`);
    this.#host?.needReset();
  }

  /** Logs what the guest did wrong; a guest that goes on with it does not fill the log. */
  #complain(message: string): void {
    this.#complaints++;
    if (this.#complaints <= MAX_COMPLAINTS) log.warn(message);
    if (this.#complaints === MAX_COMPLAINTS) log.warn(`${this.name}: no more of these are logged`);
  }

  #poke(): void {
    if (this.#host === undefined) return;
    const { words, index } = this.#host.event;
    Atomics.add(words, index, 1);
    Atomics.notify(words, index);
  }

  #inTurn<Result>(action: () => Promise<Result> | Result): Promise<Result> {
    const result = this.#turn.then(action);
    this.#turn = result.catch(() => {});
    return result;
  }
}
