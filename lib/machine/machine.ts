/**
 * A VM that runs, as its supervisors see it: the control socket, the console, signals.
 *
 * @module
 */

import { ExitStatus, Logger } from "../base/mod.ts";
import type { Platform, RequestOf } from "../devices/mod.ts";
import { getpid, readProcessStat } from "../host/mod.ts";
import type { EngineKind, Vm } from "../hypervisor/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import { MachineError } from "./errors.ts";
import type { Outcome } from "./outcome.ts";
import type { VcpuStatus, VcpuTeam } from "./vcpu_team.ts";
import type { VirtioDeviceInfo } from "./virtio/attached_device.ts";
import type { VirtioBus } from "./virtio/bus.ts";
import type { OwnDevices } from "./virtio/own_devices.ts";
import type { BalloonKeeper } from "./balloon/keeper.ts";

const log = new Logger("machine");

/** What a VM does. */
export type MachinePhase = "starting" | "running" | "suspended" | "stopping";

/** The parts of a VM that has been put together. */
export interface MachineParts {
  readonly engine: EngineKind;
  readonly memory: GuestMemory;
  readonly vm: Vm;
  readonly platform: Platform;
  readonly team: VcpuTeam;
  readonly virtio: VirtioBus;
  /** Those of the bus that are this VMM's own. */
  readonly own: OwnDevices;
}

/** What a VM tells about itself. */
export interface MachineInfo {
  readonly name: string;
  readonly pid: number;
  /** Undefined while it is being put together. */
  readonly engine: EngineKind | undefined;
  readonly phase: MachinePhase;
  /** Since the vCPUs started, in ms. */
  readonly uptimeMs: number;
  readonly vcpus: readonly (VcpuStatus & { readonly cpuTimeMs: number })[];
  readonly memory: {
    readonly sizeBytes: number;
    readonly residentBytes: number;
    /** How large the balloon shall be; undefined without one. */
    readonly balloonBytes: number | undefined;
  };
  /** Processor time of this process. */
  readonly cpuTimeMs: number;
  readonly devices: readonly (VirtioDeviceInfo & {
    /** Process that serves it by now, where that is a child of this one. */
    readonly process: { readonly pid: number; readonly cpuTimeMs: number } | undefined;
  })[];
}

/** A VM. It exists before its parts do, so that it can be asked, and ended, while it starts. */
export class Machine {
  /** Its name. */
  readonly name: string;
  readonly #outcome = Promise.withResolvers<Outcome>();
  #parts: MachineParts | undefined;
  #phase: MachinePhase = "starting";
  #startedMs = 0;
  /** Suspending and resuming happen one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(name: string) {
    this.name = name;
  }

  /** What it does. */
  get phase(): MachinePhase {
    return this.#phase;
  }

  /** Resolves when the VM ends or shall end; the first reason counts. */
  get ended(): Promise<Outcome> {
    return this.#outcome.promise;
  }

