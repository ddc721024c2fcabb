/**
 * Options of virtio devices, shared by `vmctl run` and `vmctl device`.
 *
 * @module
 */

/** Least and most bytes of a disk's logical block. */
const BLOCK_BYTES = { min: 512, max: 65536 } as const;

/** Whether a device's queues may be packed ones. */
export const PACKED_QUEUE = {
  type: { kind: "boolean" },
  help:
    "offer packed virtqueues (virtio 1.2, 2.8), which the driver may take instead of split ones",
  aliases: ["packed_queue"],
} as const;

/** A disk. */
export const BLOCK = {
  kind: "record",
  first: "path",
  fields: {
    "path": { type: { kind: "path" }, help: "disk image or block device" },
    "ro": {
      type: { kind: "boolean" },
      help: "the guest cannot write to it",
      aliases: ["read-only", "read_only"],
    },
    "root": { type: { kind: "boolean" }, help: "the kernel's root file system is on it" },
    "sparse": {
      type: { kind: "boolean" },
      help: "storage that the guest discards goes back to the host; true by default",
    },
    "block-size": {
      type: { kind: "integer", ...BLOCK_BYTES },
      help: "bytes of a block as the guest sees it, a power of two; 512 by default",
      aliases: ["block_size"],
    },
    "id": {
      type: {
        kind: "string",
        pattern: /^[ -~]{0,20}$/,
        expected: "at most 20 printable ASCII characters",
      },
      help: "serial number that the guest reads",
    },
    "direct": {
      type: { kind: "boolean" },
      help: "past the host's page cache (O_DIRECT)",
      aliases: ["o_direct", "o-direct"],
    },
    "lock": {
      type: { kind: "boolean" },
      help: "lock the file, shared where it is read-only, else exclusive; true by default",
    },
    "format": {
      type: {
        kind: "choice",
        choices: { probe: "told by its first bytes (the default)", raw: "raw", qcow2: "qcow2" },
      },
      help: "format of the image",
    },
    "queues": {
      type: { kind: "integer", min: 1, max: 64 },
      help: "most queues that the guest can use; 16 by default",
    },
    "async-executor": {
      type: {
        kind: "choice",
        choices: {
          uring: "by io_uring, which must be there",
          epoll: "by system calls that wait",
        },
      },
      help: "how files are read and written; io_uring where it is there by default",
      aliases: ["async_executor"],
    },
    "pci-address": {
      type: {
        kind: "string",
        pattern: /^(?:[0-9a-f]{1,4}:)?[0-9a-f]{1,2}:[0-9a-f]{1,2}\.[0-7]$/i,
        expected: "[DOMAIN:]BUS:DEVICE.FUNCTION in hexadecimal, such as 00:05.0",
      },
      help: "place on the PCI bus, such as 00:05.0; the first that is free by default",
      aliases: ["pci_address"],
    },
    "bootindex": {
      type: { kind: "integer", min: 0, max: 65535 },
      help:
        "place in the order in which firmware tries disks; a kernel that is given is not looked for",
    },
    "multiple-workers": {
      type: { kind: "boolean" },
      help: "makes no difference: one thread serves all queues, faster than guests fill them",
      aliases: ["multiple_workers"],
    },
    "packed-queue": PACKED_QUEUE,
  },
} as const;

/** What a port of a console is connected with. */
export const CONSOLE_PORT = {
  kind: "record",
  first: "output",
  fields: {
    "output": { type: { kind: "path" }, help: "file that output is appended to" },
    "input": { type: { kind: "path" }, help: "file or FIFO that input comes from" },
  },
} as const;
