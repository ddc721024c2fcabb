/**
 * The frame around virtio devices: how they are opened in one process and served in another.
 *
 * @module
 */

export type {
  DeviceKind,
  Json,
  OpenedDevice,
  PreparedDevice,
  ServableDevice,
} from "./device_kind.ts";
export {
  DEVICE_PROCESS_FLAG,
  deviceProcessArguments,
  type DeviceProcessSpec,
  runDeviceProcess,
  serveHandedDevice,
} from "./device_process.ts";
export { DeviceError } from "./errors.ts";
export { DEVICE_KINDS, deviceKind, type DeviceKindName, requireDeviceKind } from "./registry.ts";
export { type DeviceListener, listenForFrontEnds } from "./front_end_listener.ts";
export { type FrontEnds, serveDevice, type ServeOptions } from "./serve.ts";
