/**
 * The channel on which a VMM tells a device what no queue carries, such as a new size.
 *
 * @module
 */

export { DeviceControlError } from "./errors.ts";
export {
  type AnswerOf,
  BALLOON_STATISTICS,
  type BalloonReport,
  type DeviceEvent,
  type DeviceRequest,
  type DeviceRequestName,
  type DeviceRequests,
  type RequestOf,
} from "./messages.ts";
export { type ControllableDevice, DeviceControlServer, type DeviceReply } from "./device_end.ts";
export {
  DeviceControlClient,
  type DeviceControlClientOptions,
  type DeviceRequestOptions,
} from "./vmm_end.ts";
