/**
 * Engines that execute guest code behind one interface: `kvm` and `soft`.
 *
 * @module
 */

export { HypervisorError } from "./errors.ts";
export { formatRegisters } from "./registers_text.ts";
export {
  attachVm,
  chooseEngine,
  type EngineChoice,
  type EngineSelection,
  memoryBackingFor,
  openHypervisor,
  selectHypervisor,
} from "./select.ts";
export { type KvmFacts, probeKvm } from "./kvm/mod.ts";
export type { SoftOptions } from "./soft/mod.ts";
export { GuestClock, type GuestClockHandle } from "./soft/irqchip/mod.ts";
export * as assembler from "./soft/wasm/mod.ts";
export {
  type Capabilities,
  type EngineKind,
  ExitReason,
  type GsiRoute,
  type Hypervisor,
  type IoEventAddress,
  type MpState,
  type Regs,
  type Segment,
  type Sregs,
  type TableRegister,
  type Vcpu,
  type VcpuExit,
  type VcpuIo,
  type Vm,
  type VmHandle,
  type VmOptions,
  type VmService,
} from "./types.ts";
