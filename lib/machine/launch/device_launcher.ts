/**
 * Starts the devices of a VM.
 *
 * @module
 */

import { Logger } from "../../base/mod.ts";
import type { SandboxConfig } from "../../config/mod.ts";
import { Reactor } from "../../host/mod.ts";
import { workerModuleUrl } from "../worker_url.ts";
import { type DeviceProgram, ownProgram } from "./device_program.ts";
import { type PreparedJail, prepareJailed } from "./jailed_device.ts";
import type { DeviceOrder, LaunchedDevice, PreparedLaunch } from "./launched_device.ts";
import { commonJail, DeviceFilter } from "./sandbox.ts";
import { launchInWorker } from "./worker_device.ts";

const log = new Logger("sandbox");

/** Settings of a {@link DeviceLauncher}. */
export interface DeviceLauncherOptions {
  /** How devices are jailed; undefined runs them in workers of this process. */
  readonly sandbox: SandboxConfig | undefined;
  /** What serves them in jails; this very program by default. */
  readonly program?: DeviceProgram;
  /** URL of the module that workers load; this very program's by default. */
  readonly workerUrl?: string;
}

/** Starts devices, in jails unless it is told not to. */
export class DeviceLauncher implements Disposable {
  readonly #sandbox: SandboxConfig | undefined;
  readonly #reactor = new Reactor();
  #program: DeviceProgram | undefined;
  readonly #workerUrl: string;
  /** By kind of device. */
  readonly #jails = new Map<string, PreparedJail>();
  #warned = false;

  constructor(options: DeviceLauncherOptions) {
    this.#sandbox = options.sandbox;
    this.#program = options.program;
    this.#workerUrl = options.workerUrl ?? workerModuleUrl();
  }

  /** Starts a device, as {@link prepare} does and what that gives, by the policy as it is now. */
  async launch(order: DeviceOrder, signal?: AbortSignal): Promise<LaunchedDevice> {
    if (this.#sandbox === undefined) return await (await this.prepare(order)).start();
    const jail = this.#makeJail(order.kind, this.#sandbox);
    using _filter = jail.filter;
    const options = { ...jail, reactor: this.#reactor, signal };
    return await (await prepareJailed(order, options)).start();
  }

  /**
   * Reads what jails of devices of `kind` need, for all that {@link prepare} makes.
   *
   * @throws {MachineError} where there is no folder to become a jail's root.
   * @throws {PolicyError} where the policy of its kind is wrong.
   */
  read(kind: string): void {
    if (this.#sandbox !== undefined) this.#jail(kind, this.#sandbox);
  }

  /**
   * Makes a device's jail, in which nothing runs so far. Jails of several devices are made at a time where
   * nothing is awaited between the calls.
   *
   * @param signal gives it up, now or later
   * @throws {JailError} where no jail can be made: why, and what to do. It never runs without one then.
   * @throws {MachineError} where there is no folder to become a jail's root.
   * @throws {PolicyError} where the policy of its kind is wrong.
   */
  async prepare(order: DeviceOrder, signal?: AbortSignal): Promise<PreparedLaunch> {
    const sandbox = this.#sandbox;
    if (sandbox === undefined) {
      if (!this.#warned) log.warn("devices run without jails, in the process of the VMM");
      this.#warned = true;
      return {
        start: () => Promise.resolve(launchInWorker(order, this.#workerUrl)),
        [Symbol.dispose]() {},
      };
    }
    const jail = this.#jail(order.kind, sandbox);
    return await prepareJailed(order, { ...jail, reactor: this.#reactor, signal });
  }

  #jail(kind: string, sandbox: SandboxConfig): PreparedJail {
    const known = this.#jails.get(kind) ?? this.#makeJail(kind, sandbox);
    this.#jails.set(kind, known);
    return known;
  }

  #makeJail(kind: string, sandbox: SandboxConfig): PreparedJail {
    this.#program ??= ownProgram();
    return {
      program: this.#program,
      jail: commonJail(sandbox),
      filter: new DeviceFilter(kind, sandbox),
    };
  }

  [Symbol.dispose](): void {
    for (const { filter } of this.#jails.values()) filter[Symbol.dispose]();
    this.#reactor[Symbol.dispose]();
  }
}
