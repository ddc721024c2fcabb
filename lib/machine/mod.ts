/**
 * Puts a VM together, runs and supervises it.
 *
 * @module
 */

export { MachineError } from "./errors.ts";
export { Machine, type MachineInfo, type MachinePhase } from "./machine.ts";
export { type Outcome, processStatus } from "./outcome.ts";
export { type MachineService, type RunOptions, runVm } from "./run_vm.ts";
export type { VcpuStatus } from "./vcpu_team.ts";
export type { BackendLink, VirtioDevice } from "./virtio/device.ts";
export { startWorker } from "./worker_main.ts";
export { workerModuleUrl } from "./worker_url.ts";
