/**
 * Options of a VM: their table, their grammar, files and merging, validation.
 *
 * @module
 */

export type {
  BootSource,
  FileSource,
  HypervisorChoice,
  LogLevelName,
  SerialConfig,
  SerialInput,
  SerialOutput,
  SocketConfig,
  VmConfig,
} from "./vm_config.ts";
