/**
 * The worker that does for the vCPUs what they need not do themselves.
 *
 * @module
 */

import { getLogLevels, Logger } from "../base/mod.ts";
import { lowerPriority, lowerPriorityOfLast } from "../host/mod.ts";
import type { Vm } from "../hypervisor/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import type { ServiceStart } from "./vcpu_messages.ts";
import { workerModuleUrl } from "./worker_url.ts";

const log = new Logger("machine");

/** Threads of the runtime that compile, as the kernel has their name. */
const COMPILERS = "V8 DefaultWorke";
/** How far they go behind the vCPUs: as far as they still keep up where all processors are busy. */
const COMPILER_STEPS = 5;

/**
 * Lets vCPUs go first where they and the threads that make their code faster want the same processors.
 */
export function preferVcpus(): void {
  lowerPriority(COMPILERS, COMPILER_STEPS);
}

/** What the runtime's threads of workers are called, with a number behind it. */
const WORKERS = "worker-";
/** How far the translating thread goes behind: as far as those that compile what it makes. */
const TRANSLATOR_STEPS = COMPILER_STEPS;

/**
 * Starts it where the engine has such work, behind the vCPUs from its first moment on; what it returns is
 * disposed when no vCPU runs any more.
 *
 * @param options.moduleUrl Module that the worker is; this program where absent.
 */
export function startService(
  vm: Vm,
  memory: GuestMemory,
  options: { readonly moduleUrl?: string } = {},
): Disposable {
  const { service } = vm;
  if (service === undefined) return { [Symbol.dispose]: () => {} };
  const worker = new Worker(options.moduleUrl ?? workerModuleUrl(), {
    type: "module",
    name: "translator",
  });
  lowerPriorityOfLast(WORKERS, TRANSLATOR_STEPS);
  worker.onerror = (event) => {
    // Otherwise the error would end this process; the vCPUs can do without.
    event.preventDefault();
    service.lost();
    log.warn(`the worker that translates failed, vCPUs translate themselves: ${event.message}`);
  };
  const start: ServiceStart = {
    role: "service",
    memory: memory.handle(),
    vm: vm.handle(),
    logLevels: getLogLevels(),
  };
  worker.postMessage(start);
  return {
    [Symbol.dispose]: () => {
      service.end();
      worker.terminate();
    },
  };
}
