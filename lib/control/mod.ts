/**
 * The control socket: crosvm's messages, a server for a VM, a client for everybody else.
 *
 * @module
 */

export { ControlError, NoAnswerError, NotRunningError } from "./errors.ts";
export {
  type BalloonCommand,
  type BalloonStats,
  type DeviceState,
  encodeMessage,
  type HotPlugNetCommand,
  MAX_REQUEST_BYTES,
  MAX_REQUEST_FDS,
  MAX_RESPONSE_BYTES,
  parseRequest,
  parseResponse,
  type ResizeDisk,
  type SimpleRequest,
  type SnapshotCommand,
  type UsbCommand,
  type VcpuInfo,
  type VmctlRequest,
  type VmRequest,
  type VmResponse,
  type VmState,
} from "./protocol.ts";
export {
  ensureRunDirectory,
  isVmName,
  runDirectory,
  type RunDirectoryFacts,
  socketPathOf,
  socketPathOfName,
  socketsIn,
} from "./run_directory.ts";
export { ControlListener } from "./listener.ts";
export {
  ControlServer,
  type ControlServerOptions,
  type RequestContext,
  type RequestHandler,
} from "./server.ts";
export {
  ControlClient,
  type ControlClientOptions,
  listRunning,
  queryState,
  requestVm,
  type RunningVm,
  stopVm,
} from "./client.ts";
export { controlService } from "./vm_service.ts";
