/**
 * Virtio: queues, and devices as vhost-user back ends and front ends.
 *
 * @module
 */

export { DescriptorChain, Pieces } from "./chain.ts";
export { type AreaPlace, DeviceMemory, MemoryArea } from "./device_memory.ts";
export { VhostUserError, type VhostUserErrorKind, VirtioError } from "./errors.ts";
export { DeviceStatus, DeviceType, Feature, QUEUE_FEATURES } from "./features.ts";
export { InflightQueue, inflightQueueBytes } from "./inflight.ts";
export { packedInflightBytes, PackedInflightQueue } from "./packed_inflight.ts";
export { EVENT_AREA_BYTES, PACKED_BEGIN } from "./packed_ring.ts";
export { PackedVirtqueue, type PackedVirtqueueSettings } from "./packed_virtqueue.ts";
export { MAX_CHAIN, type QueueFault, type QueueFaultReason } from "./queue_fault.ts";
export {
  availableRingBytes,
  descriptorTableBytes,
  isQueueSize,
  MAX_QUEUE_SIZE,
  type RingAddresses,
  usedRingBytes,
} from "./ring.ts";
export { SplitVirtqueue, type SplitVirtqueueSettings } from "./split_virtqueue.ts";
export { Virtqueue, type VirtqueueSettings } from "./virtqueue.ts";
export type { DeviceContext, VirtioDeviceBackend } from "./device.ts";
export { VhostUserBackend, type VhostUserBackendOptions } from "./vhost_user/backend.ts";
export { ProtocolFeature } from "./vhost_user/protocol.ts";
export {
  type Activation,
  type QueueSetup,
  VhostUserFrontend,
  type VhostUserFrontendOptions,
} from "./vhost_user/frontend.ts";
export { FrontendState, type InflightRecord, QueueEvents } from "./vhost_user/frontend_state.ts";
export { type FunctionWiring, VirtioPciFunction } from "./pci/guest_side.ts";
export type { PciSlot } from "./pci/slot.ts";
export { VirtioPciHost, type VirtioPciOptions, type Wishes } from "./pci/host_side.ts";
export { BAR_SIZE_BYTES, MAX_DEVICE_CONFIG_BYTES, MAX_QUEUES } from "./pci/layout.ts";
export { vectorCountOf, type VirtioPciHandle } from "./pci/state.ts";
