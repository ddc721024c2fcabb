/**
 * The virtio devices of a VM: launched together, put on the PCI bus in their order, suspended, resumed and
 * ended together.
 *
 * @module
 */

import { describeError } from "../../base/mod.ts";
import { PCI_MMIO_START } from "../../boot/mod.ts";
import { PCI_DEVICE_COUNT, type Platform, type SharedEvent } from "../../devices/mod.ts";
import type { Reactor } from "../../host/mod.ts";
import type { Vm } from "../../hypervisor/mod.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import { BAR_SIZE_BYTES, type VirtioPciHandle } from "../../virtio/mod.ts";
import { MachineError } from "../errors.ts";
import { AttachedDevice, type VirtioDeviceInfo } from "./attached_device.ts";
import type { VirtioDevice } from "./device.ts";
import { FIRST_PCI_DEVICE, pciNumbers } from "./places.ts";

/** GSIs below are pins of the I/O APIC. */
const FIRST_MESSAGE_GSI = 24;
/** Default of {@link VirtioBusOptions.patienceMs}. */
const PATIENCE_MS = 1000;
/** Default of {@link VirtioBusOptions.latePatienceMs}: a boot takes two to three seconds. */
const LATE_PATIENCE_MS = 3000;

/** Settings of a {@link VirtioBus}. */
export interface VirtioBusOptions {
  readonly reactor: Reactor;
  /** Ends attempts to reach back ends: the VM ends. */
  readonly signal: AbortSignal;
  /** Whether a back end that died is started again. */
  readonly restart: boolean;
  /** A device is lost, for the reason that is given. */
  readonly onLost: (why: string) => void;
  /** How long back ends are not launched, in ms, where the guest does not come for its devices; 1000 where absent. */
  readonly patienceMs?: number;
  /** The same of those that the guest boots without; 3000 where absent. */
  readonly latePatienceMs?: number;
}

/** All virtio devices of a VM. */
export class VirtioBus implements AsyncDisposable {
  readonly #devices: readonly AttachedDevice[];
  readonly #launched = Promise.withResolvers<void>();
  readonly #signal: AbortSignal;
  readonly #patienceMs: number;
  readonly #latePatienceMs: number;
  /** Resolves when nothing puts off launching any longer. */
  readonly #awaited = Promise.withResolvers<void>();
  #isAwaited = false;

  /** @throws {MachineError} where they are too many. */
  constructor(devices: readonly VirtioDevice[], options: VirtioBusOptions) {
    const most = PCI_DEVICE_COUNT - FIRST_PCI_DEVICE;
    if (devices.length > most) {
      throw new MachineError(`expected up to ${most} virtio devices, got ${devices.length}`);
    }
    this.#signal = options.signal;
    this.#patienceMs = options.patienceMs ?? PATIENCE_MS;
    this.#latePatienceMs = options.latePatienceMs ?? LATE_PATIENCE_MS;
    this.#devices = devices.map((device) => new AttachedDevice({ device, ...options }));
    // Whoever launches them hears of it.
    this.#launched.promise.catch(() => {});
  }

  /**
   * Launches the back ends that have to be there before the devices can be put on the bus.
   *
   * @throws {VmctlError} where one cannot be launched.
   */
  async launchUnforeseen(): Promise<void> {
    await launchAll(this.#devices.filter((device) => !device.isForeseen));
  }

  /**
   * Launches all other back ends. Until one is there, a vCPU that accesses its device waits. Where
   * `wanted` is given, they are not launched before it changes or {@link whenLaunched} is called, or some
   * time has passed: a guest that begins needs the processors more than its devices. Those that it boots
   * without wait longer, until the guest accesses one of them.
   *
   * @throws {VmctlError} where one cannot be launched.
   */
  async launch(wanted?: SharedEvent): Promise<void> {
    try {
      const late = this.#devices.filter((device) => device.isLate);
      const others = this.#devices.filter((device) => !device.isLate);
      await Promise.all([
        this.#untilConfigured(wanted).then(() => launchAll(others)),
        this.#untilWanted(wanted === undefined ? [] : late).then(() => launchAll(late)),
      ]);
      this.#launched.resolve();
    } catch (error) {
      this.#launched.reject(error);
      throw error;
    }
  }

  /** Waits until `wanted` changes, or nothing puts launching off any longer. */
  async #untilConfigured(wanted: SharedEvent | undefined): Promise<void> {
    if (wanted === undefined || this.#isAwaited) return;
    const wait = Atomics.waitAsync(wanted.words, wanted.index, 0, this.#patienceMs);
    if (wait.async) await Promise.race([this.#awaited.promise, wait.value]);
    this.#signal.throwIfAborted();
  }

  /** Waits until one of `devices` is wanted, which the guest boots without, or nothing puts them off any longer. */
  async #untilWanted(devices: readonly AttachedDevice[]): Promise<void> {
    if (devices.length === 0 || this.#isAwaited) return;
    const wanted = devices.map((device) => device.whenWanted(this.#latePatienceMs));
    await Promise.race([this.#awaited.promise, ...wanted]);
    this.#signal.throwIfAborted();
  }

  /**
   * Puts the devices on the bus, before any vCPU runs, and before any is launched but for those that must
   * be. The result is for the vCPUs' workers.
   */
  install(
    parts: { readonly vm: Vm; readonly memory: GuestMemory; readonly platform: Platform },
  ): VirtioPciHandle[] {
    let firstGsi = FIRST_MESSAGE_GSI;
    const numbers = pciNumbers(this.#devices);
    return this.#devices.map((device, index) => {
      const number = numbers[index]!;
      const barAddress = PCI_MMIO_START + number * BAR_SIZE_BYTES;
      const handle = device.install({ number, barAddress, firstGsi }, parts);
      firstGsi += device.vectorCount;
      return handle;
    });
  }

  /**
   * Stops all queues; vCPUs do not run.
   *
   * @throws {MachineError} where a back end does not stop; all go on then.
   */
  async suspend(): Promise<void> {
    const results = await Promise.allSettled(this.#devices.map((device) => device.suspend()));
    const failed = results.find((result) => result.status === "rejected");
    if (failed === undefined) return;
    await this.resume();
    throw new MachineError(`cannot suspend: ${describeError(failed.reason)}`);
  }

  /** Lets all queues go on. */
  async resume(): Promise<void> {
    await Promise.all(this.#devices.map((device) => device.resume()));
  }

  /** Resolves when all back ends are there, which nothing puts off any longer. */
  whenLaunched(): Promise<void> {
    this.#isAwaited = true;
    this.#awaited.resolve();
    return this.#launched.promise;
  }

  /** What each is and does. */
  info(): VirtioDeviceInfo[] {
    return this.#devices.map((device) => device.info());
  }

  /** Lets no vCPU wait for a back end any longer: the VM ends. */
  giveUp(): void {
    for (const device of this.#devices) device.giveUp();
  }

  /** Ends all back ends; those that are being launched must have been called off. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#launched.reject(new MachineError("the VM ends"));
    await Promise.all(this.#devices.map((device) => device[Symbol.asyncDispose]()));
  }
}

/** The first that fails counts; the others are ended with the bus. */
async function launchAll(devices: readonly AttachedDevice[]): Promise<void> {
  await Promise.all(devices.map((device) => device.launch()));
}
