/**
 * The one table of what can be said about a VM. Its keys are the command line's long options and the
 * keys of config files.
 *
 * @module
 */

import { BLOCK, PACKED_QUEUE } from "./device_options.ts";
import type { DecodedOptions, OptionTable } from "./option_types.ts";

/** Less than this does not hold a kernel that anybody runs. */
export const MIN_MEMORY_MIB = 16;
/** 16 TiB: beyond it is a typing error; what an engine can back is for the engine to say. */
export const MAX_MEMORY_MIB = 16 * 1024 * 1024;
/** APIC ids are a byte, and 255 means all. */
export const MAX_CPUS = 255;

/** Ports of a virtio console. */
export const MAX_CONSOLE_PORTS = 32;
/** Where jails have their root by default. */
export const DEFAULT_PIVOT_ROOT = "/var/empty";

const LOG_LEVEL = "(?:error|warn|info|debug|trace)";

/** How serial ports write and read. */
export const SERIAL = {
  kind: "record",
  first: "type",
  fields: {
    "type": {
      type: {
        kind: "choice",
        choices: {
          "stdout": "written to standard output",
          "stdin": "read from standard input, output is discarded",
          "file": "appended to the file at path",
          "unix": "sent to the datagram socket at path",
          "unix-stream": "connected to the stream socket at path, both ways",
          "sink": "discarded",
          "syslog": "sent to the system log",
        },
      },
      help: "where output goes",
    },
    "hardware": {
      type: {
        kind: "choice",
        choices: {
          "serial": "a 16550 serial port (the default)",
          "virtio-console": "a port of a virtio console, faster, with the window's size",
        },
      },
      help: "what the guest sees",
    },
    "num": {
      type: { kind: "integer", min: 1, max: MAX_CONSOLE_PORTS },
      help: "which port: 1 is COM1 (ttyS0) or hvc0, 2 is COM2 (ttyS1) or hvc1; 1 by default",
    },
    "path": { type: { kind: "path" }, help: "file or socket of the type" },
    "input": { type: { kind: "path" }, help: "file or FIFO that input comes from" },
    "stdin": { type: { kind: "boolean" }, help: "input comes from standard input" },
    "console": { type: { kind: "boolean" }, help: "the kernel's console" },
    "earlycon": { type: { kind: "boolean" }, help: "the kernel's early console" },
    "out-timestamp": {
      type: { kind: "boolean" },
      help: "begin each line with the time since the start",
      aliases: ["out_timestamp"],
    },
  },
} as const;

/** Devices that somebody else's program serves. */
export const VHOST_USER = {
  kind: "record",
  first: "type",
  fields: {
    "type": {
      type: {
        kind: "choice",
        choices: {
          "block": "a disk",
          "console": "a console",
          "fs": "a shared folder",
          "gpu": "a graphics card",
          "input": "an input device",
          "net": "a network card",
          "rng": "a source of entropy",
          "vsock": "sockets between host and guest",
        },
      },
      help: "what the back end serves",
    },
    "socket": { type: { kind: "path" }, help: "where the back end listens" },
    "max-queue-size": {
      type: { kind: "integer", min: 2, max: 32768 },
      help: "most entries of a queue, a power of two; 256 by default",
    },
    "packed-queue": PACKED_QUEUE,
  },
} as const;

