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
import { launchJailed } from "./jailed_device.ts";
import type { DeviceOrder, LaunchedDevice } from "./launched_device.ts";
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
  #warned = false;

  constructor(options: DeviceLauncherOptions) {
    this.#sandbox = options.sandbox;
    this.#program = options.program;
    this.#workerUrl = options.workerUrl ?? workerModuleUrl();
  }

  /**
   * Starts a device. Jails of several devices are made at a time where nothing is awaited between the
   * calls.
   *
   * @throws {JailError} where no jail can be made: why, and what to do. It never runs without one then.
   * @throws {PolicyError} where the policy of its kind is wrong.
   */
  async launch(order: DeviceOrder, signal?: AbortSignal): Promise<LaunchedDevice> {
    const sandbox = this.#sandbox;
    if (sandbox === undefined) {
      if (!this.#warned) log.warn("devices run without jails, in the process of the VMM");
      this.#warned = true;
      return launchInWorker(order, this.#workerUrl);
    }
    this.#program ??= ownProgram();
    return await launchJailed(order, {
      sandbox,
      program: this.#program,
      reactor: this.#reactor,
      signal,
    });
  }

  [Symbol.dispose](): void {
    this.#reactor[Symbol.dispose]();
  }
}
