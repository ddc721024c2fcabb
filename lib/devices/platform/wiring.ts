/**
 * What the platform's devices are connected to.
 *
 * @module
 */

import type { GuestClock } from "../../hypervisor/mod.ts";

/** Drives a global system interrupt; called under the device's lock, so levels stay in order. */
export type IrqLine = (gsi: number, level: boolean) => void;

/**
 * Where a port's output goes, in the worker that executes the guest's access. Must not call back into
 * the platform.
 */
export interface SerialSink {
  /** One byte, under the port's lock: it must not block. */
  write(byte: number): void;
  /** After an access that wrote, with no lock held: it may block. */
  flush?(): unknown;
}

/** Connections of one worker. */
export interface PlatformWiring {
  /** Interrupt lines. */
  readonly irq: IrqLine;
  /** Output of COM1 and COM2; dropped where absent. */
  readonly serial?: readonly (SerialSink | undefined)[];
  /** Output of the debug port; dropped where absent. */
  readonly debug?: SerialSink;
  /** Guest time; where absent the platform's own clock, made with it, is used. */
  readonly clock?: GuestClock;
  /** Host time since 1970 in nanoseconds, for tests; the same in every worker. */
  readonly realtimeNs?: () => number;
}

/** What the guest asked the machine for. */
export enum PlatformRequest {
  /** Nothing. */
  None,
  /** ACPI S5. */
  PowerOff,
  /** A reset, by whichever of the ways. */
  Reset,
  /** The guest's kernel panicked and said so. */
  GuestPanic,
}