  /** Ends the VM. */
  end(outcome: Outcome): void {
    if (this.#phase === "stopping") return;
    this.#phase = "stopping";
    const { status } = outcome;
    if (status === ExitStatus.Crash || status === ExitStatus.Error) log.error(outcome.why);
    else log.debug(`the VM ends: ${outcome.why}`);
    this.#outcome.resolve(outcome);
  }

  /** Lets the vCPUs of a VM that is put together start, unless it has been ended meanwhile. */
  run(parts: MachineParts): void {
    this.#parts = parts;
    if (this.#phase !== "starting") return;
    this.#phase = "running";
    this.#startedMs = performance.now();
    log.debug(`vCPUs start ${this.#startedMs.toFixed(1)} ms after the process`);
    parts.team.run();
  }

  /**
   * Stops the vCPUs and guest time, and with `devices`, the default, the devices, too. Nothing to do where
   * they are stopped.
   *
   * @throws {MachineError} when the VM does not run, or a vCPU or a device does not stop in time.
   */
  suspend({ devices = true }: { readonly devices?: boolean } = {}): Promise<void> {
    return this.#inTurn(async ({ team, vm, platform, virtio }) => {
      if (this.#phase === "suspended") {
        // The vCPUs alone may have been stopped so far.
        if (devices) await virtio.suspend();
        return;
      }
      this.#require("running", "suspend");
      // A vCPU does not leave a device whose back end it waits for.
      await virtio.whenLaunched();
      this.#require("running", "suspend");
      await team.pause();
      try {
        if (devices) await virtio.suspend();
      } catch (error) {
        if (this.#phase === "running") team.run();
        throw error;
      }
      vm.pauseClock();
      platform.pauseClock();
      // Somebody may have ended it meanwhile, which this does not undo.
      if (this.#phase === "running") this.#phase = "suspended";
    });
  }

  /**
   * Lets vCPUs, devices and guest time go on. Nothing to do where they run.
   *
   * @throws {MachineError} when the VM is starting or stopping.
   */
  resume(): Promise<void> {
    return this.#inTurn(async ({ team, vm, platform, virtio }) => {
      if (this.#phase === "running") return;
      this.#require("suspended", "resume");
      await virtio.resume();
      this.#require("suspended", "resume");
      platform.resumeClock();
      vm.resumeClock();
      this.#phase = "running";
      team.run();
    });
  }

  /**
   * Presses the ACPI power button; what becomes of it is up to the guest.
   *
   * @throws {MachineError} when the VM is starting or stopping.
   */
  pressPowerButton(): void {
    this.#alive().platform.pressPowerButton();
  }

  /**
   * Presses the ACPI sleep button.
   *
   * @throws {MachineError} when the VM is starting or stopping.
   */
  pressSleepButton(): void {
    this.#alive().platform.pressSleepButton();
  }

  /**
   * Its balloon.
   *
   * @throws {MachineError} when it has none, or the VM is starting or stopping.
   */
  balloon(): BalloonKeeper {
    const { balloon } = this.#alive().own;
    if (balloon === undefined) throw new MachineError("the VM has no balloon");
    return balloon;
  }

  /**
   * Gives disk `index` another size, a smaller one only with `shrink`.
   *
   * @throws {VmctlError} when there is no such disk or it refuses, or the VM is starting or stopping.
   */
  async resizeDisk(index: number, request: RequestOf<"resize">): Promise<void> {
    await this.#alive().own.resizeDisk(index, request);
  }

  /** What it is and does. */
  info(): MachineInfo {
    const parts = this.#parts;
    return {
      name: this.name,
      pid: getpid(),
      engine: parts?.engine,
      phase: this.#phase,
      uptimeMs: this.#startedMs === 0 ? 0 : Math.round(performance.now() - this.#startedMs),
      vcpus: (parts?.team.status() ?? []).map((vcpu) => ({
        ...vcpu,
        cpuTimeMs: threadCpuMs(vcpu.tid),
      })),
      memory: {
        sizeBytes: parts?.memory.sizeBytes ?? 0,
        residentBytes: parts?.memory.residentBytes() ?? 0,
        balloonBytes: parts?.own.balloon?.targetBytes,
      },
      cpuTimeMs: processCpuMs("self"),
      devices: (parts?.virtio.info() ?? []).map((device) => {
        const pid = device.serves ? parts?.own.pidOf(device.name) : undefined;
        return {
          ...device,
          process: pid === undefined ? undefined : { pid, cpuTimeMs: processCpuMs(String(pid)) },
        };
      }),
    };
  }

  /** What the engine counts; only its name where it counts nothing. */
  engineStats(): Record<string, unknown> {
    const { engine, vm } = this.#alive();
    return vm.engineStats?.() ?? { engine };
  }

  #inTurn(action: (parts: MachineParts) => Promise<void> | void): Promise<void> {
    const result = this.#turn.then(() => action(this.#alive()));
    this.#turn = result.catch(() => {});
    return result;
  }

  #require(phase: MachinePhase, what: string): void {
    if (this.#phase !== phase) throw new MachineError(`cannot ${what}: the VM is ${this.#phase}`);
  }

  #alive(): MachineParts {
    if (this.#parts === undefined || this.#phase === "stopping") {
      throw new MachineError(`the VM is ${this.#phase}`);
    }
    return this.#parts;
  }
}

/** Processor time of a process in ms; 0 where there is no such process. */
function processCpuMs(pid: string): number {
  try {
    return readProcessStat(`/proc/${pid}/stat`).cpuTimeMs;
  } catch {
    return 0;
  }
}

/** Processor time of thread `tid` of this process in ms; 0 where there is no such thread. */
function threadCpuMs(tid: number): number {
  if (tid === 0) return 0;
  try {
    const [ns] = Deno.readTextFileSync(`/proc/self/task/${tid}/schedstat`).split(" ");
    return Math.round(Number(ns) / 1e6);
  } catch {
    return 0;
  }
}