/** Options of `vmctl run`. */
export const RUN_OPTIONS = {
  "kernel": {
    type: { kind: "path" },
    valueName: "FILE",
    group: "Boot",
    help: "Linux kernel (bzImage or vmlinux); the same as the argument KERNEL",
  },
  "initrd": {
    type: { kind: "path" },
    short: "i",
    valueName: "FILE",
    group: "Boot",
    help: "initial RAM disk",
  },
  "params": {
    type: {
      kind: "list",
      item: {
        kind: "string",
        pattern: /^[^\n\r]*$/u,
        expected: "kernel parameters in one line",
      },
    },
    short: "p",
    valueName: "PARAMS",
    group: "Boot",
    help: "words for the kernel's command line; may be repeated",
  },
  "bios": {
    type: { kind: "path" },
    aliases: ["firmware"],
    valueName: "FILE",
    group: "Boot",
    help: "firmware to boot instead of a kernel",
  },
  "cpus": {
    type: {
      kind: "record",
      first: "num-cores",
      fields: {
        "num-cores": {
          type: { kind: "integer", min: 1, max: MAX_CPUS },
          help: "number of vCPUs; 1 by default",
        },
      },
    },
    short: "c",
    valueName: "N",
    group: "Machine",
    help: "number of vCPUs; 1 by default",
  },
  "mem": {
    type: {
      kind: "record",
      first: "size",
      fields: {
        "size": {
          type: { kind: "mib", min: MIN_MEMORY_MIB, max: MAX_MEMORY_MIB },
          help: "guest RAM in MiB, or with a unit as in 2G; 256 MiB by default",
        },
      },
    },
    short: "m",
    valueName: "SIZE",
    group: "Machine",
    help: "guest RAM in MiB, or with a unit as in 2G; 256 MiB by default",
  },
  "hypervisor": {
    type: {
      kind: "choice",
      choices: {
        auto: "KVM where it is there and is real, else software",
        kvm: "Linux's KVM",
        soft: "a processor in software, needs no privilege",
      },
    },
    valueName: "ENGINE",
    group: "Machine",
    help: "what runs the guest's code; auto by default",
  },
  "soft": {
    type: {
      kind: "record",
      first: "cache",
      fields: {
        "cache": {
          type: { kind: "boolean" },
          help: "keep translated code on disk for the next run; true by default",
        },
        "cache-dir": {
          type: { kind: "path" },
          help: "folder to keep it in; vmctl in XDG_CACHE_HOME or ~/.cache by default",
        },
        "cache-size": {
          type: { kind: "mib", min: 1, max: MAX_MEMORY_MIB },
          help: "how large its file may become; 64 MiB by default",
        },
        "code-memory": {
          type: { kind: "mib", min: 16, max: MAX_MEMORY_MIB },
          help: "about how much memory translated code may take; 256 MiB by default",
        },
      },
    },
    valueName: "KEY=VALUE,…",
    group: "Machine",
    help: "settings of the software engine",
  },
  "serial": {
    type: { kind: "list", item: SERIAL },
    valueName: "type=TYPE,…",
    group: "Machine",
    help: "serial port; may be repeated",
  },
  "block": {
    type: { kind: "list", item: BLOCK },
    short: "b",
    valueName: "PATH,…",
    group: "Devices",
    help: "disk, /dev/vda first; may be repeated",
  },
  "no-rng": {
    type: { kind: "boolean" },
    group: "Machine",
    help: "without the virtio source of random bytes",
  },
  "no-balloon": {
    type: { kind: "boolean" },
    group: "Memory",
    help: "without the balloon by which the guest gives memory back",
  },
  "balloon-page-reporting": {
    type: { kind: "boolean" },
    group: "Memory",
    help: "free memory of the guest goes back to the host by itself",
  },
  "balloon-policy": {
    type: {
      kind: "choice",
      choices: {
        "off": "only by vmctl balloon",
        "auto": "when memory is short, by the first of these that is there",
        "device": "as /dev/chromeos-low-mem tells",
        "pressure": "as a trigger of /proc/pressure/memory tells, or the group's",
        "available": "as MemAvailable, or what the group has left, gets low",
      },
    },
    valueName: "POLICY",
    group: "Memory",
    help: "when the guest has to give memory back; auto by default",
  },
  "memory-cgroup": {
    type: { kind: "path" },
    valueName: "FOLDER",
    group: "Memory",
    help: "control group whose memory counts beside the host's",
  },
  "vhost-user": {
    type: { kind: "list", item: VHOST_USER },
    valueName: "type=TYPE,socket=PATH",
    group: "Devices",
    help: "virtio device whose back end listens at a vhost-user socket; may be repeated",
  },
  "restart-devices": {
    type: { kind: "boolean" },
    group: "Devices",
    help:
      "start the back end of a device again when it has died, instead of ending the VM, unless " +
      "it broke its policy",
  },
  "disable-sandbox": {
    type: { kind: "boolean" },
    group: "Sandbox",
    help: "run devices in vmctl's own process, unjailed",
  },
  "pivot-root": {
    type: { kind: "path" },
    valueName: "FOLDER",
    group: "Sandbox",
    help: `folder that becomes the root of jails; ${DEFAULT_PIVOT_ROOT} by default`,
  },
  "seccomp-policy-dir": {
    type: { kind: "path" },
    valueName: "FOLDER",
    group: "Sandbox",
    help: "folder with policies to take instead of vmctl's own, such as block_device.policy",
  },
  "seccomp-log-failures": {
    type: { kind: "boolean" },
    group: "Sandbox",
    help: "let devices make forbidden system calls, and write them to the kernel's log",
  },
  "name": {
    type: {
      kind: "string",
      pattern: /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/,
      expected: "a name of at most 64 letters, digits, _ . and -, not beginning with . or -",
    },
    valueName: "NAME",
    group: "Control",
    help: "name for vmctl stop NAME and the like",
  },
  "socket": {
    type: { kind: "path" },
    short: "s",
    valueName: "PATH",
    group: "Control",
    help: "control socket, or a folder to make it in; by the name in the run directory by default",
  },
  "extended-status": {
    type: { kind: "boolean" },
    group: "Control",
    help: "tell reset, crash, panic and invalid arguments apart in the exit status",
  },
  "log-level": {
    type: {
      kind: "string",
      pattern: new RegExp(
        `^(?:${LOG_LEVEL}|[A-Za-z0-9_.:-]+=${LOG_LEVEL})(?:,(?:${LOG_LEVEL}|[A-Za-z0-9_.:-]+=${LOG_LEVEL}))*$`,
      ),
      expected: 'error, warn, info, debug or trace, or such as "info,disk=warn"',
    },
    valueName: "LEVEL",
    group: "Control",
    help: "how much to log to stderr: error, warn, info, debug or trace; info by default",
  },
  "engine-stats": {
    type: { kind: "path" },
    valueName: "FILE",
    group: "Control",
    help: "where to write what the software engine did, as JSON, at the end",
  },
  "cfg": {
    type: { kind: "list", item: { kind: "path" } },
    valueName: "FILE",
    group: "Control",
    help: "config file, JSON or TOML; may be repeated",
  },
} as const satisfies OptionTable;

/** Decoded options of `vmctl run`, from one source or merged. */
export type RunOptions = DecodedOptions<typeof RUN_OPTIONS>;
