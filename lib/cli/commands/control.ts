/**
 * Commands that talk to running VMs.
 *
 * @module
 */

import { formatSize, parseSize } from "../../base/mod.ts";
import {
  isVmName,
  listRunning,
  NoAnswerError,
  queryState,
  requestVm,
  socketPathOf,
  socketPathOfName,
  stopVm,
  type VmRequest,
  type VmResponse,
} from "../../control/mod.ts";
import type { CommandInput } from "../command.ts";
import { CommandError, UsageError } from "../errors.ts";
import { print, printJson, table } from "../output.ts";
import type {
  BALLOON_OPTIONS,
  BALLOON_STATS_OPTIONS,
  DISK_RESIZE_OPTIONS,
  LIST_OPTIONS,
  STATUS_OPTIONS,
  SUSPEND_OPTIONS,
  VM_OPTIONS,
} from "../command_options.ts";

/** How long `balloon --wait` waits, in seconds. */
const BALLOON_WAIT_S = 60;
/** How long a VM may take to say why it did not answer, in ms. */
const REASON_TIMEOUT_MS = 30_000;
/** DRIVER_OK in a device's status (virtio 1.2, 2.1). */
const DRIVER_OK = 4;
/** Type of a balloon (virtio 1.2, 5). */
const BALLOON_TYPE = 5;

/** Ends the VM, and waits until it is gone. */
export async function stop(input: CommandInput<typeof VM_OPTIONS>): Promise<number> {
  return report(await stopVm(socketOf(input.positionals[0]!)));
}

/** Stops the vCPUs, with `--full` the devices, too. */
export async function suspend(input: CommandInput<typeof SUSPEND_OPTIONS>): Promise<number> {
  return await order(input, input.options.full === true ? "SuspendVm" : "SuspendVcpus");
}

/** Undoes {@link suspend}. */
export async function resume(input: CommandInput<typeof SUSPEND_OPTIONS>): Promise<number> {
  return await order(input, input.options.full === true ? "ResumeVm" : "ResumeVcpus");
}

/** Presses the power button. */
export async function powerbtn(input: CommandInput<typeof VM_OPTIONS>): Promise<number> {
  return await order(input, "Powerbtn");
}

/** Sets the size of the balloon; with `--wait`, ends when the guest has made it so. */
export async function balloon(input: CommandInput<typeof BALLOON_OPTIONS>): Promise<number> {
  const [size = "", vm = ""] = input.positionals;
  const { wait = false, timeout } = input.options;
  if (timeout !== undefined && !wait) {
    throw new UsageError("--timeout: expected --wait, too, which is what it limits", {
      command: "vmctl balloon",
    });
  }
  const targetBytes = parseSize(size, { what: "SIZE" });
  const request: VmRequest = {
    BalloonCommand: { Adjust: { num_bytes: targetBytes, wait_for_success: wait } },
  };
  const socket = socketOf(vm);
  if (!wait) return report(await requestVm(socket, request));
  const limitS = timeout ?? BALLOON_WAIT_S;
  try {
    return report(await requestVm(socket, request, { timeoutMs: limitS * 1000 }));
  } catch (error) {
    if (!(error instanceof NoAnswerError)) throw error;
    const wanted = `balloon: expected ${formatSize(targetBytes)} within ${limitS} s, got `;
    throw new CommandError(`${wanted}${await balloonProgress(socket)}; the size stays asked for`);
  }
}

/** How large a balloon is that takes its time, and why it is not larger. */
async function balloonProgress(socket: string): Promise<string> {
  const limit = { timeoutMs: REASON_TIMEOUT_MS };
  const { state, devices } = await queryState(socket, limit);
  const answer = await requestVm(socket, { BalloonCommand: "Stats" }, limit);
  if (typeof answer !== "object" || !("BalloonStats" in answer)) {
    throw new CommandError(refusal(answer));
  }
  const balloon = devices.find(({ type }) => type === BALLOON_TYPE);
  const why = state !== "running"
    ? `the VM is ${state}`
    : balloon !== undefined && (balloon.status & DRIVER_OK) === 0
    ? "no driver of the guest's has taken the balloon (in Linux, virtio_balloon)"
    : "the guest's driver has not come further";
  return `${formatSize(answer.BalloonStats.balloon_actual)}: ${why}`;
}

/** Tells what the balloon's driver reports. */
export async function balloonStats(
  input: CommandInput<typeof BALLOON_STATS_OPTIONS>,
): Promise<number> {
  const response = await requestVm(socketOf(input.positionals[0]!), { BalloonCommand: "Stats" });
  if (typeof response !== "object" || !("BalloonStats" in response)) {
    throw new CommandError(refusal(response));
  }
  const answer = response.BalloonStats;
  if (input.options.json === true) {
    await printJson(response);
    return 0;
  }
  const counts = new Set(["major_faults", "minor_faults"]);
  const rows = Object.entries(answer.stats).map(([name, value]) => [
    name.replaceAll("_", " "),
    value === null
      ? "not reported"
      : counts.has(name) || name.startsWith("hugetlb")
      ? String(value)
      : formatSize(value),
  ]);
  await print(table([["balloon", formatSize(answer.balloon_actual)], ...rows]));
  return 0;
}

