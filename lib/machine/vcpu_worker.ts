/**
 * The worker of one vCPU: executes guest code and answers its port and memory accesses itself.
 *
 * @module
 */

import { describeError, ExitStatus, Logger, setLogLevels } from "../base/mod.ts";
import { type BootEntry, configureBootVcpu } from "../boot/mod.ts";
import { Platform, PlatformRequest } from "../devices/mod.ts";
import { gettid } from "../host/mod.ts";
import { attachVm, ExitReason, type Vcpu, type VcpuExit, type Vm } from "../hypervisor/mod.ts";
import { GuestMemory } from "../memory/mod.ts";
import { VirtioPciFunction, type VirtioPciHandle } from "../virtio/mod.ts";
import { MachineError } from "./errors.ts";
import type { Outcome } from "./outcome.ts";
import { logToRawTerminal } from "./raw_log.ts";
import { preferVcpus } from "./service_worker.ts";
import { FlushResult, SerialOutput } from "./serial_output.ts";
import { commandOf, VcpuBoard, VcpuCommand, VcpuPhase } from "./vcpu_board.ts";
import type { VcpuBoot, VcpuMessage, VcpuStart } from "./vcpu_messages.ts";

/** Attaches to everything that `start` names, then waits for {@link VcpuWorker.run}. */
export class VcpuWorker {
  readonly #id: number;
  readonly #board: VcpuBoard;
  readonly #vm: Vm;
  readonly #vcpu: Vcpu;
  readonly #platform: Platform;
  readonly #sinks: readonly (ReportingSink | undefined)[];
  readonly #resources: DisposableStack;
  readonly #log: Logger;

