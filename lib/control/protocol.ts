/**
 * The messages of the control socket: crosvm's `VmRequest` and `VmResponse`, one JSON text a packet,
 * enums externally tagged. What crosvm has no message for goes under the one key `Vmctl`.
 *
 * @module
 */

import {
  arrayOf,
  boolean,
  exactObject,
  excerpt,
  noData,
  ShapeError,
  string,
  unsigned,
  variant,
} from "../base/mod.ts";
import { ControlError } from "./errors.ts";

/** Largest request in bytes; a longer packet is refused. */
export const MAX_REQUEST_BYTES = 64 * 1024;
/** Largest answer in bytes that a client takes. */
export const MAX_RESPONSE_BYTES = 256 * 1024;
/** Most descriptors in one request. */
export const MAX_REQUEST_FDS = 16;

/** Ports of crosvm's USB controller. */
const USB_PORT_COUNT = 16;

/** A request without data. */
export type SimpleRequest =
  /** Ends the VM. */
  | "Exit"
  /** Presses the power button. */
  | "Powerbtn"
  /** Presses the sleep button. */
  | "Sleepbtn"
  /** Stops the vCPUs. */
  | "SuspendVcpus"
  /** Lets the vCPUs go on. */
  | "ResumeVcpus"
  /** Stops the vCPUs and quiesces the devices. */
  | "SuspendVm"
  /** Undoes `SuspendVm`. */
  | "ResumeVm"
  /** Asks for the process and thread ids of the vCPUs. */
  | "VcpuPidTid"
  /** Gives the vCPU threads real-time priority. */
  | "MakeRT";

/** What is asked of a disk. */
export interface ResizeDisk {
  /** Changes its size in bytes, to a smaller one, too, whatever is lost by that. */
  readonly Resize: { readonly new_size: number };
}

/** What is asked of the USB controller. */
export type UsbCommand =
  | { readonly AttachDevice: { readonly fd: number } }
  | { readonly DetachDevice: { readonly port: number } }
  | { readonly ListDevice: { readonly ports: readonly number[] } };

/** What is asked of hot-plugged network devices. */
export type HotPlugNetCommand =
  | { readonly AddTap: string }
  | { readonly RemoveTap: number };

/** What is asked of the balloon. */
export type BalloonCommand =
  | "Stats"
  | { readonly Adjust: { readonly num_bytes: number; readonly wait_for_success: boolean } };

/** What is asked of the whole VM's state. */
export type SnapshotCommand = {
  readonly Take: {
    readonly snapshot_path: string;
    readonly compress_memory: boolean;
    readonly encrypt: boolean;
  };
};

/** What only vmctl knows. */
export type VmctlRequest =
  | "State"
  | "EngineStats"
  /** As {@link ResizeDisk}, but refused where the disk would become smaller. */
  | { readonly GrowDisk: { readonly disk_index: number; readonly new_size: number } };

/** A request on the control socket. */
export type VmRequest =
  | SimpleRequest
  | { readonly BalloonCommand: BalloonCommand }
  | {
    readonly DiskCommand: { readonly disk_index: number; readonly command: ResizeDisk };
  }
  | { readonly Gpe: { readonly gpe: number } }
  | { readonly Snapshot: SnapshotCommand }
  | { readonly HotPlugNetCommand: HotPlugNetCommand }
  | { readonly UsbCommand: UsbCommand }
  | {
    readonly RegisterMemory: {
      /** Index into the descriptors that came with the packet. */
      readonly fd: number;
      readonly offset: number;
      readonly range_start: number;
      readonly range_end: number;
      readonly cache_coherent: boolean;
    };
  }
  | { readonly UnregisterMemory: { readonly region_id: number } }
  | { readonly Vmctl: VmctlRequest };