/** Changes the size of a disk; to a smaller one only with `--shrink`. */
export async function resizeDisk(
  input: CommandInput<typeof DISK_RESIZE_OPTIONS>,
): Promise<number> {
  const [index = "", size = "", vm = ""] = input.positionals;
  if (!/^\d{1,4}$/.test(index)) {
    throw new UsageError(`expected the number of a disk as INDEX, got "${index}"`, {
      command: "vmctl disk resize",
    });
  }
  const disk_index = Number(index);
  const new_size = parseSize(size, { what: "SIZE" });
  const request: VmRequest = input.options.shrink === true
    ? { DiskCommand: { disk_index, command: { Resize: { new_size } } } }
    : { Vmctl: { GrowDisk: { disk_index, new_size } } };
  return report(await requestVm(socketOf(vm), request));
}

/** Tells how a VM is. */
export async function status(input: CommandInput<typeof STATUS_OPTIONS>): Promise<number> {
  const state = await queryState(socketOf(input.positionals[0]!));
  if (input.options.json === true) {
    await printJson(state);
    return 0;
  }
  const rows = [
    ["name", state.name],
    ["state", state.state],
    ["pid", String(state.pid)],
    ["engine", state.engine],
    ["uptime", formatDuration(state.uptime_ms)],
    [
      "memory",
      `${formatSize(state.memory.size_bytes)}, of it ${
        formatSize(state.memory.resident_bytes)
      } in use on the host`,
    ],
    ...(state.memory.balloon_bytes === null
      ? []
      : [["balloon", formatSize(state.memory.balloon_bytes)]]),
    ...state.vcpus.map((vcpu) => [
      `vcpu ${vcpu.id}`,
      `${vcpu.state}, ${formatDuration(vcpu.cpu_time_ms)} of processor time`,
    ]),
    ...state.devices.map((device) => [
      device.name,
      [
        `PCI 00:${device.pci.toString(16).padStart(2, "0")}.0`,
        `${device.queues.length} queues`,
        ...(device.pid === null
          ? []
          : [`pid ${device.pid}`, `${formatDuration(device.cpu_time_ms ?? 0)} of processor time`]),
        ...(device.restarts === 0
          ? []
          : [`restarted ${device.restarts === 1 ? "once" : `${device.restarts} times`}`]),
      ].join(", "),
    ]),
  ];
  await print(table(rows));
  return 0;
}

/** Lists the VMs that run. */
export async function list(input: CommandInput<typeof LIST_OPTIONS>): Promise<number> {
  const running = await listRunning();
  if (input.options.names === true) {
    await print(running.map(({ name }) => `${name}\n`).join(""));
  } else if (input.options.json === true) {
    await printJson(running);
  } else {
    const rows = running.map(({ name, path, state }) => [
      name,
      state?.state ?? "no answer",
      state === undefined ? "?" : String(state.pid),
      state === undefined ? "?" : String(state.vcpus.length),
      state === undefined ? "?" : formatSize(state.memory.size_bytes),
      state === undefined ? "?" : formatDuration(state.uptime_ms),
      path,
    ]);
    const heading = ["NAME", "STATE", "PID", "VCPUS", "MEMORY", "UPTIME", "SOCKET"];
    await print(table([heading, ...rows]));
  }
  return 0;
}

async function order(input: CommandInput, request: VmRequest): Promise<number> {
  return report(await requestVm(socketOf(input.positionals[0]!), request));
}

function report(response: VmResponse): number {
  if (response !== "Ok") throw new CommandError(refusal(response));
  return 0;
}

/** The control socket that the argument names: by path, or by the VM's name. */
function socketOf(vm: string): string {
  // A socket in the current folder may be given without "./", but a VM's name comes first.
  if (!vm.includes("/") && isSocket(vm) && !(isVmName(vm) && isSocket(socketPathOfName(vm)))) {
    return `./${vm}`;
  }
  return socketPathOf(vm);
}

function isSocket(path: string): boolean {
  try {
    return Deno.statSync(path).isSocket === true;
  } catch {
    return false;
  }
}

function refusal(response: unknown): string {
  if (typeof response === "object" && response !== null) {
    if ("ErrString" in response) return String(response.ErrString);
    if ("Err" in response) return `the VM refused with errno ${response.Err}`;
  }
  return `unexpected answer of the VM: ${JSON.stringify(response)}`;
}

/** `1 d 2 h`, `3 min 4 s`, `5.6 s`: the two greatest units. */
export function formatDuration(durationMs: number): string {
  const seconds = durationMs / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