  constructor(start: VcpuStart) {
    setLogLevels(start.logLevels);
    if (start.rawTerminal) logToRawTerminal();
    this.#id = start.id;
    this.#log = new Logger(`vcpu${start.id}`);
    this.#board = VcpuBoard.attach(start.board);
    this.#board.setThread(start.id, gettid());
    using stack = new DisposableStack();
    const memory = stack.use(GuestMemory.attach(start.memory));
    const vm = this.#vm = stack.use(attachVm(start.vm, memory));
    this.#vcpu = stack.use(vm.createVcpu(start.id));
    this.#sinks = start.outputs.map((output, port) =>
      output && new ReportingSink(port, SerialOutput.attach(output))
    );
    this.#platform = Platform.attach(start.platform, {
      irq: (gsi, level) => vm.setIrqLine(gsi, level),
      serial: this.#sinks,
      debug: SerialOutput.attach(start.debug),
    });
    this.#resources = stack.move();
  }

  /** Makes ready what the guest will need, until it is in place. */
  prepare(): void {
    const board = this.#board;
    // What is compiled ahead is not to hold up main.
    if (this.#vm.kind === "soft") preferVcpus();
    this.#vcpu.prepare(() => board.isCalled);
  }

  /** Waits at the start barrier, executes guest code until told to stop, and says how it ended. */
  run(boot: VcpuBoot): void {
    let outcome: Outcome | undefined;
    try {
      for (const handle of boot.virtio) this.#attach(handle);
      if (boot.entry !== undefined) this.#enterKernel(boot.entry);
      outcome = this.#loop();
    } catch (error) {
      outcome = failed(this.#id, this.#withRegisters(describeError(error)));
    } finally {
      this.#resources.dispose();
    }
    send({ type: "ended", outcome });
    this.#board.setPhase(this.#id, VcpuPhase.Ended, this.#board.order);
  }

  #attach(handle: VirtioPciHandle): void {
    const { pci } = this.#platform;
    const { device } = handle;
    const slot = pci.slot(device);
    pci.attach(device, new VirtioPciFunction(handle, { vm: this.#vm, slot }));
  }

  #enterKernel(entry: BootEntry): void {
    configureBootVcpu(this.#vcpu, entry);
  }

  #loop(): Outcome | undefined {
    for (;;) {
      const order = this.#board.order;
      const command = commandOf(order);
      if (command === VcpuCommand.Stop) return undefined;
      if (command !== VcpuCommand.Run) {
        this.#board.setPhase(this.#id, VcpuPhase.Parked, order);
        this.#board.waitWhile(order);
        continue;
      }
      this.#board.setPhase(this.#id, VcpuPhase.Running, order);
      // What could not be written before a pause comes first.
      for (const sink of this.#sinks) sink?.flush();
      while (this.#board.order === order) {
        const exit = this.#vcpu.run(this.#platform);
        const outcome = this.#outcomeOf(exit);
        if (outcome !== undefined) return outcome;
      }
    }
  }

  /** What becomes of the VM after `exit`; undefined when the vCPU may go on. */
  #outcomeOf(exit: VcpuExit): Outcome | undefined {
    const name = `vCPU ${this.#id}`;
    switch (exit.reason) {
      case ExitReason.Interrupted:
        return outcomeOfRequest(this.#platform.requested);
      case ExitReason.Shutdown:
        // On a PC the chipset answers a triple fault with a reset, and kernels use it for that.
        this.#log.warn(`triple fault ${this.#withRegisters(exit.detail)}`);
        return { status: ExitStatus.Reset, why: `${name} took a triple fault` };
      case ExitReason.SystemReset:
        return { status: ExitStatus.Reset, why: "the guest asked for a reset" };
      case ExitReason.SystemShutdown:
        return { status: ExitStatus.Stop, why: "the guest powered off" };
      case ExitReason.SystemCrash:
        return { status: ExitStatus.GuestPanic, why: "the guest reported a crash" };
      case ExitReason.Halt:
        return { status: ExitStatus.Stop, why: `${name} halted, and nothing can wake it` };
      case ExitReason.FailEntry:
      case ExitReason.InternalError:
      case ExitReason.Unhandled:
        return failed(this.#id, `${ExitReason[exit.reason]}: ${exit.detail}`);
    }
  }

  #withRegisters(detail: string): string {
    if (/\brip\b/i.test(detail)) return detail;
    try {
      const regs = Object.entries(this.#vcpu.getRegs() as unknown as Record<string, bigint>);
      const text = regs.map(([name, value]) => `${name}=${value.toString(16).padStart(16, "0")}`);
      return `${detail} (${text.join(" ")})`;
    } catch {
      // The state cannot be read any more; what happened is known all the same.
      return detail;
    }
  }
}

/** Sends `message` to main. */
export function send(message: VcpuMessage): void {
  (self as unknown as { postMessage(message: VcpuMessage): void }).postMessage(message);
}

/** The end of a VM whose vCPU `id` failed. */
export function failed(id: number, detail: string): Outcome {
  return { status: ExitStatus.Crash, why: `vCPU ${id} failed: ${detail}` };
}

function outcomeOfRequest(request: PlatformRequest): Outcome | undefined {
  switch (request) {
    case PlatformRequest.None:
      return undefined;
    case PlatformRequest.PowerOff:
      return { status: ExitStatus.Stop, why: "the guest powered off" };
    case PlatformRequest.Reset:
      return { status: ExitStatus.Reset, why: "the guest asked for a reset" };
    case PlatformRequest.GuestPanic:
      return { status: ExitStatus.GuestPanic, why: "the guest reported a panic" };
    default:
      throw new MachineError(`unknown request ${String(request)} of the platform`);
  }
}

/** The output of a port, which tells main once when it cannot be written any more. */
class ReportingSink {
  readonly #port: number;
  readonly #output: SerialOutput;
  #reported = false;

  constructor(port: number, output: SerialOutput) {
    this.#port = port;
    this.#output = output;
  }

  write(byte: number): void {
    this.#output.write(byte);
  }

  flush(): void {
    if (this.#output.flush() !== FlushResult.Failed || this.#reported) return;
    this.#reported = true;
    send({ type: "output-failed", port: this.#port, errno: this.#output.failure });
  }
}