/** One vCPU in {@link VmState}. */
export interface VcpuInfo {
  /** Number. */
  readonly id: number;
  /** Thread id on the host, 0 while the thread starts. */
  readonly tid: number;
  /** What it does. */
  readonly state: "starting" | "running" | "suspended" | "stopped";
  /** Processor time of its thread in ms. */
  readonly cpu_time_ms: number;
}

/** The state of a VM, answer to `{"Vmctl":"State"}`. */
export interface VmState {
  readonly name: string;
  readonly pid: number;
  readonly engine: string;
  readonly state: "starting" | "running" | "suspended" | "stopping";
  /** Time since the vCPUs started, in ms. */
  readonly uptime_ms: number;
  readonly vcpus: readonly VcpuInfo[];
  readonly memory: {
    /** Guest RAM in bytes. */
    readonly size_bytes: number;
    /** What of it the host backs with pages, in bytes. */
    readonly resident_bytes: number;
    /** How large the balloon shall be, in bytes; null without a balloon. */
    readonly balloon_bytes: number | null;
  };
  /** Processor time of this process, all of its threads, in ms. */
  readonly cpu_time_ms: number;
  /** Virtio devices in the order in which they are on the bus. */
  readonly devices: readonly DeviceState[];
}

/** One virtio device in {@link VmState}. */
export interface DeviceState {
  readonly name: string;
  /** Type by virtio's numbers. */
  readonly type: number;
  /** Number on the PCI bus. */
  readonly pci: number;
  /** Device status as the guest's driver sees it. */
  readonly status: number;
  /** How often its back end was started again after it had died. */
  readonly restarts: number;
  /** Process that serves it; null where that is this one, or somebody else's. */
  readonly pid: number | null;
  /** Processor time of that process in ms. */
  readonly cpu_time_ms: number | null;
  /** Queues that the driver has started. */
  readonly queues: readonly { readonly index: number; readonly size: number }[];
}

/** Counters that the guest's balloon driver reports; null where it does not. */
export type BalloonStats = Readonly<
  Record<
    | "swap_in"
    | "swap_out"
    | "major_faults"
    | "minor_faults"
    | "free_memory"
    | "total_memory"
    | "available_memory"
    | "disk_caches"
    | "hugetlb_allocations"
    | "hugetlb_failures"
    | "shared_memory"
    | "unevictable_memory",
    number | null
  >
>;

/** An answer on the control socket. */
export type VmResponse =
  | "Ok"
  /** An errno. */
  | { readonly Err: number }
  | { readonly ErrString: string }
  | { readonly BalloonStats: { readonly stats: BalloonStats; readonly balloon_actual: number } }
  | { readonly RegisterMemory2: { readonly region_id: number } }
  | {
    readonly VcpuPidTidResponse: {
      readonly pid_tid_map: Readonly<Record<string, readonly [number, number]>>;
    };
  }
  | { readonly DevicesState: "Sleep" | "Wake" }
  | { readonly PciHotPlugResponse: { readonly bus: number } }
  | { readonly Vmctl: { readonly State: VmState } }
  /** What the engine counts, for people: names and nesting may change. */
  | { readonly Vmctl: { readonly EngineStats: Readonly<Record<string, unknown>> } };

const SIMPLE: ReadonlySet<string> = new Set<SimpleRequest>([
  "Exit",
  "Powerbtn",
  "Sleepbtn",
  "SuspendVcpus",
  "ResumeVcpus",
  "SuspendVm",
  "ResumeVm",
  "VcpuPidTid",
  "MakeRT",
]);

const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

/** The packet of a request or an answer. */
export function encodeMessage(message: VmRequest | VmResponse): Uint8Array<ArrayBuffer> {
  return encoder.encode(JSON.stringify(message));
}

/**
 * Reads a request packet.
 *
 * @throws {ControlError} when it is not UTF-8, not JSON, or not a request as `VmRequest` states it.
 */
export function parseRequest(packet: Uint8Array): VmRequest {
  return asControlError(() => toRequest(parseJson(packet, "request")));
}

