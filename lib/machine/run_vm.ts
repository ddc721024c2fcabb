/**
 * Runs a VM from its configuration to its end.
 *
 * @module
 */

import { describeError, ExitStatus, Logger } from "../base/mod.ts";
import type { VmConfig } from "../config/mod.ts";
import { Errno, errnoName, fstat, getpid, PollEvent, Reactor } from "../host/mod.ts";
import { assemble, type Assembly, loadGuest } from "./assemble.ts";
import { Console } from "./console.ts";
import { EngineStatsFile } from "./engine_stats_file.ts";
import type { ConsoleAction } from "./escape_filter.ts";
import { Machine } from "./machine.ts";
import { MemoryTrim } from "./memory_trim.ts";
import { type Outcome, processStatus } from "./outcome.ts";
import { PlatformTimers } from "./platform_timers.ts";
import { SerialInput } from "./serial_input.ts";
import { preferVcpus, startService } from "./service_worker.ts";
import type { SerialPort } from "./serial_ports.ts";
import { SignalWatch } from "./signals.ts";
import { VcpuTeam } from "./vcpu_team.ts";
import { VirtioBus } from "./virtio/bus.ts";
import { virtioDevicesOf } from "./virtio/from_config.ts";
import { OwnDevices } from "./virtio/own_devices.ts";
import { DeviceLauncher } from "./launch/device_launcher.ts";
import type { ConsoleTerminal } from "./console_ports.ts";

const log = new Logger("machine");

/** Something that accompanies a VM from before its first to after its last instruction. */
export interface MachineService {
  /** Begins; what it returns is disposed when the VM has ended. */
  start(machine: Machine, reactor: Reactor): Promise<Disposable>;
}

/** Settings of {@link runVm} beside the configuration. */
export interface RunOptions {
  /** What accompanies the VM. */
  readonly services?: readonly MachineService[];
}

/**
 * Puts a VM together, runs it until it ends, and releases everything.
 *
 * @returns the exit status of the process
 * @throws {VmctlError} when it cannot be put together.
 */
export async function runVm(config: VmConfig, options: RunOptions = {}): Promise<number> {
  const outcome = await new Run(config).toItsEnd(options.services ?? []);
  return processStatus(outcome.status, config.extendedStatus);
}

/** One VM's way from start to end. */
class Run {
  readonly #config: VmConfig;
  readonly #machine: Machine;
  #serialPorts: readonly SerialPort[] = [];
  #console: Console | undefined;
  #own: OwnDevices | undefined;
  #virtio: VirtioBus | undefined;
  #stuck = false;
  #statsOf: (() => void) | undefined;

  constructor(config: VmConfig) {
    this.#config = config;
    this.#machine = new Machine(config.name ?? `vm-${getpid()}`);
  }

