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
import type { DeviceLauncher } from "../launch/device_launcher.ts";
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
  readonly #options: OwnDeviceOptions;
  readonly #tasks: (() => void)[] = [];
  #opened: OpenedDevice | undefined;
  #client: DeviceControlClient | undefined;
  #pid: number | undefined;
  #disposed = false;

  constructor(options: OwnDeviceOptions) {
    this.name = options.name;
    this.deviceType = options.deviceType;
    this.pciDevice = options.pciDevice;
    this.#options = options;
  }

  /** The process that serves it now, where that is one of its own. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** See {@link VirtioDevice.launch}. */
  async launch(signal: AbortSignal): Promise<BackendLink> {
    const { name, kind, launcher, reactor, open } = this.#options;
    this.#opened ??= await open();
    if (this.#disposed) this.#opened[Symbol.dispose]();
    signal.throwIfAborted();
    const order = { name, kind, opened: this.#opened, logLevel: getLogLevel() };
    const launched = await launcher.launch(order, signal);
    this.#pid = launched.pid;
    const client = new DeviceControlClient(launched.control, {
      reactor,
      device: name,
      // A device that breaks the rules here may do its work all the same; it is not asked any more.
      onEnd: (error) => error === undefined || log.warn(error.message),
    });
    this.#client = client;
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

  /** Has `task` done whenever the device has been started: a successor knows nothing. */
  onLaunch(task: () => void): void {
    this.#tasks.push(task);
  }

  /** Asks the device. Errors as `DeviceControlClient.request`. */
  async request<Name extends DeviceRequestName>(
    name: Name,
    data: RequestOf<Name>,
    options?: DeviceRequestOptions,
  ): Promise<AnswerOf<Name>> {
    if (this.#client === undefined) {
      throw new DeviceControlError(`device ${this.name}: it is not there yet`);
    }
    return await this.#client.request(name, data, options);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#client?.[Symbol.dispose]();
    this.#opened?.[Symbol.dispose]();
  }
}