/**
 * Reads an answer packet.
 *
 * @throws {ControlError} when it is not UTF-8, not JSON, or not an externally tagged variant.
 */
export function parseResponse(packet: Uint8Array): VmResponse {
  return asControlError(() => toResponse(parseJson(packet, "answer")));
}

/** What `read` gives; a wrong shape is this layer's error. */
function asControlError<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw new ControlError(error.message);
  }
}

function toResponse(value: unknown): VmResponse {
  const { name, data } = variant(value, "answer");
  switch (name) {
    case "Ok":
      return "Ok";
    case "Err":
      return { Err: unsigned(data, "Err") };
    case "ErrString":
      return { ErrString: string(data, "ErrString", MAX_RESPONSE_BYTES) };
    default:
      // The other answers come from the VM that was asked, whose word is taken for what they hold.
      return value as VmResponse;
  }
}

function parseJson(packet: Uint8Array, what: string): unknown {
  if (packet.length === 0) throw new ControlError(`${what}: the packet is empty`);
  let text: string;
  try {
    text = decoder.decode(packet);
  } catch {
    throw new ControlError(`${what}: not UTF-8`);
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new ControlError(`${what}: not JSON: ${excerpt(text)}`);
  }
}

function toRequest(value: unknown): VmRequest {
  const from = variant(value, "request");
  const { name, data } = from;
  if (SIMPLE.has(name)) {
    noData(from, name);
    return name as SimpleRequest;
  }
  switch (name) {
    case "BalloonCommand":
      return { BalloonCommand: toBalloonCommand(data) };
    case "DiskCommand": {
      const at = exactObject(data, ["disk_index", "command"], name);
      const command = variant(at["command"], `${name}.command`);
      if (command.name !== "Resize") throw unknown(`${name}.command`, command.name, ["Resize"]);
      const resize = exactObject(command.data, ["new_size"], `${name}.command.Resize`);
      return {
        DiskCommand: {
          disk_index: unsigned(at["disk_index"], `${name}.disk_index`),
          command: { Resize: { new_size: unsigned(resize["new_size"], `${name}.new_size`) } },
        },
      };
    }
    case "Gpe": {
      const at = exactObject(data, ["gpe", "clear_evt"], name);
      if (at["clear_evt"] !== null) {
        throw new ControlError(`${name}.clear_evt: expected null, got ${excerpt(at["clear_evt"])}`);
      }
      return { Gpe: { gpe: unsigned(at["gpe"], `${name}.gpe`, 255) } };
    }
    case "Snapshot": {
      const command = variant(data, name);
      if (command.name !== "Take") throw unknown(name, command.name, ["Take"]);
      const keys = ["snapshot_path", "compress_memory", "encrypt"];
      const take = exactObject(command.data, keys, `${name}.Take`);
      return {
        Snapshot: {
          Take: {
            snapshot_path: string(take["snapshot_path"], `${name}.snapshot_path`),
            compress_memory: boolean(take["compress_memory"], `${name}.compress_memory`),
            encrypt: boolean(take["encrypt"], `${name}.encrypt`),
          },
        },
      };
    }
    case "HotPlugNetCommand":
      return { HotPlugNetCommand: toHotPlugNetCommand(data) };
    case "UsbCommand":
      return { UsbCommand: toUsbCommand(data) };
    case "RegisterMemory": {
      const keys = ["fd", "offset", "range_start", "range_end", "cache_coherent"];
      const at = exactObject(data, keys, name);
      return {
        RegisterMemory: {
          fd: unsigned(at["fd"], `${name}.fd`, MAX_REQUEST_FDS - 1),
          offset: unsigned(at["offset"], `${name}.offset`),
          range_start: unsigned(at["range_start"], `${name}.range_start`),
          range_end: unsigned(at["range_end"], `${name}.range_end`),
          cache_coherent: boolean(at["cache_coherent"], `${name}.cache_coherent`),
        },
      };
    }
    case "UnregisterMemory": {
      const at = exactObject(data, ["region_id"], name);
      return { UnregisterMemory: { region_id: unsigned(at["region_id"], `${name}.region_id`) } };
    }
    case "Vmctl": {
      const command = variant(data, name);
      if (command.name === "GrowDisk") {
        const at = exactObject(command.data, ["disk_index", "new_size"], `${name}.GrowDisk`);
        return {
          Vmctl: {
            GrowDisk: {
              disk_index: unsigned(at["disk_index"], `${name}.GrowDisk.disk_index`),
              new_size: unsigned(at["new_size"], `${name}.GrowDisk.new_size`),
            },
          },
        };
      }
      const known = ["State", "EngineStats"] as const;
      const request = known.find((request) => request === command.name);
      if (request === undefined) throw unknown(name, command.name, [...known, "GrowDisk"]);
      if (command.data !== undefined) exactObject(command.data, [], `${name}.${request}`);
      return { Vmctl: request };
    }
    default:
      throw new ControlError(`unknown request ${excerpt(name)}`);
  }
}