  async toItsEnd(services: readonly MachineService[]): Promise<Outcome> {
    const outcome = await this.#start(services);
    if (!this.#stuck) return outcome;
    return { status: ExitStatus.Crash, why: "a vCPU did not stop" };
  }

  async #start(services: readonly MachineService[]): Promise<Outcome> {
    const machine = this.#machine;
    await using stack = new AsyncDisposableStack();
    stack.use(this.#watchErrors());
    stack.use(this.#watchSignals());
    const { engineStats: statsPath } = this.#config;
    const engineStats = statsPath === undefined
      ? undefined
      : stack.use(new EngineStatsFile(statsPath));
    const reactor = stack.use(new Reactor((error) => this.#fail(error)));
    const team = new VcpuTeam({
      vcpuCount: this.#config.cpuCount,
      events: {
        onOutcome: (outcome) => this.#vcpuEnded(outcome),
        onOutputFailed: (port, errno) => this.#outputFailed(port, errno),
      },
    });
    const ending = new AbortController();
    void machine.ended.then(() => ending.abort());
    const launcher = stack.use(new DeviceLauncher({ sandbox: this.#config.sandbox }));
    const own = stack.use(
      new OwnDevices(this.#config, {
        launcher,
        reactor,
        onOutputFailed: (label, errno) => this.#consoleFailed(label, errno),
      }),
    );
    this.#own = own;
    const devices = [...own.disks, ...virtioDevicesOf(this.#config), ...own.others];
    const virtio = this.#virtio = new VirtioBus(devices, {
      reactor,
      signal: ending.signal,
      restart: this.#config.restartDevices,
      onLost: (why) => machine.end({ status: ExitStatus.Error, why }),
    });
    // From the outside in: vCPUs, then console and input, then the parts, at last the control socket.
    const attendants = stack.use(new DisposableStack());
    const resources = new DisposableStack();
    const inputs = new DisposableStack();
    stack.defer(async () => {
      const stopped = team.stop();
      virtio.giveUp();
      this.#stuck = !await stopped;
      this.#statsOf?.();
      for (const { output } of this.#serialPorts) output?.finish();
      inputs.dispose();
      ending.abort();
      // What a vCPU still uses stays until the process ends.
      if (this.#stuck) return;
      await virtio[Symbol.asyncDispose]();
      resources.dispose();
    });

    const assembly = assemble(this.#config, { team, resources });
    this.#serialPorts = assembly.serialPorts;
    const loading = loadGuest(this.#config, assembly);
    // It writes to memory that must be there until it is done.
    stack.defer(async () => void await Promise.allSettled([loading]));
    const accompany = async () => {
      for (const service of services) attendants.use(await service.start(machine, reactor));
    };
    const boot = async () => {
      const [entry] = await Promise.all([
        loading,
        own.prepare(ending.signal),
        virtio.launchUnforeseen(),
      ]);
      await team.boot(entry, virtio.install(assembly));
    };
    try {
      await Promise.all([boot(), accompany()]);
    } catch (error) {
      // What was under way when the VM was ended has been called off.
      if (!ending.signal.aborted) throw error;
      return await machine.ended;
    }
    // The terminal is ready before the guest's first word.
    this.#connect(assembly, { reactor, inputs });
    if (own.terminal !== undefined) this.#connectTerminal(own.terminal, { reactor, inputs });
    machine.run({ ...assembly, virtio, own });
    this.#readInputs(assembly, { reactor, inputs });
    // The guest needs its devices much later than its first instruction.
    const launching = virtio.launch(assembly.platform.pci.configuredEvent);
    if (assembly.engine === "soft") {
      inputs.use(new MemoryTrim());
      preferVcpus();
    }
    // What translates takes a while to load, and nothing is hot yet. Until the guest begins, all else matters more.
    inputs.use(startService(assembly.vm, assembly.memory));
    if (engineStats !== undefined) this.#statsOf = () => engineStats.write(assembly.vm);
    inputs.use(new PlatformTimers(assembly.platform));
    try {
      await Promise.race([launching, machine.ended]);
    } catch (error) {
      if (!ending.signal.aborted) {
        machine.end({ status: ExitStatus.Stop, why: "a device cannot be started" });
        throw error;
      }
    }
    return await machine.ended;
  }

  #vcpuEnded(outcome: Outcome): void {
    const failed = outcome.status === ExitStatus.Crash || outcome.status === ExitStatus.Error;
    if (failed || this.#virtio === undefined) {
      this.#machine.end(outcome);
      return;
    }
    // A guest may be faster than its devices, which it does not need then. That one of them cannot be
    // started is told all the same, and ends the VM otherwise.
    this.#virtio.whenLaunched().then(() => this.#machine.end(outcome), () => {});
  }

  /** Connects the serial ports with the terminal, and watches their outputs for readers that leave. */
  #connect(
    assembly: Assembly,
    options: { readonly reactor: Reactor; readonly inputs: DisposableStack },
  ): void {
    const { reactor, inputs } = options;
    assembly.serialPorts.forEach((serial, index) => {
      if (serial.toStdout && serial.output !== undefined) {
        const { fd } = serial.output.handle();
        if (["pipe", "socket"].includes(fstat(fd).kind)) {
          // No event is asked for, but errors are always reported.
          const watch = inputs.use(reactor.watch(fd, 0, (events) => {
            if ((events & PollEvent.Error) === 0) return;
            watch[Symbol.dispose]();
            this.#outputFailed(index, Errno.EPIPE);
          }));
        }
      }
      if (serial.input === undefined || !serial.fromTerminal) return;
      const { label, input: fd } = serial;
      const input = assembly.platform.serial(serial.number);
      this.#connectTerminal({ label, fd, input }, { reactor, inputs });
    });
  }

  /** Reads the serial ports' inputs that are no terminals: the guest needs nothing of them soon. */
  #readInputs(
    assembly: Assembly,
    options: { readonly reactor: Reactor; readonly inputs: DisposableStack },
  ): void {
    const { reactor, inputs } = options;
    for (const { input, fromTerminal, number } of assembly.serialPorts) {
      if (input === undefined || fromTerminal) continue;
      const port = assembly.platform.serial(number);
      inputs.use(new SerialInput(input.raw, { reactor, port })).start();
    }
  }

  /** Makes the terminal the guest's. */
  #connectTerminal(
    { label, fd, input }: Omit<ConsoleTerminal, "port">,
    { reactor, inputs }: { readonly reactor: Reactor; readonly inputs: DisposableStack },
  ): void {
    this.#console = inputs.use(
      new Console({
        fd: fd.raw,
        reactor,
        port: input,
        onAction: (action) => this.#act(action),
      }),
    );
    log.info(`console on ${label}; Ctrl-a x ends the VM, Ctrl-a h shows more`);
    this.#console.take();
  }

  #consoleFailed(label: string, errno: number): void {
    if (errno === Errno.EPIPE) {
      const why = `nobody reads the output of ${label} any more`;
      this.#machine.end({ status: ExitStatus.Stop, why });
    } else {
      log.warn(`${label}: output is dropped from now on: ${errnoName(errno)}`);
    }
  }

  #act(action: Exclude<ConsoleAction, "help">): void {
    const machine = this.#machine;
    switch (action) {
      case "exit":
        machine.end({ status: ExitStatus.Stop, why: "the user ended it from the console" });
        return;
      case "power-button":
        this.#attempt(() => machine.pressPowerButton());
        return;
      case "toggle-suspend": {
        const resume = machine.phase === "suspended";
        this.#attempt(async () => {
          await (resume ? machine.resume() : machine.suspend());
          log.info(resume ? "resumed" : "suspended; Ctrl-a s resumes");
        });
      }
    }
  }

  #attempt(action: () => Promise<void> | void): void {
    Promise.try(action).catch((error) => log.warn(describeError(error)));
  }

