/**
 * The control socket of a VM: what each request does to it.
 *
 * @module
 */

import { join } from "node:path";
import { describeError, ExitStatus, Logger } from "../base/mod.ts";
import type { VmConfig } from "../config/mod.ts";
import type { BalloonReport } from "../devices/mod.ts";
import { getpid, type Reactor } from "../host/mod.ts";
import type { Machine, MachineService } from "../machine/mod.ts";
import { ControlError } from "./errors.ts";
import { ControlListener } from "./listener.ts";
import type { BalloonCommand, VmRequest, VmResponse, VmState } from "./protocol.ts";
import { ensureRunDirectory, socketPathOfName } from "./run_directory.ts";
import { ControlServer, type RequestContext } from "./server.ts";

const log = new Logger("control");

/** The control socket of the VM of `config`, for `runVm`. */
export function controlService(config: VmConfig): MachineService {
  return { start: (machine, reactor) => startServer(config, { machine, reactor }) };
}

async function startServer(
  config: VmConfig,
  options: { readonly machine: Machine; readonly reactor: Reactor },
): Promise<Disposable> {
  const { machine, reactor } = options;
  using stack = new DisposableStack();
  const listeners: ControlListener[] = [];
  const { socket } = config;
  if (socket?.kind === "fd") listeners.push(stack.use(ControlListener.inherit(socket.fd)));
  if (socket?.kind === "path") {
    listeners.push(stack.use(await ControlListener.open(explicitPath(socket.path))));
  }
  // Under its name a VM is found by `list` and `stop NAME`, wherever else it listens.
  try {
    const path = socketPathOfName(machine.name, ensureRunDirectory());
    listeners.push(stack.use(await ControlListener.open(path)));
  } catch (error) {
    if (socket === undefined || config.name !== undefined) throw error;
    log.debug(`not listed: ${describeError(error)}`);
  }
  for (const { path } of listeners) if (path !== undefined) log.debug(`listening at ${path}`);
  const server = new ControlServer({ reactor, listeners, handler: new VmRequestHandler(machine) });
  stack.move();
  return server;
}

/** A folder stands for a socket in it, as crosvm takes it. */
function explicitPath(path: string): string {
  try {
    if (Deno.statSync(path).isDirectory) return join(path, `vmctl-${getpid()}.sock`);
  } catch {
    // It does not exist yet, which is as it should be.
  }
  return path;
}

/** Carries requests out on a VM. */
export class VmRequestHandler {
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** See `RequestHandler`. */
  handle(
    request: VmRequest,
    { signal }: Pick<RequestContext, "signal">,
  ): VmResponse | Promise<VmResponse> {
    const machine = this.#machine;
    switch (request) {
      case "Exit":
        machine.end({ status: ExitStatus.Stop, why: "a control client asked for it" });
        return "Ok";
      case "Powerbtn":
        machine.pressPowerButton();
        return "Ok";
      case "Sleepbtn":
        machine.pressSleepButton();
        return "Ok";
      case "SuspendVcpus":
      case "SuspendVm":
        return machine.suspend({ devices: request === "SuspendVm" }).then(() => "Ok");
      case "ResumeVcpus":
      case "ResumeVm":
        return machine.resume().then(() => "Ok");
      case "VcpuPidTid":
        return { VcpuPidTidResponse: { pid_tid_map: this.#pidTidMap() } };
      default:
        if (typeof request === "object") {
          if ("Vmctl" in request) {
            if (typeof request.Vmctl === "object") {
              const { disk_index: index, new_size: sizeBytes } = request.Vmctl.GrowDisk;
              return machine.resizeDisk(index, { sizeBytes, shrink: false }).then(() => "Ok");
            }
            return request.Vmctl === "State"
              ? { Vmctl: { State: stateOf(machine) } }
              : { Vmctl: { EngineStats: machine.engineStats() } };
          }
          if ("BalloonCommand" in request) return this.#balloon(request.BalloonCommand, signal);
          if ("DiskCommand" in request) {
            const { disk_index: index, command } = request.DiskCommand;
            const { new_size: sizeBytes } = command.Resize;
            // Who speaks crosvm's language has asked for exactly this.
            return machine.resizeDisk(index, { sizeBytes, shrink: true }).then(() => "Ok");
          }
        }
        throw new ControlError(`this VM does not support ${nameOf(request)}`);
    }
  }

  #balloon(command: BalloonCommand, signal: AbortSignal): Promise<VmResponse> {
    const balloon = this.#machine.balloon();
    if (command === "Stats") return balloon.report().then(statsOf);
    const { num_bytes: bytes, wait_for_success: wait } = command.Adjust;
    return balloon.adjust(bytes, { wait, signal }).then(() => "Ok");
  }

  #pidTidMap(): Record<string, [number, number]> {
    const { pid, vcpus } = this.#machine.info();
    return Object.fromEntries(vcpus.map(({ id, tid }) => [String(id), [pid, tid]]));
  }
}

function stateOf(machine: Machine): VmState {
  const info = machine.info();
  return {
    name: info.name,
    pid: info.pid,
    engine: info.engine ?? "none",
    state: info.phase,
    uptime_ms: info.uptimeMs,
    vcpus: info.vcpus.map(({ id, tid, phase, cpuTimeMs }) => ({
      id,
      tid,
      state: phase,
      cpu_time_ms: cpuTimeMs,
    })),
    memory: {
      size_bytes: info.memory.sizeBytes,
      resident_bytes: info.memory.residentBytes,
      balloon_bytes: info.memory.balloonBytes ?? null,
    },
    cpu_time_ms: info.cpuTimeMs,
    devices: info.devices.map((device) => ({
      name: device.name,
      type: device.deviceType,
      pci: device.pci,
      status: device.status,
      restarts: device.restarts,
      pid: device.process?.pid ?? null,
      cpu_time_ms: device.process?.cpuTimeMs ?? null,
      queues: device.queues,
    })),
  };
}

function statsOf({ actualBytes, statistics }: BalloonReport): VmResponse {
  return {
    BalloonStats: {
      stats: {
        swap_in: statistics.swapIn ?? null,
        swap_out: statistics.swapOut ?? null,
        major_faults: statistics.majorFaults ?? null,
        minor_faults: statistics.minorFaults ?? null,
        free_memory: statistics.freeMemory ?? null,
        total_memory: statistics.totalMemory ?? null,
        available_memory: statistics.availableMemory ?? null,
        disk_caches: statistics.diskCaches ?? null,
        hugetlb_allocations: statistics.hugetlbAllocations ?? null,
        hugetlb_failures: statistics.hugetlbFailures ?? null,
        // Drivers report these two by an extension of ChromeOS only.
        shared_memory: null,
        unevictable_memory: null,
      },
      balloon_actual: actualBytes,
    },
  };
}

function nameOf(request: VmRequest): string {
  return typeof request === "string" ? request : Object.keys(request)[0] ?? "the request";
}