function toBalloonCommand(value: unknown): BalloonCommand {
  const from = variant(value, "BalloonCommand");
  switch (from.name) {
    case "Stats":
      noData(from, "BalloonCommand.Stats");
      return "Stats";
    case "Adjust": {
      const keys = ["num_bytes", "wait_for_success"];
      const at = exactObject(from.data, keys, "BalloonCommand.Adjust");
      return {
        Adjust: {
          num_bytes: unsigned(at["num_bytes"], "BalloonCommand.Adjust.num_bytes"),
          wait_for_success: boolean(
            at["wait_for_success"],
            "BalloonCommand.Adjust.wait_for_success",
          ),
        },
      };
    }
    case "WorkingSet":
    case "WorkingSetConfig":
      throw new ControlError(
        `BalloonCommand.${from.name} is not supported: no driver reports working sets to this balloon`,
      );
    default:
      throw unknown("BalloonCommand", from.name, ["Adjust", "Stats"]);
  }
}

function toHotPlugNetCommand(value: unknown): HotPlugNetCommand {
  const from = variant(value, "HotPlugNetCommand");
  switch (from.name) {
    case "AddTap":
      // IFNAMSIZ is 16 with the NUL.
      return { AddTap: string(from.data, "HotPlugNetCommand.AddTap", 15) };
    case "RemoveTap":
      return { RemoveTap: unsigned(from.data, "HotPlugNetCommand.RemoveTap", 255) };
    default:
      throw unknown("HotPlugNetCommand", from.name, ["AddTap", "RemoveTap"]);
  }
}

function toUsbCommand(value: unknown): UsbCommand {
  const from = variant(value, "UsbCommand");
  const at = `UsbCommand.${from.name}`;
  switch (from.name) {
    case "AttachDevice": {
      const data = exactObject(from.data, ["fd"], at);
      return { AttachDevice: { fd: unsigned(data["fd"], `${at}.fd`, MAX_REQUEST_FDS - 1) } };
    }
    case "DetachDevice": {
      const data = exactObject(from.data, ["port"], at);
      return { DetachDevice: { port: unsigned(data["port"], `${at}.port`, 255) } };
    }
    case "ListDevice": {
      const data = exactObject(from.data, ["ports"], at);
      const ports = arrayOf(data["ports"], USB_PORT_COUNT, `${at}.ports`);
      return {
        ListDevice: { ports: ports.map((port) => unsigned(port, `${at}.ports`, 255)) },
      };
    }
    default:
      throw unknown("UsbCommand", from.name, ["AttachDevice", "DetachDevice", "ListDevice"]);
  }
}

function unknown(at: string, name: string, known: readonly string[]): ControlError {
  return new ControlError(`${at}: unknown variant ${excerpt(name)}, expected ${known.join(", ")}`);
}
