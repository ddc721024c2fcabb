/**
 * Options of commands other than `run`, whose table is that of config files.
 *
 * @module
 */

import { BLOCK, CONSOLE_PORT, type OptionTable, RUN_OPTIONS } from "../config/mod.ts";

const JSON_OPTION = { type: { kind: "boolean" }, help: "print JSON" } as const;
const IMAGE_FORMAT = {
  kind: "choice",
  choices: { probe: "told by its first bytes (the default)", raw: "raw", qcow2: "qcow2" },
} as const;

/** Options of commands that talk to a VM. */
export const VM_OPTIONS = {} as const satisfies OptionTable;
/** Options of `balloon`. */
export const BALLOON_OPTIONS = {
  wait: { type: { kind: "boolean" }, help: "until the guest has given or got the memory" },
  timeout: {
    type: { kind: "integer", min: 1, max: 1_000_000 },
    valueName: "SECONDS",
    help: "how long to --wait at most, 60 unless stated",
  },
} as const satisfies OptionTable;
/** Options of `balloon_stats`. */
export const BALLOON_STATS_OPTIONS = { json: JSON_OPTION } as const satisfies OptionTable;
/** Options of `disk resize`. */
export const DISK_RESIZE_OPTIONS = {
  shrink: {
    type: { kind: "boolean" },
    help: "the disk may become smaller; what is behind its new end is lost",
  },
} as const satisfies OptionTable;
/** Options of `suspend` and `resume`. */
export const SUSPEND_OPTIONS = {
  full: { type: { kind: "boolean" }, help: "the devices, too, not only the vCPUs" },
} as const satisfies OptionTable;
/** Options of `status`. */
export const STATUS_OPTIONS = { json: JSON_OPTION } as const satisfies OptionTable;
/** Options of `list`. */
export const LIST_OPTIONS = {
  json: JSON_OPTION,
  names: { type: { kind: "boolean" }, help: "print only names, one a line" },
} as const satisfies OptionTable;
/** Options of `doctor`. */
export const DOCTOR_OPTIONS = { json: JSON_OPTION } as const satisfies OptionTable;
/** Options of `config check`. */
export const CHECK_OPTIONS = { json: JSON_OPTION } as const satisfies OptionTable;
/** Options of `create_qcow2`. */
export const CREATE_QCOW2_OPTIONS = {
  "backing-file": {
    type: { kind: "string" },
    help: "image that the new one is based on; a relative path starts from the new image's folder",
    valueName: "FILE",
  },
  "backing-format": {
    type: IMAGE_FORMAT,
    help: "format of the backing file",
  },
} as const satisfies OptionTable;
/** Options of `disk info` and `disk check`. */
export const DISK_OPTIONS = {
  format: {
    type: IMAGE_FORMAT,
    help: "format of the image",
  },
  json: JSON_OPTION,
} as const satisfies OptionTable;
/** Options of `config show`. */
export const SHOW_OPTIONS = {
  ...RUN_OPTIONS,
  args: { type: { kind: "boolean" }, help: "print a command line for a shell instead of TOML" },
  json: { ...JSON_OPTION, help: "print JSON instead of TOML" },
} as const satisfies OptionTable;

const VIOLATION_OPTION = {
  type: {
    kind: "choice",
    choices: {
      "trap": "the process gets SIGSYS (the default)",
      "kill-process": "the process ends",
      "kill-thread": "the thread ends",
      "log": "the call is made, and logged by the kernel",
    },
  },
  help: "what happens to calls that the policy does not allow",
} as const;

/** Options of `policy check`. */
export const CHECK_POLICY_OPTIONS = { json: JSON_OPTION } as const satisfies OptionTable;
/** Options of `policy compile`. */
export const COMPILE_OPTIONS = {
  output: { type: { kind: "path" }, short: "o", help: "write to a file", valueName: "FILE" },
  text: { type: { kind: "boolean" }, help: "print the program for people to read" },
  json: { ...JSON_OPTION, help: "print the program as JSON" },
  violation: VIOLATION_OPTION,
} as const satisfies OptionTable;
/** Options of `policy explain`. */
export const EXPLAIN_OPTIONS = {
  json: JSON_OPTION,
  violation: VIOLATION_OPTION,
} as const satisfies OptionTable;

const MOST_FDS = 2 ** 20;

/** Options of all `device` commands. */
export const DEVICE_OPTIONS = {
  "socket-path": {
    type: { kind: "path" },
    valueName: "PATH",
    help: "listen for front ends there, and serve one after another",
  },
  "fd": {
    type: { kind: "integer", min: 0, max: MOST_FDS },
    valueName: "N",
    help: "serve the front end at the other end of descriptor N, a connected stream socket",
  },
  "control-fd": {
    type: { kind: "integer", min: 0, max: MOST_FDS },
    valueName: "N",
    help: "descriptor N is the control channel to the VMM, a connected seqpacket socket",
  },
  "settings": {
    type: { kind: "string" },
    valueName: "JSON",
    help: "the device as a VMM has opened it, instead of options of its own",
  },
  "resource-fd": {
    type: { kind: "list", item: { kind: "integer", min: 0, max: MOST_FDS } },
    valueName: "N",
    help: "descriptor that belongs to the settings; in order, may be repeated",
  },
} as const satisfies OptionTable;
/** Options of `device block`. */
export const BLOCK_DEVICE_OPTIONS = {
  "path": {
    type: BLOCK,
    short: "b",
    aliases: ["block"],
    valueName: "IMAGE,…",
    help: "the disk",
  },
  ...DEVICE_OPTIONS,
} as const satisfies OptionTable;

/** Options of `device balloon`. */
export const BALLOON_DEVICE_OPTIONS = {
  "deflate-on-oom": {
    type: { kind: "boolean" },
    help: "the guest may take pages back when it is out of memory; true by default",
  },
  "page-reporting": {
    type: { kind: "boolean" },
    help: "the guest reports free pages by itself",
  },
  ...DEVICE_OPTIONS,
} as const satisfies OptionTable;
/** Options of `device console`. */
export const CONSOLE_DEVICE_OPTIONS = {
  "port": {
    type: { kind: "list", item: CONSOLE_PORT },
    valueName: "FILE,…",
    help: "what hvc0, hvc1 and so on are connected with; one with stdin and stdout by default",
  },
  ...DEVICE_OPTIONS,
} as const satisfies OptionTable;
