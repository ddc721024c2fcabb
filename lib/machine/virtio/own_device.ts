/**
 * A virtio device that this VMM itself opens and starts, in a jail or in a worker, and talks to beside
 * its queues.
 *
 * @module
 */

import { getLogLevel, Logger } from "../../base/mod.ts";
import {
  type AnswerOf,
  DeviceControlClient,
  DeviceControlError,
  type DeviceRequestName,
  type DeviceRequestOptions,
  type OpenedDevice,
  type RequestOf,
} from "../../devices/mod.ts";
import type { Reactor } from "../../host/mod.ts";
import { MachineError } from "../errors.ts";
import type { DeviceLauncher } from "../launch/device_launcher.ts";
import type { DeviceOrder, PreparedLaunch } from "../launch/launched_device.ts";
import type { BackendLink, VirtioDevice } from "./device.ts";

const log = new Logger("virtio");

/** What an {@link OwnDevice} is. */
export interface OwnDeviceOptions {
  /** Who it is, such as `balloon`. */
  readonly name: string;
  /** Type (of `DeviceType`). */
  readonly deviceType: number;
  /** Of {@link VirtioDevice}. */
  readonly pciDevice?: number | undefined;
  /** Name of its kind, such as `balloon`. */
  readonly kind: string;
  /** Whether the guest boots without it; no where absent. */
  readonly isLate?: boolean;
  /** Opens what it needs, once. */
  readonly open: () => Promise<OpenedDevice>;
  readonly launcher: DeviceLauncher;
  readonly reactor: Reactor;
}

/** A device of this VMM. Disposing closes what is open here; its back end is ended by its link. */
export class OwnDevice implements VirtioDevice, Disposable {
  readonly name: string;
  readonly deviceType: number;
  readonly pciDevice: number | undefined;
  readonly isForeseen = true;
  readonly packedQueues = "where-offered";
  readonly wanted: Promise<void> | undefined;
  readonly #options: OwnDeviceOptions;
  readonly #want: () => void;
  readonly #tasks: (() => void)[] = [];
  #opened: OpenedDevice | undefined;
  /** Its jail, before it was launched first. */
  #prepared: PreparedLaunch | undefined;
  #client: DeviceControlClient | undefined;
  /** Resolves when it was launched first. */
  readonly #launched = Promise.withResolvers<void>();
  #pid: number | undefined;
  #disposed = false;

  constructor(options: OwnDeviceOptions) {
    this.name = options.name;
    this.deviceType = options.deviceType;
    this.pciDevice = options.pciDevice;
    this.#options = options;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.wanted = options.isLate === true ? promise : undefined;
    this.#want = resolve;
    this.#launched.promise.catch(() => {});
  }

  /** Of {@link VirtioDevice}; known when it is open. */
  get queueCount(): number | undefined {
    return this.#opened?.queueCount;
  }

  /** The process that serves it now, where that is one of its own. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /**
   * Opens what it needs, and reads what its jail needs.
   *
   * @throws {VmctlError} where that cannot be opened, or its policy is wrong.
   */
  async open(): Promise<void> {
    const { kind, launcher, open } = this.#options;
    launcher.read(kind);
    this.#opened = await open();
    if (this.#disposed) this.#opened[Symbol.dispose]();
  }

  /**
   * Makes its jail, once it is open.
   *
   * @param signal gives it up: the VM ends
   * @throws {VmctlError} where no jail can be made.
   */
  async prepare(signal: AbortSignal): Promise<void> {
    const prepared = await this.#options.launcher.prepare(this.#order(), signal);
    this.#prepared = prepared;
    if (this.#disposed) prepared[Symbol.dispose]();
  }

  /** See {@link VirtioDevice.launch}. */
  async launch(signal: AbortSignal): Promise<BackendLink> {
    const { name, launcher, reactor } = this.#options;
    signal.throwIfAborted();
    // A successor is jailed by the policy as it is then.
    const again = this.#client !== undefined;
    const prepared = this.#prepared ??
      (again ? undefined : await launcher.prepare(this.#order(), signal));
    this.#prepared = undefined;
    const launched = await (prepared?.start() ?? launcher.launch(this.#order(), signal));
    this.#pid = launched.pid;
    const client = new DeviceControlClient(launched.control, {
      reactor,
      device: name,
      // A device that breaks the rules here may do its work all the same; it is not asked any more.
      onEnd: (error) => error === undefined || log.warn(error.message),
    });
    this.#client = client;
    this.#launched.resolve();
    for (const task of this.#tasks) task();
    return {
      socket: launched.socket,
      ended: launched.ended,
      get violated() {
        return launched.violated ?? false;
      },
      [Symbol.asyncDispose]: async () => {
        client[Symbol.dispose]();
        await launched[Symbol.asyncDispose]();
      },
    };
  }

  #order(): DeviceOrder {
    const { name, kind } = this.#options;
    const opened = this.#opened;
    if (opened === undefined) throw new MachineError(`${name}: expected that it is open`);
    return { name, kind, opened, logLevel: getLogLevel() };
  }

  /** Has `task` done whenever the device has been started: a successor knows nothing. */
  onLaunch(task: () => void): void {
    this.#tasks.push(task);
  }

  /** Asks the device, as soon as it was launched. Errors as `DeviceControlClient.request`. */
  async request<Name extends DeviceRequestName>(
    name: Name,
    data: RequestOf<Name>,
    options?: DeviceRequestOptions,
  ): Promise<AnswerOf<Name>> {
    this.#want();
    await this.#launched.promise;
    return await this.#client!.request(name, data, options);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#launched.reject(new DeviceControlError(`${this.name}: it has ended`));
    this.#client?.[Symbol.dispose]();
    this.#prepared?.[Symbol.dispose]();
    this.#opened?.[Symbol.dispose]();
  }
}
