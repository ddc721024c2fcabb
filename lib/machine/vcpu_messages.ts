/**
 * What main and the worker of a vCPU send each other. Only beginning and end are messages; everything
 * between goes through shared memory.
 *
 * @module
 */

import type { LogLevels } from "../base/mod.ts";
import type { BootEntry } from "../boot/mod.ts";
import type { PlatformHandle } from "../devices/mod.ts";
import type { VmHandle } from "../hypervisor/mod.ts";
import type { GuestMemoryHandle } from "../memory/mod.ts";
import type { VirtioPciHandle } from "../virtio/mod.ts";
import type { Outcome } from "./outcome.ts";
import type { SerialOutputHandle } from "./serial_output.ts";
import type { VcpuBoardHandle } from "./vcpu_board.ts";

/** First message to a vCPU's worker: attach to everything. */
export interface VcpuStart {
  readonly role: "vcpu";
  readonly id: number;
  readonly board: VcpuBoardHandle;
  readonly memory: GuestMemoryHandle;
  readonly vm: VmHandle;
  readonly platform: PlatformHandle;
  /** Outputs of the serial ports, by index; undefined where output goes nowhere. */
  readonly outputs: readonly (SerialOutputHandle | undefined)[];
  /** Output of the debug port. */
  readonly debug: SerialOutputHandle;
  readonly logLevels: LogLevels;
  /** Whether log lines go to a raw terminal. */
  readonly rawTerminal: boolean;
}

/** First message to the worker that does a VM's {@link VmService}. */
export interface ServiceStart {
  readonly role: "service";
  readonly memory: GuestMemoryHandle;
  readonly vm: VmHandle;
  readonly logLevels: LogLevels;
}

/** Second message: the guest is in place; wait at the start barrier. */
export interface VcpuBoot {
  /** State of the boot processor; undefined for the others, which wait for INIT and SIPI. */
  readonly entry: BootEntry | undefined;
  /** What is on the PCI bus. */
  readonly virtio: readonly VirtioPciHandle[];
}

/** From the worker. */
export type VcpuMessage =
  | {
    /** The vCPU is gone, and what it held is released. */
    readonly type: "ended";
    /** What it wants to become of the VM; undefined when it was told to stop. */
    readonly outcome: Outcome | undefined;
  }
  | {
    /** A serial port cannot be written to any more. */
    readonly type: "output-failed";
    /** Index of the port. */
    readonly port: number;
    readonly errno: number;
  };