  #outputFailed(port: number, errno: number): void {
    const serial = this.#serialPorts[port];
    const label = serial?.label ?? `serial port ${port}`;
    if (serial?.toStdout && errno === Errno.EPIPE) {
      const why = `nobody reads the output of ${label} any more`;
      this.#machine.end({ status: ExitStatus.Stop, why });
    } else {
      log.warn(`${label}: output is dropped from now on: ${errnoName(errno)}`);
    }
  }

  #fail(error: unknown): void {
    log.debug(error instanceof Error ? error.stack ?? error.message : String(error));
    this.#machine.end({
      status: ExitStatus.Crash,
      why: `internal error: ${describeError(error)}`,
    });
  }

  #watchSignals(): SignalWatch {
    return new SignalWatch({
      onEnd: (signal) => this.#machine.end({ status: ExitStatus.Stop, why: `got ${signal}` }),
      onForce: () => this.#console?.restore(),
      onStop: () => this.#console?.release(),
      onContinue: () => this.#console?.take(),
      onWindowChange: () => this.#own?.windowChanged(),
    });
  }

  /** Lets nothing end this process with the terminal still raw. */
  #watchErrors(): Disposable {
    const watch = new AbortController();
    const { signal } = watch;
    addEventListener("error", (event) => {
      event.preventDefault();
      this.#fail(event.error);
    }, { signal });
    addEventListener("unhandledrejection", (event) => {
      event.preventDefault();
      this.#fail(event.reason);
    }, { signal });
    addEventListener("unload", () => this.#console?.restore(), { signal });
    return { [Symbol.dispose]: () => watch.abort() };
  }
}
