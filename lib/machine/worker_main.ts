/**
 * What a worker does: the first message names its role.
 *
 * @module
 */

import { describeError, setLogLevels } from "../base/mod.ts";
import { attachVm } from "../hypervisor/mod.ts";
import { GuestMemory } from "../memory/mod.ts";
import { MachineError } from "./errors.ts";
import { type DeviceWorkerStart, runDeviceWorker } from "./launch/device_worker.ts";
import type { ServiceStart, VcpuBoot, VcpuStart } from "./vcpu_messages.ts";
import { failed, send, VcpuWorker } from "./vcpu_worker.ts";

/** The scope of a worker, as far as it is used here. */
interface WorkerScope {
  onmessage: ((event: MessageEvent) => void) | null;
  close(): void;
}

/** Waits for the first message and takes up the role that it names. */
export function startWorker(): void {
  const scope = self as unknown as WorkerScope;
  scope.onmessage = (event: MessageEvent<VcpuStart | ServiceStart | DeviceWorkerStart>) => {
    const { data } = event;
    switch (data.role) {
      case "vcpu":
        startVcpu(scope, data);
        break;
      case "service":
        serveVm(scope, data);
        break;
      case "device":
        void startDevice(scope, data);
        break;
      default:
        throw new MachineError(`worker: unknown role in ${JSON.stringify(data)}`);
    }
  };
}

async function startDevice(scope: WorkerScope, start: DeviceWorkerStart): Promise<void> {
  scope.onmessage = null;
  await runDeviceWorker(start, (message) => self.postMessage(message));
  scope.close();
}

function serveVm(scope: WorkerScope, start: ServiceStart): void {
  scope.onmessage = null;
  setLogLevels(start.logLevels);
  using memory = GuestMemory.attach(start.memory);
  using vm = attachVm(start.vm, memory);
  vm.service?.serve();
  scope.close();
}

function startVcpu(scope: WorkerScope, start: VcpuStart): void {
  let worker: VcpuWorker;
  try {
    worker = new VcpuWorker(start);
    worker.prepare();
  } catch (error) {
    send({ type: "ended", outcome: failed(start.id, describeError(error)) });
    // What main may have sent already finds nobody.
    scope.onmessage = null;
    scope.close();
    return;
  }
  scope.onmessage = (event: MessageEvent<VcpuBoot>) => {
    worker.run(event.data);
    scope.close();
  };
}
